"""Reranking of passages, as an Argosy plugin: BGE-Reranker and other cross-encoders, or any embedding model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import argosy
from argosy import convert, encoder, tasks
from argosy.errors import WeightsError

if TYPE_CHECKING:
    from argosy.fleet.weights import Weights


class Reranker(argosy.Model):
    """A cross-encoder reads query and document together; its score is the sigmoid of its logit (of two logits, of what
    the second has above the first). From an embedding model's weights, which have no classifier, the score is the
    cosine of two embeddings instead, and `about` says so."""

    name = "reranker"
    task = tasks.rerank
    options = encoder.Options
    batching = argosy.gather(64)

    config: encoder.Options

    @classmethod
    def choose(cls, offers: Sequence[argosy.Offer]) -> Sequence[argosy.Offer]:
        return encoder.preferred(offers)

    @classmethod
    def memory(cls, weights: Weights, options: argosy.Options, offer: argosy.Offer) -> int | None:
        return encoder.memory(weights, options, offer)

    def load(self, weights: Weights, engine: argosy.Engine, device: argosy.Device) -> None:
        self.encoder = encoder.load(weights, engine, self.config)
        if self.encoder.width > 2 and self.encoder.scores:
            raise WeightsError("a cross-encoder, which ends in 1 or 2 numbers", f"{self.encoder.width}")
        self.about = {
            "scoring": "cross-encoder, a probability"
            if self.encoder.scores
            else "cosine similarity of embeddings; not a cross-encoder",
            "max_length": self.encoder.read,
        }

    def predict(self, batch: Sequence[tasks.Pair]) -> Sequence[tasks.Score]:
        return self._classify(batch) if self.encoder.scores else self._compare(batch)

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


@Reranker.on("openvino", weights=("openvino", "onnx"))
class OnOpenvino(Reranker):
    """One .xml or .onnx; of several, openvino_model.xml or model.onnx."""

    convert_from = ("safetensors",)
    convert_needs = convert.OPENVINO

    @staticmethod
    def convert(source: Path, target: Path, options: encoder.Options) -> None:
        convert.to_openvino(source, target)


@Reranker.on("onnxruntime", weights=("onnx",))
class OnOnnxruntime(Reranker):
    """One .onnx; of several, model.onnx."""

    convert_from = ("safetensors",)
    convert_needs = convert.ONNX

    @staticmethod
    def convert(source: Path, target: Path, options: encoder.Options) -> None:
        convert.to_onnx(source, target)


@Reranker.on("torch", weights=("safetensors",))
class OnTorch(Reranker):
    """config.json and *.safetensors, of an architecture that transformers has itself."""


@argosy.hookimpl
def argosy_models() -> Sequence[type[argosy.Model]]:
    return [Reranker]
