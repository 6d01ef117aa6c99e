"""What the kernel's compute driver (KFD) and amdgpu tell of a GPU, below any root."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import argosy
from argosy import machine

TOPOLOGY = "sys/class/kfd/kfd/topology/nodes"
# Architectures that exist only beside a processor, in LLVM's AMDGPUUsage.
INTEGRATED = {
    *("gfx902", "gfx909", "gfx90c", "gfx1033", "gfx1035", "gfx1036", "gfx1103"),
    *("gfx1150", "gfx1151", "gfx1152", "gfx1153"),
}


@dataclass(frozen=True)
class Node:
    """A GPU in KFD's topology; memory is what one process can allocate there."""

    location: tuple[int, int]
    architecture: str
    simds: int
    memory: int
    number: str  # what KFD calls it where it tells who uses it
    paths: tuple[str, ...]


def nodes(root: Path) -> list[Node]:
    """KFD's GPUs in its own order, which is HIP's. A processor has no SIMDs; a node of a GPU that this container was
    not given cannot be read."""
    found = []
    for folder in sorted((root / TOPOLOGY).glob("*"), key=lambda folder: machine.number(folder.name)):
        told = {key: machine.number(value) for key, value in machine.pairs(machine.text(folder / "properties")).items()}
        version, simds = told.get("gfx_target_version", 0), told.get("simd_count", 0)
        if not version or not simds or version >= 1_000_000:
            continue
        banks = [machine.pairs(machine.text(bank)) for bank in folder.glob("mem_banks/*/properties")]
        sizes = [machine.number(bank.get("size_in_bytes", "")) for bank in banks if bank.get("heap_type") in ("1", "2")]
        render = told.get("drm_render_minor", 0)
        found.append(
            Node(
                location=(told.get("domain", 0), told.get("location_id", 0)),
                architecture=f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}",
                simds=simds,
                memory=sum(sizes),
                number=machine.text(folder / "gpu_id"),
                paths=("dev/kfd", *([f"dev/dri/renderD{render}"] if render else [])),
            )
        )
    return found


def integrated(display: machine.Display, architecture: str) -> bool:
    """By the architecture; where that is unknown, by the format of the driver's metrics (1: a card, 2 and 3: not)."""
    if architecture:
        return architecture in INTEGRATED
    try:
        with (display.folder / "gpu_metrics").open("rb") as file:
            return file.read(4)[2:3] in (b"\x02", b"\x03")
    except OSError:
        return False


def sizes(display: machine.Display) -> tuple[int, int]:
    """Bytes of its own, and of the system's that it may use (GTT)."""
    vram, gtt = (machine.number(machine.text(display.folder / f"mem_info_{name}_total")) for name in ("vram", "gtt"))
    return vram, gtt


def memory(root: Path, display: machine.Display, node: Node | None, integrated: bool) -> int | None:
    """What KFD lets allocate. With less of its own than of the system's memory, an integrated GPU allocates there, so
    the host's reserve is taken off; a larger part that the BIOS set aside is no memory of the host."""
    vram, gtt = sizes(display)
    size = (node.memory if node else 0) or (max(vram, gtt) if integrated else vram)
    if integrated and vram <= gtt and size:
        return machine.unified(root, size)
    return size or None


def held(root: Path, device: argosy.Device, pids: Collection[int] = ()) -> Sequence[argosy.Held]:
    """What the DRM driver counts for each process, or KFD, whichever is more: they count much of the same."""
    found = machine.drm_memory(root, device.pci or "", pids, shared=device.integrated)
    number = next((node.number for node in nodes(root) if node.location == machine.location(device.pci or "")), "")
    for folder in (root / "sys/class/kfd/kfd/proc").glob("*") if number else ():
        pid = machine.number(folder.name)
        if pid and (not pids or pid in pids):
            size = machine.number(machine.text(folder / f"vram_{number}"))
            found[pid] = max(found.get(pid, 0), size)
    return tuple(argosy.Held(pid=pid, bytes=size) for pid, size in sorted(found.items()) if size or pids)
