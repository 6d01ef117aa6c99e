"""How requests end: folded into a response, refused, failed, or too late; and what is measured of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

from ..errors import DeadlineExceeded, ModelFailed, Overloaded, RequestError
from ..model import Context
from ..tasks import Task
from .meter import Meter
from .waiting import Ticket

log = logging.getLogger("argosy.runtime")


def fold(task: Task[Any, Any], request: Any, deltas: Sequence[Any]) -> Any:
    """The response that deltas add up to: for a task that does not stream, the one that came."""
    if task.fold is not None:
        return task.fold(request, deltas)
    if len(deltas) != 1:
        log.error("generate() of the task %s yielded %d answers, not one", task.name, len(deltas))
        raise ModelFailed(f"the model gave {len(deltas)} answers to one request")
    return deltas[0]


def measure(meter: Meter, ticket: Ticket) -> None:
    """Tell how long a request waited, and for its first delta where there was one."""
    meter.observe("argosy_queue_seconds", ticket.started - ticket.arrived)
    if ticket.first:
        meter.observe("argosy_first_seconds", ticket.first - ticket.ctx.started)


def refusal(error: BaseException, ctx: Context) -> RequestError:
    """What the client is told of what the model raised. The cause goes to the log, with the request's id."""
    if isinstance(error, RequestError):
        return error
    log.error("the model failed on request %s", ctx.id, exc_info=error)
    failed = ModelFailed(f"the model failed on request {ctx.id}; the service's log says why")
    failed.__cause__ = error
    return failed


def broken_off(ctx: Context) -> RequestError | None:
    """Why what a generator gave is not the whole answer; None where it is. Once it was told to end, nobody can know
    whether it had said everything."""
    if not ctx.cancelled:
        return None
    return late(1.0) if ctx.deadline is not None and time.monotonic() >= ctx.deadline else stopping()


def late(started: float) -> DeadlineExceeded:
    return DeadlineExceeded(f"the deadline passed while the request {'was answered' if started else 'waited'}")


def stopping() -> Overloaded:
    return Overloaded("this replica is stopping; try again", code="stopping")


def fail(ticket: Ticket, error: RequestError) -> None:
    """Answer a request with an error, if it was not answered yet."""
    if ticket.channel is not None:
        ticket.channel.end(error)
    elif ticket.future is not None and not ticket.future.done():
        ticket.future.set_exception(error)
