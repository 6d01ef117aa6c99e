"""The watchdog: real processes that really allocate, ended when they hold more than their budget, and nobody else."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from test_cli_run_one import Command

import argosy_cpu
from argosy.backend import Backend, Device, Held
from argosy.runtime.watchdog import LEAST_TOLERANCE, Watchdog, Watched, allowed, glance, pause, watching
from argosy.testing import MockBackend, assignment
from argosy.testing.models import Slow

MIB = 2**20
IN_TIME = 2.0  # seconds from the overrun to the end
BUDGET = 120 * MIB

# Holds as many MiB as each line says, itself or (with a minus) in a child of its own, and says when it does.
HOLDER = """
import subprocess, sys
kept = []
for line in sys.stdin:
    size = int(line)
    if size < 0:
        child = subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[1]], stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE)
        child.stdin.write(b"%d\\n" % -size)
        child.stdin.flush()
        print(child.stdout.readline().decode().strip(), child.pid, flush=True)
    else:
        kept.append(b"x" * (size << 20))
        print("holds", size, flush=True)
"""


class Holder:
    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self.process.pid

    def hold(self, mib: int) -> list[str]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{mib}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().split()

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def holders() -> Iterator[tuple[Holder, Holder]]:
    both = Holder(), Holder()
    yield both
    for one in both:
        one.close()


def cpu() -> Device:
    (device,) = argosy_cpu.Cpu().detect()
    return device


def watched(holder: Holder, device: Device, budget: int | None = BUDGET, service: str = "hog") -> Watched:
    return Watched(service=service, pid=holder.pid, device=device, budget=budget)


def lives(pid: int) -> bool:
    """Whether it is more than an entry that waits to be buried."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_who_holds_too_much_is_ended_and_its_neighbour_on_the_same_device_is_not(
    holders: tuple[Holder, Holder],
) -> None:
    hog, neighbour = holders
    dog = Watchdog({"cpu": argosy_cpu.Cpu()})
    dog.watch([watched(hog, cpu()), watched(neighbour, cpu(), service="neighbour")])
    neighbour.hold(60)
    hog.hold(60)
    calm = dog.look()
    assert (calm.ended, calm.gone, calm.counted) == ((), (), {})
    assert 60 * MIB < calm.held[hog.pid] < BUDGET
    hog.hold(300)
    (ended,) = dog.look().ended
    assert (ended.service, ended.pid, ended.budget) == ("hog", hog.pid, BUDGET)
    assert ended.held > 360 * MIB
    assert f"process {hog.pid}) held 0." in str(ended)
    assert "its budget is 0.12 GiB" in str(ended)
    assert hog.process.wait(5) == -9
    after = dog.look()
    assert (after.gone, after.ended, list(after.held)) == ((hog.pid,), (), [neighbour.pid])
    assert neighbour.alive
    assert neighbour.hold(1) == ["holds", "1"]


def test_what_a_replica_s_own_processes_hold_counts_and_they_end_with_it(holders: tuple[Holder, Holder]) -> None:
    hog, _ = holders
    dog = Watchdog({"cpu": argosy_cpu.Cpu()})
    dog.watch([watched(hog, cpu())])
    *_, child = hog.hold(-300)
    (ended,) = dog.look().ended
    assert ended.held > 300 * MIB
    hog.process.wait(5)
    end = time.monotonic() + 5
    while lives(int(child)):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_pages_that_a_replica_shares_with_its_own_processes_count_once() -> None:
    """What is resident alone would say 400 MiB of a parent and the child that it forked, which hold 200 together."""
    script = "import os; block = b'x' * (200 << 20); os.fork(); os.write(1, b'here\\n'); input()"
    parent = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert parent.stdout
        for _ in range(2):
            assert parent.stdout.readline() == b"here\n"
        dog = Watchdog({"cpu": argosy_cpu.Cpu()})
        dog.watch([Watched(service="pair", pid=parent.pid, device=cpu(), budget=200 * MIB)])
        seen = dog.look()
        assert seen.ended == ()
        assert 200 * MIB < seen.held[parent.pid] < 260 * MIB
    finally:
        for one in psutil.Process(parent.pid).children():
            one.kill()
        parent.kill()
        parent.communicate()


def test_a_device_whose_vendor_does_not_tell_is_only_counted_and_it_says_so(holders: tuple[Holder, Holder]) -> None:
    silent, telling = MockBackend("silent"), MockBackend("telling")
    hog, other = holders
    dog = Watchdog({"silent": silent, "telling": telling})
    dog.watch([watched(hog, silent.detect()[0]), watched(other, telling.detect()[0])])
    telling.fill(BUDGET + LEAST_TOLERANCE, pid=other.pid)
    seen = dog.look()
    assert seen.counted == {hog.pid: "silent does not tell who holds memory on silent 0"}
    assert seen.held == {other.pid: BUDGET + LEAST_TOLERANCE}
    assert seen.ended == ()
    telling.fill(1, pid=other.pid)
    assert [one.service for one in dog.look().ended] == ["hog"]
    assert other.process.wait(5) == -9
    assert hog.alive


