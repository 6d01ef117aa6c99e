"""How much device memory a replica will hold, before anything was measured."""

from __future__ import annotations

# What a process holds besides its weights: the interpreter, the engine's code and its arenas. Measured on the CPU
# engines with weights of 23 to 98 MB: 250 to 450 MB of private memory after a canary.
BASE = 300 * 2**20


def from_size(size: int) -> int:
    """Bytes held for weights of `size` bytes: the weights, half as much again for activations and caches, the base."""
    return int(size * 1.5) + BASE
