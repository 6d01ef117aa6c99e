"""The files of a machine: what Linux and the vendors' drivers print, written below a folder."""

from __future__ import annotations

import struct
from pathlib import Path

GIB, MIB = 2**30, 2**20


def put(root: Path, path: str, content: str | bytes = "") -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content if isinstance(content, bytes) else content.encode())


def node(root: Path, path: str) -> None:
    """A device node, which anybody may open; an empty file, for a real one could not be made here."""
    put(root, f"dev/{path}")
    (root / "dev" / path).chmod(0o666)


def host(root: Path, memory: int, kernel: str = "6.18.9-generic") -> None:
    """memory: what the kernel calls MemTotal, in bytes"""
    put(root, "proc/meminfo", f"MemTotal:       {memory // 1024} kB\nMemFree:        {memory // 2048} kB\n")
    put(root, "proc/sys/kernel/osrelease", f"{kernel}\n")
    function(root, "0000:00:1f.3", "8086:7ad0", 0x040300, "snd_hda_intel")  # sound is no display


def function(root: Path, pci: str, ids: str, kind: int, driver: str, *, render: int = 0) -> str:
    """One PCI function; `kind` is its class, `render` its render node, where it has one. Returns its folder."""
    folder, (vendor, device) = f"sys/bus/pci/devices/{pci}", ids.split(":")
    for name, text in (("vendor", f"0x{vendor}"), ("device", f"0x{device}"), ("class", f"0x{kind:06x}")):
        put(root, f"{folder}/{name}", f"{text}\n")
    held = f"DRIVER={driver}\n" if driver else ""
    put(root, f"{folder}/uevent", f"{held}PCI_CLASS={kind:X}\nPCI_ID={ids.upper()}\nPCI_SLOT_NAME={pci}\n")
    if driver:
        (root / "sys/bus/pci/drivers" / driver).mkdir(parents=True, exist_ok=True)
        (root / folder / "driver").symlink_to(f"../../drivers/{driver}")
    if render:
        put(root, f"{folder}/drm/renderD{render}/dev", f"226:{render}\n")
        node(root, f"dri/renderD{render}")
    return folder


def nvidia(
    root: Path,
    pci: str,
    ids: str,
    name: str,
    *,
    kind: int = 0x030000,
    driver: str = "nvidia",
    version: str = "580.95.05",
    minor: int = 0,
    render: int = 128,
    slices: int = 0,
) -> None:
    """`slices`: how many the GPU is cut into (MIG)."""
    function(root, pci, ids, kind, driver, render=render)
    if driver != "nvidia":
        return
    put(
        root,
        "proc/driver/nvidia/version",
        f"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {version}  Release Build  (dvs-builder@U22)\n"
        "GCC version:  gcc version 13.3.0 (Ubuntu 13.3.0-6ubuntu2~24.04)\n",
    )
    put(
        root,
        f"proc/driver/nvidia/gpus/{pci}/information",
        f"Model: \t\t {name}\nIRQ:   \t\t 154\nGPU UUID: \t {uuid(minor)}\nVideo BIOS: \t 90.06.18.40.5f\n"
        "Bus Type: \t PCIe\nDMA Size: \t 47 bits\nDMA Mask: \t 0x7fffffffffff\n"
        f"Bus Location: \t {pci}\nDevice Minor: \t {minor}\nGPU Firmware: \t {version}\nGPU Excluded:\t No\n",
    )
    for each in ("nvidiactl", "nvidia-uvm", f"nvidia{minor}"):
        node(root, each)
    for one in range(slices):
        access = f"proc/driver/nvidia/capabilities/gpu{minor}/mig/gi{one + 7}/ci0/access"
        put(root, access, f"DeviceFileMinor: {30 + 9 * one}\nDeviceFileMode: 444\nDeviceFileModify: 1\n")


def uuid(minor: int) -> str:
    return f"GPU-{minor + 1:08d}-0000-0000-0000-000000000000"


