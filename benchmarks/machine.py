"""What ran the benchmark, and who else used it meanwhile."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

import psutil

VERSIONS = (
    "argosy",
    "ray",
    "uvicorn",
    "fastapi",
    "openvino",
    "openvino-genai",
    "onnxruntime",
    "ctranslate2",
    "faster-whisper",
    "piper-tts",
    "tokenizers",
    "numpy",
)


@dataclass(frozen=True)
class Machine:
    cpu: str
    cores: int
    memory_gib: float
    kernel: str
    python: str
    versions: Mapping[str, str]


def describe() -> Machine:
    names = [line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return Machine(
        cpu=names[0] if names else platform.processor() or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        kernel=platform.release(),
        python=platform.python_version(),
        versions={name: version for name in VERSIONS if (version := _version(name))},
    )


@dataclass(frozen=True)
class Usage:
    """Processor use during one round. Seconds of one core; percents are of all cores."""

    seconds: float
    ours: float  # seconds: the driver, the bare engine, the plain server
    fleet: float  # seconds: everything behind the endpoint
    others: float  # percent: neither of them, the kernel's own work included
    stolen: float  # percent: what the host gave to other machines
    load: float  # the one-minute load average at the end

    def plain(self) -> dict[str, float]:
        return {name: round(value, 3) for name, value in asdict(self).items()}


class Watch:
    """Tells apart who used the processors: made before a round, `stop` after it.

    `fleet` are the roots of the processes behind the endpoint, as `fleet_roots` finds them.
    """

    def __init__(self, fleet: Iterable[int] = ()) -> None:
        self._roots = tuple(fleet)
        self._before = _Snapshot.take(self._roots)
        self._start = perf_counter()

    def stop(self) -> Usage:
        seconds = perf_counter() - self._start
        before, after = self._before, _Snapshot.take(self._roots)
        ours = after.ours - before.ours
        fleet = sum(used - before.fleet.get(pid, 0.0) for pid, used in after.fleet.items())
        whole = (after.busy - before.busy) + (after.idle - before.idle) or 1.0
        others = max(0.0, after.busy - before.busy - after.stolen + before.stolen - ours - fleet)
        return Usage(
            seconds=seconds,
            ours=ours,
            fleet=fleet,
            others=100 * others / whole,
            stolen=100 * (after.stolen - before.stolen) / whole,
            load=os.getloadavg()[0],
        )


def rest(fleet: Iterable[int], seconds: float) -> Usage:
    """What is used while nothing is measured."""
    watch = Watch(fleet)
    time.sleep(seconds)
    return watch.stop()


@dataclass(frozen=True)
class _Snapshot:
    busy: float  # seconds of all cores, stolen time included
    idle: float
    stolen: float
    ours: float
    fleet: Mapping[int, float]

    @classmethod
    def take(cls, roots: tuple[int, ...]) -> _Snapshot:
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        stolen = getattr(times, "steal", 0.0)
        busy = times.user + times.nice + times.system + times.irq + times.softirq + stolen
        me = os.getpid()
        return cls(busy, idle, stolen, sum(_used([me]).values()), _used(roots))


def _used(roots: Iterable[int]) -> dict[int, float]:
    """Processor seconds of the processes and of all below them."""
    used: dict[int, float] = {}
    for root in roots:
        try:
            process = psutil.Process(root)
            family = [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
        for one in family:
            try:
                times = one.cpu_times()
            except psutil.NoSuchProcess:
                continue
            used[one.pid] = times.user + times.system
    return used


def fleet_roots(port: int, pids: Iterable[int]) -> tuple[int, ...]:
    """The topmost processes behind an endpoint on this machine: from whoever listens on its port and from the replicas'
    own process ids, up to below init, and every process of the same Ray session. Empty where nothing can be seen."""
    seeds = set(pids)
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
            seeds.add(connection.pid or 0)
    roots = {top for pid in seeds if pid and (top := _top(pid))}
    sessions = {name for pid in roots for name in _sessions(pid)}
    for process in psutil.process_iter(["pid", "cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if any(session in line for session in sessions) and (top := _top(process.info["pid"])):
            roots.add(top)
    return tuple(sorted(roots))


def _top(pid: int) -> int | None:
    """The highest ancestor that is neither init nor an ancestor of this process; None where it is one of ours."""
    try:
        process = psutil.Process(pid)
        line = [process, *process.parents()]
    except psutil.NoSuchProcess:
        return None
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    above = [one.pid for one in line if one.pid > 1 and one.pid not in own]
    return above[-1] if above and os.getpid() not in {one.pid for one in line} else None


def _sessions(pid: int) -> set[str]:
    """Names of the Ray sessions that a process's arguments mention."""
    try:
        line = psutil.Process(pid).cmdline()
    except psutil.NoSuchProcess:
        return set()
    words = {word for argument in line for word in argument.replace("=", "/").split("/")}
    return {word for word in words if word.startswith("session_2")}


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
