"""Where the bytes of one file come from, and how they get to this disk.

Origin
├── OnDisk      a file of an installed distribution, or one that the fleet file names
├── Joined      several files that are one, cut in pieces
└── Download    comes over a network into the cache (subclasses know how: weights_http, weights_s3)
"""

from __future__ import annotations

import errno
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import WeightsError
from .weights_cache import CHUNK, Cache, hash_file, size_text
from .weights_policy import DataBin, Skipped, is_ctranslate2, is_pickle

Report = Callable[[int], None]  # bytes of this file that are here so far


class Origin(ABC):
    """One file's content. Sizes are in bytes."""

    size: int

    @abstractmethod
    def to_download(self, cache: Cache) -> int:
        """Bytes that have yet to come over a network; 0 when all are here."""

    @abstractmethod
    def to_write(self, cache: Cache) -> int:
        """Bytes that have yet to be written to the cache's disk."""

    @abstractmethod
    def bring(self, cache: Cache, report: Report) -> Path:
        """The verified file on this disk. Raises WeightsError."""

    def local(self, cache: Cache) -> Path | None:
        """The file if it is here already, unverified; None when it is not."""
        return None


@dataclass(frozen=True, slots=True)
class Expansion:
    """What one source stands for: its files by name."""

    files: Mapping[str, Origin]
    single: bool  # the source names one file, not a folder that may hold one
    skipped: tuple[Skipped, ...] = ()
    commit: str = ""  # of a hub repository


@dataclass(frozen=True)
class OnDisk(Origin):
    """`sha256` is what the distribution's own record says of the file, if it does; `cure` is what mends it."""

    path: Path
    size: int
    sha256: str = ""
    cure: str = ""

    def to_download(self, cache: Cache) -> int:
        return 0

    def to_write(self, cache: Cache) -> int:
        return 0

    def local(self, cache: Cache) -> Path | None:
        return self.path

    def bring(self, cache: Cache, report: Report) -> Path:
        try:
            found = cache.sha256(self.path)
        except OSError as error:
            raise WeightsError(f"to read {self.path}", error.strerror or str(error), self.cure) from error
        if self.sha256 and found != self.sha256:
            raise WeightsError(f"{self.path} as it was installed, sha256 {self.sha256}", f"sha256 {found}", self.cure)
        report(self.size)
        return self.path


@dataclass(frozen=True)
class Joined(Origin):
    """Pieces in order. The joined file is written once, under a key made of the pieces' checksums."""

    pieces: tuple[Origin, ...]
    size: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", sum(piece.size for piece in self.pieces))

    def to_download(self, cache: Cache) -> int:
        return 0 if self.local(cache) else sum(piece.to_download(cache) for piece in self.pieces)

    def to_write(self, cache: Cache) -> int:
        return 0 if self.local(cache) else self.size + sum(piece.to_write(cache) for piece in self.pieces)

    def local(self, cache: Cache) -> Path | None:
        paths = [piece.local(cache) for piece in self.pieces]
        known = [cache.known_sha256(path) for path in paths if path]
        digests = [digest for digest in known if digest]
        if len(digests) < len(self.pieces):
            return None
        path = cache.blob(_joined_key(digests))
        return path if cache.known_sha256(path) else None

    def bring(self, cache: Cache, report: Report) -> Path:
        downloads = self.to_download(cache) > 0  # if so, they are the slow part, and joining counts for nothing
        before, paths = 0, []
        for piece in self.pieces:
            paths.append(piece.bring(cache, _after(before, report) if downloads else _quietly))
            before += piece.size
        key = _joined_key([cache.sha256(path) for path in paths])
        target = cache.blob(key)
        with cache.lock(key, lambda: None):
            if cache.known_sha256(target) is None:
                part = cache.part(key)
                part.parent.mkdir(parents=True, exist_ok=True)
                try:
                    digest = _concatenate(paths, part, _quietly if downloads else report)
                except OSError as error:
                    raise disk_error(error, target.name, self.size) from error
                _keep(cache, part, target, digest)
        report(self.size)
        return target


