"""Machines to detect devices on: trees of the files that Linux shows there, written below any folder.

    MACHINES["strix-halo-64"].build(tmp_path)
    assert backend.detect(tmp_path) == MACHINES["strix-halo-64"].expected

The formats are the kernel drivers' own, as their source prints them; each machine says where its figures come from.
What is marked `recorded` came from `argosy doctor --record`; the others are put together with `trees`, which tests use
for machines that lack something: a node, a driver, a permission.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ...backend import Device
from . import trees
from .trees import GIB, MIB

__all__ = ["MACHINES", "Machine", "trees"]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """source: where its figures come from; recorded: whether a real one wrote the files
    expected: its devices as files tell them, by PCI address; the processor is no part of it"""

    name: str
    source: str
    expected: tuple[Device, ...]
    write: Callable[[Path], None]
    recorded: bool = False

    def build(self, root: Path) -> None:
        """Write the machine's files below `root`, a folder that is empty or not there."""
        self.write(root)


def _rtx_2070(root: Path) -> None:
    trees.host(root, 31 * GIB)
    trees.nvidia(root, "0000:01:00.0", "10de:1f02", "NVIDIA GeForce RTX 2070")


def _h100(root: Path) -> None:
    trees.host(root, 251 * GIB)
    trees.nvidia(root, "0000:19:00.0", "10de:2330", "NVIDIA H100 80GB HBM3", kind=0x030200, render=0)


def radeon_680m(root: Path, *, kfd: bool = True) -> None:
    trees.host(root, 31 * GIB)
    trees.amd(root, "0000:04:00.0", "1002:1681", 100305, 24, vram=512 * MIB, gtt=15872 * MIB, kfd=kfd)


def _a770(root: Path) -> None:
    trees.host(root, 62 * GIB)
    trees.intel(root, "0000:03:00.0", "8086:56a0", "i915", bar=16 * GIB)


def _a380(root: Path) -> None:
    trees.host(root, 31 * GIB)
    trees.intel(root, "0000:03:00.0", "8086:56a5", "i915", bar=8 * GIB)


def _b580(root: Path) -> None:
    trees.host(root, 62 * GIB)
    trees.intel(root, "0000:03:00.0", "8086:e20b", "xe", bar=16 * GIB, told=12168933376)


def _core_ultra_9(root: Path) -> None:
    trees.host(root, 31 * GIB)
    trees.intel(root, "0000:00:02.0", "8086:7d55", "i915", bar=256 * MIB)


def _laptop(root: Path) -> None:
    trees.host(root, 30 * GIB)
    trees.nvidia(root, "0000:01:00.0", "10de:2820", "NVIDIA GeForce RTX 4070 Laptop GPU", render=129)
    trees.amd(root, "0000:65:00.0", "1002:15bf", 110003, 24, vram=512 * MIB, gtt=15 * GIB)


def _workstation(root: Path) -> None:
    trees.host(root, 125 * GIB)
    trees.amd(
        root,
        "0000:03:00.0",
        "1002:744c",
        110000,
        192,
        vram=25753026560,
        gtt=62 * GIB,
        integrated=False,
    )
    trees.nvidia(root, "0000:41:00.0", "10de:2684", "NVIDIA GeForce RTX 4090", render=129)
    trees.intel(root, "0000:83:00.0", "8086:e20b", "xe", bar=16 * GIB, told=12168933376, render=130)


def _empty_vm(root: Path) -> None:
    trees.host(root, 4 * GIB)
    trees.function(root, "0000:00:01.0", "1234:1111", 0x030000, "bochs-drm")


PCI_IDS = "ids and names: the PCI ID Project's list of 2026-05-24"
NVIDIA_FILES = f"files: the driver's own format, as open-gpu-kernel-modules prints it; {PCI_IDS}"
HALO = (
    "files: the formats of amdgpu and amdkfd in Linux; a bank of 118111600640 bytes beside 512 MiB of carve-out as in "
    "ROCm/rocm-systems#8475; half of the memory by default; 125 GiB left of 128 as owners report"
)
ARC_FILES = f"files: the formats of i915 and xe in Linux; {PCI_IDS} and Linux's include/drm/intel/pciids.h"


def _cuda(pci: str, name: str, architecture: str, index: int = 0) -> Device:
    return Device(
        backend="cuda",
        name=name,
        architecture=architecture,
        pci=pci,
        index=index,
        identity=trees.uuid(0),
        driver="nvidia 580.95.05",
    )


def _rocm(
    pci: str, name: str, architecture: str, memory: int, *problems: str, index: int = 0, integrated: bool = True
) -> Device:
    return Device(
        backend="rocm",
        name=name,
        architecture=architecture,
        pci=pci,
        integrated=integrated,
        memory_bytes=memory,
        index=index,
        identity="0",
        driver="amdgpu",
        problems=problems,
    )


def _xpu(
    pci: str, name: str, architecture: str, memory: int, driver: str, *, index: int = 0, integrated: bool = False
) -> Device:
    return Device(
        backend="xpu",
        name=name,
        architecture=architecture,
        pci=pci,
        integrated=integrated,
        memory_bytes=memory,
        index=index,
        identity="0",
        driver=driver,
    )


