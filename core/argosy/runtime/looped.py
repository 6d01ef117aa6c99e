"""Models that run on the event loop: their engine batches by itself."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

from ..errors import PluginError, RequestError
from ..model import Context, Model, runs
from ..tasks import Task
from .guard import Guard
from .meter import Meter
from .outcome import broken_off, fail, fold, measure, refusal, stopping
from .waiting import Line, Ticket

log = logging.getLogger("argosy.runtime")

_PARTING = 1.0  # seconds that an abandoned generator gets to end before its slot is given away


class Looped:
    """Coroutines on the event loop, at most `batching.size` at once: the engine batches by itself."""

    def __init__(self, model: Model, task: Task[Any, Any], bound: int, meter: Meter) -> None:
        self._model, self._task, self._meter = model, task, meter
        self._predicts = runs(type(model)) == "predict"
        self._size = max(type(model).batching.size, 1)
        self._loop = asyncio.get_running_loop()
        self._line = Line(bound)
        self._tickets: set[Ticket] = set()
        self._stopping = False

    @property
    def waiting(self) -> int:
        return self._line.waiting

    @property
    def running(self) -> int:
        return len(self._tickets)

    async def answer(self, request: Any, ctx: Context) -> Any:
        if not self._predicts:
            deltas = [delta async for delta in self.stream(request, ctx)]
            return fold(self._task, request, deltas)
        items = list(self._task.split(request))
        if not items:
            return self._task.join(request, [])
        guard, ticket = Guard(self._loop, ctx), Ticket(request, (request,), ctx)
        try:
            await self._enter(ticket, guard)
            self._meter.observe("argosy_batch_items", len(items))
            try:
                answers = list(await guard.wait(self._model.predict(items)))  # type: ignore[attr-defined]
                if len(answers) != len(items):
                    raise PluginError(
                        f"{len(items)} answers of {type(self._model).__name__}.predict", str(len(answers))
                    )
            except (asyncio.CancelledError, RequestError):
                raise
            except Exception as error:  # a model may raise anything
                raise refusal(error, ctx) from error
            finally:
                self._leave(ticket)
        except asyncio.CancelledError:
            ctx.cancel()
            raise
        finally:
            guard.end()
        return self._task.join(request, answers)

    async def stream(self, request: Any, ctx: Context) -> AsyncIterator[Any]:
        guard, ticket = Guard(self._loop, ctx), Ticket(request, (request,), ctx)
        finished = False
        try:
            await self._enter(ticket, guard)
            steps: Any = None
            try:
                while not finished:
                    try:
                        steps = self._model.generate(request, ctx) if steps is None else steps  # type: ignore[attr-defined]
                        delta = await guard.wait(steps.__anext__())
                    except StopAsyncIteration:
                        finished = True
                        if refused := broken_off(ctx):
                            raise refused from None
                        break
                    except (asyncio.CancelledError, RequestError):
                        raise
                    except Exception as error:  # a model may raise anything
                        raise refusal(error, ctx) from error
                    if not ticket.first:
                        ticket.first = time.monotonic()
                        measure(self._meter, ticket)
                    yield delta
            finally:
                try:
                    if not finished:
                        ctx.cancel()
                        await _part(steps)
                finally:
                    self._leave(ticket)
        finally:
            if not finished:
                ctx.cancel()
            guard.end()

    def stop(self) -> None:
        self._stopping = True
        for ticket in self._line.clear():
            fail(ticket, stopping())
        for ticket in self._tickets:
            ticket.ctx.cancel()

    async def _enter(self, ticket: Ticket, guard: Guard) -> None:
        """Wait for a slot."""
        if self._stopping:
            raise stopping()
        if len(self._tickets) < self._size and not self._line.waiting:
            ticket.started = time.monotonic()
            self._tickets.add(ticket)
            return
        ticket.future = self._loop.create_future()
        self._line.admit(ticket)
        try:
            await guard.wait(ticket.future)
        except BaseException:
            self._line.remove(ticket)
            if ticket in self._tickets:  # the slot came together with the end
                self._leave(ticket)
            raise

    def _leave(self, ticket: Ticket) -> None:
        self._tickets.discard(ticket)
        self._line.learn((time.monotonic() - ticket.started) / self._size, 1)
        if not ticket.first:
            measure(self._meter, ticket)
        while len(self._tickets) < self._size and (batch := self._line.take(1, mixed=False)):
            (other, _), *_ = batch
            if other.future is not None and not other.future.done():
                self._tickets.add(other)
                other.future.set_result(None)


async def _part(steps: Any) -> None:
    """Close an asynchronous generator; one that does not end in time is left to itself, and said so."""
    if steps is None or not hasattr(steps, "aclose"):
        return
    closing = asyncio.ensure_future(steps.aclose())
    done, _ = await asyncio.wait({closing}, timeout=_PARTING)
    if not done:
        log.warning("generate() has not ended %g s after it was closed", _PARTING)
        closing.add_done_callback(lambda task: task.cancelled() or task.exception())
    elif not closing.cancelled() and (error := closing.exception()) is not None:
        log.warning("generate() raised while it was closed", exc_info=error)
