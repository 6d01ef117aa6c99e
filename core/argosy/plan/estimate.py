"""How much memory of its device a replica will hold, and how that is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# What a process holds besides its weights: the interpreter, the engine's code and its arenas. Measured on the CPU
# engines with weights of 23 to 98 MB: 170 to 450 MB in all, after a canary.
BASE = 300 * 2**20

# Activations and caches grow with the weights up to here; beyond, they follow batch and context, which models that
# know better say themselves.
MOST = 2 * 2**30


@dataclass(frozen=True)
class Figure:
    """Bytes of the device that a replica needs, None where nobody can tell.

    source: `measured` at an earlier load, said by the `plugin`'s memory(), reckoned from the weights' `size`, or
            `unknown`
    detail: what it comes from, for people
    """

    bytes: int | None = None
    source: Literal["measured", "plugin", "size", "unknown"] = "unknown"
    detail: str = ""


def from_size(size: int) -> int:
    """Bytes held for weights of `size` bytes: the weights, half as much again (at most 2 GiB) for activations and
    caches, the base."""
    return size + min(size // 2, MOST) + BASE


def gib(count: int) -> str:
    """Bytes for people."""
    return f"{count / 2**30:.2f} GiB"