@dataclass(frozen=True)
class Download(Origin):
    """A file that comes over a network. Subclasses say only how its bytes are transferred.

    `checks` holds the digests it must have, by algorithm: sha256, git (the id that git gives a file) or md5. `data`
    names the format that it was taken for by the files beside it although its name is a pickle's: its first bytes
    must agree.
    """

    key: str
    size: int
    label: str  # for messages
    checks: tuple[tuple[str, str], ...]
    data: DataBin = ""

    @abstractmethod
    def transfer(self, part: Path, report: Report) -> None:
        """Append to `part` what it lacks; on failure leave there what came. Raises WeightsError."""

    def local(self, cache: Cache) -> Path | None:
        path = cache.blob(self.key)
        return path if path.is_file() and path.stat().st_size == self.size else None

    def to_download(self, cache: Cache) -> int:
        return 0 if self.local(cache) else max(self.size - _length(cache.part(self.key)), 0)

    def to_write(self, cache: Cache) -> int:
        return self.to_download(cache)

    def bring(self, cache: Cache, report: Report) -> Path:
        blob, part = cache.blob(self.key), cache.part(self.key)
        with cache.lock(self.key, lambda: report(min(_length(part), self.size))):
            if not self._intact(cache, blob):
                part.parent.mkdir(parents=True, exist_ok=True)
                self._download(cache, part, blob, report)
        report(self.size)
        return blob

    def _intact(self, cache: Cache, blob: Path) -> bool:
        """Whether the cached file is the one that was verified; a changed or half-written one is removed."""
        if self.local(cache) is None:
            blob.unlink(missing_ok=True)
            return False
        if cache.known_sha256(blob) is not None:  # only ever remembered after verification
            return True
        digests = self._digests(blob)
        if self._wrong(digests) is None:
            cache.remember_sha256(blob, digests["sha256"])
            return True
        blob.unlink()
        return False

    def _download(self, cache: Cache, part: Path, blob: Path, report: Report) -> None:
        if _length(part) > self.size:
            part.unlink()
        resumed = _length(part) > 0
        self.transfer(part, report)
        digests = self._digests(part)
        wrong = self._wrong(digests)
        if wrong:
            part.unlink()
            if resumed:  # what lay there may have been another version or damaged: once more, from the start
                return self._download(cache, part, blob, report)
            raise WeightsError(
                f"{self.label} with {wrong[0]} {wrong[1]}",
                f"{wrong[0]} {digests[wrong[0]]} after download",
                "running it again; if it stays, the server or a proxy between changes the file",
            )
        self._refuse_hidden_pickle(part)
        _keep(cache, part, blob, digests["sha256"])

    def _digests(self, path: Path) -> dict[str, str]:
        return hash_file(path, *{"sha256", *(name for name, _ in self.checks)})

    def _wrong(self, digests: dict[str, str]) -> tuple[str, str] | None:
        return next(((name, expected) for name, expected in self.checks if digests[name] != expected), None)

    def _refuse_hidden_pickle(self, part: Path) -> None:
        if not self.data or (is_ctranslate2(part) if self.data == "ctranslate2" else not is_pickle(part)):
            return
        found = "a pickle, which can run any code when it is loaded" if is_pickle(part) else "other first bytes"
        part.unlink()
        name = self.label.rsplit("/", 1)[-1]
        raise WeightsError(
            f"{self.label} as {self.data} writes it, which the files beside it suggest",
            found,
            f"other weights, or `allow: [{name}]` for this service if you trust its author",
        )


def _concatenate(paths: list[Path], target: Path, report: Report) -> str:
    """Write the files one after the other and return the sha256 of the whole."""
    digest, written = hashlib.sha256(), 0
    with target.open("wb") as out:
        for path in paths:
            with path.open("rb") as piece:
                while chunk := piece.read(CHUNK):
                    out.write(chunk)
                    digest.update(chunk)
                    written += len(chunk)
                    report(written)
    return digest.hexdigest()


def _keep(cache: Cache, part: Path, blob: Path, sha256: str) -> None:
    part.chmod(0o444)  # links to it are handed to engines, none of which has reason to write there
    os.replace(part, blob)
    cache.remember_sha256(blob, sha256)


def _joined_key(digests: list[str]) -> str:
    return f"joined-{hashlib.sha256(' '.join(digests).encode()).hexdigest()}"


def _after(before: int, report: Report) -> Report:
    return lambda count: report(before + count)


def _length(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def no_network(label: str, what: str) -> WeightsError:
    """For everything that is asked for offline and is not here."""
    return WeightsError(
        f"{label} without the network",
        f"{what} not in the cache",
        "starting once with the network (`weights: offline:` and HF_HUB_OFFLINE off), or a copy of a cache that has it",
    )


def disk_error(error: OSError, label: str, size: int) -> WeightsError:
    """For a file that cannot be written: a full disk, a read-only one, or one that fails."""
    fix = "freeing space there" if error.errno == errno.ENOSPC else "another cache folder"
    return WeightsError(f"to write {label}, {size_text(size)}", error.strerror or str(error), fix)


def _quietly(count: int) -> None:
    """A report that nobody reads."""
