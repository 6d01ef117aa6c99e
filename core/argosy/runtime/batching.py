"""How requests reach a model: gathered into batches or one by one in its thread, or as they come on the event loop."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from typing import Any, Protocol

from ..errors import PluginError
from ..model import Context, Model, runs
from ..tasks import Task
from .looped import Looped
from .meter import Meter
from .threaded import Threaded
from .worker import Worker


class Runner(Protocol):
    """One way to reach a loaded model. All methods are called on the event loop."""

    async def answer(self, request: Any, ctx: Context) -> Any:
        """The task's response. RequestError; cancelling it gives the request up."""

    def stream(self, request: Any, ctx: Context) -> AsyncIterator[Any]:
        """The task's deltas. RequestError; closing it gives the request up."""

    def stop(self) -> None:
        """Refuse what waits and what comes; tell what runs to end."""

    @property
    def waiting(self) -> int: ...

    @property
    def running(self) -> int: ...


def runner(model: Model, task: Task[Any, Any], bound: int, worker: Worker, meter: Meter) -> Runner:
    """The way that the model's batching names. PluginError where what it defines cannot run that way."""
    if on_loop(type(model)):
        return Looped(model, task, bound, meter)
    return Threaded(model, task, bound, worker, meter)


def on_loop(model: type[Model]) -> bool:
    """Whether a model runs on the event loop, not in a thread. PluginError where its batching does not go with what
    it defines."""
    way, kind = runs(model), model.batching.kind
    method = getattr(model, way)
    loop = inspect.isasyncgenfunction(method) if way == "generate" else inspect.iscoroutinefunction(method)
    if way == "generate" and inspect.iscoroutinefunction(method):
        raise PluginError(f"{model.__name__}.generate that yields", "a coroutine that returns", "yield in generate")
    if kind == "engine" and not loop:
        raise PluginError(
            f"{model.__name__}.{way} that runs on the event loop, for engine_batches",
            f"a plain def {way}",
            f"async def {way}, or batching = argosy.one_by_one",
        )
    if kind == "gather" and (loop or way == "generate"):
        raise PluginError(
            f"def predict(self, batch) in {model.__name__}, for gather",
            f"{'async ' if loop else ''}def {way}",
            "batching = argosy.engine_batches where the engine batches, else argosy.one_by_one",
        )
    return loop
