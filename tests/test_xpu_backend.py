"""Intel's adapter: what an Arc's files tell, how it is named to whom, and what is offered to which generation."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from argosy import Device, engines
from argosy.engines import Onnxruntime, Openvino, OpenvinoGenai, Vllm
from argosy.testing import check_backend
from argosy.testing.machines import MACHINES, trees
from argosy_xpu import GPUS, Xpu, child
from argosy_xpu.checks import CHECKS, ENGINES, WARNINGS, lacks
from argosy_xpu.extension import Torch, matched

GIB, MIB = trees.GIB, trees.MIB
ICD, DRIVER = "etc/OpenCL/vendors/intel.icd", "/usr/lib/x86_64-linux-gnu/intel-opencl/libigdrcl.so\n"


def distribution(folder: Path, name: str, version: str) -> None:
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    trees.put(folder, f"{name.replace('-', '_')}-{version}.dist-info/METADATA", text)


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Python environment with nothing in it."""
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])
    return tmp_path / "site"


def one(root: Path, name: str) -> Device:
    MACHINES[name].build(root)
    (device,) = Xpu().detect(root)
    return device


# what files tell -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "more", "memory"),
    [
        ("8086:56a0", {"bar": 16 * GIB}, 16 * GIB),
        ("8086:56a0", {"bar": 8 * GIB}, 8 * GIB),  # the same id with half the memory
        ("8086:56a0", {"bar": 256 * MIB}, None),
        ("8086:56a0", {}, None),
        ("8086:56a5", {"bar": 256 * MIB}, 6 * GIB),
        ("8086:e20b", {"bar": 16 * GIB}, 12 * GIB),
        ("8086:e20b", {"bar": 16 * GIB, "told": 11 * GIB}, 11 * GIB),
        ("8086:e2ff", {"bar": 16 * GIB}, None),  # newer than the list: the window is wider than the memory, or not
        ("8086:e2ff", {"bar": 16 * GIB, "told": 10 * GIB}, 10 * GIB),
    ],
)
def test_memory_is_what_the_kernel_names_or_the_id_or_for_some_the_window(
    ids: str, more: dict[str, int], memory: int | None, tmp_path: Path
) -> None:
    trees.intel(tmp_path, "0000:03:00.0", ids, "xe", **more)  # type: ignore[arg-type]
    (device,) = Xpu().detect(tmp_path)
    assert device.memory_bytes == memory
    assert device.usable


def test_a_window_of_256_mib_means_that_resizable_bar_is_off(tmp_path: Path, bare: Path) -> None:
    trees.intel(tmp_path, "0000:03:00.0", "8086:56a0", "i915", bar=256 * MIB)
    (device,) = Xpu().detect(tmp_path)
    assert device.problems == ("arc-rebar: the window to its memory has 256 MiB",)
    assert device.usable
    (finding,) = Xpu().checks(tmp_path)
    assert (finding.check, finding.fatal) == ("arc-rebar", False)
    assert "Resizable BAR" in finding.fix


def test_an_integrated_gpu_has_the_system_s_memory_less_the_host_s_part(tmp_path: Path) -> None:
    device = one(tmp_path, "core-ultra-9")
    assert (device.integrated, device.memory_bytes, device.problems) == (True, 23 * GIB, ())


def test_an_older_gpu_is_seen_and_not_used_and_a_newer_one_gets_what_needs_no_tuning(tmp_path: Path) -> None:
    trees.host(tmp_path, 31 * GIB)
    trees.intel(tmp_path, "0000:00:02.0", "8086:4680", "i915", bar=256 * MIB)
    trees.intel(tmp_path, "0000:03:00.0", "8086:e2ff", "xe", bar=16 * GIB, render=129)
    older, newer = Xpu().detect(tmp_path)
    assert older.problems == ("arc-unknown: 8086:4680 is none of the GPUs that this adapter knows",)
    assert not [one for one in Xpu().checks(tmp_path) if one.check == "arc-unknown" and one.fatal]
    assert (older.usable, older.integrated, older.identity) == (False, True, "")
    assert (newer.usable, newer.architecture, newer.identity) == (True, "", "1")  # Level Zero counts both
    assert {offer.name for offer in Xpu().offers(newer, None, 1)} == {"openvino", "openvino_genai", "onnxruntime"}
    assert set(Xpu().refuses(newer)) == {"ctranslate2", "torch", "vllm"}
    (tmp_path / "dev/dri/renderD128").unlink()  # nor does it count what it was not given
    assert [device.identity for device in Xpu().detect(tmp_path)] == ["", "0"]


