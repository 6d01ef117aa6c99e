"""Looking at a replica while it serves: what that costs, and what happens where it fails."""

import asyncio
import subprocess
import sys
import threading
from typing import Any

import pytest

from argosy.runtime import sampling
from argosy.runtime.meter import Recorder
from argosy.runtime.replica import Replica
from argosy.testing import MockBackend, assignment, installed
from argosy.testing.models import Slow


def test_looking_costs_what_the_processes_cost_that_a_vendor_asks_through() -> None:
    class Asks(MockBackend):
        """Tells through a process of its own, as vendors do whose library must not be opened here."""

        def held(self, device: Any, pids: Any = ()) -> Any:
            subprocess.run([sys.executable, "-I", "-S", "-c", "sum(range(2_000_000))"], check=True)
            return super().held(device, pids)

    cheap, dear = MockBackend(), Asks()
    device = cheap.detect()[0]
    assert sampling.look(dear, device, None).cost > sampling.look(cheap, device, None).cost + 0.01


async def test_a_look_that_fails_is_logged_and_the_next_one_is_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Moody(MockBackend):
        asked = 0

        def held(self, device: Any, pids: Any = ()) -> Any:
            self.asked += 1
            if self.asked < 3:
                raise OSError("the driver is gone")
            return super().held(device, pids)

    monkeypatch.setattr(sampling, "SECONDS", 0.01)
    backend = Moody()
    async for look in sampling.looks(backend, backend.detect()[0], None):
        assert look.taken.bytes > 0
        break
    assert caplog.text.count("no look at mock 0: the driver is gone") == 2
    assert caplog.text.count("Traceback") == 1


async def test_a_replica_whose_sampling_broke_closes_its_model_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    closed: list[bool] = []
    broke = asyncio.Event()

    class Closes(Slow):
        """Says when it is closed."""

        def close(self) -> None:
            closed.append(True)

    class Breaks(Recorder):
        def set(self, name: str, value: float, **tags: str) -> None:
            if name == "argosy_replica_memory_bytes":
                broke.set()
                raise ValueError("no such metric")
            super().set(name, value, **tags)

    replica = Replica(assignment(Closes), installed(Closes), Breaks())
    await replica.start()
    await asyncio.wait_for(broke.wait(), 10)
    await asyncio.sleep(0)
    await replica.stop()
    assert closed == [True]
    assert "was not sampled to its end" in caplog.text
    assert not any(thread.name == "argosy-mock-closes" for thread in threading.enumerate())
