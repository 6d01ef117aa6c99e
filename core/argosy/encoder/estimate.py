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
# What a replica's process holds on a processor besides its weights and what grows with its texts: the interpreter, the
# runtime (some 80 MiB), the engine's code and what it keeps after its first inferences. Measured, as is KEPT, as
# proportional memory at its highest, on encoders 384 and 768 wide with texts of 256 and 512 tokens, on two cores.
PROCESS = {"openvino": 510 * MIB, "onnxruntime": 420 * MIB, "torch": 400 * MIB}
# What inferences then add, by what `_inference` reckons: buffers are used again.
KEPT = {"openvino": 0.35, "onnxruntime": 1.2, "torch": 0.75}
UNFUSED = ("onnxruntime",)  # engines that write down the scores of every token for every other
# On an accelerator: the vendor's context, 300 to 500 MB, and its libraries' workspaces. Not measured.
CONTEXT = 600 * MIB
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
    inference = _inference(config, config.read_of(options.max_length), rows, engine)
    fixed = PROCESS[engine.name] if processor else CONTEXT
    return fixed + stored + int(_lanes(engine) * KEPT[engine.name] * inference)


def _inference(config: Config, length: int, rows: int, engine: Engine) -> int:
    """Bytes of one layer at the largest batch, for a layer's are used again by the next: hidden states with what
    attention makes of them, and the inner layer before and after its function."""
    tokens = min(rows * length, max(at_once(rows), length))
    scores = 2 * config.heads * length if engine.name in UNFUSED else 0
    return tokens * _size(engine) * (8 * config.width + 4 * config.inner + scores)


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
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(min(int.from_bytes(file.read(8), "little"), 100 * MIB)))
        return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"a safetensors file in {path.name}", f"a header that is none: {error}") from error
