"""AMD GPUs, discrete and integrated, as devices of Argosy.

The integrated ones compute in the system's memory. Those that ROCm treats in full (Strix Halo, gfx1151) are offered
what cards are; on the others (the Radeon 680M, gfx1035: the ROCm-iGPU case) torch alone runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import argosy
from argosy import machine
from argosy.backend import Enforcement
from argosy.engines import Engine, Onnxruntime, Torch, Vllm

from . import kfd
from .checks import ENGINES, NATIVE, WARNINGS, check, finding, lacks, misled, problems, unbuilt

VENDOR = 0x1002
GIB = machine.GIB
HIP = "cuda:0"  # what torch and vLLM call a HIP device
CONTEXT = GIB // 2  # bytes of a share that no allocator counts: the context, and the workspaces of hipBLAS and MIOpen
KV_PART = 4  # one in so many bytes of a share are vLLM's KV cache; weights, activations and graphs take the others
MOST = 0.92  # of a device that vLLM may ask for, its own default

# What engines are built for: vLLM's Dockerfile.rocm_base, MIGraphX's and TheRock's lists. Beginnings of names.
BUILT = {
    "vllm": ("gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1101", "gfx1150", "gfx1151", "gfx1200", "gfx1201"),
    "onnxruntime": ("gfx908", "gfx90a", "gfx942", "gfx950", "gfx110", "gfx115", "gfx120"),
    "torch": NATIVE,
}
NO_BFLOAT = ("gfx906", "gfx103")  # it is emulated there

# PCI id -> name, and architecture where the kernel's KFD does not tell it; ids of the PCI ID Project's list.
NAMES = {
    0x150E: ("AMD Radeon 890M", "gfx1150"),
    0x1586: ("AMD Radeon 8060S", "gfx1151"),
    0x15BF: ("AMD Radeon 780M", "gfx1103"),
    0x164E: ("AMD Radeon 610M", "gfx1036"),
    0x1681: ("AMD Radeon 680M", "gfx1035"),
    0x73BF: ("AMD Radeon RX 6900", "gfx1030"),
    0x73DF: ("AMD Radeon RX 6700", "gfx1031"),
    0x740F: ("AMD Instinct MI210", "gfx90a"),
    0x744C: ("AMD Radeon RX 7900", "gfx1100"),
    0x747E: ("AMD Radeon RX 7800", "gfx1101"),
    0x74A1: ("AMD Instinct MI300X", "gfx942"),
    0x7550: ("AMD Radeon RX 9070", "gfx1201"),
}
# The same id with so many SIMDs, of which a compute unit has two.
BY_SIZE = {
    (0x1586, 64): "AMD Radeon 8050S",
    (0x1681, 12): "AMD Radeon 660M",
    (0x744C, 168): "AMD Radeon RX 7900 XT",
    (0x744C, 192): "AMD Radeon RX 7900 XTX",
}


class Rocm(argosy.Backend):
    """Each GPU that the kernel's KFD lets compute, in the order of their PCI addresses.

    An integrated one has as much memory as KFD lets it allocate, less what the host keeps; nothing enforces a share of
    it, so engines are given explicit sizes and are watched.
    """

    name = "rocm"
    masks = ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")
    recorded = (
        *machine.DISPLAYS,
        *(f"sys/bus/pci/devices/*/{name}" for name in ("mem_info_vram_total", "mem_info_gtt_total", "gpu_metrics")),
        "sys/bus/pci/devices/*/fw_version/mes_fw_version",
        *(f"{kfd.TOPOLOGY}/*/{name}" for name in ("properties", "gpu_id", "mem_banks/*/properties")),
        "sys/module/amdgpu/version",
        "proc/meminfo",
        "proc/sys/kernel/osrelease",
        "dev/kfd",
    )

    def detect(self, root: Path = Path("/")) -> Sequence[argosy.Device]:
        nodes = kfd.nodes(root)
        displays = machine.displays(root, VENDOR)
        seen = [node.location for node in nodes if not any(machine.closed(root, path) for path in node.paths)]
        version = machine.text(root / "sys/module/amdgpu/version")
        devices = []
        for index, display in enumerate(displays):
            node = next((node for node in nodes if node.location == display.location), None)
            name, known = NAMES.get(display.device, (f"AMD GPU {display.ids}", ""))
            architecture = node.architecture if node else known
            integrated = kfd.integrated(display, architecture)
            found = tuple(problems(root, display, node, integrated, architecture))
            devices.append(
                argosy.Device(
                    backend=self.name,
                    name=BY_SIZE.get((display.device, node.simds), name) if node else name,
                    architecture=architecture,
                    pci=display.pci,
                    integrated=integrated,
                    memory_bytes=kfd.memory(root, display, node, integrated),
                    index=index,
                    identity=str(seen.index(display.location)) if display.location in seen else "",
                    driver=f"{display.driver} {version}".strip() if display.driver == "amdgpu" else display.driver,
                    problems=found,
                    usable=all(check(problem) in WARNINGS for problem in found),
                )
            )
        return tuple(devices)

    def probe(self, devices: Sequence[argosy.Device]) -> Sequence[argosy.Device]:
        """Files tell all of a device; package metadata, which engine of this environment is built for ROCm."""
        lacking = tuple(lacks())
        return tuple(dataclasses.replace(one, problems=(*one.problems, *lacking)) for one in devices)

    def absent(self, root: Path = Path("/")) -> str:
        devices = self.detect(root)
        if any(device.usable for device in devices):
            return ""
        return "; ".join(f"{one.name} at {one.pci}: {', '.join(one.problems)}" for one in devices) or (
            "no AMD GPU among this machine's PCI devices"
        )

    def environment(self, device: argosy.Device, *, share: float = 1.0, budget: int | None = None) -> Mapping[str, str]:
        """HIP's mask, and not ROCR's: where both are set the one counts within the other. MIOpen takes the first
        kernel that fits instead of trying all for every new shape, and sounds come in every shape."""
        return {"HIP_VISIBLE_DEVICES": device.identity, "MIOPEN_FIND_MODE": "2"}

    def offers(self, device: argosy.Device, budget: int | None, cores: int) -> Sequence[Engine]:
        """vLLM gets the size of its KV cache in bytes: what it measures as free on an integrated GPU is the host's."""
        cap = max(budget - CONTEXT, budget // 2) if budget else None
        fraction = min(cap / device.memory_bytes, MOST) if cap and device.memory_bytes else None
        every = (
            Vllm(
                threads=cores,
                device=HIP,
                memory_fraction=fraction,
                kv_cache_bytes=budget // KV_PART if budget else None,
            ),
            Torch(
                threads=cores,
                device=HIP,
                dtype="float16" if device.architecture.startswith(NO_BFLOAT) else "bfloat16",
                memory_fraction=fraction,
                build="hip",
            ),
            # Its limits on memory have no effect in 1.27, so none is given.
            Onnxruntime(
                threads=cores,
                providers=(("MIGraphXExecutionProvider", {"device_id": 0}), ("CPUExecutionProvider", {})),
            ),
        )
        refused = self.refuses(device)
        return tuple(engine for engine in every if engine.name not in refused)

    def refuses(self, device: argosy.Device) -> Mapping[str, str]:
        found = dict.fromkeys(("openvino", "openvino_genai"), "OpenVINO knows no such device")
        found["ctranslate2"] = "no package index has a build for HIP, and PyPI's would compute on the processor"
        for engine, architectures in BUILT.items():
            if not device.architecture.startswith(architectures):
                what = {"onnxruntime": "MIGraphX, its provider here,", "vllm": "vLLM"}.get(engine, engine)
                found[engine] = f"{what} is not built for {device.architecture or 'an unknown architecture'}"
        if device.architecture == "gfx1036":
            found["torch"] = "its two compute units are slower than the processor beside them"
        lacking = {check(problem): problem for problem in device.problems}
        return found | {ENGINES[name]: problem for name, problem in lacking.items() if name in ENGINES}

    def held(self, device: argosy.Device, pids: Collection[int] = ()) -> Sequence[argosy.Held]:
        """Of `pids`, or of everybody who may be looked at."""
        return kfd.held(Path("/"), device, pids)

    def enforcement(self, device: argosy.Device) -> Enforcement:
        return "watched"

    def checks(self, root: Path = Path("/")) -> Sequence[argosy.Finding]:
        devices = self.detect(root)
        found = [(device, problem) for device in devices for problem in device.problems]
        found += [(devices[0], problem) for problem in (*lacks(), *misled(devices)) if devices]
        if root == Path("/"):
            found += unbuilt([device for device in devices if device.usable])
        return tuple(finding(root, device, problem) for device, problem in found)


@argosy.hookimpl
def argosy_backends() -> Sequence[argosy.Backend]:
    return [Rocm()]
