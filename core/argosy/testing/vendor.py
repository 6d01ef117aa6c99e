"""What every backend has to keep to. A check raises AssertionError with the sentence that is not so."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from ..backend import Backend, Device, Enforcement, Finding, Held
from ..engines import Engine
from ..runtime.record import MANIFEST, opened, record
from .contract import NAME, holds, sentence
from .fleet import installed

GARBAGE = b"\xff\xfe\0 \n-1\n99999999999999999999999999999\n: \n"


def check_backend(backend: Backend, root: Path = Path("/")) -> None:
    """Hold a backend against the contract: on the machine below `root` (this one, or the files of one that has the
    hardware), on one that has no hardware at all, and on one whose files are cut short or full of garbage."""
    who = type(backend).__name__
    holds(NAME.fullmatch(backend.name), f"{who}: name is in lower case, like-this, not {backend.name!r}")
    with tempfile.TemporaryDirectory() as empty:
        nothing = Path(empty)
        holds(list(backend.detect(nothing)) == [], f"{who} finds nothing where there is nothing")
        holds(sentence(backend.absent(nothing)), f"{who} says in one line why it found nothing")
        _check_findings(backend, nothing, who)
    before = set(sys.modules)
    devices = list(backend.detect(root))
    opened = sorted({name.partition(".")[0] for name in set(sys.modules) - before} & _engine_modules())
    holds(not opened, f"{who} detects without importing an engine, it imported {', '.join(opened)}")
    holds(devices == list(backend.detect(root)), f"{who} detects the same twice")
    usable = [device for device in devices if device.usable]
    absent = backend.absent(root)
    holds(
        absent == "" if usable else sentence(absent),
        f"{who}: absent() is empty where a device is usable, else one line",
    )
    holds(len({device.index for device in devices}) == len(devices), f"{who}: every device has its own index")
    addresses = [device.pci for device in devices if device.pci]
    holds(addresses == sorted(addresses), f"{who}: devices come in the order of their PCI addresses")
    for device in devices:
        _check_device(backend, device, who)
    told = _check_findings(backend, root, who)
    for device in devices:
        for problem in device.problems:
            check = problem.partition(": ")[0]
            holds(check in told, f"{who}, {device.name}: checks() says what helps against {check}")
    if backend.recorded:
        _check_recorded(backend, root, devices, who)


def _check_device(backend: Backend, device: Device, who: str) -> None:
    here = f"{who}, {device.name}"
    holds(isinstance(device, Device) and device.backend == backend.name, f"{here}: a Device that names its backend")
    holds(device.memory_bytes is None or device.memory_bytes > 0, f"{here}: memory is positive, or None where unknown")
    holds(
        all(isinstance(text, str) for pair in backend.environment(device).items() for text in pair),
        f"{here}: the environment maps text to text",
    )
    for budget in (None, 1, 2**30):
        for engine in backend.offers(device, budget, 1):
            holds(isinstance(engine, Engine), f"{here}: offers are Engines, not {engine!r}")
            holds(engine.threads <= 1, f"{here}: {engine.name} takes {engine.threads} threads of one core")
    for one in backend.held(device):
        holds(isinstance(one, Held) and one.bytes >= 0, f"{here}: held memory is not negative")
    offered = {engine.name for engine in backend.offers(device, None, 1)}
    for name, reason in backend.refuses(device).items():
        holds(sentence(reason), f"{here}: one line says why {name} is refused")
        holds(name not in offered, f"{here}: {name} is offered and refused")
    for problem in device.problems:
        holds(
            ": " in problem and sentence(problem), f"{here}: a problem is `<check>: <what was found>`, not {problem!r}"
        )
    kept = backend.enforcement(device)
    holds(kept in get_args(Enforcement), f"{here}: a share is {' or '.join(get_args(Enforcement))}, not {kept!r}")


def _check_findings(backend: Backend, root: Path, who: str) -> set[str]:
    """The names of the checks that found something."""
    told = set()
    for finding in backend.checks(root):
        holds(isinstance(finding, Finding), f"{who}: checks are Findings, not {finding!r}")
        for part in (finding.symptom, finding.evidence, finding.fix):
            holds(sentence(part), f"{who}, {finding.check}: symptom, evidence and fix are a line each, not {part!r}")
        told.add(finding.check)
    return told


def _check_recorded(backend: Backend, root: Path, devices: Sequence[Device], who: str) -> None:
    """`recorded` names every file that matters, and none of them can make detection raise."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder, "machine.tar.gz")
        record(backend.recorded, archive, root)
        with opened(archive) as again:
            found = list(backend.detect(again))
            same = _lasting if root == Path("/") else _nameless
            holds(
                list(map(same, found)) == list(map(same, devices)),
                f"{who} finds the same devices in a recording: `recorded` names every file that detect() reads",
            )
            for path in sorted(path for path in again.rglob("*") if path.is_file() and not path.is_symlink()):
                if path.name == MANIFEST or path.relative_to(again).parts[0] == "dev":
                    continue
                whole = path.read_bytes()
                for content in (b"", whole[: len(whole) // 2], GARBAGE):
                    path.write_bytes(content)
                    try:
                        list(backend.detect(again)), backend.absent(again)
                        if content is GARBAGE:  # once: checks also look at what is installed, which takes a while
                            list(backend.checks(again))
                    except Exception as error:
                        said = f"{who} raises nothing on garbage in {path.relative_to(again)}: {error!r}"
                        raise AssertionError(f"not so: {said}") from error
                path.write_bytes(whole)


def _lasting(device: Device) -> tuple[object, ...]:
    """What does not change between two looks at a machine that is in use."""
    return (device.pci, device.name, device.architecture, device.integrated)


def _nameless(device: Device) -> Device:
    """Without what may be a serial number."""
    return dataclasses.replace(device, identity="")


def _engine_modules() -> set[str]:
    """Import names of core's engines, as far as they are known from their distributions' names."""
    return {name.replace("-", "_") for engine in installed().engines.values() for name in engine.distributions}
