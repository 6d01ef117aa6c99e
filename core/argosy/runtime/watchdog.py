"""The watchdog: compares what each replica holds of its device with its budget, and ends the one that holds more.

It never touches a neighbour, knows no vendor, and needs no Ray. A node of a fleet has one (`serve/guard.py`), and so
has `argosy run-one`, as a process of its own: `python -m argosy.runtime.watchdog` reads what to watch as JSON lines on
standard input, one replica each, writes what happens as JSON lines on standard output, and ends with its input.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ..backend import Backend, Device
from .assignment import Assignment

LOOK_SECONDS = 0.5  # between two looks
SLOWEST_SECONDS = 1.0  # where looking is expensive
LOOK_COST = 0.01  # of one core that looking may take before it is done more seldom
LEAST_TOLERANCE = 64 * 2**20  # bytes above the budget that are no offence: allocators round up, drivers keep buffers
TOLERANCE = 0.02  # the same as a part of the budget; the larger of the two counts
END_SECONDS = 10.0  # for which the end of a watchdog's process is waited for
TELL = ("gone", "ended")  # what standard output is told
# A shell that has ended is nobody's parent: what the watchdog holds itself is not the replica's.
_APART = 'exec 3<&0; "$0" -m argosy.runtime.watchdog <&3 3<&- &'

log = logging.getLogger("argosy.watchdog")


@dataclass(frozen=True, kw_only=True)
class Watched:
    """One replica: its process, and the bytes of the device that it may hold; None where nobody knows its budget."""

    service: str
    pid: int
    device: Device
    budget: int | None


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A replica that was ended. `held` and `budget` are bytes, `at` seconds since the epoch."""

    service: str
    pid: int
    device: str
    held: int
    budget: int
    at: float

    def __str__(self) -> str:
        return (
            f"{self.service} (process {self.pid}) held {_gib(self.held)} of {self.device}; its budget is "
            f"{_gib(self.budget)} and {_gib(allowed(self.budget) - self.budget)} of tolerance: ended"
        )


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one look found.

    held: process of a replica -> bytes that its family holds on the device; on the processor itself at most so many,
        for pages that its own processes share are counted for each as long as that is within the budget
    counted: process -> why nobody watches it: its share is counted by the plan alone
    gone: processes that are not there any more; they are watched no longer
    ended: what was ended now
    """

    held: Mapping[int, int] = field(default_factory=dict)
    counted: Mapping[int, str] = field(default_factory=dict)
    gone: tuple[int, ...] = ()
    ended: tuple[Ended, ...] = ()


@dataclass(frozen=True)
class _Process:
    parent: int
    born: int  # clock ticks after boot: with it a number that is someone else's by now is told
    resident: int  # bytes


class Watchdog:
    """Replicas stay watched until their process is gone; whoever tells it what to watch may die and come back."""

    def __init__(self, backends: Mapping[str, Backend], root: Path = Path("/proc")) -> None:
        self._backends, self._root = backends, root
        self._watched: dict[int, Watched] = {}
        self._born: dict[int, int] = {}
        self._ended: set[int] = set()

    def watch(self, replicas: Iterable[Watched]) -> None:
        """Watch these too; one that is watched already gets the budget that is given now."""
        for replica in replicas:
            self._watched[replica.pid] = replica

    def look(self) -> Look:
        """Look at every replica once, and end those that hold too much. Reads files for some milliseconds; `watch` may
        be called meanwhile, from another thread."""
        watched = dict(self._watched)
        processes = dict(_processes(self._root))
        gone = tuple(pid for pid in watched if not self._is(pid, processes))
        for pid in gone:
            del watched[pid]
            self._watched.pop(pid, None)
            self._born.pop(pid, None)
            self._ended.discard(pid)
        families = _families(watched, processes)
        held, counted = self._held(watched, families, processes)
        ended = []
        for pid, bytes_held in held.items():
            replica = watched[pid]
            if replica.budget is None or bytes_held <= allowed(replica.budget):
                continue
            self._end(families[pid])
            if pid not in self._ended:  # a process that waits for its driver dies later than it is told to
                self._ended.add(pid)
                ended.append(_ended(replica, bytes_held, replica.budget))
        return Look(held=held, counted=counted, gone=gone, ended=tuple(ended))

    def blind(self, why: str) -> Look:
        """What to tell of a look that failed: nobody is watched now."""
        return Look(counted=dict.fromkeys(self._watched.copy(), why))

    def _is(self, pid: int, processes: Mapping[int, _Process]) -> bool:
        """Whether the process still is the one that was to be watched."""
        return pid in processes and self._born.setdefault(pid, processes[pid].born) == processes[pid].born

    def _held(
        self,
        watched: Mapping[int, Watched],
        families: Mapping[int, Sequence[int]],
        processes: Mapping[int, _Process],
    ) -> tuple[dict[int, int], dict[int, str]]:
        held: dict[int, int] = {}
        counted: dict[int, str] = {}
        ask: dict[Device, list[int]] = {}
        for pid, replica in watched.items():
            if replica.budget is None:
                counted[pid] = f"the memory of {replica.device.name} is unknown"
                continue
            resident = sum(processes[member].resident for member in families[pid])
            if replica.device.cores and resident <= allowed(replica.budget):
                held[pid] = resident  # no more than this, and known for a thousandth of what the exact figure costs
            else:
                ask.setdefault(replica.device, []).append(pid)
        for device, pids in ask.items():
            told, why = self._told(device, {member for pid in pids for member in families[pid]})
            for pid in pids:
                mine = [told[member] for member in families[pid] if member in told]
                if mine:
                    held[pid] = sum(mine)
                else:
                    counted[pid] = why or f"{device.backend} names other processes on {device.name}, not the replica's"
        return held, counted

    def _told(self, device: Device, pids: Collection[int]) -> tuple[dict[int, int], str]:
        """Bytes of each process on the device, as its backend tells; or why it does not."""
        backend = self._backends.get(device.backend)
        if backend is None:
            return {}, f"no backend {device.backend} is installed here"
        try:
            found = backend.held(device, pids)
        except Exception as error:  # a backend's own code; the other devices are watched all the same
            log.error("%s does not tell who holds memory", device.name, exc_info=error)
            return {}, f"{device.backend} failed: {error or type(error).__name__}"
        told: dict[int, int] = {}
        for one in found:
            told[one.pid] = told.get(one.pid, 0) + one.bytes
        return told, "" if found else f"{device.backend} does not tell who holds memory on {device.name}"

    def _end(self, family: Sequence[int]) -> None:
        """The replica's process first, so that it cannot start its parts anew."""
        for pid in family:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            except PermissionError as error:
                log.error("process %d cannot be ended: %s", pid, error)


