"""Weights: measured before they come, fetched once for all services, and known by their content.

listing = measure(model, cache, allow=Allow(), offline=False)   # what and how big; downloads nothing
weights = fetch(model, cache, allow=Allow(), offline=False, progress=show)
weights / "model.onnx", weights.digest, weights.format
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import WeightsError
from .hub import expand_hub
from .sources import ModelSource, Source
from .weights_cache import Cache, free_bytes, size_text
from .weights_format import formats
from .weights_http import expand_http
from .weights_local import expand_file, expand_wheel
from .weights_origins import Expansion, Joined, Origin, Report, no_network
from .weights_policy import Allow, Skipped, external
from .weights_s3 import expand_s3

__all__ = ["Allow", "File", "Listing", "Progress", "Skipped", "WeightFile", "Weights", "fetch", "measure"]

SPARE = 1_000_000_000  # bytes that stay free on the cache's disk: logs and the store write there too


@dataclass(frozen=True, slots=True)
class File:
    """One file as it will stand in the weights' folder."""

    name: str
    size: int  # bytes
    source: str  # as the fleet file says it
    here: bool  # nothing of it has to be downloaded, be it empty
    origin: Origin = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Listing:
    """What a model consists of, before anything is downloaded. Sizes in bytes."""

    files: tuple[File, ...]
    total: int
    download: int  # still to come over a network; what an interrupted download left is taken off
    disk: int  # still to be written into the cache
    skipped: tuple[Skipped, ...]
    commits: dict[str, str]  # hub repository -> the commit that is used
    formats: tuple[str, ...]  # by name, where the file is not here to be read

    def __str__(self) -> str:
        """One line per file and a sum, for people."""
        state = {True: "here    ", False: "download"}
        lines = [f"{size_text(file.size):>9}  {state[file.here]}  {file.name}" for file in self.files]
        return "\n".join([*lines, f"{size_text(self.total):>9}  in all, {size_text(self.download)} to download"])


@dataclass(frozen=True, slots=True)
class Progress:
    """Bytes of all files that were not here at the start. `done` reaches `total`, unless a server makes a download
    begin again, when it goes back."""

    name: str  # the file that moved
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class WeightFile:
    name: str
    size: int  # bytes
    sha256: str


@dataclass(frozen=True, slots=True)
class Weights:
    """A folder with every file under its name, and what identifies its content."""

    path: Path
    digest: str  # sha256 over the sorted (name, sha256) of the files
    format: str  # the first of `formats`; "unknown" where there is none
    formats: tuple[str, ...]
    files: tuple[WeightFile, ...]

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def one(self, suffix: str) -> Path:
        """The only file whose name ends so, e.g. ".gguf"; of one that is cut in pieces, the first. WeightsError where
        there is none or where there are several."""
        names = sorted(file.name for file in self.files if file.name.endswith(suffix))
        if len(names) == 1 or (names and "-00001-of-" in names[0] and len({name[:-19] for name in names}) == 1):
            return self.path / names[0]
        raise WeightsError(
            f"one *{suffix} among the weights",
            ", ".join(names) or "none",
            f"a `model:` that names one: {{NAME{suffix}: SOURCE}}",
        )


def measure(model: ModelSource, cache: Path, *, allow: Allow, offline: bool, endpoint: str | None = None) -> Listing:
    """List a model's files and sizes. Asks a hub for what it has not recorded, but downloads no content.

    `cache` is the folder that all services share. `endpoint` is another hub's address; without it huggingface_hub's
    own setting holds, as it does for the token and for HF_HUB_OFFLINE. Raises WeightsError.
    """
    store, offline = Cache(cache), offline or _offline_by_environment()
    origins: dict[str, tuple[str, Origin]] = {}
    skipped: list[Skipped] = []
    commits: dict[str, str] = {}
    targets = frozenset(target for target, _ in model.parts)
    for target, sources in model.parts:
        found = []
        for source in sources:
            one = _expand(source, target, targets, model.base, store, allow, offline, endpoint)
            found.append(one)
            skipped.extend(one.skipped)
            if one.commit:
                commits[source.name] = one.commit
        origins.update(_place(target, sources, found))
    listed = tuple(
        File(name, one.size, text, one.to_download(store) == 0, one) for name, (text, one) in sorted(origins.items())
    )
    return Listing(
        listed,
        sum(file.size for file in listed),
        sum(file.origin.to_download(store) for file in listed),
        sum(file.origin.to_write(store) for file in listed),
        tuple(skipped),
        commits,
        formats({file.name: file.origin.local(store) for file in listed}),
    )


