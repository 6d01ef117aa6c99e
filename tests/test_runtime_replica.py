"""A replica from its assignment to its end: environment, loading, canary, proof, options, figures."""

import asyncio
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from argosy import Context, live, machine
from argosy.engines import Onnxruntime, Python
from argosy.errors import Overloaded, PluginError, ReplicaError, WeightsError
from argosy.fleet.sources import parse_model
from argosy.model import Options, gather
from argosy.runtime import environment, memory
from argosy.runtime.assignment import Bounds
from argosy.runtime.meter import METRICS, Recorder
from argosy.runtime.prometheus import Prometheus
from argosy.runtime.proof import finite
from argosy.runtime.replica import Replica, State
from argosy.tasks import Embedding, Embeddings, Json
from argosy.testing import MockBackend, assignment, installed, running
from argosy.testing.models import EngineBatched, FailsOnLoad, Mock, Slow, Text, Vectors


async def test_a_replica_that_starts_is_ready_and_says_how_it_knows() -> None:
    told: list[str] = []
    replica = Replica(assignment(Slow), installed(Slow))
    assert replica.status().state is State.STARTING
    with pytest.raises(Overloaded, match="starting"):
        await replica.answer(Text(text="early"), Context("early"))
    status = await replica.start(told.append)
    assert status.state is State.READY
    assert (status.service, status.engine, status.backend, status.device) == ("mock-slow", "python", "mock", "mock 0")
    assert status.engine_version == ".".join(map(str, sys.version_info[:3]))
    assert "canary answered" in status.proof
    assert status.memory > 0
    assert status.pid == os.getpid()
    assert told[0] == "loading on python, mock 0"
    assert told[-1].startswith("ready: ")
    assert json.loads(json.dumps(dataclasses.asdict(status)))["state"] == "ready"
    await replica.stop()
    await replica.stop()
    assert replica.status().state is State.STOPPED


async def test_a_plugin_that_fails_on_load_is_named_with_its_cause(caplog: pytest.LogCaptureFixture) -> None:
    replica = Replica(assignment(FailsOnLoad), installed(FailsOnLoad))
    with pytest.raises(ReplicaError) as failed:
        await replica.start()
    message = str(failed.value)
    assert "mock (argosy " in message, "the plugin and its distribution"
    assert "OSError: the weights are made of cheese" in message
    assert "argosy logs mock-fails-on-load" in message
    assert replica.status().state is State.FAILED
    assert "cheese" in replica.status().reason
    assert "Traceback" in caplog.text
    threads = [thread for thread in threading.enumerate() if thread.name == "argosy-mock-fails-on-load"]
    for thread in threads:
        await asyncio.to_thread(thread.join, 5)
    assert not any(thread.is_alive() for thread in threads)


async def test_loading_answering_and_closing_happen_in_one_thread_and_not_on_the_loop() -> None:
    where: list[str] = []

    class Notes(Slow):
        """Notes in which thread it is."""

        def load(self, weights: Any, engine: Any, device: Any) -> None:
            where.append(threading.current_thread().name)

        def predict(self, batch: Sequence[Text]) -> Sequence[Text]:
            where.append(threading.current_thread().name)
            return batch

        def close(self) -> None:
            where.append(threading.current_thread().name)

    async with running(Notes) as replica:
        await replica.answer(Text(text="x"), Context("x"))
    assert where == ["argosy-mock-slow"] * 4


async def test_a_load_that_is_a_coroutine_is_awaited() -> None:
    class Awaits(EngineBatched):
        """Loads on the event loop."""

        loaded = False

        async def load(self, weights: Any, engine: Any, device: Any) -> None:
            await asyncio.sleep(0)
            type(self).loaded = True

    async with running(Awaits):
        assert Awaits.loaded


