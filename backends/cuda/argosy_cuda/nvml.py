"""NVML, asked in a process of its own, for Argosy's opens no vendor library before a replica's mask is set.

This file is both ends: the client, and, run as a script, the process. That one is started by the first question, keeps
NVML open, for opening it takes up to seconds where a GPU sleeps, and answers the next questions in milliseconds; it
ends when its client does, or when it was not asked for a minute. A question is a JSON line, `["held", "GPU-…"]`, and so
is its answer, `{"answer": …}` or `{"error": "…"}`.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
import weakref
from typing import Any

IDLE_SECONDS = 60.0
START_SECONDS = 30.0  # for the first answer: a GPU that sleeps is woken by it
ANSWER_SECONDS = 2.0


class Nvml:
    """Answers None where there is no driver, no binding, or no answer in time; `why` then says it."""

    def __init__(self) -> None:
        self.why = ""
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def ask(self, *question: str) -> Any:
        with self._lock:
            process, seconds = self._running()
            try:
                reply = json.loads(_exchange(process, json.dumps(question).encode() + b"\n", seconds))
            except (OSError, ValueError) as error:
                self._process = None
                _end(process)
                self.why = f"NVML gave no answer: {error}"
                return None
        self.why = str(reply.get("error", ""))
        return reply.get("answer")

    def _running(self) -> tuple[subprocess.Popen[bytes], float]:
        """The process, and how long it may take; a new one where there is none, or only one that a fork left."""
        if self._process is not None and self._owner == os.getpid() and self._process.poll() is None:
            return self._process, ANSWER_SECONDS
        command = [sys.executable, "-P", __file__]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
        weakref.finalize(self, _end, process)
        self._process, self._owner = process, os.getpid()
        return process, START_SECONDS


def _exchange(process: subprocess.Popen[bytes], question: bytes, seconds: float) -> bytes:
    """One line there, one line back. OSError where none comes in time."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(question)
    process.stdin.flush()
    deadline, line = time.monotonic() + seconds, b""
    while not line.endswith(b"\n"):
        if not select.select([process.stdout], [], [], max(deadline - time.monotonic(), 0))[0]:
            raise TimeoutError(f"not within {seconds:.0f} s")
        if not (more := os.read(process.stdout.fileno(), 65536)):
            raise BrokenPipeError("its process has ended")
        line += more
    return line


def _end(process: subprocess.Popen[bytes]) -> None:
    """Its input closes, so it ends; one that hangs in the driver is killed, and nobody waits for it."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    try:
        process.wait(1)
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)


# in the process ------------------------------------------------------------------------------------------------------


def devices(nvml: Any) -> list[dict[str, Any]]:
    """Every GPU that may be opened here: pci, uuid, name, memory (bytes), capability, driver, `cut` (into slices, MIG)
    and the slices themselves."""
    found = []
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            whole = _one(nvml, handle)
            major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
            whole["pci"] = _text(nvml.nvmlDeviceGetPciInfo(handle).busId).lower()[-12:]  # NVML's domain has 8 digits
        except nvml.NVMLError:
            continue  # not ours to open, or lost
        cut = _cut(nvml, handle)
        found.append(
            whole
            | {
                "capability": f"{major}{minor}",
                "driver": _text(nvml.nvmlSystemGetDriverVersion()),
                "cut": cut,
                "slices": list(_slices(nvml, handle)) if cut else [],
            }
        )
    return found


def held(nvml: Any, identity: str) -> list[list[int]]:
    """Process and bytes, of everybody who holds memory on a GPU or a slice, named by UUID or by PCI address."""
    by_uuid = identity.startswith(("GPU-", "MIG-"))
    handle = (nvml.nvmlDeviceGetHandleByUUID if by_uuid else nvml.nvmlDeviceGetHandleByPciBusId)(identity)
    found: dict[int, int] = {}
    for kind in ("Compute", "Graphics", "MPSCompute"):  # the last: through MPS's server
        try:
            processes = getattr(nvml, f"nvmlDeviceGet{kind}RunningProcesses")(handle)
        except nvml.NVMLError:
            continue  # slices draw no graphics, and older drivers tell of no MPS
        for process in processes:
            if process.usedGpuMemory is not None:  # nor is it told everywhere
                found[process.pid] = max(found.get(process.pid, 0), process.usedGpuMemory)
    return [[pid, size] for pid, size in found.items()]


def _one(nvml: Any, handle: Any) -> dict[str, Any]:
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
        size = memory.total - memory.reserved  # what the driver keeps for itself is nobody's to allocate
    except nvml.NVMLError:
        size = nvml.nvmlDeviceGetMemoryInfo(handle).total  # drivers before 510
    return {
        "uuid": _text(nvml.nvmlDeviceGetUUID(handle)),
        "name": _text(nvml.nvmlDeviceGetName(handle)),
        "memory": size,
    }


def _cut(nvml: Any, handle: Any) -> bool:
    try:
        return bool(nvml.nvmlDeviceGetMigMode(handle)[0] == nvml.NVML_DEVICE_MIG_ENABLE)
    except nvml.NVMLError:
        return False  # not a GPU that could be


def _slices(nvml: Any, handle: Any) -> Any:
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            yield _one(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index))
        except nvml.NVMLError:
            continue  # there are fewer


def _text(found: str | bytes) -> str:
    return found.decode() if isinstance(found, bytes) else found


def _open() -> Any:
    import pynvml

    pynvml.nvmlInit()
    return pynvml


def main() -> None:
    asks: dict[str, Any] = {"devices": devices, "held": held}
    nvml: Any = None
    while select.select([sys.stdin], [], [], IDLE_SECONDS)[0] and (line := sys.stdin.readline()):
        ask, *about = json.loads(line)
        try:
            nvml = nvml or _open()
            reply = {"answer": asks[ask](nvml, *about)}
        except Exception as error:  # noqa: BLE001 - the binding's errors have no class where it is not installed
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
