"""Whether a service lives, and whether it is ready."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typing_extensions import TypedDict

from ..tasks import Task
from .dialect import Call, Dialect, Route
from .wire import Reply, reply_json


class Health(TypedDict):
    service: str
    state: str
    reason: str


async def live(call: Call) -> Reply:
    """200 as long as the process answers, whatever its model does."""
    return reply_json(_health(call))


async def ready(call: Call) -> Reply:
    health = _health(call)
    return reply_json(health, 200 if health["state"] in ("ready", "degraded") else 503)


def _health(call: Call) -> Health:
    status = call.answerer.status()
    return {"service": call.answerer.service, "state": str(status.state).lower(), "reason": status.reason}


def routes(task: Task[Any, Any]) -> Sequence[Route]:
    reply = {"application/json": Health}
    return [
        Route(method="GET", path="/health/live", summary="Does the process live", answer=live, reply=reply),
        Route(method="GET", path="/health/ready", summary="Can it answer", answer=ready, reply=reply, errors=(503,)),
    ]


dialect = Dialect(name="health", routes=routes)
