"""What every model has to keep to. A check raises AssertionError with the sentence that is not so."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError

from .. import tasks
from ..errors import PluginError, ReplicaError, RequestError
from ..model import Context, Model, Options, runs
from ..registry import Registry
from ..runtime.assignment import Assignment
from ..runtime.batching import on_loop
from ..runtime.replica import Replica, State
from ..tasks import Task
from .fleet import installed

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_NEVER = "no-such-option"
_SLOT_SECONDS = 1.0  # within which an abandoned request has to free its slot


def check_model(model: type[Model], registry: Registry | None = None) -> None:
    """Hold a model's class against the contract; nothing is loaded. `registry` says which engines there are."""
    known = (registry or installed()).engines
    who = f"{model.__module__}.{model.__name__}"
    name = getattr(model, "name", None)
    holds(isinstance(name, str) and NAME.fullmatch(name), f"{who}: name is in lower case, like-this, not {name!r}")
    holds(isinstance(getattr(model, "task", None), Task), f"{who}: task is one of argosy.tasks, or argosy.Json(…)")
    module = sys.modules.get(model.__module__)
    holds(
        model.__dict__.get("__doc__") or (module and module.__doc__), f"{who}: the class or its module has a docstring"
    )
    holds(
        all(isinstance(one, str) for one in model.features) and isinstance(model.features, frozenset),
        f"{who}: features is a frozenset of strings",
    )
    holds(
        all(isinstance(text, str) for pair in model.about.items() for text in pair), f"{who}: about maps text to text"
    )
    _check_options(model.options, who)
    ways = model.implementations()
    holds(ways, f"{who}: names at least one engine")
    for way in ways:
        here = f"{way.model.__module__}.{way.model.__name__}"
        holds(way.engine in known, f"{here}: {way.engine!r} is an engine; there are {', '.join(sorted(known))}")
        try:
            on_loop(way.model)
        except PluginError as error:
            raise AssertionError(f"{here}: {error}") from None
        holds(way.model.load is not Model.load, f"{here}: says how to load(self, weights, engine, device)")
        holds(way.model.batching.size >= 1, f"{here}: a batch holds at least one item")
        holds(
            model.task.canary is not None or way.model.canary is not Model.canary,
            f"{here}: has a canary(), for its task {model.task.name!r} brings none",
        )


def _check_options(options: type[Options], who: str) -> None:
    holds(isinstance(options, type) and issubclass(options, Options), f"{who}: options is a subclass of argosy.Options")
    holds(options.model_config.get("frozen"), f"{who}: options are frozen")
    holds(options.model_config.get("extra") == "forbid", f"{who}: options forbid names that they do not know")
    needed = [name for name, info in options.model_fields.items() if info.is_required()]
    holds(not needed, f"{who}: every option has a default, {', '.join(needed)} has none")


async def check_answers(assignment: Assignment, registry: Registry, requests: Sequence[Any] = ()) -> None:
    """Start a real replica, ask it whatever the contract promises, stop it.

    `requests` have different answers; without any they are made from the task, where it is one that can be guessed,
    else the canary is asked again and again. Answers of batches may differ from single ones in the third digit.
    """
    replica = Replica(assignment, registry)
    with _complaints() as complaints:
        try:
            status = await replica.start()
            holds(
                status.state is State.READY,
                f"{assignment.plugin} is ready after its start, not {status.state}: {status.reason}",
            )
            _check_live(replica)
            given = list(requests) or _made_up(replica)
            await _check_order(replica, given)
            await _check_leaving(replica, given[0])
            await _check_deadline(replica, given[0])
        finally:
            await replica.stop()
    holds(replica.status().state is State.STOPPED, f"{assignment.plugin} is stopped after stop()")
    holds(not complaints, f"{assignment.plugin} closes without a complaint: {'; '.join(complaints)}")