def _halo(name: str, set_up: str, memory: int, gtt: int, vram: int, found: int, *problems: str) -> Machine:
    return Machine(
        name=name,
        source=f"{HALO}; {set_up}",
        expected=(_rocm("0000:c5:00.0", "AMD Radeon 8060S", "gfx1151", found, *problems),),
        write=lambda root: trees.strix_halo(root, memory, gtt=gtt, vram=vram),
    )


def _all() -> tuple[Machine, ...]:
    no_kfd = "amd-no-kfd: the kernel's KFD does not list it, so Vulkan alone can use it"
    small = _rocm(
        "0000:04:00.0", "AMD Radeon 680M", "gfx1035", 15872 * MIB, "amd-gtt-default: 15.5 of 31.0 GiB may be used"
    )
    return (
        Machine(
            name="rtx-2070",
            source=NVIDIA_FILES,
            expected=(_cuda("0000:01:00.0", "NVIDIA GeForce RTX 2070", "sm_75"),),
            write=_rtx_2070,
        ),
        Machine(
            name="h100",
            source=f"{NVIDIA_FILES}; class 0x0302 and no render node, as on servers without nvidia-drm",
            expected=(_cuda("0000:19:00.0", "NVIDIA H100 80GB HBM3", "sm_90"),),
            write=_h100,
        ),
        _halo(
            "strix-halo-64",
            "64 GB, as it comes",
            62 * GIB,
            31 * GIB,
            512 * MIB,
            31 * GIB,
            "amd-gtt-default: 31.0 of 62.0 GiB may be used",
        ),
        _halo(
            "strix-halo-128-default",
            "128 GB, as it comes",
            125 * GIB,
            62 * GIB,
            512 * MIB,
            62 * GIB,
            "amd-gtt-default: 62.0 of 125.0 GiB may be used",
        ),
        _halo(
            "strix-halo-128-gtt",
            "128 GB with ttm.pages_limit=28835840",
            125 * GIB,
            110 * GIB,
            512 * MIB,
            118111600640,
        ),
        _halo(
            "strix-halo-128-carveout",
            "128 GB of which the BIOS sets 64 aside",
            61 * GIB,
            30 * GIB,
            64 * GIB,
            64 * GIB,
            "amd-carveout-big: 64.0 of 125.0 GiB are set aside",
        ),
        Machine(
            name="radeon-680m",
            source=f"files: the formats of amdgpu and amdkfd in Linux; 32 GB; {PCI_IDS}",
            expected=(small,),
            write=radeon_680m,
        ),
        Machine(
            name="radeon-680m-no-kfd",
            source=f"as radeon-680m, on a kernel without amdkfd; {PCI_IDS}",
            expected=(dataclasses.replace(small, problems=(no_kfd, *small.problems), usable=False, identity=""),),
            write=lambda root: radeon_680m(root, kfd=False),
        ),
        Machine(
            name="arc-a770",
            source=f"{ARC_FILES}; the 16 GB card, whose memory the window alone tells",
            expected=(_xpu("0000:03:00.0", "Intel Arc A770", "xe-hpg", 16 * GIB, "i915"),),
            write=_a770,
        ),
        Machine(
            name="arc-a380",
            source=f"{ARC_FILES}; 6 GB behind a window of 8",
            expected=(_xpu("0000:03:00.0", "Intel Arc A380", "xe-hpg", 6 * GIB, "i915"),),
            write=_a380,
        ),
        Machine(
            name="arc-b580",
            source=f"{ARC_FILES}; 12168933376 bytes as they were published for this card",
            expected=(_xpu("0000:03:00.0", "Intel Arc B580", "xe2-hpg", 12168933376, "xe"),),
            write=_b580,
        ),
        Machine(
            name="core-ultra-9",
            source=f"{ARC_FILES}; a Core Ultra 9 185H with 32 GB",
            expected=(_xpu("0000:00:02.0", "Intel Arc Graphics", "xe-lpg", 23 * GIB, "i915", integrated=True),),
            write=_core_ultra_9,
        ),
        Machine(
            name="laptop",
            source=f"{NVIDIA_FILES}; an RTX 4070 beside the Radeon 780M of a Ryzen 7 7840HS, 32 GB",
            expected=(
                _cuda("0000:01:00.0", "NVIDIA GeForce RTX 4070 Laptop GPU", "sm_89"),
                _rocm(
                    "0000:65:00.0",
                    "AMD Radeon 780M",
                    "gfx1103",
                    15 * GIB,
                    "amd-gtt-default: 15.0 of 30.0 GiB may be used",
                    index=1,
                ),
            ),
            write=_laptop,
        ),
        Machine(
            name="workstation",
            source=f"{NVIDIA_FILES}; {ARC_FILES}; 24560 MiB as amdgpu reports on a Radeon RX 7900 XTX; 128 GB",
            expected=(
                _rocm("0000:03:00.0", "AMD Radeon RX 7900 XTX", "gfx1100", 25753026560, integrated=False),
                _cuda("0000:41:00.0", "NVIDIA GeForce RTX 4090", "sm_89", index=1),
                _xpu("0000:83:00.0", "Intel Arc B580", "xe2-hpg", 12168933376, "xe", index=2),
            ),
            write=_workstation,
        ),
        Machine(name="empty-vm", source="QEMU's standard display", expected=(), write=_empty_vm),
    )


MACHINES: Mapping[str, Machine] = MappingProxyType({machine.name: machine for machine in _all()})
