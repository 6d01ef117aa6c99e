"""How much of a device's memory an encoder will hold, before anything was measured."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from .. import model
from ..backend import Offer
from ..engines import Engine, Openvino, Torch
from ..errors import WeightsError
from .config import Config
from .files import graph
from .forward import ROWS, ROWS_ACCELERATED, at_once
from .options import Options

if TYPE_CHECKING:
    from ..fleet.weights import Weights

MIB = 2**20
# What a replica's process holds on a processor besides: the interpreter, the runtime, the engine's code.
PROCESS = {"openvino": 250 * MIB, "onnxruntime": 250 * MIB, "torch": 450 * MIB}
# What it holds on an accelerator: the vendor's context, 300 to 500 MB, and its libraries' workspaces.
CONTEXT = 600 * MIB
# What inferences were seen to hold by what `_inference` reckons, for arenas keep what they once grew to. Measured on
# weights of 23 and 91 MB with 64 texts of 250 tokens.
KEPT = {"openvino": 1.6, "onnxruntime": 2.5, "torch": 1.0}
SIZES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


def memory(weights: Weights, options: model.Options, offer: Offer) -> int | None:
    """Bytes that a replica will hold on the offer's device: the process or the vendor's context, the weights in the
    precision in which the engine holds them, and its largest inferences. None where no file tells the model's shape, or
    where the weights are still in another format."""
    assert isinstance(options, Options)
    engine, processor = offer.engine, offer.device.cores > 0
    config = Config.read(weights.path)
    try:
        stored = _stored(weights, engine)
    except (WeightsError, OSError):
        return None
    if not config.width:
        return None
    rows = ROWS if processor else ROWS_ACCELERATED
    inference = _inference(config, config.read_of(options.max_length), rows, _size(engine), fused=not processor)
    return (
        (PROCESS[engine.name] if processor else CONTEXT) + stored + int(_lanes(engine) * KEPT[engine.name] * inference)
    )


def _inference(config: Config, length: int, rows: int, size: int, *, fused: bool) -> int:
    """Bytes of one layer at the largest batch, for a layer's are used again by the next: hidden states with what
    attention makes of them, the inner layer before and after its function, and the scores of every token for every
    other, unless attention is `fused`."""
    tokens = min(rows * length, max(at_once(rows), length))
    scores = 0 if fused else 2 * config.heads * length
    return tokens * size * (8 * config.width + 4 * config.inner + scores)


def _lanes(engine: Engine) -> int:
    """Inferences that run side by side: openvino's streams, of which 64 texts feed no more than eight."""
    if isinstance(engine, Openvino) and engine.properties.get("PERFORMANCE_HINT") == "THROUGHPUT":
        return min(max(engine.threads, 1), 64 // ROWS)
    return 1


def _size(engine: Engine) -> int:
    """Bytes of a number while it is computed with."""
    return SIZES.get(engine.dtype, 4) if isinstance(engine, Torch) else 4


def _stored(weights: Weights, engine: Engine) -> int:
    """Bytes of the weights as this engine holds them. WeightsError where it cannot read them as they are."""
    if isinstance(engine, Torch):
        tensors = [weights / file.name for file in weights.files if file.name.endswith(".safetensors")]
        if not tensors:
            raise WeightsError("safetensors", "none")
        return sum(map(_elements, tensors)) * _size(engine)
    file = graph(weights, engine)
    twin = file.with_suffix(".bin").name if file.suffix == ".xml" else file.name
    folder = file.parent
    return sum(
        other.size
        for other in weights.files
        if (weights / other.name).parent == folder and (weights / other.name).name.startswith(twin)
    )


def _elements(path: Path) -> int:
    """Numbers in a safetensors file, from its header: its length in 8 bytes, then JSON."""
    with path.open("rb") as file:
        header = json.loads(file.read(min(int.from_bytes(file.read(8), "little"), 100 * MIB)))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
