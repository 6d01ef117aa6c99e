"""What a Linux machine's files tell, read below a root that tests and recordings can stand for."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
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


def limits(root: Path, controller: str, *names: str) -> Iterator[str]:
    """What the control groups of this process say in these files, version 2 and version 1, from its own group up."""
    base = root / "sys/fs/cgroup"
    for line in text(root / "proc/self/cgroup").splitlines() or ["0::/"]:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and controller not in controllers.split(","):
            continue
        folder = base / controller if controllers else base
        own = Path(path.lstrip("/"))
        for group in (own, *own.parents):
            yield from (found for name in names if (found := text(folder / group / name)))


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


def resident(pid: int, root: Path = Path("/proc")) -> int:
    """Bytes of memory that a process holds: files that it maps in full, its own pages by its share of them; 0 for one
    that has ended.

    Libraries and weights are mapped by several replicas at once. Counted in proportion, a replica would weigh less in
    company than alone, and what was measured would foretell nothing: one voice, alone 175 MiB, weighed 160 beside
    four other services. Pages of its own are shared only with children that it forked, and are counted once there.
    Where the kernel does not tell them apart, the resident size.
    """
    try:
        found = (root / str(pid) / "smaps_rollup").read_text()
        kib = {name: int(field(found, name).split()[0]) for name in ("Rss", "Anonymous", "Pss_Anon")}
        return (kib["Rss"] - kib["Anonymous"] + kib["Pss_Anon"]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        pages = int((root / str(pid) / "statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