async def test_a_close_that_fails_is_logged_and_stops_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    class Jams(Slow):
        """Cannot be closed."""

        def close(self) -> None:
            raise OSError("jammed")

    async with running(Jams) as replica:
        pass
    assert replica.status().state is State.STOPPED
    assert "did not close: jammed" in caplog.text


async def test_a_canary_that_is_not_answered_in_time_fails_the_start() -> None:
    gate = threading.Event()

    class Hangs(Slow):
        """Never answers."""

        def predict(self, batch: Sequence[Text]) -> Sequence[Text]:
            gate.wait(10)
            return batch

    replica = Replica(assignment(Hangs), installed(Hangs), canary_seconds=0.1)
    starting = asyncio.ensure_future(replica.start())
    await asyncio.sleep(0.3)
    gate.set()
    with pytest.raises(ReplicaError, match=r"canary within 0\.1 s; found: .*DeadlineExceeded"):
        await starting


async def test_a_canary_that_raises_fails_the_start_with_the_models_own_words() -> None:
    class Wrong(Slow):
        """Raises on everything."""

        def predict(self, batch: Sequence[Text]) -> Sequence[Text]:
            raise ZeroDivisionError("by zero")

    with pytest.raises(ReplicaError, match="ZeroDivisionError: by zero"):
        await Replica(assignment(Wrong), installed(Wrong)).start()


@pytest.mark.parametrize("fallback", ["refuse", "degrade"])
async def test_numbers_that_are_none_are_no_proof(fallback: Any) -> None:
    class Overflows(Vectors):
        """Every vector is NaN."""

        def predict(self, batch: Sequence[str]) -> Sequence[Embedding]:
            return [Embedding(np.full(8, np.nan, np.float32)) for _ in batch]

    replica = Replica(assignment(Overflows, fallback=fallback), installed(Overflows))
    if fallback == "refuse":
        with pytest.raises(ReplicaError, match="not finite"):
            await replica.start()
        assert replica.status().state is State.FAILED
    else:
        status = await replica.start()
        assert status.state is State.DEGRADED
        assert "not finite" in status.reason
        assert len((await replica.answer(Vectors.task.canary(), Context("x"))).items) == 1, "it answers all the same"
        await replica.stop()


def test_not_finite_is_seen_wherever_it_is() -> None:
    assert finite(Embeddings((Embedding(np.ones(3, np.float32)),)))
    assert not finite(Embeddings((Embedding(np.array([1, np.inf], np.float32)),)))
    assert not finite([1.0, float("inf")])


def test_the_environment_is_the_mask_and_a_thread_limit_of_every_library() -> None:
    given = assignment(Slow, cores=3, environment={"OMP_NUM_THREADS": "7", "VISIBLE": "1"})
    there = {"HOME": "/", "VISIBLE": "0"}
    changed = environment.apply(given, there)
    assert there == {
        "HOME": "/",
        "VISIBLE": "1",
        "OMP_NUM_THREADS": "7",
        "MKL_NUM_THREADS": "3",
        "OPENBLAS_NUM_THREADS": "3",
        "NUMEXPR_NUM_THREADS": "3",
        "RAYON_NUM_THREADS": "3",
    }
    assert environment.apply(given, there) == {}
    assert set(changed) == set(there) - {"HOME"}
    assert environment.variables(assignment(Slow, cores=0, environment={})) == {}


async def test_a_mask_that_the_shell_left_behind_is_removed_and_the_planned_one_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Masked(MockBackend):
        masks = ("ARGOSY_MOCK_VISIBLE_DEVICES", "ARGOSY_MOCK_OTHER_MASK")

    monkeypatch.setenv("ARGOSY_MOCK_VISIBLE_DEVICES", "7")
    monkeypatch.setenv("ARGOSY_MOCK_OTHER_MASK", "7")
    async with running(Slow, backend=Masked()):
        assert os.environ["ARGOSY_MOCK_VISIBLE_DEVICES"] == "0"
        assert "ARGOSY_MOCK_OTHER_MASK" not in os.environ


