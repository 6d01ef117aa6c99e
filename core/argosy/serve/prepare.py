"""What is done with a fleet file before anything is deployed: check it, see every node, place, assign.

It runs in Ray tasks, with the plugins that this fleet brings along on their path; control itself holds no plugin.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import registry as registries
from ..fleet import file
from ..fleet.schema import Fleet
from ..plan.ledger import Key
from ..plan.place import Node, Plan
from ..runtime import survey
from ..runtime.assign import assign, digest
from ..runtime.assignment import Assignment
from .known import Known


@dataclass(frozen=True, kw_only=True)
class Ready:
    """One service, ready to be deployed."""

    assignment: Assignment
    node: Node
    replicas: int
    task: str
    start_timeout: float
    digest: str
    live: Mapping[str, Any] = field(default_factory=dict)
    py_modules: tuple[str, ...] = ()  # the wheels that its plugin was sent along in
    why: str = ""
    estimate: int | None = None
    key: Key | None = None  # what its memory is remembered by


@dataclass(frozen=True, kw_only=True)
class Prepared:
    fleet: Fleet
    services: Mapping[str, Ready]
    pending: Mapping[str, str]


def see(name: str, identity: str, ours: Collection[int] = ()) -> Node:
    """This machine, as Ray's node `identity` called `name`; `ours` are the processes of the fleet's replicas on it."""
    return survey.node(registries.load(), name, identity, ours)


def prepare(
    text: str, path: str, nodes: Sequence[Node], *, cache: str, logs: str, py_modules: Sequence[str], known: Known
) -> Prepared:
    """FleetError or PluginError for what is wrong with the file; what fits nowhere is pending, not an error."""
    here = Path(path)
    fleet = file.parse(text, here)
    registry = registries.load()
    file.check(fleet, registry, here, text=text)

    plan = survey.survey(
        fleet,
        registry,
        nodes,
        here.parent,
        store=Path(cache),
        ledger=known.ledger,
        standing=known.standing,
    )
    services, pending = {}, dict(plan.pending)
    for name in fleet.services:
        if name in pending:
            continue
        if said := plan.scattered(name):
            pending[name] = said
        else:
            services[name] = _ready(fleet, name, plan, nodes, registry, here, cache, logs, py_modules)
    return Prepared(fleet=fleet, services=services, pending=pending)


def _ready(
    fleet: Fleet,
    name: str,
    plan: Plan,
    nodes: Sequence[Node],
    registry: registries.Registry,
    path: Path,
    cache: str,
    logs: str,
    py_modules: Sequence[str],
) -> Ready:
    placements = plan.of(name)
    first = placements[0]
    model = registry.model(fleet.services[name].plugin)
    assignment = assign(fleet, first, registry, base=path.parent, cache=cache, logs=logs)
    live = model.options.live_names()
    mine, code = _code(registry, assignment.plugin, py_modules)
    return Ready(
        assignment=assignment,
        node=next(node for node in nodes if node.name == first.node),
        replicas=len(placements),
        task=model.task.name,
        start_timeout=fleet.services[name].start_timeout,
        digest=digest(assignment, live, code),
        py_modules=mine,
        live={option: value for option, value in assignment.options.items() if option in live},
        why=first.why,
        estimate=first.figure.bytes,
        key=first.key,
    )


def _code(registry: registries.Registry, model: str, py_modules: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """The wheels that a model's plugin came in, and what stands for its code: a new version restarts its services."""
    plugin = next(plugin for plugin in registry.plugins if model in plugin.models)
    name = re.sub(r"[-_.]+", "_", plugin.distribution).lower()
    wheels = tuple(uri for uri in py_modules if uri.rpartition("/")[2].lower().startswith(f"{name}-"))
    return wheels, " ".join(wheels) or f"{plugin.distribution} {plugin.version}"
