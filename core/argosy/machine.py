"""What a Linux machine's files tell, read below a root that tests and recordings can stand for."""

from __future__ import annotations

import os
import re
from pathlib import Path


def text(path: Path) -> str:
    """A file's text without the white space around it; empty where it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def number(found: str) -> int:
    """0 for `max`, `-1` and whatever else is no decimal number."""
    return int(found) if found.isdecimal() and found.isascii() else 0


def field(found: str, *names: str) -> str:
    """The first `name : value` of the first name that is there; empty where none is."""
    for name in names:
        if match := re.search(rf"^{name}\s*:[ \t]*(.*)$", found, re.MULTILINE):
            return match[1].strip()
    return ""


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
