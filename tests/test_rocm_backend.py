"""AMD's adapter: which GPU HIP calls what, whose memory is counted, and what is offered to which architecture."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from argosy import Device
from argosy.engines import Onnxruntime, Torch, Vllm
from argosy.testing import check_backend
from argosy.testing.machines import MACHINES, trees
from argosy_rocm import Rocm, kfd
from argosy_rocm.checks import CHECKS, WARNINGS

GIB, MIB = trees.GIB, trees.MIB
HALO = {"memory": 62 * GIB, "gtt": 48 * GIB}


def halo(root: Path, **more: Any) -> Device:
    """A Strix Halo whose memory is set up well, unless `more` says otherwise."""
    trees.strix_halo(root, **(HALO | more))
    (device,) = Rocm().detect(root)
    return device


def distribution(folder: Path, name: str, version: str) -> None:
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    trees.put(folder, f"{name.replace('-', '_')}-{version}.dist-info/METADATA", text)


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Python environment with nothing in it, and none of the vendor's variables."""
    for name in ("HSA_OVERRIDE_GFX_VERSION", *(f"{kind}_VISIBLE_DEVICES" for kind in ("HIP", "ROCR", "CUDA"))):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])
    return tmp_path / "site"


@pytest.mark.parametrize(
    ("version", "name"),
    [(110501, "gfx1151"), (100305, "gfx1035"), (90010, "gfx90a"), (90402, "gfx942"), (120001, "gfx1201")],
)
def test_architectures_have_hexadecimal_digits(version: int, name: str, tmp_path: Path) -> None:
    trees.amd(tmp_path, "0000:03:00.0", "1002:ffff", version, 64, vram=8 * GIB, gtt=GIB, integrated=False)
    (device,) = Rocm().detect(tmp_path)
    assert (device.architecture, device.name) == (name, "AMD GPU 1002:ffff")


# memory --------------------------------------------------------------------------------------------------------------


def test_the_bank_counts_and_the_host_keeps_its_part(tmp_path: Path) -> None:
    assert halo(tmp_path / "a").memory_bytes == 48 * GIB
    assert halo(tmp_path / "b", gtt=60 * GIB).memory_bytes == 54 * GIB  # of 62 GiB, less 8
    assert halo(tmp_path / "c", bank=40 * GIB).memory_bytes == 40 * GIB
    assert halo(tmp_path / "d", memory=30 * GIB, vram=32 * GIB, gtt=15 * GIB).memory_bytes == 32 * GIB


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"gtt": 31 * GIB}, "amd-gtt-default: 31.0 of 62.0 GiB may be used"),
        ({"memory": 31 * GIB, "vram": 32 * GIB, "gtt": 15 * GIB}, "amd-carveout-big: 32.0 of 63.0 GiB are set aside"),
        ({"kernel": "6.18.3-arch1"}, "amd-kernel: Linux 6.18.3-arch1"),
        ({"kernel": "6.8.0-60-generic"}, "amd-kernel: Linux 6.8.0-60-generic"),
    ],
)
def test_a_set_up_that_hinders_is_named_with_what_to_type_and_used(
    more: dict[str, Any], problem: str, tmp_path: Path, bare: Path
) -> None:
    device = halo(tmp_path, **more)
    assert device.problems == (problem,)
    assert device.usable
    (finding,) = Rocm().checks(tmp_path)
    assert (finding.check, finding.fatal) == (problem.partition(":")[0], False)
    if "pages_limit" in finding.fix:
        whole = more.get("memory", 62 * GIB)
        assert f"ttm.pages_limit={(whole - 8 * GIB) // 4096} " in f"{finding.fix} "


def test_a_well_set_up_machine_has_nothing_to_complain_of(tmp_path: Path, bare: Path) -> None:
    assert halo(tmp_path).problems == ()
    assert list(Rocm().checks(tmp_path)) == []
    assert Rocm().absent(tmp_path) == ""


def test_the_firmware_that_hangs_is_known(tmp_path: Path) -> None:
    halo(tmp_path)
    trees.put(tmp_path, "sys/bus/pci/devices/0000:c5:00.0/fw_version/mes_fw_version", "0x00000083\n")
    (device,) = Rocm().detect(tmp_path)
    assert device.problems == ("amd-firmware: the scheduler's is 0x83",)


# several -------------------------------------------------------------------------------------------------------------


def several(root: Path) -> None:
    """A processor's GPU that KFD lists first, and two cards; their PCI addresses stand the other way round."""
    trees.host(root, 62 * GIB)
    card = {"vram": 24 * GIB, "gtt": 31 * GIB, "integrated": False}
    trees.amd(root, "0000:c5:00.0", "1002:1586", 110501, 80, vram=512 * MIB, gtt=48 * GIB, number=1, render=130)
    trees.amd(root, "0000:43:00.0", "1002:744c", 110000, 192, number=2, render=129, **card)  # type: ignore[arg-type]
    trees.amd(root, "0000:03:00.0", "1002:744c", 110000, 168, number=10, render=128, **card)  # type: ignore[arg-type]


