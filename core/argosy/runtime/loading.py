"""Loading: weights, the planned device looked at once more, the engine prepared, the model loaded in its thread."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..backend import Backend, Device
from ..engines import Engine, Seen
from ..errors import ArgosyError, PluginError, ReplicaError
from ..model import Implementation, Model
from ..registry import Registry
from .assignment import Assignment
from .worker import Worker

log = logging.getLogger("argosy.runtime")


def implementation(registry: Registry, assignment: Assignment) -> Implementation:
    """The way to run the assigned model on the assigned engine. PluginError where the plugin has none."""
    model = registry.model(assignment.plugin)
    for way in model.implementations():
        if way.engine == assignment.engine.name:
            return way
    known = ", ".join(way.engine for way in model.implementations())
    raise PluginError(f"{assignment.plugin} on {assignment.engine.name}", f"it runs on {known}", "argosy plugins")


def options(model: type[Model], assignment: Assignment, values: Mapping[str, Any]) -> Any:
    """The model's options of these values. ReplicaError names what the plugin refuses."""
    try:
        return model.options.model_validate(dict(values))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        known = ", ".join(model.options.model_fields) or "none"
        raise ReplicaError(f"options of {assignment.plugin} ({known})", problems, "argosy config") from None


async def fetch(how: Implementation, assignment: Assignment, tell: Callable[[str], None]) -> Any:
    """The model's weights in a format that it reads, or None for one that needs none."""
    if not how.model.needs_weights:
        return None
    if assignment.model is None:
        raise ReplicaError(f"weights for {assignment.plugin}", "no model in the fleet file", "model: hf://OWNER/NAME")
    from ..fleet.weights import Allow, Progress  # here, for a model without weights needs no hub
    from ..fleet.weights import fetch as fetched
    from .converted import converted

    def report(step: Progress) -> None:
        tell(f"weights: {step.name}, {step.done / 2**20:.0f} of {step.total / 2**20:.0f} MiB")

    cache = Path(assignment.cache)
    weights = await asyncio.to_thread(
        fetched,
        assignment.model,
        cache,
        allow=Allow.of(assignment.allow),
        offline=assignment.offline,
        progress=report,
    )
    config = options(how.model, assignment, assignment.options)
    return await asyncio.to_thread(converted, weights, how, config, cache, tell)


def lost(backend: Backend, device: Device) -> str:
    """Why the planned device is not there as it was planned, one sentence; empty where it is.

    It was seen when the plan was made, perhaps long ago. Looked for by its address and what its mask calls it: one
    whose ordinal has changed would be masked as another. Reads files; where they do not suffice, asks the vendor's
    own library in a child process.
    """
    there = backend.detect()
    found = _same(device, there) or _same(device, backend.probe(there))
    if found is not None and found.usable:
        return ""
    where = f"{device.name}{f' at {device.pci}' if device.pci else ''}"
    if found is not None:
        return f"{where} was usable when it was planned, and now: {'; '.join(found.problems) or 'it is not'}"
    if device.pci and (now := [other.identity or other.name for other in there if other.pci == device.pci]):
        return f"{where} was planned as {device.identity or device.name}, and is now {', '.join(now)}"
    others = ", ".join(other.name for other in there)
    return f"{where} was planned, and is not there any more: {backend.absent() or f'there is {others}'}"


def _same(device: Device, there: Sequence[Device]) -> Device | None:
    return next(
        (
            found
            for found in there
            if (found.pci, found.identity) == (device.pci, device.identity)
            and (device.pci or device.identity or found.name == device.name)
        ),
        None,
    )


async def prepare(assignment: Assignment, worker: Worker) -> Engine:
    """The engine that the model is loaded on, prepared in the model's thread; it reports for this replica alone."""
    planned = dataclasses.replace(assignment.engine, seen=Seen())
    if type(planned).version() is None:
        wanted = " or ".join(type(planned).distributions)
        raise ReplicaError(f"{wanted}, for the engine {planned.name}", "not installed here", "argosy detect")
    try:
        return await worker.run(planned.prepare)
    except (asyncio.CancelledError, ArgosyError):
        raise
    except BaseException as error:  # an engine's library may be broken in any way, and its panic is no Exception
        raise _failed(f"{planned.name} to open {assignment.device.name}", assignment, error) from error


async def load(
    model: type[Model], weights: Any, engine: Engine, assignment: Assignment, worker: Worker, plugin: str
) -> Model:
    """A loaded instance. ReplicaError with the plugin's own words where it raises."""
    config = options(model, assignment, assignment.options)
    try:
        instance = model(config)
        if inspect.iscoroutinefunction(instance.load):
            await instance.load(weights, engine, assignment.device)
        else:
            await worker.run(partial(instance.load, weights, engine, assignment.device))
    except (asyncio.CancelledError, ArgosyError):
        raise
    except BaseException as error:  # load() is a plugin's, and a native library's panic is no Exception
        log.error("%s failed to load", plugin, exc_info=error)
        raise _failed(f"{plugin} to load {assignment.plugin} on {engine.name}", assignment, error) from error
    return instance


def _failed(wanted: str, assignment: Assignment, error: BaseException) -> ReplicaError:
    service = assignment.service
    return ReplicaError(
        f"{wanted} for {service}",
        traceback.format_exception_only(error)[-1].strip(),
        f"argosy logs {service}, or argosy run-one {service} to see it alone",
    )
