"""Which of the weights' files an engine reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..engines import Engine, Openvino

if TYPE_CHECKING:
    from ..fleet.weights import Weights

PLAIN = {".onnx": "model.onnx", ".xml": "openvino_model.xml"}


def graph(weights: Weights, engine: Engine) -> Path:
    """The model's graph: of several precisions in one repository the plain one, else the only one. WeightsError where
    there is none."""
    suffix = ".xml" if isinstance(engine, Openvino) and "openvino" in weights.formats else ".onnx"
    named = [file.name for file in weights.files if file.name.rpartition("/")[2] == PLAIN[suffix]]
    return weights / named[0] if len(named) == 1 else weights.one(suffix)
