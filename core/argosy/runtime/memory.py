"""Memory that a replica's processes hold, on the host and on the device."""

from __future__ import annotations

import os
from dataclasses import dataclass

from .. import machine
from ..backend import Backend, Device


@dataclass(frozen=True)
class Taken:
    """Bytes that this process and its children hold: on the device, where its backend tells who holds what there;
    else (`told` is False) on the host."""

    bytes: int
    told: bool


def measure(backend: Backend, device: Device) -> Taken:
    """Memory now. Reads files of /proc for some milliseconds: not on the event loop."""
    mine = machine.family(os.getpid())
    # Strangers alone say nothing of us: in a container a vendor may name processes by the host's numbers.
    if held := [one.bytes for one in backend.held(device, mine) if one.pid in mine]:
        return Taken(sum(held), True)
    return Taken(sum(machine.resident(pid) for pid in mine), False)