def test_an_older_gpu_that_can_be_opened_is_counted_and_one_without_a_driver_is_not(tmp_path: Path) -> None:
    trees.intel(tmp_path, "0000:00:02.0", "8086:4680", "i915", bar=256 * MIB)
    trees.intel(tmp_path, "0000:01:00.0", "8086:56a0", "vfio-pci", bar=16 * GIB, render=130)
    trees.intel(tmp_path, "0000:03:00.0", "8086:e20b", "xe", bar=16 * GIB, render=129)
    xpu = Xpu()
    *others, card = xpu.detect(tmp_path)
    assert [other.identity for other in others] == ["", ""]
    assert xpu.environment(card)["ZE_AFFINITY_MASK"] == "1"
    named = {offer.device for offer in xpu.offers(card, None, 1) if isinstance(offer, Openvino | OpenvinoGenai)}
    assert named == {"GPU.1"}


def test_a_card_without_a_render_node_was_not_passed_on(tmp_path: Path) -> None:
    trees.intel(tmp_path, "0000:03:00.0", "8086:e20b", "xe", bar=16 * GIB, render=0)
    (device,) = Xpu().detect(tmp_path)
    assert device.problems == ("gpu-not-passed: it has no render node",)
    assert not device.usable


def test_every_gpu_of_the_list_has_a_name_an_architecture_and_a_sensible_memory() -> None:
    assert all(name.startswith("Intel ") and architecture.startswith("xe") for name, architecture, _ in GPUS.values())
    assert {own for _, _, own in GPUS.values()} <= {None, 0, 4, 6, 8, 10, 12, 16, 24}


# masks and offers ----------------------------------------------------------------------------------------------------


def test_level_zero_and_openvino_count_the_integrated_gpu_first(tmp_path: Path) -> None:
    trees.host(tmp_path, 31 * GIB)
    trees.intel(tmp_path, "0000:83:00.0", "8086:e20b", "xe", bar=16 * GIB, render=130)
    trees.intel(tmp_path, "0000:03:00.0", "8086:56a0", "i915", bar=16 * GIB, render=129)
    trees.intel(tmp_path, "0000:00:02.0", "8086:7d55", "i915", bar=256 * MIB)
    xpu = Xpu()
    found = xpu.detect(tmp_path)
    assert [device.integrated for device in found] == [True, False, False]
    assert [xpu.environment(device)["ZE_AFFINITY_MASK"] for device in found] == ["0", "1", "2"]
    assert {xpu.environment(device)["ZE_ENABLE_PCI_ID_DEVICE_ORDER"] for device in found} == {"1"}
    for number, device in enumerate(found):
        named = [offer.device for offer in xpu.offers(device, None, 1) if isinstance(offer, Openvino | OpenvinoGenai)]
        assert named == [f"GPU.{number}"] * 2
    (tmp_path / "dev/dri/renderD128").unlink()  # a container with the cards alone
    assert [device.identity for device in xpu.detect(tmp_path)] == ["", "0", "1"]


def offered(device: Device, budget: int | None) -> dict[str, Any]:
    return {offer.name: offer for offer in Xpu().offers(device, budget, 2)}


def test_alchemist_gets_halves_and_triton_s_attention(tmp_path: Path) -> None:
    found = offered(one(tmp_path, "arc-a770"), 8 * GIB)
    assert isinstance(found["vllm"], Vllm)
    assert (found["vllm"].device, found["vllm"].dtype, found["vllm"].attention) == ("xpu", "half", "TRITON_ATTN")
    assert (found["vllm"].kv_cache_bytes, found["vllm"].memory_fraction) == (2 * GIB, 7.5 / 16)
    assert (found["torch"].device, found["torch"].dtype, found["torch"].build) == ("xpu:0", "float16", "xpu")
    assert isinstance(found["onnxruntime"], Onnxruntime)
    assert found["onnxruntime"].providers[0][0] == "OpenVINOExecutionProvider"
    assert (found["onnxruntime"].plugin, found["onnxruntime"].on) == ("onnxruntime-ep-openvino", {"ov_device": "GPU.0"})


