"""Intel Arc GPUs, discrete and integrated, as devices of Argosy."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import argosy
from argosy import machine
from argosy.backend import Enforcement
from argosy.engines import Engine, Onnxruntime, Openvino, OpenvinoGenai, Vllm

from .checks import ENGINES, WARNINGS, check, finding, lacks, opened, problems, strays, window
from .child import ask
from .extension import Torch

VENDOR = 0x8086
GIB = machine.GIB
CONTEXT = GIB // 2  # bytes of a share that no allocator counts: the context and oneDNN's workspaces
KV_PART = 4  # one in so many bytes of a share are a KV cache; weights and activations take the others
MOST = 0.92  # of a device that vLLM may ask for, its own default

ALCHEMIST, BATTLEMAGE = "xe-hpg", "xe2-hpg"

# PCI id -> name, architecture, and GiB of its own: None where cards of one id differ, 0 where it has none. Ids from
# Linux's include/drm/intel/pciids.h, names from the PCI ID Project's list.
GPUS: Mapping[int, tuple[str, str, int | None]] = {
    0x5690: ("Intel Arc A770M", ALCHEMIST, 16),
    0x5691: ("Intel Arc A730M", ALCHEMIST, 12),
    0x5692: ("Intel Arc A550M", ALCHEMIST, 8),
    0x5693: ("Intel Arc A370M", ALCHEMIST, 4),
    0x5694: ("Intel Arc A350M", ALCHEMIST, 4),
    0x56A0: ("Intel Arc A770", ALCHEMIST, None),
    0x56A1: ("Intel Arc A750", ALCHEMIST, 8),
    0x56A2: ("Intel Arc A580", ALCHEMIST, 8),
    0x56A5: ("Intel Arc A380", ALCHEMIST, 6),
    0x56A6: ("Intel Arc A310", ALCHEMIST, 4),
    0x56B1: ("Intel Arc Pro A40/A50", ALCHEMIST, 6),
    0x56B3: ("Intel Arc Pro A60", ALCHEMIST, 12),
    0x56C0: ("Intel Flex 170", ALCHEMIST, 16),
    0xE20B: ("Intel Arc B580", BATTLEMAGE, 12),
    0xE20C: ("Intel Arc B570", BATTLEMAGE, 10),
    0xE211: ("Intel Arc Pro B60", BATTLEMAGE, 24),
    0xE212: ("Intel Arc Pro B50", BATTLEMAGE, 16),
    **dict.fromkeys((0x7D40, 0x7D45, 0x7D60), ("Intel Graphics (Meteor Lake)", "xe-lpg", 0)),
    **dict.fromkeys((0x7D55, 0x7DD5), ("Intel Arc Graphics", "xe-lpg", 0)),
    **dict.fromkeys((0x7D41, 0x7D67, 0xB640), ("Intel Graphics (Arrow Lake)", "xe-lpg", 0)),
    **dict.fromkeys((0x7D51, 0x7DD1), ("Intel Arc 130T/140T", "xe-lpg-plus", 0)),
    **dict.fromkeys((0x6420, 0x64B0), ("Intel Graphics (Lunar Lake)", "xe2-lpg", 0)),
    0x64A0: ("Intel Arc 130V/140V", "xe2-lpg", 0),
}


class Xpu(argosy.Backend):
    """Each Arc, and each integrated GPU of a Core Ultra, in the order of their PCI addresses.

    That is the order in which Level Zero counts when it is told to, and OpenVINO too: what is integrated stands at
    0000:00:02.0, before all cards. An id that the table lacks is a newer GPU where the driver `xe` holds it, and is
    offered what needs no tuning; else an older one, which is none of these, yet is counted by both.
    """

    name = "xpu"
    masks = ("ZE_AFFINITY_MASK", "ONEAPI_DEVICE_SELECTOR")
    recorded = (
        *machine.DISPLAYS,
        "sys/bus/pci/devices/*/resource",
        "sys/fs/cgroup/dmem.capacity",
        "proc/meminfo",
        "etc/OpenCL/vendors/*.icd",
    )

    def detect(self, root: Path = Path("/")) -> Sequence[argosy.Device]:
        devices: list[argosy.Device] = []
        ordinal = 0  # of those that a library can open, whether they are used here or not
        for display in machine.displays(root, VENDOR):
            name, architecture, own = GPUS.get(display.device, (f"Intel GPU {display.ids}", "", None))
            integrated = own == 0 if architecture else display.pci.endswith(":00:02.0")
            found = tuple(problems(root, display, integrated, bool(architecture)))
            usable = all(check(problem) in WARNINGS for problem in found)
            devices.append(
                argosy.Device(
                    backend=self.name,
                    name=name,
                    architecture=architecture,
                    pci=display.pci,
                    integrated=integrated,
                    memory_bytes=machine.unified(root) if integrated else _memory(root, display, architecture, own),
                    index=len(devices),
                    identity=str(ordinal) if usable else "",
                    driver=display.driver,
                    problems=found,
                    usable=usable,
                )
            )
            ordinal += opened(root, display)
        return tuple(devices)

    def probe(self, devices: Sequence[argosy.Device]) -> Sequence[argosy.Device]:
        """OpenVINO tells the memory of a card whose files do not; package metadata, which engine computes on it."""
        unknown = [one for one in devices if one.usable and one.memory_bytes is None]
        told = ask() if unknown else {}
        lacking = tuple(lacks())
        return tuple(
            dataclasses.replace(
                one,
                memory_bytes=told.get(one.pci or "") if one in unknown else one.memory_bytes,
                problems=(*one.problems, *lacking),
            )
            for one in devices
        )

    def absent(self, root: Path = Path("/")) -> str:
        devices = self.detect(root)
        if any(device.usable for device in devices):
            return ""
        return "; ".join(f"{one.name} at {one.pci}: {', '.join(one.problems)}" for one in devices) or (
            "no Intel GPU among this machine's PCI devices"
        )

    def environment(self, device: argosy.Device, *, share: float = 1.0, budget: int | None = None) -> Mapping[str, str]:
        """Level Zero's mask, and the order that it counts in. OpenVINO computes through OpenCL, which it does not
        reach: there the device is named."""
        return {"ZE_AFFINITY_MASK": device.identity, "ZE_ENABLE_PCI_ID_DEVICE_ORDER": "1"}

    def offers(self, device: argosy.Device, budget: int | None, cores: int) -> Sequence[Engine]:
        """Alchemist has no attention kernels of its own in vLLM, whose bfloat16 it cannot do either."""
        cap = max(budget - CONTEXT, budget // 2) if budget else None
        fraction = min(cap / device.memory_bytes, MOST) if cap and device.memory_bytes else None
        old = device.architecture in (ALCHEMIST, "xe-lpg", "")
        here = f"GPU.{device.identity or 0}"  # with one GPU OpenVINO lists "GPU" and takes this name too
        every = (
            Vllm(
                threads=cores,
                device="xpu",
                dtype="half" if old else "auto",
                memory_fraction=fraction,
                kv_cache_bytes=budget // KV_PART if budget else None,
                attention="TRITON_ATTN" if old else None,
            ),
            OpenvinoGenai(threads=cores, device=here),
            Openvino(threads=cores, device=here, properties={"PERFORMANCE_HINT": "THROUGHPUT"}),
            Onnxruntime(
                threads=cores,
                providers=(("OpenVINOExecutionProvider", {}), ("CPUExecutionProvider", {})),
                plugin="onnxruntime-ep-openvino",  # no build of onnxruntime has it any more
                on={"ov_device": here},
            ),
            Torch(
                threads=cores,
                device="xpu:0",
                dtype="float16" if old else "bfloat16",
                memory_fraction=fraction,
                build="xpu",
            ),
        )
        refused = self.refuses(device)
        return tuple(engine for engine in every if engine.name not in refused)

    def refuses(self, device: argosy.Device) -> Mapping[str, str]:
        found = {"ctranslate2": "CTranslate2 has no build for it"}
        if device.architecture not in (ALCHEMIST, BATTLEMAGE):
            found["vllm"] = f"vLLM is tried on Arc cards, not on {device.architecture or 'an unknown architecture'}"
        if not device.architecture:
            found["torch"] = f"whether torch's xpu device runs on {device.name} is unknown"
        lacking = {check(problem): problem for problem in device.problems}
        return found | {
            engine: lacking[name] for name, engines in ENGINES.items() if name in lacking for engine in engines
        }

    def held(self, device: argosy.Device, pids: Collection[int] = ()) -> Sequence[argosy.Held]:
        """Of `pids`, or of everybody who may be looked at."""
        found = machine.drm_memory(Path("/"), device.pci or "", pids, shared=device.integrated)
        return tuple(argosy.Held(pid=pid, bytes=size) for pid, size in found.items() if size or pids)

    def enforcement(self, device: argosy.Device) -> Enforcement:
        return "watched"

    def checks(self, root: Path = Path("/")) -> Sequence[argosy.Finding]:
        devices = self.detect(root)
        found = [(device, problem) for device in devices for problem in device.problems]
        found += [(devices[0], problem) for problem in (*lacks(root), *strays()) if devices]
        return tuple(finding(root, device, problem) for device, problem in found)


def _memory(root: Path, display: machine.Display, architecture: str, own: int | None) -> int | None:
    """What the kernel's `dmem` controller names, else the table. Of an id whose cards differ the window to the memory
    tells, for they come with powers of two; without Resizable BAR it is smaller, and nothing tells."""
    capacity = machine.pairs(machine.text(root / "sys/fs/cgroup/dmem.capacity"))
    sizes = [machine.number(size) for key, size in capacity.items() if key.startswith(f"drm/{display.pci}/vram")]
    if told := sum(sizes):
        return told
    if own is not None:
        return own * GIB
    wide = window(display)
    return wide if architecture and wide > 256 * 2**20 else None


@argosy.hookimpl
def argosy_backends() -> Sequence[argosy.Backend]:
    return [Xpu()]
