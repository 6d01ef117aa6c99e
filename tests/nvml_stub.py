"""A stand-in for NVML's binding, for the process that asks it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from argosy.testing.machines import trees

GIB, MIB = trees.GIB, trees.MIB
UUID = trees.uuid(0)
RTX_2070 = {
    "busId": "00000000:01:00.0",
    "uuid": UUID,
    "name": "NVIDIA GeForce RTX 2070",
    "total": 8 * GIB,
    "reserved": 225 * MIB,
    "capability": [7, 5],
}
SLICES = [
    {
        "uuid": f"MIG-0000000{n}-0000-0000-0000-000000000000",
        "name": "NVIDIA H100 80GB HBM3 MIG 3g.40gb",
        "total": 40 * GIB,
    }
    for n in (1, 2)
]
H100 = {
    "busId": "00000000:19:00.0",
    "uuid": UUID,
    "name": "NVIDIA H100 80GB HBM3",
    "total": 80 * GIB,
    "reserved": 551 * MIB,
    "capability": [9, 0],
    "mig": [1, 1],
}

# What stands in for the binding in NVML's process. Its functions take what the real ones take: a test compares them.
STUB = """
import json, os, time
from types import SimpleNamespace as Told

class NVMLError(Exception): pass
nvmlMemory_v2 = 33554472
NVML_DEVICE_MIG_ENABLE = 1
def _state(): return json.load(open(os.environ["NVML_STATE"]))
def _gpu(handle): return _state()["gpus"][handle[0]]
def _one(handle): return _gpu(handle) if len(handle) == 1 else _gpu(handle)["slices"][handle[1]]
def nvmlInit():
    if "broken" in _state(): raise NVMLError(_state()["broken"])
def nvmlSystemGetDriverVersion(): return _state().get("driver", "580.95.05")
def nvmlDeviceGetCount(): return len(_state()["gpus"])
def nvmlDeviceGetHandleByIndex(index):
    if _state()["gpus"][index].get("closed"): raise NVMLError("Insufficient Permissions")
    return (index,)
def nvmlDeviceGetHandleByUUID(uuid):
    for index, gpu in enumerate(_state()["gpus"]):
        for place in [(index,), *((index, part) for part in range(len(gpu.get("slices", ()))))]:
            if _one(place)["uuid"] == uuid: return place
    raise NVMLError("Not Found")
def nvmlDeviceGetHandleByPciBusId(pciBusId):
    return next((index,) for index, gpu in enumerate(_state()["gpus"]) if gpu["busId"].endswith(pciBusId))
def nvmlDeviceGetPciInfo(handle): return Told(busId=_gpu(handle)["busId"])
def nvmlDeviceGetName(handle): return _one(handle)["name"]
def nvmlDeviceGetUUID(handle): return _one(handle)["uuid"].encode()
def nvmlDeviceGetCudaComputeCapability(handle): return _gpu(handle)["capability"]
def nvmlDeviceGetMemoryInfo(handle, version=None):
    if version and "reserved" not in _one(handle): raise NVMLError("Function Not Found")
    return Told(total=_one(handle)["total"], reserved=_one(handle).get("reserved"))
def nvmlDeviceGetMigMode(handle):
    if "mig" not in _gpu(handle): raise NVMLError("Not Supported")
    return _gpu(handle)["mig"]
def nvmlDeviceGetMaxMigDeviceCount(handle): return 7
def nvmlDeviceGetMigDeviceHandleByIndex(device, index):
    if index >= len(_gpu(device)["slices"]): raise NVMLError("Not Found")
    return (*device, index)
def _processes(handle, kind):
    time.sleep(_state().get("hangs", 0))
    return [Told(pid=pid, usedGpuMemory=used) for pid, used in _one(handle).get(kind, ())]
def nvmlDeviceGetComputeRunningProcesses(handle): return _processes(handle, "compute")
def nvmlDeviceGetMPSComputeRunningProcesses(handle): return _processes(handle, "mps")
def nvmlDeviceGetGraphicsRunningProcesses(handle):
    if len(handle) == 2: raise NVMLError("Not Supported")
    return _processes(handle, "graphics")
"""


class Driver:
    """What the stub tells; `say` changes it while NVML's process runs."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "state.json"

    def say(self, *gpus: Mapping[str, Any], **more: Any) -> None:
        fresh = self.file.with_suffix(".new")
        fresh.write_text(json.dumps({"gpus": gpus, **more}))
        fresh.replace(self.file)

    @classmethod
    def installed(cls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
        """The stub, where NVML's process finds it before the real binding."""
        folder = tmp_path / "nvml"
        folder.mkdir()
        (folder / "pynvml.py").write_text(STUB)
        monkeypatch.setenv("PYTHONPATH", str(folder))
        monkeypatch.setenv("NVML_STATE", str(folder / "state.json"))
        return cls(folder)