def fetch(
    model: ModelSource,
    cache: Path,
    *,
    allow: Allow,
    offline: bool,
    progress: Callable[[Progress], None] | None = None,
    endpoint: str | None = None,
    free: Callable[[Path], int] = free_bytes,
) -> Weights:
    """Bring every file here, verify it, and lay out one folder of links.

    Files of distributions and of this disk stay where they are. Files already here are verified again only when their
    size or mtime changed; a damaged one is downloaded anew. Services that fetch the same at once download it once.
    `free` gives the bytes free where a path is. Raises WeightsError.
    """
    store, offline = Cache(cache), offline or _offline_by_environment()
    listing = measure(model, cache, allow=allow, offline=offline, endpoint=endpoint)
    missing = [file.name for file in listing.files if not file.here]
    if missing and offline:
        raise no_network(str(model), f"{', '.join(missing[:6])} ({size_text(listing.download)}) {_are(missing)}")
    spare = free(cache) - listing.disk
    if listing.disk and spare < SPARE:
        raise WeightsError(
            f"{size_text(listing.disk)} for {model}, and {size_text(SPARE)} to spare, in {cache}",
            f"{size_text(listing.disk + spare)} free",
            f"freeing {size_text(SPARE - spare)} there, or another cache folder (`weights: path:` in the fleet file)",
        )
    meter = _Meter(listing, store, progress)
    paths = {file.name: file.origin.bring(store, meter.of(file)) for file in listing.files}
    files = tuple(WeightFile(file.name, file.size, store.sha256(paths[file.name])) for file in listing.files)
    digest = hashlib.sha256("".join(f"{file.name}\0{file.sha256}\n" for file in files).encode()).hexdigest()
    found = formats(dict(paths))
    folder = store.root / "weights" / digest
    _lay_out(folder, paths, store)
    return Weights(folder, digest, found[0] if found else "unknown", found, files)


def _expand(
    source: Source,
    target: str,
    targets: frozenset[str],
    base: Path,
    store: Cache,
    allow: Allow,
    offline: bool,
    endpoint: str | None,
) -> Expansion:
    match source.kind:
        case "wheel":
            return expand_wheel(source)
        case "file":
            return expand_file(source, base)
        case "s3":
            return expand_s3(source, store, allow, offline=offline)
        case "http":
            name = source.path if target in ("", ".") else target
            return expand_http(source, store, allow, target=name, siblings=targets, offline=offline)
        case "hf":
            return expand_hub(source, store, allow, endpoint=endpoint, offline=offline)


def _place(target: str, sources: tuple[Source, ...], found: list[Expansion]) -> dict[str, tuple[str, Origin]]:
    """Names in the weights' folder: one file is called `target`, a folder's files stand below it."""
    top = target in ("", ".")
    if len(sources) > 1:
        for source, one in zip(sources, found, strict=True):
            if not one.single or top:
                raise WeightsError(f"pieces of the one file {target}", f"the folder {source}", f"{source}/FILE")
        joined = Joined(tuple(origin for one in found for origin in one.files.values()))
        return {target: (" + ".join(map(str, sources)), joined)}
    if found[0].single and not top:
        return {target: (str(sources[0]), next(iter(found[0].files.values())))}
    folder = "" if top else f"{target}/"
    return {f"{folder}{name}": (str(sources[0]), one) for name, one in found[0].files.items()}


def _lay_out(folder: Path, paths: dict[str, Path], store: Cache) -> None:
    """One link per file. Links to the cache's own files are hard ones, and so are all of a model with external
    tensors where the disk allows: OpenVINO refuses tensors whose path, symlinks followed, leaves the model's folder."""
    tensors = any(external(name) for name in paths)
    for name, path in paths.items():
        link = folder / name
        if link.exists() and link.samefile(path):
            continue
        link.parent.mkdir(parents=True, exist_ok=True)
        new = link.with_name(f".new-{uuid.uuid4().hex}")
        try:
            if not tensors and not path.is_relative_to(store.root):
                raise OSError("linked by name: the owner may take the file away again")
            os.link(path.resolve(), new)
        except OSError:
            new.symlink_to(path.resolve())
        os.replace(new, link)
        new.unlink(missing_ok=True)  # os.replace does nothing where both are already the same file


class _Meter:
    """Adds up what every file reports."""

    def __init__(self, listing: Listing, store: Cache, progress: Callable[[Progress], None] | None) -> None:
        self._progress = progress
        self._sizes = {file.name: file.size for file in listing.files if file.origin.local(store) is None}
        self._done = dict.fromkeys(self._sizes, 0)

    def of(self, file: File) -> Report:
        def report(count: int) -> None:
            if file.name not in self._sizes:
                if count >= file.size:
                    return
                self._sizes[file.name] = file.size  # it was here, and damaged
            self._done[file.name] = count
            if self._progress:
                self._progress(Progress(file.name, sum(self._done.values()), sum(self._sizes.values())))

        return report


def _offline_by_environment() -> bool:
    from huggingface_hub import is_offline_mode

    return is_offline_mode()


def _are(names: Iterable[str]) -> str:
    return "are" if len(list(names)) > 1 else "is"
