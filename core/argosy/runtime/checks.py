"""The doctor's checks that no vendor has a part in: what is installed, and what Linux lets a fleet have."""

from __future__ import annotations

import os
import platform
import re
import shutil
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from .. import __version__, machine
from ..backend import Device, Finding
from ..registry import Registry

GIB = 2**30
SHM_BYTES = 512 * 2**20  # Ray's store takes 100 MiB of it; an engine with workers of its own some 20 MiB for each ring
MEMORY_BYTES = 4 * GIB  # the default fleet with its small weights holds 2.5 GiB
CACHE_BYTES = 5 * GIB  # weights of one small language model
THREADS = 1024  # the default fleet runs 715 on two cores, and a few more for each further core
FILES = 4096  # below it Ray itself warns
FULL = 0.95  # of the disk: above it Ray makes no more objects

RECORDED = (
    *("etc/os-release", "proc/meminfo", "proc/sys/kernel/osrelease"),
    *("proc/self/cgroup", "proc/self/limits", "proc/self/mounts"),
    *("sys/fs/cgroup/cpu.max", "sys/fs/cgroup/memory.max", "sys/fs/cgroup/pids.max"),
)
"""Globs of the files that the checks of this module read."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a fleet would run, beside its devices.

    cache: the weights cache; temp: where Ray keeps its temporary files; head: what the head of a fleet that runs
    already has, `python` and `ray` -> version, empty where there is none. None of them counts for a recorded root.
    """

    cache: Path
    temp: Path = Path("/tmp")
    environment: Mapping[str, str] = field(default_factory=dict)
    head: Mapping[str, str] = field(default_factory=dict)


def engines(registry: Registry, seen: tuple[Device, ...]) -> Iterator[Finding]:
    for device in seen:
        offered = registry.backend(device.backend).offers(device, device.memory_bytes, 1) if device.usable else ()
        libraries = [engine for engine in offered if engine.distributions]
        if libraries and not any(engine.version() for engine in libraries):
            yield Finding(
                check="no-engine",
                symptom=f"nothing but models that need no engine is placed on {device.name}",
                evidence=f"not installed here: {', '.join(engine.name for engine in libraries)}",
                fix=f"pip install 'argosy-{device.backend}[runtime]', and the extras of your plugins",
                fatal=False,
            )


def plugins(registry: Registry) -> Iterator[Finding]:
    for plugin in registry.plugins:
        if plugin.broken:
            yield Finding(
                check="plugin-broken",
                symptom=f"what {plugin.distribution} registers is missing",
                evidence=plugin.broken,
                fix="argosy plugins --verbose",
                fatal=False,
            )


def twice(registry: Registry) -> Iterator[Finding]:
    """Distributions that write the same module: whichever was installed last is imported, and each lacks files."""
    every = [(dist, canonicalize_name(dist.metadata["Name"] or "")) for dist in metadata.distributions()]
    for engine in sorted(registry.engines.values(), key=lambda engine: engine.name):
        stems = tuple(engine.distributions)
        names = sorted({name for dist, name in every if stems and name.startswith(stems) and _has(dist, engine.name)})
        if len(names) > 1:
            yield Finding(
                check="ort-double" if engine.name == "onnxruntime" else "engine-double",
                symptom=f"what `import {engine.name}` gives hangs on the order of installation: a device may be lost",
                evidence=f"{' and '.join(names)} each bring the module {engine.name}",
                fix=f"pip uninstall {' '.join(names)}, then install the one that this machine's backend asks for",
            )


def _has(dist: metadata.Distribution, module: str) -> bool:
    return re.search(rf"^{module}/__init__\.py", dist.read_text("RECORD") or "", re.MULTILINE) is not None


def versions(place: Place) -> Iterator[Finding]:
    found = {"python": platform.python_version(), "ray": version("ray")}
    wanted = {"python": metadata.metadata("argosy")["Requires-Python"] or ""}
    for text in metadata.requires("argosy") or ():
        if (requirement := Requirement(text)).name == "ray":
            wanted["ray"] = str(requirement.specifier)
    evidence = [
        f"{name} {found[name]} here, argosy {__version__} asks for {one}"
        for name, one in wanted.items()
        if found[name] and not SpecifierSet(one).contains(found[name], prereleases=True)
    ]
    evidence += [
        f"{name} {found[name] or 'not installed'} here, {one} on the fleet's head"
        for name, one in place.head.items()
        if name in found and one != found[name]
    ]
    if evidence:
        yield Finding(
            check="py-ray-skew",
            symptom="this node cannot join: Ray wants the same Python, to the last digit, and the same Ray everywhere",
            evidence="; ".join(evidence),
            fix="build this environment or image again with the versions of the head and of requirements/",
        )
    if not found["ray"]:
        yield Finding(
            check="no-ray",
            symptom="argosy up cannot start a fleet; argosy run-one can",
            evidence="ray is not installed",
            fix="pip install 'argosy[serve]'",
            fatal=False,
        )


