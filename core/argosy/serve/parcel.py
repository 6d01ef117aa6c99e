"""Plugins that a cluster does not have: found beside the fleet file, built to wheels, sent along.

A project counts when its pyproject.toml has entry points in the group `argosy`; a wheel when its metadata has.
"""

from __future__ import annotations

import base64
import configparser
import hashlib
import importlib.metadata
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from ..errors import PluginError
from ..hookspecs import GROUP

_PATTERNS = ("pyproject.toml", "*/pyproject.toml", "plugins/*/pyproject.toml")
_WHEELS = ("*.whl", "dist/*.whl", "wheels/*.whl")


def wheels(folder: Path, out: Path) -> list[Path]:
    """A wheel below `out` for every plugin found in `folder` that is not installed here, named by its content.

    PluginError when one cannot be built, with what the builder said.
    """
    installed = {point.name for point in importlib.metadata.entry_points(group=GROUP)}
    out.mkdir(parents=True, exist_ok=True)
    found = {}
    for project in _projects(folder):
        names = _entry_points(project / "pyproject.toml")
        if names and not names <= installed:
            found[frozenset(names)] = _tagged(_build(project, out), out)
    for pattern in _WHEELS:
        for wheel in sorted(folder.glob(pattern)):
            names = _wheel_entry_points(wheel)
            if names and not names <= installed and frozenset(names) not in found:
                found[frozenset(names)] = _tagged(wheel, out)
    return sorted(found.values())


def _projects(folder: Path) -> Iterator[Path]:
    for pattern in _PATTERNS:
        for path in sorted(folder.glob(pattern)):
            yield path.parent


def _entry_points(pyproject: Path) -> set[str]:
    try:
        document = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError):
        return set()
    points = document.get("project", {}).get("entry-points", {}).get(GROUP, {})
    return set(points) if isinstance(points, dict) else set()


def _wheel_entry_points(wheel: Path) -> set[str]:
    try:
        with zipfile.ZipFile(wheel) as archive:
            name = next((name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt")), None)
            text = archive.read(name).decode() if name else ""
    except (OSError, zipfile.BadZipFile):
        return set()
    parser = configparser.ConfigParser(delimiters=("=",))
    parser.read_string(text)
    return set(parser[GROUP]) if parser.has_section(GROUP) else set()


def _build(project: Path, out: Path) -> Path:
    """Build with what is installed here: a cluster may have no way to a package registry."""
    fresh = out / "build" / project.name
    fresh.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--skip-dependency-check"]
    done = subprocess.run([*command, "--outdir", str(fresh), str(project)], capture_output=True, text=True, check=False)
    built = sorted(fresh.glob("*.whl"), key=lambda path: path.stat().st_mtime)
    if done.returncode or not built:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-8:])
        raise PluginError(f"a wheel of the plugin in {project}", said, f"python -m build --wheel {project}")
    return built[-1]


def _tagged(wheel: Path, out: Path) -> Path:
    """The wheel under a name that says its content, for Ray knows a wheel by its file name alone; and without the
    requirements that are met here, for Ray would have pip fetch them, argosy itself among them."""
    with zipfile.ZipFile(wheel) as old:
        contents = {name: old.read(name) for name in sorted(old.namelist())}
    metadata = next(name for name in contents if name.endswith(".dist-info/METADATA"))
    lines = contents[metadata].decode().splitlines(keepends=True)
    contents[metadata] = "".join(line for line in lines if not _met(line)).encode()
    record = next(name for name in contents if name.endswith(".dist-info/RECORD"))
    rows = [_recorded(name, data) for name, data in contents.items() if name != record]
    contents[record] = "".join([*rows, f"{record},,\n"]).encode()
    digest = hashlib.sha256(contents[record]).hexdigest()[:12]
    parts = wheel.name.removesuffix(".whl").split("-")
    target = out / ("-".join([*parts[:2], f"0{digest}", *parts[-3:]]) + ".whl")
    fresh = target.with_suffix(".new")
    with zipfile.ZipFile(fresh, "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in contents.items():
            new.writestr(name, data)
    fresh.replace(target)
    return target


def _met(line: str) -> bool:
    """Whether this line of the metadata asks for something that is installed here, in a fitting version."""
    if not line.startswith("Requires-Dist:"):
        return False
    try:
        requirement = Requirement(line.partition(":")[2].strip())
        return requirement.specifier.contains(importlib.metadata.version(requirement.name), prereleases=True)
    except (InvalidRequirement, importlib.metadata.PackageNotFoundError):
        return False


def _recorded(name: str, data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(data)}\n"
