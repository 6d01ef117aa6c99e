"""NVIDIA GPUs as devices of Argosy."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import argosy
from argosy import machine
from argosy.backend import Enforcement, ShareServer
from argosy.engines import Ctranslate2, Engine, Onnxruntime, Torch, Vllm

from .checks import CUDA_12, CUDA_13, ENGINES, WARNINGS, check, finding, lacks, major, problems
from .mps import listens
from .nvml import Nvml

VENDOR = 0x10DE
GIB = machine.GIB
CONTEXT = GIB // 2  # bytes of a share that no allocator counts: the context (300 to 500 MB), cuBLAS and cuDNN
KV_PART = 4  # one in so many bytes of a share are vLLM's KV cache; weights, activations and graphs take the others
MOST = 0.92  # of a device that vLLM may ask for, its own default: the driver keeps some of what is free

# First and last PCI id -> architecture. Chips get ids in blocks of 128, as the PCI ID Project's list of 2026-05-24 has
# them; an id outside is unknown until NVML was asked.
CHIPS = (
    (0x1D80, 0x1DFF, "sm_70"),  # GV100
    (0x1E00, 0x1FFF, "sm_75"),  # TU102, TU104, TU106, TU117
    (0x2080, 0x20FF, "sm_80"),  # GA100
    (0x2180, 0x21FF, "sm_75"),  # TU116
    (0x2200, 0x227F, "sm_86"),  # GA102
    (0x2300, 0x23FF, "sm_90"),  # GH100
    (0x2400, 0x25FF, "sm_86"),  # GA103, GA104, GA106, GA107
    (0x2680, 0x28FF, "sm_89"),  # AD102, AD103, AD104, AD106, AD107
    (0x2900, 0x29FF, "sm_100"),  # GB100, GB102
    (0x2B80, 0x2C7F, "sm_120"),  # GB202, GB203
    (0x2D00, 0x2DFF, "sm_120"),  # GB206, GB207
    (0x2E00, 0x2E7F, "sm_121"),  # GB20B
    (0x2F00, 0x2F7F, "sm_120"),  # GB205
    (0x3180, 0x31FF, "sm_103"),  # GB110
)
OLDEST = 75  # the oldest architecture that CUDA 13 compiles for


class Cuda(argosy.Backend):
    """Each GPU, or each of its slices where it is cut into some (MIG).

    Files tell no memory, and no architecture of chips that this adapter does not know: NVML does, when it is probed.
    A share is enforced where an MPS daemon runs, and watched elsewhere.
    """

    name = "cuda"
    masks = ("CUDA_VISIBLE_DEVICES",)
    recorded = (
        *machine.DISPLAYS,
        "proc/driver/nvidia/version",
        "proc/driver/nvidia/gpus/*/information",
        "proc/driver/nvidia/capabilities/gpu*/mig/gi*/ci*/access",
        "dev/nvidia*",
    )

    def __init__(self) -> None:
        self._nvml = Nvml()

    def detect(self, root: Path = Path("/")) -> Sequence[argosy.Device]:
        version = re.search(
            r"NVRM version:.*?\s(\d+\.[\d.]+)(?:\s|$)", machine.text(root / "proc/driver/nvidia/version")
        )
        driver = version[1] if version else ""
        devices: list[argosy.Device] = []
        for display in machine.displays(root, VENDOR):
            info = machine.text(root / f"proc/driver/nvidia/gpus/{display.pci}/information")
            found = tuple(problems(root, display, info, driver))
            usable = all(check(problem) in WARNINGS for problem in found) and not 0 < major(driver) < CUDA_12
            uuid = machine.field(info, "GPU UUID")
            ordinal = sum(device.usable for device in devices)  # CUDA counts those that it can open
            devices.append(
                argosy.Device(
                    backend=self.name,
                    name=machine.field(info, "Model") or f"NVIDIA GPU {display.ids}",
                    architecture=next((name for low, high, name in CHIPS if low <= display.device <= high), ""),
                    pci=display.pci,
                    index=len(devices),
                    # A GPU that sleeps has question marks for a UUID.
                    identity=uuid if re.fullmatch(r"GPU-[0-9a-f-]{36}", uuid) else str(ordinal) if usable else "",
                    driver=f"nvidia {driver}".strip() if display.driver == "nvidia" else display.driver,
                    problems=found,
                    usable=usable,
                )
            )
        return tuple(devices)

    def probe(self, devices: Sequence[argosy.Device]) -> Sequence[argosy.Device]:
        """NVML tells memory, architecture, UUIDs and slices; package metadata which engine here is built for what."""
        told = {one["pci"]: one for one in self._nvml.ask("devices") or ()} if devices else {}
        lacking = tuple(lacks())
        found: list[argosy.Device] = []
        for device in devices:
            if not device.usable and {check(problem) for problem in device.problems} - WARNINGS != {"nv-mig"}:
                found.append(device)
            elif device.pci in told:
                found += probed(device, told[device.pci], lacking)
            else:
                found.append(dataclasses.replace(device, problems=(*device.problems, *lacking)))
        return tuple(dataclasses.replace(device, index=index) for index, device in enumerate(found))

    def absent(self, root: Path = Path("/")) -> str:
        devices = self.detect(root)
        if any(device.usable for device in devices):
            return ""
        return "; ".join(f"{one.name} at {one.pci}: {', '.join(one.problems)}" for one in devices) or (
            "no NVIDIA GPU among this machine's PCI devices"
        )

    def environment(self, device: argosy.Device, *, share: float = 1.0, budget: int | None = None) -> Mapping[str, str]:
        """The mask, by UUID where it is known; and MPS's limits, which its server keeps, where its daemon runs."""
        found = {"CUDA_VISIBLE_DEVICES": device.identity, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        if share < 1 and listens():
            found["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = str(max(round(share * 100), 1))
            if budget is not None:
                found["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] = f"0={budget >> 20}M"
        return found

    def offers(self, device: argosy.Device, budget: int | None, cores: int) -> Sequence[Engine]:
        """Before sm_80 there is no bfloat16, and of vLLM's attention kernels Triton's alone work; what is unknown is
        treated likewise. Texts and sounds come in every length, so cuDNN does not search for each."""
        age = _age(device)
        old = age < 80
        cap = max(budget - CONTEXT, budget // 2) if budget else None
        fraction = min(cap / device.memory_bytes, MOST) if cap and device.memory_bytes else None
        provider = {
            "device_id": 0,  # of those that the mask leaves
            **({"gpu_mem_limit": cap} if cap else {}),
            "arena_extend_strategy": "kSameAsRequested",
            "cudnn_conv_algo_search": "HEURISTIC",
        }
        every = (
            Vllm(
                threads=cores,
                device="cuda",
                dtype="half" if old else "auto",
                memory_fraction=fraction,
                kv_cache_bytes=budget // KV_PART if budget else None,
                attention="TRITON_ATTN" if old else None,
                eager=old,  # graphs would take 0.5 to 1 GB of the small memory that old ones have
            ),
            Ctranslate2(
                threads=cores,
                device="cuda",
                # Chips of data centres and of 2025 have fast halves, and not all of them int8 in cuBLAS 12.
                compute_type="float16" if age >= 90 else "int8" if 0 < age < 70 else "int8_float16",
                preload=("nvidia-cublas-cu12:libcublas.so.12",),
            ),
            Onnxruntime(threads=cores, providers=(("CUDAExecutionProvider", provider), ("CPUExecutionProvider", {}))),
            Torch(
                threads=cores,
                device="cuda:0",
                dtype="float16" if old else "bfloat16",
                memory_fraction=fraction,
                build="cuda",
            ),
        )
        refused = self.refuses(device)
        return tuple(engine for engine in every if engine.name not in refused)

    def refuses(self, device: argosy.Device) -> Mapping[str, str]:
        found = dict.fromkeys(("openvino", "openvino_genai"), "OpenVINO knows no such device")
        for engine in ("vllm", "torch", "onnxruntime"):
            if 0 < major(device.driver.removeprefix("nvidia ")) < CUDA_13:
                found[engine] = f"built with CUDA 13, which needs driver {CUDA_13} or newer; here is {device.driver}"
            elif 0 < _age(device) < OLDEST:
                found[engine] = f"built with CUDA 13, whose oldest architecture is sm_{OLDEST}"
        lacking = {check(problem): problem for problem in device.problems}
        return found | {ENGINES[name]: problem for name, problem in lacking.items() if name in ENGINES}

    def held(self, device: argosy.Device, pids: Collection[int] = ()) -> Sequence[argosy.Held]:
        """Everybody whom NVML names. In a container it names processes by numbers of the host, which say nothing of
        `pids`: one that is the same is a stranger's."""
        if pids and not machine.host_pids():
            return ()
        answer = self._nvml.ask("held", device.identity if "-" in device.identity else f"{device.pci}")
        if answer is None:
            return ()
        found = dict(answer)
        ours = all(Path(f"/proc/{pid}").exists() for pid in found)
        nothing = {pid: 0 for pid in pids if ours and pid not in found}
        return tuple(argosy.Held(pid=pid, bytes=size) for pid, size in {**found, **nothing}.items())

    def enforcement(self, device: argosy.Device) -> Enforcement:
        """A slice is kept by its GPU as a whole; shares of one are watched like all others, which takes the host's
        numbers of processes."""
        if listens():
            return "enforced"
        return "watched" if machine.host_pids() else "counted"

    def share_server(self, devices: Sequence[argosy.Device], folder: Path) -> ShareServer:
        """MPS: one daemon for all GPUs of the node, of the user whom it serves."""
        return ShareServer(
            start=("nvidia-cuda-mps-control", "-d"),
            stop=("nvidia-cuda-mps-control",),
            say="quit\n",
            environment={"CUDA_MPS_PIPE_DIRECTORY": str(folder), "CUDA_MPS_LOG_DIRECTORY": str(folder)},
        )

    def checks(self, root: Path = Path("/")) -> Sequence[argosy.Finding]:
        devices = self.detect(root)
        found = [(device, problem) for device in devices for problem in device.problems]
        found += [(devices[0], problem) for problem in lacks() if devices]
        return tuple(finding(root, device, problem) for device, problem in found)


def probed(device: argosy.Device, told: Mapping[str, Any], lacks: Sequence[str] = ()) -> list[argosy.Device]:
    """A device with what NVML told of it, or its slices where it is cut into some."""
    known = dataclasses.replace(
        device,
        architecture=f"sm_{told['capability']}",
        driver=f"nvidia {told['driver']}",
        problems=(*(problem for problem in device.problems if check(problem) != "nv-mig"), *lacks),
        usable=True,
    )
    if told["cut"] and not told["slices"]:
        problem = "nv-mig: it is set to be cut into slices, and has none yet"
        return [dataclasses.replace(known, problems=(*known.problems, problem), usable=False)]
    return [
        dataclasses.replace(known, name=one["name"], identity=one["uuid"], memory_bytes=one["memory"])
        for one in told["slices"] or (told,)
    ]


def _age(device: argosy.Device) -> int:
    """75 for `sm_75`; 0 where it is unknown."""
    return machine.number(device.architecture.removeprefix("sm_"))


@argosy.hookimpl
def argosy_backends() -> Sequence[argosy.Backend]:
    return [Cuda()]