def shared_memory(root: Path) -> Iterator[Finding]:
    sizes = re.findall(r"^\S+ /dev/shm tmpfs \S*?\bsize=(\d+)([kmg]?)", _mounts(root), re.MULTILINE)
    size = int(sizes[-1][0]) << {"": 0, "k": 10, "m": 20, "g": 30}[sizes[-1][1]] if sizes else None
    if size is not None and size < SHM_BYTES:
        yield Finding(
            check="shm-small",
            symptom="Ray's object store goes to the disk; engines with several processes end with a bus error",
            evidence=f"/dev/shm is {size / 2**20:.0f} MiB, {SHM_BYTES >> 20} are wanted",
            fix="docker run --shm-size=1g; in a pod an emptyDir with `medium: Memory` on /dev/shm",
            fatal=False,
        )
    options = re.findall(r"^\S+ /tmp \S+ (\S+)", _mounts(root), re.MULTILINE)
    if options and "noexec" in options[-1].split(","):
        yield Finding(
            check="tmp-noexec",
            symptom="the ingress does not start: its script lies in /tmp",
            evidence="/tmp is mounted with noexec",
            fix="mount -o remount,exec /tmp; or argosy up --no-haproxy",
        )


def _mounts(root: Path) -> str:
    return machine.text(root / "proc/self/mounts")


def limits(root: Path) -> Iterator[Finding]:
    total = re.search(r"^MemTotal:\s+(\d+) kB", machine.text(root / "proc/meminfo"), re.MULTILINE)
    sizes = [machine.number(text) for text in machine.limits(root, "memory", "memory.max", "memory.limit_in_bytes")]
    sizes = [size for size in [int(total[1]) * 1024 if total else 0, *sizes] if size]
    if sizes and min(sizes) < MEMORY_BYTES:
        limited = total is None or min(sizes) < int(total[1]) * 1024
        yield Finding(
            check="memory-small",
            symptom="Linux kills replicas without a word when memory runs out",
            evidence=f"{'the control group allows' if limited else 'this machine has'} {min(sizes) / GIB:.1f} GiB, "
            "the default fleet holds 2.5 GiB",
            fix="docker run --memory, or the pod's limit; or fewer services",
            fatal=False,
        )
    quotas = [text.partition(" ") for text in machine.limits(root, "cpu", "cpu.max")]
    cores = [machine.number(quota) / machine.number(period) for quota, _, period in quotas if machine.number(period)]
    cores = [one for one in cores if one]
    if cores and min(cores) < 1:
        yield Finding(
            check="cpu-small",
            symptom="every process is held up for most of each tenth of a second, health checks included",
            evidence=f"the control group allows {min(cores):.2f} cores",
            fix="docker run --cpus, or the pod's limit: two cores or more",
            fatal=False,
        )
    pids = [one for text in machine.limits(root, "pids", "pids.max") if (one := machine.number(text))]
    if pids and min(pids) < THREADS:
        yield Finding(
            check="pids-limit",
            symptom="Ray's processes end with `Resource temporarily unavailable`: threads count as processes",
            evidence=f"the control group allows {min(pids)}, the default fleet runs 715 threads on two cores",
            fix="docker run --pids-limit=-1; podman: --pids-limit=0",
            fatal=False,
        )
    files = re.search(r"^Max open files\s+\S+\s+(\d+)", machine.text(root / "proc/self/limits"), re.MULTILINE)
    if files and int(files[1]) < FILES:
        yield Finding(
            check="open-files",
            symptom="connections are refused or break off under load",
            evidence=f"a process may open {files[1]} files, Ray asks for {FILES} at least",
            fix="ulimit -Hn 65536 before the fleet starts; docker run --ulimit nofile=65536:65536",
            fatal=False,
        )


def disks(place: Place) -> Iterator[Finding]:
    cache, temp = (next(one for one in (path, *path.parents) if one.exists()) for path in (place.cache, place.temp))
    if not os.access(temp, os.W_OK | os.X_OK):
        yield Finding(
            check="tmp-readonly",
            symptom="Ray cannot start: it keeps sockets and logs there",
            evidence=f"{temp} cannot be written by user {os.getuid()}",
            fix=f"make {temp} writable, or mount a tmpfs there",
        )
    elif (usage := shutil.disk_usage(temp)).used > FULL * usage.total:
        yield Finding(
            check="tmp-space",
            symptom="Ray makes no more objects, and logs `over 95% full`",
            evidence=f"{usage.used / usage.total:.0%} of the disk of {temp} are taken",
            fix=f"free some of {temp}, or mount a tmpfs there",
            fatal=False,
        )
    if not os.access(cache, os.W_OK | os.X_OK):
        yield Finding(
            check="cache-readonly",
            symptom="weights that are not there yet cannot be downloaded",
            evidence=f"{cache} cannot be written by user {os.getuid()}",
            fix="ARGOSY_CACHE=FOLDER, or a volume",
            fatal=False,
        )
    elif (free := shutil.disk_usage(cache).free) < CACHE_BYTES:
        yield Finding(
            check="cache-space",
            symptom="weights that do not fit are refused before they are downloaded",
            evidence=f"{free / GIB:.1f} GiB are free in {cache}",
            fix="argosy weights list says what is there; ARGOSY_CACHE=FOLDER names another disk",
            fatal=False,
        )


def proxy(place: Place) -> Iterator[Finding]:
    lower = {name.lower(): value for name, value in place.environment.items()}
    named = [name for name in ("http_proxy", "all_proxy") if lower.get(name)]
    passed = {"no": lower.get("no_proxy", "")}
    if named and not urllib.request.proxy_bypass_environment("127.0.0.1", passed):  # type: ignore[attr-defined]
        yield Finding(
            check="proxy-loopback",
            symptom="clients on this machine (curl, OpenAI's, ray job submit) ask the proxy instead of the fleet",
            evidence=f"{' and '.join(named)} set, and no_proxy is {passed['no'] or 'empty'}",
            fix=f"export no_proxy={','.join(filter(None, (passed['no'], '127.0.0.1,localhost')))}",
            fatal=False,
        )


def version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
