"""The cache of weights: one folder, shared by every service and process on a node.

blobs/KEY           downloaded files, named by their checksum; KEY.part while they come
digests/            sha256 of files seen, remembered by (path, size, mtime)
records/            what a hub or a bucket listed, for starting again without it
weights/DIGEST/     one folder per set of weights: links to blobs and to files that live elsewhere
locks/
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHUNK = 4 << 20  # bytes per read of what comes over a network
# Bytes per read while hashing. A buffer above malloc's threshold (128 KiB), once freed, raises that threshold for the
# rest of the process: a replica that hashed by 4 MiB then held a sixth more than one that found its weights hashed.
BLOCK = 64 << 10


@dataclass(frozen=True, slots=True)
class Cache:
    """Paths and records below one root. Nothing is created before the first write."""

    root: Path

    def blob(self, key: str) -> Path:
        return self.root / "blobs" / key

    def part(self, key: str) -> Path:
        """Where a blob grows. It is kept when a download breaks, so that the next one goes on from there."""
        return self.root / "blobs" / f"{key}.part"

    def known_sha256(self, path: Path) -> str | None:
        """The sha256 remembered for exactly this content, by path, size and mtime; None when there is none."""
        try:
            memo, stat = json.loads(self._memo(path).read_text()), path.stat()
        except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
            return None
        return memo["sha256"] if (memo["size"], memo["mtime_ns"]) == (stat.st_size, stat.st_mtime_ns) else None

    def sha256(self, path: Path) -> str:
        """The sha256 of a file, read once for as long as its size and mtime stay. Raises OSError."""
        known = self.known_sha256(path)
        if known is None:
            stat = path.stat()  # before reading: a change while reading is noticed the next time
            known = hash_file(path, "sha256")["sha256"]
            self.remember_sha256(path, known, stat)
        return known

    def remember_sha256(self, path: Path, sha256: str, stat: os.stat_result | None = None) -> None:
        stat = stat or path.stat()
        memo = {"path": str(path), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": sha256}
        write_atomically(self._memo(path), json.dumps(memo))

    def recall(self, *name: str) -> Any:
        """A record by its name's parts; None when there is none or it cannot be read."""
        try:
            return json.loads(self.record(*name).read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None

    def remember(self, value: Any, *name: str) -> None:
        write_atomically(self.record(*name), json.dumps(value, indent=1))

    def record(self, *name: str) -> Path:
        return self.root.joinpath("records", *name[:-1], f"{name[-1]}.json")

    @contextmanager
    def lock(self, key: str, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold one key among all threads and processes; `waiting` is called twice a second until it is held."""
        from filelock import FileLock, Timeout

        path = self.root / "locks" / f"{key}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        while True:
            try:
                lock.acquire(timeout=0.5)
                break
            except Timeout:
                waiting()
        try:
            yield
        finally:
            lock.release()

    def _memo(self, path: Path) -> Path:
        return self.root / "digests" / f"{hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:40]}.json"


def hash_file(path: Path, *algorithms: str) -> dict[str, str]:
    """Digests in hex by algorithm, in one pass. `git` is the id that git gives the file: sha1 over a header and it."""
    hashes = {name: hashlib.sha1(usedforsecurity=False) if name == "git" else hashlib.new(name) for name in algorithms}
    if "git" in hashes:
        hashes["git"].update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while chunk := file.read(BLOCK):
            for one in hashes.values():
                one.update(chunk)
    return {name: one.hexdigest() for name, one in hashes.items()}


def write_atomically(path: Path, text: str) -> None:
    """Readers see the old text or the new, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    with os.fdopen(handle, "w") as file:
        file.write(text)
    os.replace(temporary, path)


def free_bytes(path: Path) -> int:
    """Bytes that this user can still write where `path` is or will be."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def size_text(count: int) -> str:
    """Bytes for people, in decimal units as disks are sold: 98.4 MB."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
