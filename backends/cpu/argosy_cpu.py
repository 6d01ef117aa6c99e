"""The host's processor as a device of Argosy."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import argosy
from argosy import machine
from argosy.backend import Enforcement
from argosy.engines import Ctranslate2, Engine, Onnxruntime, Openvino, OpenvinoGenai, Python, Torch, Vllm

RESERVE = 2 * 1024**3  # bytes: the system, Ray and control, which want about 1.5 GiB on an idle machine
LEAST = 0.75  # of the memory at hand that models always get, on machines too small for RESERVE

# What a kernel calls the widest vectors -> what the architecture is called here, widest first.
VECTORS = (
    ("avx512f", "x86-64-avx512"),
    ("avx2", "x86-64-avx2"),
    ("lm", "x86-64"),
    ("sve", "aarch64-sve"),
    ("asimd", "aarch64"),
)


class Cpu(argosy.Backend):
    """One device: all cores and memory that this process may use, whatever the machine has beyond them.

    `memory_bytes` is the machine's memory or the control group's limit, whichever is less, minus a reserve of 2 GiB
    for the host (a quarter, on machines below 8 GiB). Shares of it are watched, not enforced: Linux lets a process
    allocate what it likes until a control group stops it, and the node's watchdog ends the one that took too much.
    """

    name = "cpu"
    recorded = ("proc/cpuinfo", "proc/meminfo", "proc/self/status", "proc/self/cgroup")
    one_at_a_time = False  # each process is measured by itself

    def detect(self, root: Path = Path("/")) -> Sequence[argosy.Device]:
        info = machine.text(root / "proc/cpuinfo")
        if not info:
            return ()
        flags = set(machine.field(info, "flags", "Features").split())
        architecture = next((name for flag, name in VECTORS if flag in flags), "unknown")
        name = " ".join(machine.field(info, "model name", "Model", "Hardware").split()) or architecture
        device = argosy.Device(
            backend=self.name,
            name=name,
            architecture=architecture,
            integrated=True,
            memory_bytes=_memory(root),
            cores=_cores(root, info),
        )
        return (device,)

    def absent(self, root: Path = Path("/")) -> str:
        return "" if self.detect(root) else f"{root / 'proc/cpuinfo'} cannot be read: is this Linux with /proc mounted?"

    def environment(self, device: argosy.Device, *, share: float = 1.0, budget: int | None = None) -> Mapping[str, str]:
        """Nothing: a processor needs no mask, and thread limits are core's."""
        return {}

    def offers(self, device: argosy.Device, budget: int | None, cores: int) -> Sequence[Engine]:
        """Every engine. openvino gets a stream per core: without barriers between cores it embeds a tenth
        more texts a second than with all cores on one text, and holds up better beside other processes."""
        return (
            OpenvinoGenai(threads=cores),
            Openvino(threads=cores, properties={"PERFORMANCE_HINT": "THROUGHPUT"}),
            Onnxruntime(threads=cores),
            Ctranslate2(threads=cores, compute_type="int8"),
            Vllm(threads=cores, eager=True, kv_cache_bytes=budget // 4 if budget else None),
            Torch(threads=cores),
            Python(threads=cores),
        )

    def held(self, device: argosy.Device, pids: Collection[int] = ()) -> Sequence[argosy.Held]:
        """`pids`, or this process, each alone and without its children (`machine.resident` says what counts).
        Strangers are not listed: whose memory is a model's and whose is a browser's cannot be told on a host."""
        return tuple(argosy.Held(pid=pid, bytes=machine.resident(pid)) for pid in pids or (os.getpid(),))

    def enforcement(self, device: argosy.Device) -> Enforcement:
        return "watched"

    def checks(self, root: Path = Path("/")) -> Sequence[argosy.Finding]:
        findings = []
        for device in self.detect(root):
            if device.architecture in ("x86-64", "unknown"):
                findings.append(
                    argosy.Finding(
                        check="vectors",
                        symptom="models run several times slower than they could",
                        evidence=f"{device.name} shows neither avx2 nor asimd in /proc/cpuinfo",
                        fix="in a virtual machine, pass the host's processor through (QEMU: -cpu host)",
                        fatal=False,
                    )
                )
        return findings


def _memory(root: Path) -> int | None:
    """Bytes for models; None where /proc/meminfo does not tell."""
    found = re.search(r"^MemTotal:\s+(\d+) kB", machine.text(root / "proc/meminfo"), re.MULTILINE)
    if not found:
        return None
    limits = [machine.number(text) for text in machine.limits(root, "memory", "memory.max", "memory.limit_in_bytes")]
    total = min([int(found[1]) * 1024, *(limit for limit in limits if limit)])
    return max(total - RESERVE, int(total * LEAST))


def _cores(root: Path, info: str) -> int:
    """Whole cores: those this process may run on, bounded by the control group's quota; at least one."""
    cores = len(re.findall(r"^processor\s*:", info, re.MULTILINE)) or os.cpu_count() or 1
    allowed = machine.field(machine.text(root / "proc/self/status"), "Cpus_allowed_list")
    if allowed:
        cores = min(cores, sum(_span(part) for part in allowed.split(",")))
    for text in machine.limits(root, "cpu", "cpu.max"):
        quota, _, period = text.partition(" ")
        if machine.number(quota) and machine.number(period):
            cores = min(cores, machine.number(quota) // machine.number(period))
    quotas, periods = (list(machine.limits(root, "cpu", name)) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
    for quota, period in zip(quotas, periods, strict=False):
        if machine.number(quota) and machine.number(period):
            cores = min(cores, machine.number(quota) // machine.number(period))
    return max(cores, 1)


def _span(text: str) -> int:
    """How many cores `3` or `0-7` means."""
    first, _, last = text.partition("-")
    return machine.number(last or first) - machine.number(first) + 1


@argosy.hookimpl
def argosy_backends() -> Sequence[argosy.Backend]:
    return [Cpu()]
