"""Embeddings of texts, as an Argosy plugin: BGE, E5, GTE, MiniLM and whatever else is an encoder with mean or cls
pooling."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import argosy
from argosy import convert, encoder, tasks
from argosy.errors import WeightsError

if TYPE_CHECKING:
    from argosy.fleet.weights import Weights


class Options(encoder.Options):
    """normalise: vectors of length 1, so that a dot product is the cosine"""

    normalise: bool = True


class Embeddings(argosy.Model):
    """Reads `tokenizer.json` beside the weights, and their pooling and length from the files that sentence-transformers
    and transformers write. What a model wants before a query ("query: ", an instruction) is the client's to add."""

    name = "embeddings"
    task = tasks.embedding
    options = Options
    batching = argosy.gather(64)

    config: Options

    @classmethod
    def choose(cls, offers: Sequence[argosy.Offer]) -> Sequence[argosy.Offer]:
        return encoder.preferred(offers)

    @classmethod
    def memory(cls, weights: Weights, options: argosy.Options, offer: argosy.Offer) -> int | None:
        return encoder.memory(weights, options, offer)

    def load(self, weights: Weights, engine: argosy.Engine, device: argosy.Device) -> None:
        self.encoder = encoder.load(weights, engine, self.config, normalise=self.config.normalise)
        if self.encoder.scores:
            raise WeightsError("an embedding model", "a classifier, which scores pairs", "plugin: reranker")
        self.about = {
            "dimensions": str(self.encoder.width),
            "pooling": self.encoder.pooling,
            "max_length": self.encoder.read,
        }

    def predict(self, batch: Sequence[str]) -> Sequence[tasks.Embedding]:
        vectors, tokens = self.encoder(batch)
        return [tasks.Embedding(vector, count) for vector, count in zip(vectors, tokens, strict=True)]


@Embeddings.on("openvino", weights=("openvino", "onnx"))
class OnOpenvino(Embeddings):
    """One .xml or .onnx; of several, openvino_model.xml or model.onnx."""

    convert_from = ("safetensors",)
    convert_needs = convert.OPENVINO

    @staticmethod
    def convert(source: Path, target: Path, options: Options) -> None:
        convert.to_openvino(source, target)


@Embeddings.on("onnxruntime", weights=("onnx",))
class OnOnnxruntime(Embeddings):
    """One .onnx; of several, model.onnx."""

    convert_from = ("safetensors",)
    convert_needs = convert.ONNX

    @staticmethod
    def convert(source: Path, target: Path, options: Options) -> None:
        convert.to_onnx(source, target)


@Embeddings.on("torch", weights=("safetensors",))
class OnTorch(Embeddings):
    """config.json and *.safetensors, of an architecture that transformers has itself."""


@argosy.hookimpl
def argosy_models() -> Sequence[type[argosy.Model]]:
    return [Embeddings]