def test_hip_counts_in_kfd_s_order_and_devices_come_in_that_of_their_addresses(tmp_path: Path) -> None:
    several(tmp_path)
    rocm = Rocm()
    found = rocm.detect(tmp_path)
    assert [device.pci for device in found] == ["0000:03:00.0", "0000:43:00.0", "0000:c5:00.0"]
    assert [device.name for device in found] == ["AMD Radeon RX 7900 XT", "AMD Radeon RX 7900 XTX", "AMD Radeon 8060S"]
    assert [rocm.environment(device)["HIP_VISIBLE_DEVICES"] for device in found] == ["2", "1", "0"]
    assert [device.integrated for device in found] == [False, False, True]
    assert [device.memory_bytes for device in found] == [24 * GIB, 24 * GIB, 48 * GIB]


def test_a_gpu_that_the_container_was_not_given_is_not_counted(tmp_path: Path) -> None:
    several(tmp_path)
    (tmp_path / "dev/dri/renderD130").unlink()
    first, second, third = Rocm().detect(tmp_path)
    assert (first.identity, second.identity, third.identity) == ("1", "0", "")
    assert third.problems == ("gpu-not-passed: missing /dev/dri/renderD130",)
    # Its properties cannot be read either, where the container's device rules keep it out.
    (tmp_path / kfd.TOPOLOGY / "1/properties").write_text("")
    first, second, third = Rocm().detect(tmp_path)
    assert (first.identity, second.identity, third.usable) == ("1", "0", False)


def test_masks_are_hip_s_and_never_rocr_s(tmp_path: Path) -> None:
    found = Rocm().environment(halo(tmp_path), share=0.5, budget=GIB)
    assert found == {"HIP_VISIBLE_DEVICES": "0", "MIOPEN_FIND_MODE": "2"}


# offers --------------------------------------------------------------------------------------------------------------


def test_strix_halo_is_offered_all_that_there_is_with_explicit_bytes(tmp_path: Path) -> None:
    device = halo(tmp_path)
    found = {offer.name: offer for offer in Rocm().offers(device, 24 * GIB, 4)}
    assert set(found) == {"vllm", "torch", "onnxruntime"}
    vllm, torch, onnx = found["vllm"], found["torch"], found["onnxruntime"]
    assert isinstance(vllm, Vllm)
    assert (vllm.kv_cache_bytes, vllm.memory_fraction) == (6 * GIB, 23.5 / 48)
    assert isinstance(torch, Torch)
    assert (torch.device, torch.dtype, torch.build) == ("cuda:0", "bfloat16", "hip")
    assert isinstance(onnx, Onnxruntime)
    assert onnx.providers[0] == ("MIGraphXExecutionProvider", {"device_id": 0})
    assert set(Rocm().refuses(device)) == {"ctranslate2", "openvino", "openvino_genai"}


def test_the_integrated_gpu_of_a_rembrandt_is_offered_torch_alone(tmp_path: Path) -> None:
    MACHINES["radeon-680m"].build(tmp_path)
    (device,) = Rocm().detect(tmp_path)
    (torch,) = Rocm().offers(device, 4 * GIB, 4)
    assert isinstance(torch, Torch)
    assert torch.dtype == "float16"
    refused = Rocm().refuses(device)
    assert refused["vllm"] == "vLLM is not built for gfx1035"
    assert "MIGraphX" in refused["onnxruntime"]


@pytest.mark.parametrize(
    ("version", "engines"),
    [
        (90402, {"vllm", "torch", "onnxruntime"}),
        (110000, {"vllm", "torch", "onnxruntime"}),
        (110003, {"torch", "onnxruntime"}),
        (120001, {"vllm", "torch", "onnxruntime"}),
        (100300, {"torch"}),
        (100306, set()),
        (90012, set()),
    ],
)
def test_others_are_offered_what_is_built_for_them(version: int, engines: set[str], tmp_path: Path) -> None:
    trees.amd(tmp_path, "0000:03:00.0", "1002:ffff", version, 64, vram=8 * GIB, gtt=GIB, integrated=False)
    (device,) = Rocm().detect(tmp_path)
    assert {offer.name for offer in Rocm().offers(device, None, 1)} == engines
    assert {"vllm", "torch", "onnxruntime"} - engines <= set(Rocm().refuses(device))


def test_a_gpu_without_kfd_is_seen_and_not_used(tmp_path: Path) -> None:
    MACHINES["radeon-680m-no-kfd"].build(tmp_path)
    (device,) = Rocm().detect(tmp_path)
    assert (device.integrated, device.usable, device.architecture) == (True, False, "gfx1035")
    assert "Vulkan" in Rocm().absent(tmp_path)


# who holds what ------------------------------------------------------------------------------------------------------


