"""Which devices a variant wishes for, and in what order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..backend import Device
from ..fleet.schema import Variant
from .decision import Cause
from .nodes import Node


@dataclass(frozen=True, kw_only=True)
class Wished:
    """A device that a variant may run on, or, with a `cause`, may not; without a device: what the wish came to."""

    node: Node | None = None
    device: Device | None = None
    cause: Cause | None = None
    why: str = ""

    @property
    def node_name(self) -> str:
        return self.node.name if self.node else ""


def wished(way: Variant, nodes: Sequence[Node]) -> Iterator[Wished]:
    """First what is wished for, in order of preference (without a wish: accelerators before the processor), unusable
    devices among it with their problems; then every other device with why it is none. `NAME:1` counts the devices of
    that backend on each node, by index."""
    every = [(node, device) for node in nodes for device in node.devices]
    here = [pair for pair in every if way.node in (None, pair[0].name)]
    if not here:
        wanted = f"node {way.node}" if way.node else "any node"
        names = ", ".join(node.name for node in nodes) or "none"
        yield Wished(cause=Cause.NOTHING, why=f"no device on {wanted}; nodes: {names}")
    meant = _meant(way, here)
    for node, device in meant:
        if device.usable:
            yield Wished(node=node, device=device)
        else:
            problems = ", ".join(device.problems) or "its backend does not say why"
            yield Wished(node=node, device=device, cause=Cause.DEVICE, why=f"not usable: {problems}")
    if here and not meant:
        wishes = " or ".join(_list(way.device))
        yield Wished(cause=Cause.NOTHING, why=f"no device is {wishes}; there are {_names(here)}")
    known = {(node.name, device.index) for node, device in meant}
    device_wish = " or ".join(_list(way.device))
    for node, device in every:
        if (node.name, device.index) not in known:
            wish = f"node {way.node}" if way.node not in (None, node.name) else device_wish
            yield Wished(node=node, device=device, cause=Cause.WISH, why=f"the fleet file wants {wish}")


def _meant(way: Variant, here: Sequence[tuple[Node, Device]]) -> list[tuple[Node, Device]]:
    if way.device is None:
        return sorted(here, key=lambda pair: pair[1].cores > 0)
    found: list[tuple[Node, Device]] = []
    for wish in _list(way.device):
        backend, _, position = wish.partition(":")
        of_backend: dict[str, list[tuple[Node, Device]]] = {}
        for pair in here:
            if pair[1].backend == backend:
                of_backend.setdefault(pair[0].name, []).append(pair)
        for mine in of_backend.values():
            mine = mine[int(position) : int(position) + 1] if position else mine
            found += mine
    return list({(node.name, device.index): (node, device) for node, device in found}.values())


def _list(wish: str | list[str] | None) -> list[str]:
    return [wish] if isinstance(wish, str) else wish or []


def _names(here: Sequence[tuple[Node, Device]]) -> str:
    return ", ".join(dict.fromkeys(device.backend for _, device in here))
