"""The proof: what counts as evidence that a device is used, what does not, and where the verdict is told."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
import pytest

from argosy.cli.run_one import started
from argosy.engines import Ctranslate2, Seen
from argosy.errors import ReplicaError
from argosy.model import Model
from argosy.runtime.memory import Taken, measure
from argosy.runtime.meter import Recorder
from argosy.runtime.proof import Canary, Cause, Evidence, Proof, prove
from argosy.runtime.replica import Replica, State
from argosy.serve.application import Application
from argosy.serve.door import Door, line
from argosy.tasks import Embedding
from argosy.testing import MockBackend, assignment, installed, running
from argosy.testing.models import Slow, Text, Vectors
from argosy_cpu import Cpu

MIB = 2**20
NOTHING, UNTOLD = Taken(0, True), Taken(100 * MIB, False)
ANSWERED = Canary(True, Text(text="x"), 0.25)


def proof(
    *, before: Taken = UNTOLD, prepared: Taken | None = None, after: Taken = UNTOLD, model: type[Model] = Slow,
    canary: Canary = ANSWERED, engine: Any = None, told: dict[str, str] | None = None, elsewhere: Sequence[str] = (),
    lost: str = "", **fields: Any,
) -> Proof:  # fmt: skip
    seen = Evidence(
        before=before, prepared=prepared or before, after=after, canary=canary,
        engine=Seen(told or {}, list(elsewhere)), lost=lost,
    )  # fmt: skip
    given = assignment(model, **fields)
    return prove(given if engine is None else dataclasses.replace(given, engine=engine), model, seen)


def causes(found: Proof) -> list[Cause]:
    return [doubt.cause for doubt in found.doubts]


def test_memory_that_loading_took_is_proof_and_the_sentence_says_how_much() -> None:
    found = proof(before=NOTHING, after=Taken(5 * MIB, True), told={"device": "gpu:0"})
    assert found.ok
    assert found.sentence == found.evidence
    assert found.sentence.endswith(": 5 MiB taken on mock 0, device gpu:0, canary answered in 0.250 s")


def test_a_process_that_holds_nothing_on_the_device_is_not_there() -> None:
    assert causes(proof(before=NOTHING, after=NOTHING)) == [Cause.MEMORY]
    found = proof(before=NOTHING, after=NOTHING, told={"device": "gpu:0"})
    assert causes(found) == [Cause.MEMORY], "whatever the library says"
    assert found.sentence == "python on mock 0 was planned, and this process holds no memory there"


def test_opening_a_device_is_not_using_it() -> None:
    opened = Taken(300 * MIB, True)
    assert causes(proof(before=NOTHING, prepared=opened, after=opened)) == [Cause.MEMORY]
    assert proof(before=NOTHING, prepared=opened, after=opened, told={"allocated": "90 MiB"}).ok, "the library tells"
    assert proof(before=NOTHING, prepared=opened, after=Taken(301 * MIB, True)).ok


def test_strangers_alone_say_nothing_of_this_process() -> None:
    backend = MockBackend()
    device = backend.detect()[0]
    backend.fill(2**30, pid=1)  # all that a vendor tells in a container, where the host numbers processes otherwise
    assert not measure(backend, device).told
    backend.fill(MIB, pid=os.getpid())
    assert measure(backend, device) == Taken(MIB, True)
    assert proof(before=NOTHING, after=UNTOLD, told={"allocated": "90 MiB"}).ok, "the library's word is left"
    assert causes(proof(before=NOTHING, after=UNTOLD, engine=Ctranslate2(device="cuda"))) == [Cause.MEMORY]


def test_where_neither_the_device_nor_the_library_tells_nothing_is_proven() -> None:
    found = proof(engine=Ctranslate2(device="cuda"))
    assert causes(found) == [Cause.MEMORY]
    assert found.sentence.endswith("neither the device nor the library tells that it was used")
    assert proof(engine=Ctranslate2(device="cuda"), told={"device": "cuda:0"}).ok
    assert proof().ok, "a model that needs no library cannot fall back"
    assert proof(engine=Ctranslate2(), backend=Cpu()).ok, "every library can use the processor"


def test_what_the_library_and_the_machine_say_against_it_comes_first() -> None:
    found = proof(after=NOTHING, elsewhere=["it runs on CPU"], lost="the card is gone")
    assert causes(found) == [Cause.DEVICE, Cause.ENGINE, Cause.MEMORY]
    assert found.sentence.startswith("the card is gone; it runs on CPU; python on mock 0 was planned")


def test_an_answer_of_another_type_or_without_numbers_is_wrong() -> None:
    assert causes(proof(canary=Canary(True, "text"))) == [Cause.ANSWER]
    vectors = Vectors.task.response((Embedding(np.array([np.nan], np.float32)),))
    assert "not finite" in proof(model=Vectors, canary=Canary(True, vectors)).sentence
    assert proof(canary=Canary(False)).sentence.endswith("the model brings no canary")


class Floored(Slow):
    """Answers its canary within a tenth of a second on any accelerator."""

    slowest = 0.1


def test_a_warm_answer_that_is_slower_than_the_models_floor_is_elsewhere() -> None:
    first = Canary(True, Text(text="x"), 5.0)
    assert proof(model=Floored, canary=dataclasses.replace(first, warm=0.09)).ok, "the first answer may compile"
    found = proof(model=Floored, canary=dataclasses.replace(first, warm=0.11))
    assert causes(found) == [Cause.SPEED]
    assert "the canary took 0.110 s when warm" in found.sentence
    assert "mock-slow takes at most 0.1 s on an accelerator" in found.sentence


@pytest.mark.parametrize("fallback", ["refuse", "degrade"])
async def test_a_replica_below_the_models_floor_is_not_ready(fallback: Any) -> None:
    asked: list[str] = []

    class Crawls(Floored):
        """Takes longer than that, warm or not."""

        def predict(self, batch: Sequence[Text]) -> Sequence[Text]:
            asked.extend(item.text for item in batch)
            return super().predict(batch)

    recorder = Recorder()
    given = assignment(Crawls, fallback=fallback, options={"seconds": 0.15})
    replica = Replica(given, installed(Crawls), recorder)
    if fallback == "refuse":
        with pytest.raises(ReplicaError, match="which says it runs elsewhere"):
            await replica.start()
    else:
        assert (await replica.start()).state is State.DEGRADED
        await replica.stop()
    assert len(asked) == 2
    told = {dict(sample.tags)["cause"]: sample.value for sample in recorder.named("argosy_replica_degraded")}
    assert told == {"device": 0, "engine": 0, "memory": 0, "speed": 1, "answer": 0}


async def test_the_canary_is_asked_twice_only_where_a_floor_is_to_be_met() -> None:
    asked: list[str] = []

    class Counts(Floored):
        """Counts."""

        def predict(self, batch: Sequence[Text]) -> Sequence[Text]:
            asked.extend(item.text for item in batch)
            return batch

    async with running(Counts) as replica:
        assert ", then in 0." in replica.status().proof
    assert len(asked) == 2
    async with running(Counts, backend=Cpu()):
        assert len(asked) == 3, "the processor may be as slow as it is"


@pytest.mark.parametrize("fallback", ["refuse", "degrade"])
async def test_a_backend_that_tells_and_shows_nothing_of_this_process_is_believed(fallback: Any) -> None:
    backend = MockBackend(tells=True)
    backend.fill(2**30, pid=1)  # a stranger's
    replica = Replica(assignment(Slow, backend=backend, fallback=fallback), installed(Slow, backend=backend))
    if fallback == "refuse":
        with pytest.raises(ReplicaError, match="python on mock 0 was planned, and this process holds no memory there"):
            await replica.start()
    else:
        assert (await replica.start()).state is State.DEGRADED
        await replica.stop()


async def test_memory_that_a_child_of_the_process_takes_counts() -> None:
    backend = MockBackend(tells=True)

    class Forks(Slow):
        """Has what it needs in a process of its own, as vLLM does."""

        def load(self, weights: Any, engine: Any, device: Any) -> None:
            import subprocess

            self.child = subprocess.Popen(["sleep", "30"])
            backend.fill(MIB, pid=self.child.pid)

        def close(self) -> None:
            self.child.kill()
            self.child.wait()

    async with running(Forks, backend=backend) as replica:
        assert (replica.status().state, replica.status().memory) == (State.READY, MIB)
        assert replica.status().pid == os.getpid()


LAME = "python on mock 0 was planned, and this process holds no memory there"


async def test_a_degraded_replica_says_so_in_a_header_beside_the_four_parts() -> None:
    async with running(Slow, backend=MockBackend(tells=True), fallback="degrade") as replica:
        answer = await _ask(_served_by_ray(replica))
    assert answer.status_code == 200
    assert answer.headers["argosy-served-by"] == "mock-slow;0;mock;mock 0"
    assert answer.headers["argosy-degraded"] == LAME
    async with running(Slow) as replica:
        answer = await _ask(_served_by_ray(replica))
    assert answer.headers["argosy-served-by"] == "mock-slow;0;mock;mock 0"
    assert "argosy-degraded" not in answer.headers


async def test_a_replica_that_runs_alone_tells_the_same_in_its_answers_its_health_and_its_metrics() -> None:
    backend, told = MockBackend(tells=True), []
    given = assignment(Slow, backend=backend, fallback="degrade")
    served = await started(given, installed(Slow, backend=backend), told.append)
    try:
        assert told[-1] == f"degraded: {LAME}"
        assert (await _ask(served.app)).headers["argosy-degraded"] == LAME
        health = await _ask(served.app, "/health/ready")
        assert (health.status_code, health.json()["state"], health.json()["reason"]) == (200, "degraded", LAME)
        metrics = (await _ask(served.app, "/metrics")).text
        assert 'argosy_replica_degraded{cause="memory",service="mock-slow"} 1.0' in metrics
        assert 'argosy_replica_degraded{cause="engine",service="mock-slow"} 0.0' in metrics
        assert 'argosy_replica_state{service="mock-slow",state="degraded"} 1.0' in metrics
    finally:
        await served.replica.stop()


def _served_by_ray(replica: Replica) -> Door:
    """What a replica's process in a fleet answers through; made without a cluster."""
    application = object.__new__(Application)
    application._replica, application._meter = replica, Recorder()  # type: ignore[assignment]
    return application.__serve_build_asgi_app__()


async def _ask(served: Any, path: str = "") -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=served), base_url="http://test") as client:
        return await (client.get(path) if path else client.post("/", json={"text": "x"}))


def test_a_reason_becomes_one_line_that_any_server_passes_on() -> None:
    assert line("one\r\nset-cookie: two\n — é") == b"one set-cookie: two ? \xe9"
    assert len(line("x" * 10_000)) == 512
