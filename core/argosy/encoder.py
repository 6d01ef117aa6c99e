"""Texts through a transformer encoder on openvino: what embedding and rerank models share.

It lives in core because plugins do not import each other; it knows no model by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .engines import Openvino
from .errors import WeightsError

Pooling = Literal["mean", "cls"]
Text = str | tuple[str, str]  # a pair is read as one sequence, with the separator that the tokenizer knows

ROWS = 8  # texts per inference: more adds padding and no speed on a processor
STEP = 8  # tokens that lengths are rounded up to: the engine prepares each new shape once, for some 10 ms
CHARACTERS = 64  # per token of `max_length` that are looked at: a text of a million characters is not tokenised whole


class TextEncoder:
    """A tokenizer and a graph that is fed `input_ids` and `attention_mask`.

    A graph that ends in hidden states gets pooling and normalisation appended, so that they run in the engine; one
    that ends in (batch, n) is used as it is. `classifier` is true where that n is 1 or 2: scores, not an embedding.
    """

    def __init__(
        self,
        engine: Openvino,
        graph: Path,
        tokenizer: Path,
        *,
        max_length: int,
        pooling: Pooling = "mean",
        normalise: bool = True,
    ) -> None:
        """Raises WeightsError where the graph is not such an encoder."""
        import openvino
        from tokenizers import Tokenizer

        model = openvino.Core().read_model(graph)
        self.classifier = _classifier(model)
        self.pooled = (
            not self.classifier and max(output.partial_shape.rank.get_length() for output in model.outputs) == 3
        )
        model = (
            _pool(model, graph, pooling, normalise)
            if self.pooled
            else openvino.Model([model.outputs[0]], model.get_parameters(), "")
        )
        compiled = _precise(engine, model).compile(model)
        self._inputs = [_name(port, graph) for port in compiled.inputs]
        self._queue = openvino.AsyncInferQueue(compiled)  # as many requests as the engine has streams
        self._queue.set_callback(_keep)
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length)
        self._characters = max_length * CHARACTERS
        self.width = len(self([" "])[0][0])

    def __call__(self, texts: Sequence[Text]) -> tuple[NDArray[np.float32], list[int]]:
        """(texts, width) float32, and the number of tokens read of each text. Not to be called from two threads."""
        encodings = self._tokenizer.encode_batch_fast([self._cut(text) for text in texts])
        tokens = [len(encoding) for encoding in encodings]
        order = sorted(range(len(texts)), key=tokens.__getitem__)  # like lengths together: little padding
        rows = max(1, min(ROWS, -(-len(texts) // len(self._queue))))
        found: list[Any] = [None] * len(texts)
        for start in range(0, len(texts), rows):
            places = order[start : start + rows]
            feed = self._feed([encodings[place] for place in places])
            self._queue.start_async(feed, (found, places))
        self._queue.wait_all()
        return np.stack(found), tokens

    def _cut(self, text: Text) -> Text:
        if isinstance(text, str):
            return text[: self._characters]
        return text[0][: self._characters], text[1][: self._characters]

    def _feed(self, encodings: Sequence[Any]) -> dict[str, NDArray[np.int64]]:
        length = -(-len(encodings[-1]) // STEP) * STEP
        arrays = {name: np.zeros((len(encodings), length), np.int64) for name in self._inputs}
        for row, encoding in enumerate(encodings):
            size = len(encoding)
            arrays["input_ids"][row, :size] = encoding.ids
            arrays["attention_mask"][row, :size] = 1
            if "token_type_ids" in arrays:
                arrays["token_type_ids"][row, :size] = encoding.type_ids
        return arrays


def _keep(request: Any, target: tuple[list[Any], Sequence[int]]) -> None:
    found, places = target
    rows = request.get_output_tensor(0).data.copy()  # (rows, width) float32: the engine reuses its own memory
    for place, row in zip(places, rows, strict=True):
        found[place] = row


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


def _classifier(model: Any) -> bool:
    shape = model.outputs[0].partial_shape
    if shape.rank.get_length() != 2:
        return False
    return "logits" in model.outputs[0].names or (shape[1].is_static and shape[1].get_length() <= 2)


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
            raise _unlike(graph, "no input attention_mask")
        weight = op.unsqueeze(op.convert(mask, "f32"), op.constant(2))  # (batch, tokens, 1)
        total = op.reduce_sum(op.multiply(hidden, weight), op.constant(1))
        vector = op.divide(total, op.reduce_sum(weight, op.constant(1)))
    if normalise:
        vector = op.normalize_l2(vector, op.constant([1]), 1e-12, "max")
    return openvino.Model([op.result(vector)], model.get_parameters(), "")


def _name(port: Any, graph: Path) -> str:
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        if name in port.names:
            return name
    raise _unlike(graph, f"an input called {port.any_name}")


def _unlike(graph: Path, found: str) -> WeightsError:
    return WeightsError(
        f"{graph.name}: an encoder of input_ids and attention_mask", found, "weights exported for feature extraction"
    )