def test_what_drm_and_kfd_count_is_one_figure_the_larger(tmp_path: Path) -> None:
    device = halo(tmp_path)
    text = (
        "drm-driver:\tamdgpu\ndrm-client-id:\t{}\ndrm-pdev:\t0000:c5:00.0\n"
        "drm-memory-vram:\t4096 KiB\ndrm-memory-gtt:\t1048576 KiB\n"
    )
    trees.put(tmp_path, "proc/100/fdinfo/9", text.format(1))
    trees.put(tmp_path, "proc/101/fdinfo/9", text.format(2))
    trees.put(tmp_path, "proc/102/fdinfo/9", "pos:\t0\n")
    trees.put(tmp_path, "sys/class/kfd/kfd/proc/100/vram_51281", f"{2 * GIB}\n")
    trees.put(tmp_path, "sys/class/kfd/kfd/proc/4444/vram_51281", f"{3 * GIB}\n")  # a number of the host
    trees.put(tmp_path, "sys/class/kfd/kfd/proc/101/vram_999", f"{9 * GIB}\n")  # on another GPU
    everybody = {one.pid: one.bytes for one in kfd.held(tmp_path, device)}
    assert everybody == {100: 2 * GIB, 101: GIB + 4 * MIB, 4444: 3 * GIB}
    assert {one.pid: one.bytes for one in kfd.held(tmp_path, device, [101, 102, 103])} == {101: GIB + 4 * MIB, 102: 0}


def test_nobody_holds_anything_of_a_gpu_that_is_not_here(tmp_path: Path) -> None:
    device = dataclasses.replace(halo(tmp_path), pci="ffff:ff:1f.7")
    assert list(Rocm().held(device)) == []
    assert [(one.pid, one.bytes) for one in Rocm().held(device, [os.getpid()])] == [(os.getpid(), 0)]


# this environment ----------------------------------------------------------------------------------------------------


def test_engines_that_were_built_for_something_else_are_named_and_not_offered(tmp_path: Path, bare: Path) -> None:
    device = halo(tmp_path / "root")
    for name, version in (("torch", "2.14.0"), ("vllm", "0.32.0"), ("onnxruntime", "1.32.0"), ("amdsmi", "7.0.2")):
        distribution(bare, name, version)
    (known,) = Rocm().probe([device])
    named = {problem.partition(":")[0] for problem in known.problems}
    assert named == {"amd-wrong-wheel", "build-vllm", "build-onnxruntime"}
    assert known.usable
    assert list(Rocm().offers(known, GIB, 1)) == []
    findings = {finding.check: finding for finding in Rocm().checks(tmp_path / "root")}
    assert set(findings) == named | {"ray-amdsmi"}
    assert findings["ray-amdsmi"].fatal
    assert not findings["amd-wrong-wheel"].fatal


def test_rocm_s_own_builds_are_offered(tmp_path: Path, bare: Path) -> None:
    for name, version in (
        ("torch", "2.13.0+rocm10.0.0"),
        ("vllm", "0.31.0+rocm723"),
        ("onnxruntime-migraphx", "1.27.1"),
    ):
        distribution(bare, name, version)
    (known,) = Rocm().probe([halo(tmp_path / "root")])
    assert known.problems == ()
    assert len(Rocm().offers(known, GIB, 1)) == 3


@pytest.mark.parametrize(
    ("variables", "check"),
    [
        ({"HSA_OVERRIDE_GFX_VERSION": "11.0.0"}, "amd-override"),
        ({"ROCR_VISIBLE_DEVICES": "0"}, "ray-env"),
        ({"HIP_VISIBLE_DEVICES": "1", "CUDA_VISIBLE_DEVICES": "0"}, "ray-env"),
        ({"HIP_VISIBLE_DEVICES": "0", "CUDA_VISIBLE_DEVICES": "0"}, ""),
        ({"HIP_VISIBLE_DEVICES": "0", "ROCR_VISIBLE_DEVICES": "0"}, ""),
    ],
)
def test_variables_that_lead_libraries_astray_are_found(
    variables: dict[str, str], check: str, tmp_path: Path, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    halo(tmp_path)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = Rocm().checks(tmp_path)
    assert [finding.check for finding in found] == ([check] if check else [])
    assert all("unset" in finding.fix for finding in found)


def test_where_there_is_no_amd_gpu_nothing_is_said(tmp_path: Path, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution(bare, "amdsmi", "7.0.2")
    monkeypatch.setenv("ROCR_VISIBLE_DEVICES", "0")
    MACHINES["rtx-2070"].build(tmp_path)
    assert list(Rocm().checks(tmp_path)) == []


def test_every_check_has_a_symptom_and_something_to_type() -> None:
    assert all(symptom and fix for symptom, fix in CHECKS.values())
    assert set(CHECKS) >= WARNINGS


def test_it_keeps_the_contract_where_there_is_no_gpu() -> None:
    check_backend(Rocm())
