"""How a plan looks in a terminal, and as JSON."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..plan.decision import Candidate, Placement, Verdict
from ..plan.estimate import Figure, gib
from . import screen

if TYPE_CHECKING:
    from ..plan.nodes import Node
    from .plan import Planned

KEPT = {
    "enforced": "enforced: the device refuses more to this replica",
    "watched": "watched: the node's watchdog ends the replica when it holds more",
    "counted": "counted: only plans reckon with it, nothing stops a replica that holds more",
}
FROM = {
    "measured": "measured",
    "plugin": "the plugin's memory()",
    "size": "reckoned from the weights' size",
    "unknown": "unknown",
}
_STYLE = {Verdict.CHOSEN: "green", Verdict.LATER: "dim", Verdict.REJECTED: "red"}


def pending(found: Planned) -> dict[str, str]:
    """Of each service that would not run: why."""
    scattered = {name: said for name in found.fleet.services if (said := found.plan.scattered(name))}
    return {**scattered, **found.plan.pending}


def show(found: Planned) -> None:
    console = screen.console()
    _say(console, found.notes, "dim")
    grid = _grid("service", "place", "engine", "share", "budget", "needs", "from", "share is")
    for placement in found.plan.placements:
        grid.add_row(
            f"/{placement.service}",
            f"{placement.node}/{_label(placement)}",
            placement.engine.name,
            f"{placement.share:.3g}",
            _size(placement.budget),
            _size(placement.figure.bytes),
            placement.figure.source,
            placement.enforcement,
        )
    if found.plan.placements:
        console.print(grid)
    for node in found.plan.nodes:
        for device in devices(found, node):
            _say(console, [_device_line(node, device)], "" if device["services"] else "dim")
    for name, said in pending(found).items():
        _say(console, [f"/{name} has no place: {said}"], "red")


def explain(found: Planned, service: str) -> None:
    console = screen.console()
    _say(console, found.notes, "dim")
    decision = found.plan.decisions[service]
    columns = ["variant", "device", "engine", "verdict", "why"]
    grid = _grid(*(["replica", *columns] if decision.replicas > 1 else columns))
    for one in decision.candidates:
        row = [str(one.variant), _where(one), one.engine, str(one.verdict), one.why]
        cells = [Text(cell, style=_STYLE[one.verdict] if at == 3 else "") for at, cell in enumerate(row)]
        grid.add_row(*([Text(str(one.replica)), *cells] if decision.replicas > 1 else cells))
    console.print(grid)
    for node in found.plan.nodes:
        _say(console, [_device_line(node, device) for device in devices(found, node)], "dim")
    for placement in found.plan.of(service):
        _say(console, _lines(found, placement))
    if said := pending(found).get(service):
        _say(console, [f"/{service} has no place: {said}"], "red")


def plain(found: Planned) -> dict[str, Any]:
    """The plan, for programs. Sizes are bytes."""
    waiting = pending(found)
    return {
        "fleet": found.fleet.name,
        "notes": list(found.notes),
        "nodes": {
            node.name: {"assumed": node.assumed, "cores": node.cores, "devices": devices(found, node)}
            for node in found.plan.nodes
        },
        "services": {
            name: {"placements": [_placement(one) for one in found.plan.of(name)], "pending": waiting.get(name, "")}
            for name in found.fleet.services
        },
    }


def explained(found: Planned, service: str) -> dict[str, Any]:
    decision = found.plan.decisions[service]
    return {
        "service": service,
        "notes": list(found.notes),
        "replicas": decision.replicas,
        "pending": pending(found).get(service, ""),
        "placements": [_placement(one) for one in found.plan.of(service)],
        "candidates": [
            {
                "replica": one.replica,
                "variant": one.variant,
                "node": one.node,
                "device": one.device.name if one.device else "",
                "backend": one.device.backend if one.device else "",
                "index": one.device.index if one.device else None,
                "engine": one.engine,
                "verdict": str(one.verdict),
                "cause": str(one.cause) if one.cause else "",
                "why": one.why,
                "share": one.share,
                "budget": one.budget,
                "needs": dataclasses.asdict(one.figure),
            }
            for one in decision.candidates
        ],
    }


def devices(found: Planned, node: Node) -> list[dict[str, Any]]:
    """Each device of a node: what strangers hold there before, and what is spoken for after the plan, in bytes."""
    rows = []
    for device in node.devices:
        there = found.plan.on(node.name, device)
        before = node.taken.get(device.index, 0)
        after = before + sum(placement.budget or 0 for placement in there)
        rows.append(
            {
                "backend": device.backend,
                "index": device.index,
                "name": device.name,
                "architecture": device.architecture,
                "usable": device.usable,
                "problems": list(device.problems),
                "memory_bytes": device.memory_bytes,
                "before": before,
                "after": after,
                "share": round(found.plan.used(node.name, device), 6),
                "services": [placement.service for placement in there],
            }
        )
    return rows


def _placement(one: Placement) -> dict[str, Any]:
    return {
        "replica": one.replica,
        "variant": one.variant,
        "node": one.node,
        "backend": one.device.backend,
        "index": one.device.index,
        "device": one.device.name,
        "engine": one.engine.name,
        "share": one.share,
        "budget": one.budget,
        "needs": dataclasses.asdict(one.figure),
        "before": one.before,
        "after": one.after,
        "cores": one.cores,
        "enforcement": one.enforcement,
        "why": one.why,
    }


def _lines(found: Planned, one: Placement) -> list[str]:
    """What explains a placement, a sentence a line."""
    number = f", replica {one.replica}" if found.fleet.services[one.service].replicas > 1 else ""
    budget = f", a budget of {gib(one.budget)}" if one.budget is not None else ", the device's memory is unknown"
    lines = [
        f"/{one.service}{number} runs on {one.node}/{_label(one)} ({one.device.name}): {one.why}",
        f"memory: {_needs(one.figure)}",
        f"share: {one.share:.3g}{budget}; {_share_from(found, one)}",
        f"it is {KEPT[one.enforcement]}",
    ]
    if one.device.memory_bytes is not None:
        whole = gib(one.device.memory_bytes)
        lines.append(f"device: {gib(one.before)} spoken for before it, {gib(one.after)} with it, of {whole}")
    return lines


def _needs(figure: Figure) -> str:
    source = FROM[figure.source]
    detail = figure.detail.removeprefix(figure.source).strip() if figure.source == "measured" else figure.detail
    size = gib(figure.bytes) if figure.bytes is not None else ""
    return ", ".join(part for part in (size, f"{source} ({detail})" if detail else source) if part)


def _share_from(found: Planned, one: Placement) -> str:
    way = found.fleet.services[one.service].ways()[one.variant]
    if way.share is not None:
        return "the fleet file gives it"
    if way.memory is not None:
        return "from `memory:` in the fleet file"
    if one.figure.bytes is None or one.device.memory_bytes is None:
        return "the fleet file gives none, and nobody knows what it needs"
    return "the fleet file gives none: what it needs, in whole hundredths"


def _device_line(node: Node, device: dict[str, Any]) -> str:
    label = f"{node.name}/{device['backend']}:{device['index']}  {device['name']}"
    if not device["usable"]:
        return f"{label}: not usable: {', '.join(device['problems'])}"
    if device["memory_bytes"] is None:
        return f"{label}: memory unknown, {device['share']:.3g} of it given away"
    held = f"{gib(device['before'])} held by others before, " if device["before"] else ""
    left = max(device["memory_bytes"] - device["after"], 0)
    spoken = f"{gib(device['after'])} of {gib(device['memory_bytes'])} spoken for after"
    return f"{label}: {held}{spoken} ({device['share']:.3g}), {gib(left)} left"


def _label(one: Placement) -> str:
    return f"{one.device.backend}:{one.device.index}"


def _where(one: Candidate) -> str:
    return f"{one.node}/{one.device.backend}:{one.device.index}" if one.device else ""


def _size(count: int | None) -> str:
    return gib(count) if count is not None else "unknown"


def _grid(*columns: str) -> Table:
    grid = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        grid.add_column(column, overflow="fold")
    return grid


def _say(console: Console, lines: Any, style: str = "") -> None:
    for line in lines:
        console.print(Text(line, style=style), soft_wrap=True)