def amd(
    root: Path,
    pci: str,
    ids: str,
    gfx: int,
    simds: int,
    *,
    vram: int,
    gtt: int,
    kind: int = 0x030000,
    driver: str = "amdgpu",
    render: int = 128,
    number: int = 1,
    bank: int = 0,
    kfd: bool = True,
    integrated: bool = True,
) -> None:
    """gfx: the kernel's `gfx_target_version`; number: its own in KFD's topology, after the processor's
    bank: bytes that KFD lets allocate, by default the larger of `vram` and `gtt` where it is `integrated`"""
    folder = function(root, pci, ids, kind, driver, render=render)
    if driver != "amdgpu":
        return
    sizes = {"vram_total": vram, "vis_vram_total": vram, "gtt_total": gtt, "vram_used": 100 * MIB, "gtt_used": 20 * MIB}
    for name, size in sizes.items():
        put(root, f"{folder}/mem_info_{name}", f"{size}\n")
    put(root, f"{folder}/gpu_metrics", struct.pack("<HBB", 264, 3 if integrated else 1, 0) + bytes(260))
    put(root, "sys/module/ttm/parameters/pages_limit", f"{gtt // 4096}\n")
    if not kfd:
        return
    bus, slot, part = (int(text, 16) for text in pci[5:].replace(".", ":").split(":"))
    nodes = "sys/class/kfd/kfd/topology/nodes"
    processor = (
        "cpu_cores_count 16\nsimd_count 0\nmem_banks_count 1\ngfx_target_version 0\nvendor_id 0\nlocation_id 0\n"
    )
    put(root, f"{nodes}/0/properties", processor)
    put(root, f"{nodes}/0/gpu_id", "0\n")
    put(
        root,
        f"{nodes}/{number}/properties",
        f"cpu_cores_count 0\nsimd_count {simds}\nmem_banks_count 1\ncaches_count 60\nio_links_count 1\n"
        f"wave_front_size 32\narray_count 4\nsimd_per_cu 2\ngfx_target_version {gfx}\nvendor_id 4098\n"
        f"device_id {int(ids[5:], 16)}\nlocation_id {bus << 8 | slot << 3 | part}\ndomain {int(pci[:4], 16)}\n"
        f"drm_render_minor {render}\nhive_id 0\nlocal_mem_size 0\nfw_version 32\nunique_id 0\nnum_xcc 1\n",
    )
    put(root, f"{nodes}/{number}/gpu_id", f"{51280 + number}\n")
    put(root, f"{nodes}/{number}/name", "ip discovery\n")
    size = bank or (max(vram, gtt) if integrated else vram)
    put(
        root,
        f"{nodes}/{number}/mem_banks/0/properties",
        f"heap_type 1\nsize_in_bytes {size}\nflags 0\nwidth 256\nmem_clk_max 1000\n",
    )
    node(root, "kfd")


def strix_halo(
    root: Path, memory: int, *, gtt: int, vram: int = 512 * MIB, kernel: str = "6.18.9-generic", bank: int = 0
) -> None:
    """memory: MemTotal, which a carve-out (`vram`) is no part of; bank: as in `amd`"""
    host(root, memory, kernel)
    amd(root, "0000:c5:00.0", "1002:1586", 110501, 80, kind=0x038000, vram=vram, gtt=gtt, bank=bank)


def intel(
    root: Path,
    pci: str,
    ids: str,
    driver: str,
    *,
    bar: int = 0,
    told: int = 0,
    render: int = 128,
) -> None:
    """bar: bytes of the window to its memory; told: bytes that the kernel's `dmem` controller names"""
    folder = function(root, pci, ids, 0x030000, driver, render=render)
    none = f"{'0x' + '0' * 16} {'0x' + '0' * 16} {'0x' + '0' * 16}\n"
    window = f"0x{0x4000000000:016x} 0x{0x4000000000 + bar - 1:016x} 0x000000000014220c\n" if bar else none
    put(
        root,
        f"{folder}/resource",
        f"0x00000000a0000000 0x00000000a0ffffff 0x0000000000140204\n{none}{window}{none * 3}",
    )
    if told:
        put(root, "sys/fs/cgroup/dmem.capacity", f"drm/{pci}/vram0 {told}\ndrm/{pci}/stolen 0\n")