def test_what_a_stranger_holds_is_not_the_replica_s(holders: tuple[Holder, Holder]) -> None:
    backend = MockBackend()
    hog, stranger = holders
    backend.fill(8 * BUDGET, pid=stranger.pid)
    backend.fill(0, pid=hog.pid)
    dog = Watchdog({"mock": backend})
    dog.watch([watched(hog, backend.detect()[0])])
    seen = dog.look()
    assert (seen.held, seen.ended) == ({hog.pid: 0}, ())
    assert stranger.alive


def test_where_only_others_are_named_the_share_is_counted(holders: tuple[Holder, Holder]) -> None:
    """As a vendor's library does in a container: its numbers are the host's."""
    backend = MockBackend()
    backend.fill(8 * BUDGET, pid=4_000_000)
    dog = Watchdog({"mock": backend})
    dog.watch([watched(holders[0], backend.detect()[0])])
    assert dog.look().counted == {holders[0].pid: "mock names other processes on mock 0, not the replica's"}


def test_without_a_budget_nobody_is_watched(holders: tuple[Holder, Holder]) -> None:
    backend = MockBackend(memory=(None,))
    backend.fill(2**40, pid=holders[0].pid)
    dog = Watchdog({"mock": backend})
    dog.watch([watched(holders[0], backend.detect()[0], budget=None)])
    assert dog.look().counted == {holders[0].pid: "the memory of mock 0 is unknown"}
    assert holders[0].alive


class Broken(MockBackend):
    def held(self, device: Device, pids: Any = ()) -> list[Held]:
        raise OSError("the driver is gone")


def test_a_backend_that_fails_leaves_the_other_devices_watched(holders: tuple[Holder, Holder]) -> None:
    broken, telling = Broken("broken"), MockBackend("telling")
    telling.fill(4 * BUDGET, pid=holders[1].pid)
    backends: dict[str, Backend] = {"broken": broken, "telling": telling}
    dog = Watchdog(backends)
    dog.watch([watched(holders[0], broken.detect()[0]), watched(holders[1], telling.detect()[0])])
    seen = dog.look()
    assert seen.counted == {holders[0].pid: "broken failed: the driver is gone"}
    assert len(seen.ended) == 1


