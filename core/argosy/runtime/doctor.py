"""What is wrong with a machine before a fleet starts on it: the backends' checks, and those that no vendor has a part
in. Files, metadata and limits decide; neither Ray nor an engine is imported."""

from __future__ import annotations

import dataclasses
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import __version__, machine
from ..backend import Device, Finding
from ..registry import Registry
from . import checks
from .checks import Place
from .detect import devices, ruled_out


@dataclass(frozen=True, kw_only=True)
class Report:
    """findings: what stops a fleet before what only hinders it; machine: what whoever reads them asks next"""

    devices: tuple[Device, ...]
    ruled_out: Mapping[str, str]
    findings: tuple[Finding, ...]
    machine: Mapping[str, str]

    @property
    def fatal(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.fatal)


def examine(registry: Registry, place: Place, root: Path = Path("/")) -> Report:
    """All checks on the machine below `root`. A recorded one is judged by its files alone, not by what is installed
    here, nor by this process: of the backends' checks those count there that are problems of its devices. A backend
    that raises is a finding, and the others are asked all the same."""
    here = root == Path("/")
    findings: list[Finding] = []
    told: list[tuple[str, Finding]] = []
    sound, by_files = {}, {}
    for name, backend in sorted(registry.backends.items()):
        try:
            told += [(name, finding) for finding in backend.checks(root)]
            by_files[name] = _problems(backend.detect(root))
            backend.absent(root)
        except Exception as error:  # noqa: BLE001 - a backend is a plugin, and the doctor comes when something is broken
            findings.append(_raised(name, error))
        else:
            sound[name] = backend
    asked = dataclasses.replace(registry, backends=sound)
    seen = devices(asked, root, probe=here)
    absent = ruled_out(asked, root, seen)
    for name, finding in told:
        left = _problems([device for device in seen if device.backend == name])
        # A vendor's library may have disproved what files say: slices of a GPU that takes no work as a whole.
        if finding.check in left or (here and finding.check not in by_files.get(name, ())):
            findings.append(finding)
    findings += _untold(seen, findings)
    findings += [*checks.shared_memory(root), *checks.limits(root)]
    if here:
        findings += [
            *_no_device(seen, absent),
            *checks.engines(registry, seen),
            *checks.plugins(registry),
            *checks.twice(registry),
        ]
        findings += [*checks.versions(place), *checks.disks(place), *checks.proxy(place)]
    return Report(
        devices=seen,
        ruled_out=absent,
        findings=tuple(sorted(findings, key=lambda finding: (not finding.fatal, finding.check))),
        machine=_machine(root, here),
    )


def _problems(found: Sequence[Device]) -> set[str]:
    return {problem.partition(":")[0] for device in found for problem in device.problems}


def _raised(name: str, error: Exception) -> Finding:
    return Finding(
        check="backend-raises",
        symptom=f"no device of {name} is found, and every plan fails",
        evidence=f"{type(error).__name__}: {error}",
        fix=f"another version of argosy-{name}; or tell its author, with: argosy doctor --record FILE.tar.gz",
    )


def _untold(seen: tuple[Device, ...], told: list[Finding]) -> Iterator[Finding]:
    """Problems of devices of which no check speaks."""
    known = {finding.check for finding in told}
    for device in seen:
        for problem in device.problems:
            check, _, found = problem.partition(": ")
            if check not in known:
                symptom = f"{device.name} is {'not as it should be' if device.usable else 'not used'}"
                yield Finding(
                    check=check, symptom=symptom, evidence=found, fix="argosy detect", fatal=not device.usable
                )


def _no_device(seen: tuple[Device, ...], absent: Mapping[str, str]) -> Iterator[Finding]:
    if any(device.usable for device in seen):
        return
    why = [f"{name}: {reason}" for name, reason in absent.items()]
    yield Finding(
        check="no-device",
        symptom="every service is pending: there is nothing to place it on",
        evidence="; ".join(why) or "no backend is installed",
        fix="pip install argosy-cpu, or the backend of your device's vendor",
    )


def _machine(root: Path, here: bool) -> dict[str, str]:
    release = machine.text(root / "etc/os-release")
    named = re.search(r'^PRETTY_NAME="?([^"\n]*)', release, re.MULTILINE)
    found = {
        "kernel": machine.text(root / "proc/sys/kernel/osrelease"),
        "distribution": named[1] if named else "",
        "argosy": __version__,
    }
    return {**found, "python": platform.python_version(), "ray": checks.version("ray")} if here else found
