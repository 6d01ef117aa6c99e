"""Reranking of passages, as an Argosy plugin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

import argosy
from argosy import tasks

if TYPE_CHECKING:
    from argosy.engines import Openvino
    from argosy.fleet.weights import Weights


class Options(argosy.Options):
    """max_length: tokens that are read of a query with its document (of each, by cosine); what is longer is cut
    pooling: of an embedding model, as it was trained; a cross-encoder needs none"""

    max_length: int = Field(256, ge=8)
    pooling: Literal["mean", "cls"] = "mean"


class Reranker(argosy.Model):
    """A cross-encoder reads query and document together. From an embedding model's weights, which have no classifier,
    the score is the cosine of two embeddings instead, and `about` says so."""

    name = "reranker"
    task = tasks.rerank
    options = Options
    batching = argosy.gather(64)

    config: Options


@Reranker.on("openvino", weights=("openvino", "onnx"))
class OnOpenvino(Reranker):
    """Reads `tokenizer.json` beside one .onnx or .xml."""

    def load(self, weights: Weights, engine: Openvino, device: argosy.Device) -> None:
        from argosy.encoder import TextEncoder

        self.encoder = TextEncoder(
            engine,
            weights.one(".xml" if "openvino" in weights.formats else ".onnx"),
            weights / "tokenizer.json",
            max_length=self.config.max_length,
            pooling=self.config.pooling,
        )
        self.about = {
            "scoring": "cross-encoder, a probability"
            if self.encoder.classifier
            else "cosine similarity of embeddings; not a cross-encoder",
            "max_length": f"{self.config.max_length} tokens; what is longer is cut",
        }

    def predict(self, batch: Sequence[tasks.Pair]) -> Sequence[tasks.Score]:
        return self._classify(batch) if self.encoder.classifier else self._compare(batch)

    def _classify(self, batch: Sequence[tasks.Pair]) -> Sequence[tasks.Score]:
        logits, tokens = self.encoder([(pair.query, pair.document) for pair in batch])  # (pairs, 1 or 2) float32
        relevant = logits[:, -1] - (logits[:, 0] if logits.shape[1] == 2 else 0)
        scores = 1 / (1 + np.exp(-relevant.astype(np.float64)))
        return [tasks.Score(float(score), count) for score, count in zip(scores, tokens, strict=True)]

    def _compare(self, batch: Sequence[tasks.Pair]) -> Sequence[tasks.Score]:
        """Each text is encoded once, however many pairs it is in; a query's tokens count with the first of them."""
        places = {
            text: place
            for place, text in enumerate({text: None for pair in batch for text in (pair.query, pair.document)})
        }
        vectors, tokens = self.encoder(list(places))
        counts = dict(zip(places, tokens, strict=True))
        scores = []
        for pair in batch:
            score = float(vectors[places[pair.query]] @ vectors[places[pair.document]])
            scores.append(tasks.Score(score, counts.pop(pair.query, 0) + tokens[places[pair.document]]))
        return scores


@argosy.hookimpl
def argosy_models() -> Sequence[type[argosy.Model]]:
    return [Reranker]
