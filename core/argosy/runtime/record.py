"""A machine in a file: what backends read of it, without its serial numbers, to be detected again elsewhere."""

from __future__ import annotations

import contextlib
import datetime
import gzip
import io
import json
import os
import platform
import re
import stat
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from .. import __version__, machine
from ..backend import Device
from ..errors import ArgosyError

MANIFEST = "argosy-recording.json"
FILE_BYTES = 1 << 20  # of one file that is read; those that detection reads are pages of /sys and /proc
MOST_FILES, MOST_BYTES = 20_000, 64 << 20  # of a recording that is opened: it may come from a stranger
MOST_AROUND = 4 * tarfile.BLOCKSIZE  # what the archive holds beside a file's content: headers, a long name, padding
LINKS = 40  # followed for one path, as Linux does

# A file whose whole text is a serial number, and a line that names one: `unique_id 123`, `Serial : 0a1b`.
SERIAL_FILES = re.compile(r"(.*_)?(serial(_?n(o|umber|um))?|uuid|unique_id)", re.IGNORECASE)
SERIAL_LINES = re.compile(
    r"^([ \t]*[\w ]*?(?:serial(?:[ _]?n(?:o|umber|um))?|uuid|unique_id|guid)\b[ \t]*[:=]?[ \t]*)(\S+)[ \t]*$",
    re.IGNORECASE | re.MULTILINE,
)
# Whatever looks like one, wherever it stands: UUIDs, hardware addresses, names of containers.
SERIALS = re.compile(
    r"\b(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?:[0-9a-f]{2}:){5}[0-9a-f]{2}|(?:[0-9a-f]{32}){1,2})\b",
    re.IGNORECASE,
)
MOUNTS = ("/dev/shm", "/tmp")  # the lines that are kept of a list of mounts: the others name disks and servers


@dataclass(frozen=True, kw_only=True)
class Recording:
    """files: how many were packed; unreadable: those that are there and could not be read, below the root"""

    files: int
    unreadable: tuple[str, ...]
    manifest: dict[str, Any]


def record(globs: Iterable[str], target: Path, root: Path = Path("/"), devices: Iterable[Device] = ()) -> Recording:
    """Pack what `globs` name below `root` (the backends' `recorded`, and the doctor's) into `target`, a tar.gz.

    Files keep their bytes, but for serial numbers: each becomes a counted one of the same length, and the same one
    stays the same everywhere. Links stay links and end where they ended; device nodes become empty files. `devices`
    go into the manifest, without their identities, as what this machine said when it was probed.
    ArgosyError when `target` cannot be written.
    """
    tree = _Tree(root)
    for pattern in globs:
        for path in sorted(root.glob(pattern)):
            tree.add(PurePosixPath(path.relative_to(root)))
    release = dict(re.findall(r'^(ID|VERSION_ID)="?([^"\n]*)"?$', machine.text(root / "etc/os-release"), re.MULTILINE))
    manifest = {
        "argosy": __version__,
        "kernel": machine.text(root / "proc/sys/kernel/osrelease") or (platform.release() if _is_here(root) else ""),
        "distribution": " ".join(release.get(key, "") for key in ("ID", "VERSION_ID")).strip(),
        "unreadable": sorted(tree.unreadable),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "devices": [_told(device) for device in devices],
    }
    try:
        with target.open("wb") as file:
            tree.write(file, json.dumps(manifest, indent=1) + "\n")
    except OSError as error:
        raise ArgosyError(f"to write {target}", str(error), "argosy doctor --record FILE.tar.gz") from None
    return Recording(files=len(tree.files), unreadable=tuple(sorted(tree.unreadable)), manifest=manifest)


