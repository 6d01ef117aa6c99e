"""OpenVINO and its pipelines for generation. No mask reaches them: the device is named."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from .engine import Engine

PROCESSOR = "CPU"  # what OpenVINO calls the host's own


@dataclass(frozen=True, kw_only=True)
class _Named(Engine):
    """Options that both have: a device by its name, and properties for it."""

    device: str = PROCESSOR
    properties: Mapping[str, Any] = field(default_factory=dict)

    def prepare(self) -> Self:
        """The device has to be among those that OpenVINO finds; else, where that is allowed, the processor is taken."""
        self.seen.told["device"] = self.device
        if self.device == PROCESSOR:
            return self
        import openvino

        found = openvino.Core().available_devices
        if any(same(self.device, name) for name in found):
            return self
        self.missed(f"{self.name} on {self.device}", f"it finds {', '.join(found) or 'no device'}")
        return self.nearest()

    def nearest(self) -> Self:
        """The same on the processor, without properties that only the planned device may know."""
        self.seen.told["device"] = PROCESSOR
        return dataclasses.replace(self, device=PROCESSOR, properties={})

    def settings(self) -> dict[str, Any]:
        """Properties for a model or a pipeline: threads, then the backend's, then the fleet file's."""
        threads = {"INFERENCE_NUM_THREADS": self.threads} if self.threads else {}
        return {**threads, **self.properties, **self.extra}


@dataclass(frozen=True, kw_only=True)
class OpenvinoGenai(_Named):
    name = "openvino_genai"
    distributions = ("openvino-genai",)


@dataclass(frozen=True, kw_only=True)
class Openvino(_Named):
    name = "openvino"
    distributions = ("openvino",)

    def compile(self, model: Path | Any) -> Any:
        """A compiled model on the planned device; `model` is a file (.onnx, .xml) or an openvino Model. Raises
        RuntimeError where the device cannot run it, and ReplicaError where another one would."""
        import openvino

        core = openvino.Core()
        source = core.read_model(model) if isinstance(model, Path) else model
        try:
            compiled = core.compile_model(source, self.device, self.settings())
        except RuntimeError as error:  # all that OpenVINO ever raises
            if self.strict or self.device == PROCESSOR:
                raise
            self.missed(f"{self.name} on {self.device}", str(error).strip().splitlines()[-1])
            nearest = self.nearest()
            compiled = core.compile_model(source, nearest.device, nearest.settings())
        used = [str(name).strip("()") for name in compiled.get_property("EXECUTION_DEVICES")]
        self.seen.told["device"] = ", ".join(used)
        if not self.seen.elsewhere and not all(same(self.device, name) for name in used):
            self.missed(f"{self.name} on {self.device}", f"it runs on {', '.join(used)}")
        return compiled


def same(planned: str, found: str) -> bool:
    """Whether a planned device is meant by a name of OpenVINO's: the only `GPU` of a machine is its `GPU.0`."""
    (kind, _, number), (other, _, count) = planned.partition("."), found.partition(".")
    return kind == other and number in ("", count or "0")
