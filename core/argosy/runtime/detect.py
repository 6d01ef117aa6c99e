"""The devices of this machine, numbered as the whole fleet numbers them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from ..backend import Device
from ..registry import Registry


def devices(registry: Registry, root: Path = Path("/"), *, probe: bool = False) -> tuple[Device, ...]:
    """What every installed backend finds below `root`, by PCI address, the CPU last; `index` counts them.

    `probe`: with what only the vendors' own libraries tell, asked in child processes. It has a meaning at `/` alone:
    the libraries see this machine, whatever the root.
    """
    found: list[Device] = []
    for _, backend in sorted(registry.backends.items()):
        mine = backend.detect(root)
        found += backend.probe(mine) if probe and mine else mine
    found.sort(key=lambda device: (device.pci is None, device.pci or "", device.name))
    return tuple(dataclasses.replace(device, index=index) for index, device in enumerate(found))


def ruled_out(registry: Registry, root: Path = Path("/"), found: Iterable[Device] = ()) -> dict[str, str]:
    """Of each backend that found nothing usable, why; those with a usable one among `found` were not ruled out, even
    where files alone would say so."""
    usable = {device.backend for device in found if device.usable}
    asked = {name: backend for name, backend in sorted(registry.backends.items()) if name not in usable}
    reasons = {name: backend.absent(root) for name, backend in asked.items()}
    return {name: reason for name, reason in reasons.items() if reason}