@contextlib.contextmanager
def opened(root: Path) -> Iterator[Path]:
    """A root to detect below: a folder as it is, a recording unpacked for as long as it is looked at.

    ArgosyError where there is neither, or where the file would write outside its folder or is larger than any machine.
    """
    if root.is_dir():
        yield root
        return
    with tempfile.TemporaryDirectory(prefix="argosy-recording-") as folder:
        try:
            with tarfile.open(fileobj=_unzipped(root), mode="r:") as archive:
                members = _members(archive)
                archive.extractall(folder, members=members, filter="data")
            for member in members:
                if member.isreg() and not member.mode:  # what was closed to whoever recorded it
                    _close(Path(folder), member.name)
        # The last three: numbers and names in headers that are none, and headers that follow each other without end.
        except (
            OSError,
            EOFError,
            tarfile.TarError,
            zlib.error,
            ValueError,
            OverflowError,
            RecursionError,
        ) as error:
            raise ArgosyError(
                f"a folder or a recording at {root}", str(error), "argosy doctor --record FILE.tar.gz"
            ) from None
        yield Path(folder)


def _unzipped(recording: Path) -> io.BytesIO:
    """The whole archive, so that headers count too: tarfile reads each at once, however long it calls itself."""
    most = MOST_BYTES + MOST_FILES * MOST_AROUND + tarfile.RECORDSIZE
    with gzip.open(recording) as packed:
        content = packed.read(most + 1)
    if len(content) > most:
        raise _too_much()
    return io.BytesIO(content)


def _close(folder: Path, name: str) -> None:
    path = folder / name
    if not path.is_symlink() and path.resolve().is_relative_to(folder.resolve()):
        path.chmod(0)


def _too_much() -> tarfile.TarError:
    return tarfile.TarError(f"more than {MOST_FILES} files or {MOST_BYTES >> 20} MiB are in it")


def _members(archive: tarfile.TarFile) -> list[tarfile.TarInfo]:
    found: list[tarfile.TarInfo] = []
    size = 0
    for member in archive:
        name = PurePosixPath(member.name)
        if name.is_absolute() or ".." in name.parts:
            raise tarfile.TarError(f"{member.name} would lie outside its folder")
        size += member.size
        found.append(member)
        if len(found) > MOST_FILES or size > MOST_BYTES:
            raise _too_much()
    return found


class _Tree:
    """Files, folders and links below a root, each under the path at which it really lies."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: dict[PurePosixPath, bytes] = {}
        self.links: dict[PurePosixPath, PurePosixPath] = {}
        self.folders: set[PurePosixPath] = set()
        self.closed: set[PurePosixPath] = set()  # to this process
        self.unreadable: set[str] = set()

    def add(self, path: PurePosixPath) -> None:
        """One path with the links that lead to it; nothing where it leads nowhere or out of the root."""
        here, left, hops = PurePosixPath(), list(reversed(path.parts)), 0
        while left:
            part = left.pop()
            if part == "..":
                here = here.parent
                continue
            here /= part
            real = self.root / here
            try:
                if real.is_symlink():
                    goal = PurePosixPath(os.readlink(real))
                    hops += 1
                    if hops > LINKS:
                        return
                    self.links[here] = goal
                    here = PurePosixPath() if goal.is_absolute() else here.parent
                    left += [part for part in reversed(goal.parts) if part != "/"]
                    continue
                mode = real.stat().st_mode
            except OSError:
                return  # went away meanwhile, or leads nowhere
            if stat.S_ISDIR(mode):
                self.folders.add(here)
            elif not left:
                self._keep(here, real, mode)

    def _keep(self, path: PurePosixPath, real: Path, mode: int) -> None:
        content = b""
        if stat.S_ISREG(mode):
            try:
                with real.open("rb") as file:
                    content = file.read(FILE_BYTES)
            except PermissionError:
                self.closed.add(path)
            except OSError:
                self.unreadable.add(str(path))
                return
        elif not os.access(real, os.R_OK | os.W_OK, effective_ids=True):
            self.closed.add(path)  # a device node is never opened: what there is to record is whether it may be
        self.files[path] = content

    def write(self, out: io.BufferedIOBase, manifest: str) -> None:
        """Without names, times or owners, so that the same machine gives the same bytes on the same day."""
        blank = _blanker()
        with (
            gzip.GzipFile(filename="", mode="wb", fileobj=out, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):

            def put(path: PurePosixPath, kind: bytes, mode: int, content: bytes = b"", link: str = "") -> None:
                entry = tarfile.TarInfo("/".join(blank(part) for part in path.parts))
                entry.type, entry.mode, entry.size, entry.linkname = kind, mode, len(content), link
                archive.addfile(entry, io.BytesIO(content))

            put(PurePosixPath(MANIFEST), tarfile.REGTYPE, 0o644, blank(manifest).encode())
            for path in sorted(self.folders):
                put(path, tarfile.DIRTYPE, 0o755)
            for path, content in sorted(self.files.items()):
                put(path, tarfile.REGTYPE, 0 if path in self.closed else 0o644, _blanked(path, content, blank))
            for path, goal in sorted(self.links.items()):
                put(path, tarfile.SYMTYPE, 0o777, link=blank(_relative(path, goal)))


def _relative(path: PurePosixPath, goal: PurePosixPath) -> str:
    """A link's goal as seen from where it lies, never above the root."""
    base = PurePosixPath("/") if goal.is_absolute() else PurePosixPath("/") / path.parent
    whole = os.path.normpath(base / goal)
    return os.path.relpath(whole, PurePosixPath("/") / path.parent)


