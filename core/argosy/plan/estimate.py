"""How much device memory a replica will hold, before anything was measured."""

from __future__ import annotations

from pathlib import Path

from ..backend import Offer
from ..fleet.schema import Service, Variant
from ..model import Implementation

# What a process holds besides its weights: the interpreter, the engine's code and its arenas. Measured on the CPU
# engines with weights of 23 to 98 MB: 250 to 450 MB of private memory after a canary.
BASE = 300 * 2**20


def from_size(size: int) -> int:
    """Bytes held for weights of `size` bytes: the weights, half as much again for activations and caches, the base."""
    return int(size * 1.5) + BASE


def local_size(path: Path) -> int:
    """The bytes of a file or of everything below a folder; 0 when there is nothing."""
    if path.is_file():
        return path.stat().st_size
    return sum(item.stat().st_size for item in path.rglob("*") if item.is_file())


def unknown(service: Service, variant: Variant, implementation: Implementation, offer: Offer) -> int | None:
    """Where nothing is known of the weights: no estimate, so the owner's share or the default one holds."""
    return None
