"""The end of a log, and what is added to it: over the renaming that keeps a log short."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

POLL_SECONDS = 0.2


def tail(path: Path, lines: int, follow: bool) -> Iterator[str]:
    """The last `lines` of a log, the file before it (`.1`) included; then, if asked, whatever is added, for ever."""
    before = path.with_name(f"{path.name}.1")
    last: deque[str] = deque(maxlen=lines)
    stream = path.open(encoding="utf-8", errors="replace")
    try:
        here = stream.readlines()
        if len(here) < lines and before.is_file():
            with before.open(encoding="utf-8", errors="replace") as old:
                last.extend(old)
        last.extend(here)
        yield from last
        while follow:
            if text := stream.read():
                yield text
            elif _renamed(path, stream.fileno()):
                yield stream.read()  # written between the two looks
                stream.close()
                stream = path.open(encoding="utf-8", errors="replace")
            else:
                time.sleep(POLL_SECONDS)
    finally:
        stream.close()


def _renamed(path: Path, descriptor: int) -> bool:
    """Whether another file is at `path` by now. While none is, its writer has not written since."""
    try:
        return not os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