def _check_live(replica: Replica) -> None:
    try:
        replica.model.options.model_validate({_NEVER: 1})
    except ValidationError:
        pass
    else:
        raise AssertionError(f"{replica.service}: an unknown option is refused")
    try:
        replica.reconfigure({_NEVER: 1})
    except ReplicaError:
        return
    raise AssertionError(f"{replica.service}: an unknown live option is refused")


async def _check_order(replica: Replica, requests: list[Any]) -> None:
    """Alone and all at once, in an odd number and one more than fits a batch, the answers are the same and in order."""
    alone = [await replica.answer(request, _ctx(f"alone-{index}")) for index, request in enumerate(requests)]
    for answer in alone:
        wanted = replica.task.response
        holds(
            isinstance(answer, wanted), f"{replica.service} answers with {wanted.__name__}, not {type(answer).__name__}"
        )
    count = min(max(3, replica.model.batching.size + 1), 67) | 1
    picked = [index % len(requests) for index in range(count)]
    together = await asyncio.gather(
        *(replica.answer(requests[which], _ctx(f"together-{index}")) for index, which in enumerate(picked))
    )
    if runs(replica.model) == "generate":
        return  # what is generated may differ from one time to the next
    for which, answer in zip(picked, together, strict=True):
        holds(_alike(answer, alone[which]), f"{replica.service}: request {which} of a batch is answered as it is alone")


async def _check_leaving(replica: Replica, request: Any) -> None:
    """A client that leaves frees its slot, and the next one is answered."""
    if runs(replica.model) == "generate":
        steps: AsyncIterator[Any] = replica.stream(request, _ctx("leaving"))
        async with contextlib.aclosing(steps):  # type: ignore[type-var]
            async for delta in steps:
                wanted = replica.task.delta or replica.task.response
                holds(
                    isinstance(delta, wanted), f"{replica.service} yields {wanted.__name__}, not {type(delta).__name__}"
                )
                break
        for _ in range(100):
            if not replica.status().running:
                break
            await asyncio.sleep(_SLOT_SECONDS / 100)
        holds(not replica.status().running, f"{replica.service} frees the slot of a client that left within a second")
    else:
        task = asyncio.ensure_future(replica.answer(request, _ctx("leaving")))
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    await replica.answer(request, _ctx("after"))


async def _check_deadline(replica: Replica, request: Any) -> None:
    """A request whose time is over is refused, and the next one is answered."""
    try:
        await replica.answer(request, Context("late", deadline=time.monotonic() - 1))
    except RequestError as error:
        holds(error.status == 504, f"{replica.service}: a passed deadline is a 504, not {error.status}")
    else:
        raise AssertionError(f"{replica.service} refuses a request whose deadline has passed")
    await replica.answer(request, _ctx("after"))


def _made_up(replica: Replica) -> list[Any]:
    words = ("one", "a man eats food", "the stock market fell", "ready", "night")
    if replica.task is tasks.embedding:
        return [tasks.EmbeddingRequest((word,)) for word in words]
    if replica.task is tasks.rerank:
        return [tasks.RerankRequest("someone is having a meal", (word,)) for word in words]
    canary = replica.canary()
    holds(canary is not None, f"{replica.service} has a canary, or the check is given requests")
    return [canary]


def sentence(text: str) -> bool:
    return bool(text.strip()) and "\n" not in text


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, float | np.ndarray):
        return bool(np.allclose(one, other, rtol=1e-2, atol=1e-2))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_alike, one, other))
    if is_dataclass(one):
        return all(_alike(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))
    return bool(one == other)


def _ctx(name: str) -> Context:
    return Context(name, deadline=time.monotonic() + 120)


def holds(true: Any, sentence: str) -> None:
    if not true:
        raise AssertionError(f"not so: {sentence}")


@contextlib.contextmanager
def _complaints() -> Iterator[list[str]]:
    """What the runtime warns of meanwhile: it swallows what a plugin raises while it is closed."""
    found: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("argosy.runtime")
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)
