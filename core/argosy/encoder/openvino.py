"""An encoder on openvino."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..engines import Openvino
from .forward import INPUTS, ROWS, ROWS_ACCELERATED, Feed, Forward, Vectors, unlike
from .options import Pooling


class OnOpenvino(Forward):
    """A graph that ends in hidden states gets pooling and normalisation appended, so that they run in the engine; one
    that ends in (batch, n) is used as it is, and is a classifier where that n is 1 or 2 or the output says `logits`."""

    engine = "openvino"

    def __init__(self, engine: Openvino, graph: Path, *, pooling: Pooling, normalise: bool) -> None:
        """Raises WeightsError where the graph is no encoder."""
        import openvino

        model = openvino.Core().read_model(graph)
        self.scores = _scores(model)
        self.pooled = not self.scores and max(output.partial_shape.rank.get_length() for output in model.outputs) == 3
        model = (
            _pool(model, graph, pooling, normalise)
            if self.pooled
            else openvino.Model([model.outputs[0]], model.get_parameters(), "")
        )
        compiled = _precise(engine, model).compile(model)
        self.inputs = [_name(port, graph) for port in compiled.inputs]
        self._queue = openvino.AsyncInferQueue(compiled)  # as many requests as the engine has streams
        self._queue.set_callback(_keep)
        self.lanes = len(self._queue)
        self.rows = ROWS if engine.device == "CPU" else ROWS_ACCELERATED

    def __call__(self, feeds: Iterable[Feed]) -> Sequence[Vectors]:
        found: list[Any] = []
        for feed in feeds:
            found.append(None)
            self._queue.start_async(feed, (found, len(found) - 1))
        self._queue.wait_all()
        return found


def _keep(request: Any, target: tuple[list[Any], int]) -> None:
    found, place = target
    found[place] = request.get_output_tensor(0).data.copy()  # (rows, width) float32: the engine reuses its own memory


def _precise(engine: Openvino, model: Any) -> Openvino:
    """Around 8-bit products bfloat16 only adds conversions: float32 is a tenth faster on a processor that has both,
    and nearer to the weights. The backend's and the fleet file's own word goes first."""
    hint = "INFERENCE_PRECISION_HINT"
    eight_bit = any(
        node.get_element_type().bitwidth == 8 for node in model.get_ops() if node.get_type_name() == "Constant"
    )
    if engine.device != "CPU" or not eight_bit or hint in engine.properties:
        return engine
    return dataclasses.replace(engine, properties={hint: "f32", **engine.properties})


def _scores(model: Any) -> int:
    """Numbers per text of a classifier; 1 where the graph leaves their number open."""
    shape = model.outputs[0].partial_shape
    if shape.rank.get_length() != 2:
        return 0
    count = shape[1].get_length() if shape[1].is_static else 0
    return max(count, 1) if "logits" in model.outputs[0].names or 0 < count <= 2 else 0


def _pool(model: Any, graph: Path, pooling: Pooling, normalise: bool) -> Any:
    """The graph with its hidden states brought down to one vector per text: (batch, tokens, n) -> (batch, n)."""
    import openvino
    from openvino import opset13 as op

    hidden = next(output for output in model.outputs if output.partial_shape.rank.get_length() == 3)
    hidden = hidden.get_node().input_value(0)
    if pooling == "cls":
        vector = op.gather(hidden, op.constant(0), op.constant(1))
    else:
        mask = next((one for one in model.get_parameters() if "attention_mask" in one.output(0).names), None)
        if mask is None:
            raise unlike(graph.name, "no input attention_mask")
        weight = op.unsqueeze(op.convert(mask, "f32"), op.constant(2))  # (batch, tokens, 1)
        total = op.reduce_sum(op.multiply(hidden, weight), op.constant(1))
        vector = op.divide(total, op.reduce_sum(weight, op.constant(1)))
    if normalise:
        vector = op.normalize_l2(vector, op.constant([1]), 1e-12, "max")
    return openvino.Model([op.result(vector)], model.get_parameters(), "")


def _name(port: Any, graph: Path) -> str:
    for name in INPUTS:
        if name in port.names:
            return name
    raise unlike(graph.name, f"an input called {port.any_name}")
