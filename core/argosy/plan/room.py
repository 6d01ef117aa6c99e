"""What is left of every device while a plan is made, and the arithmetic of what is not."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..backend import Device
from .decision import Cause, Placement
from .estimate import gib
from .nodes import Node

# Shares are fractions that people write in decimals: three thirds of 0.333… are one.
_ROUNDING = 1e-9


class Room:
    """Leases of one plan. The shares of a device never sum above one, nor, with what strangers hold there, their bytes
    above its memory. Integrated devices and the processor of a node draw from one pool, which is as large as the
    largest of them."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = {node.name: node for node in nodes}
        self._taken: dict[tuple[str, int], list[Placement]] = {}

    def take(self, placement: Placement) -> None:
        self._taken.setdefault((placement.node, placement.device.index), []).append(placement)

    def before(self, node: str, device: Device) -> int:
        """Bytes of the device that are spoken for: what strangers hold, and what replicas were promised."""
        return self._strangers(node, [device]) + sum(p.budget or 0 for p in self._on(node, [device]))

    def refusal(
        self, node: str, device: Device, share: float, budget: int | None, *, mine: bool
    ) -> tuple[Cause, str] | None:
        """Why a replica cannot have this share, which is `budget` bytes; None where it can. `mine`: it has it already,
        and strangers who came later do not take it away."""
        there = self._on(node, [device])
        left = 1 - math.fsum(p.share for p in there)
        if share > left + _ROUNDING:
            total = device.memory_bytes
            said = f"wants a share of {_share(share, total)}, {_share(max(left, 0), total)} is left of it"
            return Cause.SHARE, said + (f" beside {_shares(there)}" if there else "")
        if budget is None or mine:
            return None
        if (total := device.memory_bytes) is not None and (held := self._strangers(node, [device])):
            free = total - held - sum(p.budget or 0 for p in there)
            if budget > free:
                return Cause.STRANGERS, f"wants {gib(budget)}, {self._left(free, total, held, there)}"
        return self._pool(node, device, budget)

    def _pool(self, node: str, device: Device, budget: int) -> tuple[Cause, str] | None:
        pool = [one for one in self._nodes[node].devices if one.integrated and one.memory_bytes is not None]
        if not device.integrated or len(pool) < 2:
            return None
        there, held = self._on(node, pool), self._strangers(node, pool)
        total = max(one.memory_bytes or 0 for one in pool)
        free = total - held - sum(p.budget or 0 for p in there)
        if budget <= free:
            return None
        names = " and ".join(one.name for one in pool)
        said = f"wants {gib(budget)} of the memory that {names} share, {self._left(free, total, held, there)}"
        return Cause.POOL, said

    def _on(self, node: str, devices: Sequence[Device]) -> list[Placement]:
        return [placement for device in devices for placement in self._taken.get((node, device.index), ())]

    def _strangers(self, node: str, devices: Sequence[Device]) -> int:
        taken = self._nodes[node].taken
        return sum(taken.get(device.index, 0) for device in devices)

    @staticmethod
    def _left(free: int, total: int, held: int, there: Sequence[Placement]) -> str:
        parts = [f"{gib(held)} held by others"] if held else []
        parts += [f"{gib(p.budget or 0)} for {p.service}" for p in there]
        return f"{gib(max(free, 0))} is left: {' - '.join([gib(total), *parts])}"


def _share(share: float, total: int | None) -> str:
    """With its bytes, where the device's memory is known."""
    return f"{share:.3g} ({gib(int(share * total))})" if total is not None else f"{share:.3g}"


def _shares(there: Sequence[Placement]) -> str:
    return ", ".join(f"{p.service} ({p.share:.3g})" for p in there)