def test_battlemage_gets_what_the_weights_are_and_integrated_ones_no_vllm(tmp_path: Path) -> None:
    found = offered(one(tmp_path / "b580", "arc-b580"), None)
    assert (found["vllm"].dtype, found["vllm"].attention, found["vllm"].memory_fraction) == ("auto", None, None)
    assert found["torch"].dtype == "bfloat16"
    device = one(tmp_path / "ultra", "core-ultra-9")
    assert set(offered(device, None)) == {"openvino", "openvino_genai", "onnxruntime", "torch"}
    assert Xpu().refuses(device)["vllm"] == "vLLM is tried on Arc cards, not on xe-lpg"


def test_who_holds_memory_is_asked_of_the_kernel(tmp_path: Path) -> None:
    device = dataclasses.replace(one(tmp_path, "arc-b580"), pci="ffff:ff:1f.7")
    assert list(Xpu().held(device)) == []
    assert [(entry.pid, entry.bytes) for entry in Xpu().held(device, [os.getpid()])] == [(os.getpid(), 0)]
    assert Xpu().enforcement(device) == "watched"


# what openvino tells -------------------------------------------------------------------------------------------------


def test_a_reply_of_openvino_is_understood() -> None:
    reply = [
        {"pci": {"domain": 0, "bus": 3, "device": 0, "function": 0}, "memory": 16225243136},
        {"pci": {"domain": 1, "bus": 193, "device": 2, "function": 1}, "memory": 0},
    ]
    assert child.parsed(json.loads(json.dumps(reply))) == {"0000:03:00.0": 16225243136}


STUB = """
class Core:
    available_devices = ["CPU", "GPU.0", "GPU.1", "NPU"]
    def get_property(self, device_name, property):
        bus = {"GPU.0": 0, "GPU.1": 3}[device_name]
        return {
            "DEVICE_PCI_INFO": {"domain": 0, "bus": bus, "device": 0 if bus else 2, "function": 0},
            "GPU_DEVICE_TOTAL_MEM_SIZE": 8 * 2**30 if bus else 2**34,
        }[property]
"""


def test_a_card_whose_files_do_not_tell_is_asked_in_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees.put(tmp_path, "stub/openvino.py", STUB)
    trees.intel(tmp_path / "root", "0000:03:00.0", "8086:56a0", "i915", bar=256 * MIB)
    found = Xpu().detect(tmp_path / "root")
    assert found[0].memory_bytes is None
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "stub"))
    (known,) = Xpu().probe(found)
    assert known.memory_bytes == 8 * GIB
    (known,) = Xpu().probe([dataclasses.replace(found[0], pci="0000:07:00.0")])
    assert known.memory_bytes is None


def test_openvino_itself_is_asked_in_its_own_words() -> None:
    """The names of the properties; a machine without such a GPU has no more to say."""
    import openvino

    assert child.ask() == {} or all(size > 0 for size in child.ask().values())
    source = Path(child.__file__).read_text()
    assert openvino.properties.intel_gpu.device_total_mem_size() == "GPU_DEVICE_TOTAL_MEM_SIZE"
    assert '"GPU_DEVICE_TOTAL_MEM_SIZE"' in source


