"""The devices of this machine, numbered as the whole fleet numbers them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ..backend import Device
from ..registry import Registry


def devices(registry: Registry, root: Path = Path("/")) -> tuple[Device, ...]:
    """What every installed backend finds below `root`, by PCI address, the CPU last; `index` counts them."""
    found = [device for _, backend in sorted(registry.backends.items()) for device in backend.detect(root)]
    found.sort(key=lambda device: (device.pci is None, device.pci or "", device.name))
    return tuple(dataclasses.replace(device, index=index) for index, device in enumerate(found))


def ruled_out(registry: Registry, root: Path = Path("/")) -> dict[str, str]:
    """Of each backend that found nothing usable, why."""
    reasons = {name: backend.absent(root) for name, backend in sorted(registry.backends.items())}
    return {name: reason for name, reason in reasons.items() if reason}