def test_a_replica_sees_its_mask_before_its_model_is_loaded_and_no_heavy_library_is_there_before() -> None:
    code = """
import asyncio, os, sys
from argosy.testing import assignment, installed
from argosy.testing.models import Slow
from argosy.runtime.replica import Replica

class Looks(Slow):
    "Looks at its environment while it is loaded."
    def load(self, weights, engine, device):
        print(os.environ["ARGOSY_MOCK_VISIBLE_DEVICES"], os.environ["OMP_NUM_THREADS"])
        print(sorted({"ray", "torch", "onnxruntime", "openvino", "ctranslate2", "huggingface_hub"} & set(sys.modules)))

async def main():
    replica = Replica(assignment(Looks, cores=5), installed(Looks))
    await replica.start()
    await replica.stop()

asyncio.run(main())
"""
    clean = {name: value for name, value in os.environ.items() if name not in environment.THREADS}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=clean, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("\n") == ["0 5", "[]", ""]


async def test_weights_are_fetched_and_handed_to_load(tmp_path: Path) -> None:
    (tmp_path / "words.json").write_text('["one"]')
    told: list[str] = []

    class Reads(Slow):
        """Reads its weights."""

        needs_weights = True
        words: Any = None

        def load(self, weights: Any, engine: Any, device: Any) -> None:
            type(self).words = json.loads((weights / "words.json").read_text())

    model = parse_model(f"file://{tmp_path}/words.json", tmp_path)
    given = assignment(Reads, model=model, cache=str(tmp_path / "cache"), offline=True)
    replica = Replica(given, installed(Reads))
    await replica.start(told.append)
    await replica.stop()
    assert Reads.words == ["one"]

    gone = assignment(Reads, model=parse_model("file://gone.json", tmp_path), cache=str(tmp_path / "cache"))
    with pytest.raises(WeightsError):
        await Replica(gone, installed(Reads)).start()
    with pytest.raises(ReplicaError, match="no model in the fleet file"):
        await Replica(assignment(Reads), installed(Reads)).start()


async def test_an_engine_that_is_not_there_is_said_before_loading() -> None:
    with pytest.raises(PluginError, match="it runs on python"):
        Replica(assignment(Slow, engine=Onnxruntime()), installed(Slow))

    class Absent(Python):
        name = "python"
        distributions = ("not-a-distribution",)

        @classmethod
        def version(cls) -> None:  # type: ignore[override]
            return None

    with pytest.raises(ReplicaError, match="not-a-distribution, for the engine python; found: not installed"):
        await Replica(assignment(Slow, engine=Absent()), installed(Slow)).start()


class Tuned(Options):
    size: int = 4
    temperature: float = live(0.5, ge=0, le=2)
    voice: str = live("alto")


class Tunes(Mock):
    """Answers with its options."""

    name = "tunes"
    task = Json(request=Text, response=Text)
    options = Tuned  # type: ignore[assignment]
    batching = gather(1)

    def canary(self) -> Text:
        return Text(text="")

    def predict(self, batch: Sequence[Text]) -> Sequence[Text]:
        return [Text(text=f"{self.config.size} {self.config.temperature} {self.config.voice}") for _ in batch]  # type: ignore[attr-defined]


async def test_live_options_change_at_once_and_others_are_refused_by_name() -> None:
    async with running(Tunes, options={"size": 8, "voice": "bass"}) as replica:

        async def now() -> str:
            return str((await replica.answer(Text(text=""), Context("x"))).text)

        assert await now() == "8 0.5 bass"
        replica.reconfigure({"temperature": 1.5})
        assert await now() == "8 1.5 bass"
        with pytest.raises(ReplicaError, match="size would change, which needs a restart"):
            replica.reconfigure({"size": 9, "temperature": 0.1})
        with pytest.raises(ReplicaError, match="temperature: Input should be less than or equal to 2"):
            replica.reconfigure({"temperature": 3})
        with pytest.raises(ReplicaError, match="tempo: Extra inputs"):
            replica.reconfigure({"tempo": 3})
        assert await now() == "8 1.5 bass", "what was refused changed nothing"
        replica.reconfigure({"size": 8, "temperature": 0.25, "voice": "alto"})
        assert await now() == "8 0.25 alto"