def allowed(budget: int) -> int:
    """Bytes that a replica may hold before it is ended."""
    return budget + max(LEAST_TOLERANCE, int(budget * TOLERANCE))


def pause(cost: float) -> float:
    """Seconds until the next look, after one that took `cost` seconds of a processor."""
    return min(max(LOOK_SECONDS, cost / LOOK_COST), SLOWEST_SECONDS)


def glance(dog: Watchdog) -> tuple[Look, float]:
    """One look, and the processor seconds that it took. One that fails is logged, and all are only counted in it."""
    began = time.thread_time()
    try:
        seen = dog.look()
    except Exception as error:  # the next look may do, and a watchdog that ends silently watches nobody
        log.error("the watchdog could not look", exc_info=error)
        seen = dog.blind(f"the watchdog could not look: {error or type(error).__name__}")
    return seen, time.thread_time() - began


@contextlib.contextmanager
def watching(assignment: Assignment) -> Iterator[None]:
    """Have this process watched by one of its own while the block runs, where its share is to be watched."""
    if assignment.enforcement == "counted" or assignment.budget is None:
        yield
        return
    replica = Watched(
        service=assignment.service, pid=os.getpid(), device=assignment.device, budget=assignment.budget
    )  # fmt: skip
    child = subprocess.Popen(
        ["sh", "-c", _APART, sys.executable],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,  # what is for people goes where ours does, to standard error
        start_new_session=True,  # Ctrl-C is for the replica
    )
    assert child.stdin is not None
    assert child.stdout is not None
    child.wait()
    ending = threading.Event()
    ears = threading.Thread(target=_hear, args=(child.stdout, ending, assignment), name="argosy-watchdog", daemon=True)
    ears.start()
    try:
        with contextlib.suppress(BrokenPipeError):  # it could not start: the other end of its output is closed too
            child.stdin.write(json.dumps(dataclasses.asdict(replica)).encode() + b"\n")
            child.stdin.flush()
        yield
    finally:
        ending.set()
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()
        ears.join(END_SECONDS)
        if ears.is_alive():
            log.warning("the watchdog of %s did not end in %g s; it is left alone", assignment.service, END_SECONDS)