def test_a_look_that_fails_says_that_nobody_is_watched_and_the_next_is_taken(
    holders: tuple[Holder, Holder], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    dog = Watchdog({"cpu": argosy_cpu.Cpu()})
    dog.watch([watched(holders[0], cpu())])
    assert holders[0].pid in glance(dog)[0].held
    with monkeypatch.context() as patched:
        patched.setattr(dog, "_root", Path("/no such folder"))
        seen, _ = glance(dog)
    assert list(seen.counted) == [holders[0].pid]
    assert "the watchdog could not look" in seen.counted[holders[0].pid]
    assert "Traceback" in caplog.text
    assert holders[0].pid in glance(dog)[0].held


def test_a_watchdog_that_dies_early_is_told_of_and_one_that_ends_in_time_is_not(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = dataclasses.replace(assignment(Slow, backend=argosy_cpu.Cpu()), enforcement="watched", budget=2**50)
    with watching(given):
        pass
    assert caplog.text == ""
    monkeypatch.setattr(sys, "executable", "false")  # ends at once, as one that crashes does
    with watching(given):
        for ears in [thread for thread in threading.enumerate() if thread.name == "argosy-watchdog"]:
            ears.join(10)  # or it has heard the end already
        assert "the watchdog of mock-slow has ended" in caplog.text


def test_a_number_that_belongs_to_another_process_by_now_is_left_alone(
    holders: tuple[Holder, Holder], tmp_path: Path
) -> None:
    """The same number with another birthday, holding far too much: the replica is gone, and nobody is ended."""
    backend = MockBackend()
    stat = tmp_path / str(holders[0].pid) / "stat"
    stat.parent.mkdir()
    line = "{pid} (a (b) c) S 1 " + "0 " * 17 + "{born} 0 100 0"
    stat.write_text(line.format(pid=holders[0].pid, born=7))
    dog = Watchdog({"mock": backend}, root=tmp_path)
    dog.watch([watched(holders[0], backend.detect()[0])])
    assert dog.look().gone == ()
    stat.write_text(line.format(pid=holders[0].pid, born=8))
    backend.fill(2**40, pid=holders[0].pid)
    seen = dog.look()
    assert (seen.gone, seen.ended) == ((holders[0].pid,), ())
    assert holders[0].alive


def test_who_died_is_told_once_even_while_nobody_has_buried_it(holders: tuple[Holder, Holder]) -> None:
    dog = Watchdog({"cpu": argosy_cpu.Cpu()})
    dog.watch([watched(holders[0], cpu())])
    dog.look()
    holders[0].process.kill()
    end = time.monotonic() + 5
    while lives(holders[0].pid):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert dog.look().gone == (holders[0].pid,)
    assert dog.look().gone == ()


def test_the_tolerance_is_two_in_a_hundred_and_at_least_64_mib() -> None:
    assert allowed(100 * MIB) == 164 * MIB
    assert allowed(100 * 1024 * MIB) == 102 * 1024 * MIB


def test_looking_is_done_twice_a_second_and_never_less_than_once() -> None:
    assert (pause(0.001), pause(0.007), pause(3.0)) == (0.5, pytest.approx(0.7), 1.0)


def test_as_a_process_it_reads_what_to_watch_and_ends_with_its_input(holders: tuple[Holder, Holder]) -> None:
    hog, neighbour = holders
    dog = subprocess.Popen(
        [sys.executable, "-m", "argosy.runtime.watchdog"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert dog.stdin
    assert dog.stdout
    try:
        for one in (watched(hog, cpu()), watched(neighbour, cpu(), service="neighbour")):
            dog.stdin.write(json.dumps(dataclasses.asdict(one)) + "\n")
        dog.stdin.flush()
        hog.hold(10)
        hog.hold(300)
        told = json.loads(dog.stdout.readline())["ended"]
        assert [(one["service"], one["pid"], one["budget"]) for one in told] == [("hog", hog.pid, BUDGET)]
        assert hog.process.wait(5) == -9
        assert json.loads(dog.stdout.readline()) == {"gone": [hog.pid]}
        assert neighbour.alive
    finally:
        _, said = dog.communicate(timeout=30)
    assert dog.returncode == 0
    assert f"hog (process {hog.pid}) held" in said


HOG = '''"""Takes memory on request, however much it was given."""
import argosy
from pydantic import BaseModel


class Wish(BaseModel):
    mib: int


class Hog(argosy.Model):
    name = "hog"
    task = argosy.Json(request=Wish, response=Wish)
    engines = ("python",)
    needs_weights = False

    def load(self, weights, engine, device):
        self.kept = []

    def predict(self, batch):
        for wish in batch:
            self.kept.append(b"x" * (wish.mib << 20))
        return batch


@argosy.hookimpl
def argosy_models():
    return [Hog]
'''


def ask(url: str, mib: int) -> None:
    """It may be ended before it answers."""
    with contextlib.suppress(httpx.TransportError):
        httpx.post(url, json={"mib": mib}, trust_env=False, timeout=30)


def resident(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def test_run_one_is_ended_within_two_seconds_while_its_neighbour_answers(tmp_path: Path) -> None:
    (tmp_path / "argosy_hog.py").write_text(HOG)
    services = {"hog": {"plugin": "hog", "memory": "400MiB"}, "echo": {"plugin": "echo", "memory": "400MiB"}}
    (tmp_path / "fleet.yaml").write_text(yaml.safe_dump({"version": 1, "services": services}))
    commands = [
        Command("run-one", name, "-f", "fleet.yaml", "--port", "0", folder=tmp_path)
        for name in ("argosy_hog.py", "echo")
    ]
    try:
        hog, neighbour = (command.url() for command in commands)
        with httpx.Client(trust_env=False, timeout=30) as client:
            assert client.post(hog, json={"mib": 10}).status_code == 200
            greed = threading.Thread(target=lambda: ask(hog, 600))
            greed.start()
            overrun, answered = time.monotonic(), 0
            while (code := commands[0].process.poll()) is None:
                if resident(commands[0].process.pid) < allowed(400 * MIB):
                    overrun = time.monotonic()
                assert client.post(neighbour, json={"text": "still here"}).json() == {"text": "still here"}
                answered += 1
            assert time.monotonic() - overrun < IN_TIME
            assert (code, bool(answered)) == (-9, True)
            greed.join()
            line = commands[0].until("held")
            assert "its budget is 0.39 GiB" in line
            assert client.post(neighbour, json={"text": "and now"}).json() == {"text": "and now"}
        assert commands[1].stop() == 0
    finally:
        for command in commands:
            command.stop()
            assert command.process.stderr
            command.process.stderr.close()