async def test_options_that_the_plugin_refuses_stop_the_start() -> None:
    with pytest.raises(ReplicaError, match="options of tunes"):
        await Replica(assignment(Tunes, options={"size": "many"}), installed(Tunes)).start()


async def test_figures_say_what_the_replica_does() -> None:
    sampled = asyncio.Event()

    class Told(Recorder):
        def set(self, name: str, value: float, **tags: str) -> None:
            super().set(name, value, **tags)
            if name == "argosy_running":
                sampled.set()

    recorder = Told()
    async with running(Vectors, meter=recorder) as replica:
        await replica.answer(Vectors.task.canary(), Context("x"))
        await asyncio.wait_for(sampled.wait(), 5)
    states = [dict(sample.tags)["state"] for sample in recorder.named("argosy_replica_state") if sample.value]
    assert states == ["loading", "proving", "ready", "stopped"]
    assert [sample.value for sample in recorder.named("argosy_tokens_total")] == [1]
    assert next(recorder.named("argosy_replica_budget_bytes")).value == 8 * 2**30
    taken = next(recorder.named("argosy_replica_memory_bytes"))
    assert taken.value > 2**20
    assert taken.tags == (("backend", "mock"), ("device", "mock 0"))
    for sample in recorder.samples:
        metric = next(metric for metric in METRICS if metric.name == sample.name)
        assert tuple(name for name, _ in sample.tags) == tuple(sorted(metric.tags))


async def test_prometheus_shows_every_metric_with_its_service() -> None:
    meter = Prometheus("vectors")
    async with running(Vectors, meter=meter) as replica:
        await replica.answer(Vectors.task.canary(), Context("x"))
        text = meter.text().decode()
    assert 'argosy_replica_state{service="vectors",state="ready"} 1.0' in text
    assert 'argosy_tokens_total{direction="in",service="vectors"} 1.0' in text
    assert 'argosy_batch_items_bucket{le="1.0",service="vectors"} 2.0' in text
    for metric in METRICS:
        assert f"# HELP {metric.name} " in text


def test_memory_is_that_of_the_process_and_its_children() -> None:
    code = "data = bytearray(b'x' * 64 * 2**20); print(flush=True); input()"
    before = memory.measure(MockBackend(), MockBackend().detect()[0])
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert child.pid in machine.family(os.getpid())
        after = memory.measure(MockBackend(), MockBackend().detect()[0])
        child.communicate("\n")
    assert not after.told
    assert after.bytes - before.bytes > 60 * 2**20
    assert machine.resident(child.pid) == 0


@pytest.mark.skipif(importlib.util.find_spec("uvloop") is None, reason="uvloop is not installed")
def test_a_replica_lives_on_uvloop_too() -> None:
    import uvloop

    async def main() -> None:
        async with running(EngineBatched) as replica, running(Slow, bounds=Bounds(queue=2000)) as other:
            words = [delta async for delta in replica.stream(EngineBatched.task.canary(), Context("x"))]
            assert "".join(delta.text for delta in words) == "Say hello."
            await asyncio.gather(*(other.answer(Text(text="x"), Context("x")) for _ in range(1000)))

    uvloop.run(main())


async def test_what_load_says_of_the_model_is_what_the_replica_is_about() -> None:
    class Told(Slow):
        """Says of itself what only its weights could tell."""

        name = "told"

        def load(self, weights: Any, engine: Any, device: Any) -> None:
            self.about = {"dimensions": "384"}

    async with running(Told) as replica:
        assert replica.about == replica.status().about == {"dimensions": "384"}