def test_what_takes_too_long_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trees.put(tmp_path, "openvino.py", "import time\ntime.sleep(60)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(child, "SECONDS", 0.3)
    assert child.ask() == {}


# this environment ----------------------------------------------------------------------------------------------------


def test_engines_that_would_not_compute_there_are_named_and_not_offered(tmp_path: Path, bare: Path) -> None:
    device = one(tmp_path / "root", "arc-b580")
    for name, version in (("torch", "2.14.0"), ("vllm", "0.32.0"), ("onnxruntime", "1.32.0"), ("ray", "2.60.0")):
        distribution(bare, name, version)
    distribution(bare, "intel-extension-for-pytorch", "2.8.0")
    (known,) = Xpu().probe([device])
    named = {problem.partition(":")[0] for problem in known.problems}
    assert named == {"build-torch", "build-vllm", "build-onnxruntime"}
    assert {offer.name for offer in Xpu().offers(known, GIB, 1)} == {"openvino", "openvino_genai"}
    findings = Xpu().checks(tmp_path / "root")
    assert {finding.check for finding in findings} == named | {"ray-dpctl", "arc-ipex"}
    assert not any(finding.fatal for finding in findings)


def test_openvino_needs_the_opencl_driver(tmp_path: Path, bare: Path) -> None:
    one(tmp_path / "root", "arc-b580")
    distribution(bare, "openvino", "2026.4.1")
    assert [finding.check for finding in Xpu().checks(tmp_path / "root")] == ["arc-icd"]
    trees.put(
        tmp_path / "root", "etc/OpenCL/vendors/intel.icd", "/usr/lib/x86_64-linux-gnu/intel-opencl/libigdrcl.so\n"
    )
    assert list(Xpu().checks(tmp_path / "root")) == []


def test_xpu_s_own_builds_are_offered(tmp_path: Path, bare: Path) -> None:
    for name, version in (("torch", "2.14.0+xpu"), ("vllm", "0.32.0+xpu"), ("onnxruntime", "1.32.0")):
        distribution(bare, name, version)
    distribution(bare, "onnxruntime-ep-openvino", "1.8.1")
    device = one(tmp_path / "root", "arc-b580")
    trees.put(tmp_path / "root", ICD, DRIVER)
    assert [problem.partition(":")[0] for problem in lacks(tmp_path / "root")] == []
    (known,) = Xpu().probe([device])
    assert set(known.problems) <= {"arc-icd: no Intel driver is registered in /etc/OpenCL/vendors"}  # of this machine
    known = dataclasses.replace(known, problems=())
    assert len(Xpu().offers(known, GIB, 1)) == 5
    distribution(bare, "triton", "3.5.0")
    (finding,) = Xpu().checks(tmp_path / "root")
    assert finding.check == "arc-triton"


def test_the_extension_is_used_beside_its_own_torch_alone(bare: Path) -> None:
    assert not matched()
    distribution(bare, "intel-extension-for-pytorch", "2.8.10+xpu")
    assert not matched()
    distribution(bare, "torch", "2.8.0+xpu")
    assert matched()
    for torch in ("2.14.0+xpu", "2.8.0+cpu", "2.8.0", "3.8.0+xpu"):
        (bare / "torch-2.8.0+xpu.dist-info/METADATA").write_text(
            f"Metadata-Version: 2.1\nName: torch\nVersion: {torch}\n"
        )
        assert not matched(), torch


def test_the_extension_is_imported_before_torch_is_prepared(tmp_path: Path) -> None:
    """In a process of its own, with a torch that says what happened to it."""
    trees.put(
        tmp_path, "intel_extension_for_pytorch.py", "import torch\ntorch.extended = True\n__version__ = '2.8.10+xpu'\n"
    )
    trees.put(
        tmp_path,
        "torch.py",
        "from types import SimpleNamespace as Of\n__version__ = '2.8.0+xpu'\nextended = False\n"
        "version = Of(xpu='20250101', cuda=None)\n"
        "def capped(fraction, device=None): print('capped', fraction, device, extended)\n"
        "xpu = Of(is_available=lambda: True, device_count=lambda: 1, set_per_process_memory_fraction=capped)\n",
    )
    for name, version in (("torch", "2.8.0+xpu"), ("intel-extension-for-pytorch", "2.8.10+xpu")):
        distribution(tmp_path, name, version)
    script = (
        "from argosy_xpu.extension import Torch\n"
        "engine = Torch(device='xpu:0', build='xpu', memory_fraction=0.5).prepare()\n"
        "print(engine.seen.told['extension'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["capped 0.5 0 True", "intel-extension-for-pytorch 2.8.10+xpu"]
    assert issubclass(Torch, engines.Torch)


def test_every_check_has_a_symptom_and_something_to_type() -> None:
    assert all(symptom and fix for symptom, fix in CHECKS.values())
    assert set(CHECKS) >= WARNINGS | set(ENGINES)


def test_it_keeps_the_contract_where_there_is_no_gpu() -> None:
    check_backend(Xpu())
