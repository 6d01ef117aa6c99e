"""What control knows besides the fleet file when it plans: what was measured, and what runs where already."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from ..plan.ledger import Ledger, Record
from ..plan.place import Node, Standing

if TYPE_CHECKING:
    from .entry import Entry


@dataclass(frozen=True, kw_only=True)
class Known:
    """`nodes` are those of the last look; only `argosy plan` asks for them."""

    ledger: Ledger = field(default_factory=Ledger)
    standing: Mapping[str, Standing] = field(default_factory=dict)
    nodes: tuple[Node, ...] = ()


def standing(entries: Mapping[str, Entry]) -> dict[str, Standing]:
    """Where services have their replicas now."""
    return {
        name: Standing(
            node=entry.ready.node.name,
            index=entry.ready.assignment.device.index,
            share=entry.ready.assignment.share,
            key=entry.ready.key,
        )
        for name, entry in entries.items()
        if entry.ready is not None and entry.ready.key is not None and not entry.gone
    }


def processes(entries: Mapping[str, Entry]) -> dict[str, list[int]]:
    """Ray's id of a node -> the processes of this fleet's replicas there."""
    found: dict[str, list[int]] = {}
    for entry in entries.values():
        for report in entry.reports.values():
            found.setdefault(report["node"], []).append(report["pid"])
    return found


def record(entry: Entry, status: Mapping[str, Any]) -> Record | None:
    """What the ledger remembers of a replica's report; None where there is nothing to remember it by, and where what
    was measured is the host's memory, for nobody tells the device's."""
    if entry.ready is None or entry.ready.key is None or not status["memory_told"]:
        return None
    key = dataclasses.replace(entry.ready.key, version=status["engine_version"])
    sizes = {name: status[f"memory_{name}"] for name in ("loaded", "canary", "peak")}
    return Record(key=key, at=time.time(), **sizes)


def noted(stands: Mapping[str, Standing], nodes: Sequence[Node]) -> dict[str, Any]:
    """For the store: what an apply reckoned with, so that a control that comes back reckons the same."""
    return {
        "standing": {name: dataclasses.asdict(one) for name, one in stands.items()},
        "taken": {node.name: {str(index): size for index, size in node.taken.items()} for node in nodes},
    }


def recalled(document: Mapping[str, Any]) -> dict[str, Standing]:
    return TypeAdapter(dict[str, Standing]).validate_python(document.get("standing", {}))


def as_then(document: Mapping[str, Any], nodes: Sequence[Node]) -> tuple[Node, ...]:
    """The nodes with what strangers held there at the last apply: now, the fleet's own replicas look like strangers."""
    taken = document.get("taken", {})
    return tuple(
        dataclasses.replace(node, taken={int(index): size for index, size in taken.get(node.name, {}).items()})
        for node in nodes
    )
