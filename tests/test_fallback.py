"""Silent fallback is impossible: whatever keeps a replica off its device, it fails or is Degraded, as the file asks."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import stubs

from argosy import Context
from argosy.backend import Device
from argosy.engines import Ctranslate2, Engine, Onnxruntime, Openvino, Python, Torch, Vllm
from argosy.errors import ReplicaError
from argosy.fleet.schema import Fleet
from argosy.model import Model, Options
from argosy.runtime.assign import assign, digest
from argosy.runtime.meter import Recorder
from argosy.runtime.proof import Cause
from argosy.runtime.replica import Replica, State
from argosy.runtime.survey import node, survey
from argosy.tasks import Json
from argosy.testing import MockBackend, assignment, installed
from argosy.testing.models import Slow, Text

GRAPH = Path(onnxruntime.__file__).parent / "datasets/sigmoid.onnx"
CUDA = (("CUDAExecutionProvider", {}), ("CPUExecutionProvider", {}))
IDLE = (("AzureExecutionProvider", {}), ("CPUExecutionProvider", {}))  # in every build of onnxruntime; takes no node
BOTH = pytest.mark.parametrize("fallback", ["refuse", "degrade"])


class Anywhere(Model):
    """A sigmoid on whatever engine it is given; `went` is the engine that `load` got."""

    name = "anywhere"
    task = Json(request=Text, response=Text)
    options = Options
    engines = ("python", "onnxruntime", "openvino", "ctranslate2", "torch", "vllm")
    needs_weights = False
    went: Any = None
    feed = np.zeros((3, 4, 5), np.float32)

    def canary(self) -> Text:
        return Text(text="zero")

    def load(self, weights: Any, engine: Engine, device: Device) -> None:
        type(self).went = engine
        if isinstance(engine, Onnxruntime):
            session = engine.session(GRAPH)
            self.run = lambda: session.run(None, {"x": self.feed})[0]
        elif isinstance(engine, Openvino):
            compiled = engine.compile(GRAPH)
            self.run = lambda: compiled({"x": self.feed})[0]
        else:
            self.run = lambda: 1 / (1 + np.exp(-self.feed))

    def predict(self, batch: Sequence[Text]) -> Sequence[Text]:
        return [Text(text=f"{float(self.run()[0, 0, 0]):g}") for _ in batch]


@asynccontextmanager
async def started(
    engine: Engine, fallback: str, backend: MockBackend | None = None, model: type[Model] = Anywhere, **fields: Any
) -> AsyncIterator[tuple[Replica, Recorder]]:
    """A replica that was started as the plan would have it: strict where the file refuses."""
    backend, recorder = backend or MockBackend(), Recorder()
    given = assignment(model, backend=backend, engine=engine, fallback=fallback, **fields)
    replica = Replica(given, installed(model, backend=backend), recorder)
    try:
        yield replica, recorder
    finally:
        await replica.stop()


async def held_to(
    engine: Engine, fallback: str, why: str, backend: MockBackend | None = None, model: type[Model] = Anywhere
) -> None:
    """`refuse` fails with the reason and `degrade` answers with it: neither is ever Ready."""
    async with started(engine, fallback, backend, model) as (replica, recorder):
        if fallback == "refuse":
            with pytest.raises(ReplicaError, match=why):
                await replica.start()
            assert replica.status().state is State.FAILED
        else:
            status = await replica.start()
            assert status.state is State.DEGRADED
            assert why in status.reason == replica.degraded
            answer = await replica.answer(Text(text="x"), Context("1"))
            assert answer.text in ("0.5", "x"), "it answers all the same"
            assert any(sample.value for sample in recorder.named("argosy_replica_degraded")), "and a metric says why"
        assert State.READY not in {
            dict(sample.tags)["state"] for sample in recorder.named("argosy_replica_state") if sample.value
        }


@BOTH
async def test_a_provider_that_is_not_in_the_installed_onnxruntime(fallback: str) -> None:
    await held_to(Onnxruntime(providers=CUDA), fallback, "onnxruntime with CUDAExecutionProvider")


@BOTH
async def test_a_provider_that_leaves_every_node_to_the_processor(fallback: str) -> None:
    await held_to(Onnxruntime(providers=IDLE), fallback, "it takes none of the graph's 1 nodes")


@BOTH
async def test_a_provider_whose_library_does_not_load(fallback: str, monkeypatch: pytest.MonkeyPatch) -> None:
    session = stubs.Session(["CPUExecutionProvider"], {"CPUExecutionProvider": 1})
    monkeypatch.setattr(session, "run", lambda names, feed: [feed["x"] + 0.5])
    stubs.cuda_onnxruntime(monkeypatch, session)
    await held_to(Onnxruntime(providers=CUDA), fallback, "it did not load, CPUExecutionProvider is used")


@BOTH
async def test_a_device_that_openvino_does_not_find(fallback: str) -> None:
    await held_to(Openvino(device="GPU.63", threads=1), fallback, "openvino on GPU.63")


@BOTH
async def test_a_device_that_ctranslate2_does_not_find(fallback: str) -> None:
    await held_to(Ctranslate2(device="cuda", device_index=63), fallback, "ctranslate2 on cuda:63")
    if fallback == "degrade":
        assert Anywhere.went.device == "cpu"


@BOTH
@pytest.mark.parametrize("built", [{}, {"cuda": "13.0"}], ids=["for-the-processor", "for-another-vendor"])
async def test_a_torch_that_was_built_for_another_device(
    built: dict[str, str], fallback: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Torch, "distributions", ("onnxruntime",))  # any that is here
    stubs.Torch(monkeypatch, built=built, devices={"cuda": 1}, allocated=2**20)
    engine = Torch(device="cuda:0", build="hip", memory_fraction=0.5)
    await held_to(engine, fallback, f"built for {'cuda 13.0' if built else 'the processor alone'}")
    if fallback == "degrade":
        assert (Anywhere.went.device, Anywhere.went.memory_fraction) == ("cpu", None)


@BOTH
async def test_a_torch_whose_model_never_went_to_the_device(fallback: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Torch, "distributions", ("onnxruntime",))
    stubs.Torch(monkeypatch, built={"cuda": "13.0"}, devices={"cuda": 1}, allocated=0)
    await held_to(Torch(device="cuda:0", build="cuda"), fallback, "it holds no tensor there")


@BOTH
async def test_a_vllm_that_was_built_for_the_processor(fallback: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Vllm, "distributions", ("onnxruntime",))
    stubs.vllm(monkeypatch, "cpu")
    await held_to(Vllm(device="cuda"), fallback, "which finds cpu here")


@BOTH
@pytest.mark.parametrize("problem", ["", "nvidia-driver: the card has fallen off the bus"])
async def test_a_device_that_went_away_since_it_was_planned(problem: str, fallback: str) -> None:
    backend = MockBackend()
    given = assignment(Slow, backend=backend, fallback=fallback)
    backend.vanish(problem=problem)
    replica = Replica(given, installed(Slow, backend=backend))
    wanted = problem or "mock 0 at 0000:01:00.0 was planned, and is not there any more: no mock device below /"
    if fallback == "refuse":
        with pytest.raises(ReplicaError, match=r"mock 0 at 0000:01:00\.0 was"):
            await replica.start()
        assert replica.status().state is State.FAILED
        assert wanted in replica.status().reason
    else:
        assert (await replica.start()).state is State.DEGRADED
        assert wanted in replica.degraded
        await replica.stop()


@BOTH
async def test_a_device_that_goes_away_while_the_model_loads(fallback: str) -> None:
    backend = MockBackend()

    class Unplugs(Slow):
        """Loses its device."""

        def load(self, weights: Any, engine: Any, device: Any) -> None:
            backend.vanish()

    await held_to(Python(), fallback, "is not there any more", backend, Unplugs)


@BOTH
async def test_another_card_in_the_place_of_the_planned_one(fallback: str) -> None:
    class Renumbered(MockBackend):
        mask = "GPU-1"

        def detect(self, root: Path = Path("/")) -> Sequence[Device]:
            return [dataclasses.replace(device, identity=self.mask) for device in super().detect(root)]

    backend = Renumbered()
    given = assignment(Slow, backend=backend, fallback=fallback)
    backend.mask = "GPU-2"
    replica = Replica(given, installed(Slow, backend=backend))
    wanted = "mock 0 at 0000:01:00.0 was planned as GPU-1, and is now GPU-2"
    if fallback == "refuse":
        with pytest.raises(ReplicaError, match=wanted):
            await replica.start()
    else:
        assert (await replica.start()).reason == wanted
        await replica.stop()


async def test_a_slice_that_only_the_vendors_library_tells_is_asked_for_there() -> None:
    class Sliced(MockBackend):
        def probe(self, devices: Sequence[Device]) -> Sequence[Device]:
            return [dataclasses.replace(device, identity=f"MIG-{n}") for device in devices for n in (1, 2)]

    backend = Sliced()
    whole = backend.detect()
    given = dataclasses.replace(assignment(Slow, backend=backend), device=backend.probe(whole)[1])
    replica = Replica(given, installed(Slow, backend=backend))
    assert (await replica.start()).state is State.READY
    await replica.stop()


@pytest.mark.parametrize("fallback", ["refuse", "degrade"])
async def test_a_replica_that_runs_on_what_was_planned_is_ready_either_way(fallback: str) -> None:
    backend = MockBackend(tells=True)

    class Takes(Anywhere):
        """Takes memory on the device."""

        def load(self, weights: Any, engine: Engine, device: Device) -> None:
            super().load(weights, engine, device)
            backend.fill(3 * 2**20, pid=os.getpid())

    async with started(Onnxruntime(threads=1), fallback, backend, Takes) as (replica, recorder):
        status = await replica.start()
        assert (status.state, replica.degraded, status.memory) == (State.READY, "", 3 * 2**20)
        assert "3 MiB taken on mock 0, provider CPUExecutionProvider, canary answered" in status.proof
        assert [sample.value for sample in recorder.named("argosy_replica_degraded")] == [0.0] * len(Cause)


async def test_a_library_that_falls_back_while_it_serves_degrades_the_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [name for name, _ in CUDA]
    session = stubs.Session(names, {names[0]: 1})
    stubs.cuda_onnxruntime(monkeypatch, session)
    turned = asyncio.Event()

    class Told(Recorder):
        def set(self, name: str, value: float, **tags: str) -> None:
            super().set(name, value, **tags)
            if value and tags.get("state") == "degraded":
                turned.set()

    engine, backend = Onnxruntime(providers=CUDA, strict=False), MockBackend()
    given = assignment(Anywhere, backend=backend, engine=engine, fallback="degrade")
    replica = Replica(given, installed(Anywhere, backend=backend), Told())
    assert (await replica.start()).state is State.READY
    session.used = ["CPUExecutionProvider"]
    await asyncio.wait_for(turned.wait(), 5)
    assert replica.degraded == "sigmoid.onnx was on CUDAExecutionProvider and has fallen back to CPUExecutionProvider"
    await replica.stop()


def test_the_fleet_file_decides_how_strict_an_engine_is_and_the_mask_knows_the_share(
    tmp_path: Path,
) -> None:
    class Capped(MockBackend):
        def environment(self, device: Device, *, share: float = 1.0, budget: int | None = None) -> dict[str, str]:
            return {"MOCK_SHARE": f"{share:g}", "MOCK_BYTES": str(budget)}

    backend = Capped(memory=(8 * 2**30,))
    registry = installed(Slow, backend=backend)
    made = {}
    for fallback in ("refuse", "degrade"):
        services = {"one": {"plugin": Slow.name, "share": 0.25, "fallback": fallback}}
        fleet = Fleet.model_validate({"version": 1, "services": services})
        plan = survey(fleet, registry, [node(registry)], Path(), store=tmp_path, offline=True)
        (placement,) = plan.of("one")
        made[fallback] = assign(fleet, placement, registry, base=Path(), cache="")
        assert made[fallback].engine.strict is (fallback == "refuse")
        assert made[fallback].environment == {"MOCK_SHARE": "0.25", "MOCK_BYTES": str(2 * 2**30)}
    refuse = made["refuse"]
    assert digest(refuse, frozenset()) == digest(dataclasses.replace(refuse), frozenset())
    assert digest(refuse, frozenset()) != digest(made["degrade"], frozenset()), "a change restarts the replica"