def _blanked(path: PurePosixPath, content: bytes, blank: Callable[..., str]) -> bytes:
    if b"\0" in content:  # no text: what is packed in there is the driver's, and holds measurements
        return content
    text = content.decode("latin-1")  # every byte is a character, and comes back as it was
    if path.name == "mounts":
        lines = [line.split(" ") for line in text.splitlines()]
        text = "".join(f"none {' '.join(line[1:])}\n" for line in lines if line[1:2] and line[1] in MOUNTS)
    text = blank(text)
    if SERIAL_FILES.fullmatch(path.name):
        text = re.sub(r"\S+", lambda found: blank(found[0], whole=True), text)
    return SERIAL_LINES.sub(lambda found: found[1] + blank(found[2], whole=True), text).encode("latin-1")


def _blanker() -> Callable[..., str]:
    """Text -> the same without serials; `whole`: all of the text is one. Each distinct one gets the next number,
    written with as many digits, so that what was told apart before still is."""
    known: dict[object, int] = {}

    def number(serial: str) -> int:
        digits = "".join(filter(str.isalnum, serial)).lower()
        # A driver writes the same serial in decimal here and in hexadecimal there.
        bases = [base for base, kind in ((10, r"\d+"), (16, "[0-9a-f]+")) if re.fullmatch(kind, digits)]
        meanings: list[object] = [int(digits, base) for base in bases]
        meanings = meanings or [digits]
        found = next((known[meaning] for meaning in meanings if meaning in known), len(set(known.values())) + 1)
        known.update(dict.fromkeys(meanings, found))
        return found

    def one(serial: str) -> str:
        prefix = re.match("(?:[A-Z]{3}-|0x)?", serial)
        kept = prefix[0] if prefix else ""
        digits = [character for character in serial[len(kept) :] if character.isalnum()]
        if not set(digits) - {"0"}:
            return serial  # the board has none
        counted = iter(str(number(serial[len(kept) :])).rjust(len(digits), "0")[-len(digits) :])
        return kept + "".join(next(counted) if c.isalnum() else c for c in serial[len(kept) :])

    def blank(text: str, *, whole: bool = False) -> str:
        if whole:  # unless it was replaced already
            return text if SERIALS.search(text) else one(text)
        return SERIALS.sub(lambda found: one(found[0]), text)

    return blank


def _told(device: Device) -> dict[str, Any]:
    names = ("backend", "name", "architecture", "pci", "integrated", "memory_bytes", "driver", "usable", "problems")
    return {name: getattr(device, name) for name in names}


def _is_here(root: Path) -> bool:
    return root.resolve() == Path("/")
