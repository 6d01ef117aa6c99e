"""Memory that a replica's processes hold, on the host and on the device."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..backend import Backend, Device


@dataclass(frozen=True)
class Taken:
    """Bytes that this process and its children hold: on the device, where its backend tells who holds what there;
    else (`told` is False) on the host."""

    bytes: int
    told: bool


def measure(backend: Backend, device: Device) -> Taken:
    """Memory now. Reads files of /proc for some milliseconds: not on the event loop."""
    mine = family(os.getpid())
    if held := backend.held(device):
        return Taken(sum(one.bytes for one in held if one.pid in mine), True)
    return Taken(sum(proportional(pid) for pid in mine), False)


def family(pid: int, root: Path = Path("/proc")) -> set[int]:
    """A process and all that descend from it; engines run parts of themselves in processes of their own."""
    found, new = {pid}, [pid]
    while new:
        parent = new.pop()
        for listing in (root / str(parent) / "task").glob("*/children"):
            try:
                children = {int(child) for child in listing.read_text().split()} - found
            except (OSError, ValueError):
                continue  # ended meanwhile
            found |= children
            new += children
    return found


def proportional(pid: int, root: Path = Path("/proc")) -> int:
    """Proportional set size in bytes: shared pages count by their share; 0 for a process that has ended. Where the
    kernel does not sum it up, the resident size."""
    try:
        for line in (root / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        pages = int((root / str(pid) / "statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
