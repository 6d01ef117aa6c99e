"""An encoder on onnxruntime. Inputs and outputs are arrays in the host's memory, whatever the provider."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engines import Onnxruntime
from .forward import INPUTS, ROWS, ROWS_ACCELERATED, Feed, Forward, Vectors, unlike
from .options import Pooling


class OnOnnxruntime(Forward):
    """Hidden states are pooled in numpy; a graph that ends in (batch, n) is used as it is, and is a classifier where
    that n is 1 or 2 or the output is called `logits`."""

    engine = "onnxruntime"

    def __init__(self, engine: Onnxruntime, graph: Path, *, pooling: Pooling, normalise: bool) -> None:
        """Raises WeightsError where the graph is no encoder."""
        self._session = engine.session(graph)
        self._pooling, self._normalise = pooling, normalise
        self._kinds = {each.name: np.int32 if "int32" in each.type else np.int64 for each in self._session.get_inputs()}
        if strange := [name for name in self._kinds if name not in INPUTS]:
            raise unlike(graph.name, f"an input called {strange[0]}")
        self.inputs = list(self._kinds)
        outputs = self._session.get_outputs()
        self.scores = _scores(outputs[0])
        deep = [] if self.scores else [each.name for each in outputs if len(each.shape) == 3]
        self.pooled = bool(deep)
        self._output = deep[0] if deep else outputs[0].name
        if self.pooled and pooling == "mean" and "attention_mask" not in self._kinds:
            raise unlike(graph.name, "no input attention_mask")
        self.rows = ROWS if engine.providers[0][0] == "CPUExecutionProvider" else ROWS_ACCELERATED

    def __call__(self, feeds: Iterable[Feed]) -> Sequence[Vectors]:
        return [self._one(feed) for feed in feeds]

    def _one(self, feed: Feed) -> Vectors:
        arrays = {name: feed[name].astype(kind, copy=False) for name, kind in self._kinds.items()}
        (found,) = self._session.run([self._output], arrays)
        if not self.pooled:
            return found.astype(np.float32, copy=False)  # type: ignore[no-any-return]
        if self._pooling == "cls":
            vectors: Vectors = found[:, 0].astype(np.float32)  # (texts, width)
        else:
            vectors = _mean(found.astype(np.float32, copy=False), feed["attention_mask"])
        if self._normalise:
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors


def _mean(hidden: NDArray[np.float32], mask: NDArray[np.int64]) -> Vectors:
    """(texts, tokens, width) -> (texts, width), over the tokens that are no padding."""
    weight = mask.astype(np.float32)
    vectors: Vectors = np.matmul(weight[:, None], hidden)[:, 0] / weight.sum(1, keepdims=True)
    return vectors


def _scores(output: Any) -> int:
    """Numbers per text of a classifier; 1 where the graph leaves their number open."""
    if len(output.shape) != 2:
        return 0
    count = output.shape[1] if isinstance(output.shape[1], int) else 0
    return max(count, 1) if output.name == "logits" or 0 < count <= 2 else 0