def _hear(output: IO[bytes], ending: threading.Event, assignment: Assignment) -> None:
    """Read until the other end is closed: the watchdog is gone, and should not be before `ending`."""
    with output:
        output.read()
    if not ending.is_set():
        log.error(
            "the watchdog of %s has ended: what it holds of %s is only counted from now on; start it again to have it "
            "watched", assignment.service, assignment.device.name,
        )  # fmt: skip


def main() -> int:
    from ..registry import load

    logging.basicConfig(level=logging.INFO, format="argosy: %(message)s", stream=sys.stderr)
    dog = Watchdog(load().backends)
    said: set[str] = set()
    waiting, line = 0.0, b""
    while True:
        if select.select([0], [], [], waiting)[0]:
            if not (more := os.read(0, 65536)):
                return 0
            *whole, line = (line + more).split(b"\n")
            dog.watch(_watched(json.loads(one)) for one in whole if one.strip())
        seen, cost = glance(dog)
        _tell(seen, said)
        waiting = pause(cost)


def _tell(seen: Look, said: set[str]) -> None:
    for ended in seen.ended:
        log.error("%s", ended)
    for why in set(seen.counted.values()) - said:
        said.add(why)
        log.warning("shares are only counted here: %s", why)
    found = {name: value for name, value in dataclasses.asdict(seen).items() if name in TELL and value}
    if found:
        print(json.dumps(found), flush=True)


def _watched(found: dict[str, Any]) -> Watched:
    device = {**found["device"], "problems": tuple(found["device"]["problems"])}
    return Watched(**{**found, "device": Device(**device)})


def _ended(replica: Watched, held: int, budget: int) -> Ended:
    return Ended(
        service=replica.service, pid=replica.pid, device=replica.device.name, held=held, budget=budget, at=time.time()
    )


def _processes(root: Path) -> Iterator[tuple[int, _Process]]:
    """Every process that lives; those that are dead and wait for their parent's word are not."""
    page = os.sysconf("SC_PAGE_SIZE")
    for name in os.listdir(root):
        if not name.isdecimal():
            continue
        try:
            stat = (root / name / "stat").read_bytes()
        except OSError:
            continue  # ended meanwhile
        fields = stat.rpartition(b")")[2].split()  # after the command, which may hold anything: from the state on
        if len(fields) > 21 and fields[0] not in (b"Z", b"X"):
            yield int(name), _Process(int(fields[1]), int(fields[19]), int(fields[21]) * page)


def _families(pids: Collection[int], processes: Mapping[int, _Process]) -> dict[int, list[int]]:
    """Each process with all that descend from it, itself first; without this one, which may be its child."""
    children: dict[int, list[int]] = {}
    for pid, process in processes.items():
        if pid != os.getpid():
            children.setdefault(process.parent, []).append(pid)
    families = {}
    for pid in pids:
        family = [pid]
        for member in family:
            family += children.get(member, ())
        families[pid] = family
    return families


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"


if __name__ == "__main__":
    raise SystemExit(main())
