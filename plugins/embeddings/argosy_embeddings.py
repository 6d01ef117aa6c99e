"""Sentence embeddings, as an Argosy plugin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

import argosy
from argosy import tasks

if TYPE_CHECKING:
    from argosy.engines import Openvino
    from argosy.fleet.weights import Weights


class Options(argosy.Options):
    """max_length: tokens that are read of a text; what is longer is cut
    pooling: how the tokens' vectors become one, as the model was trained (MiniLM and E5: mean, BGE: cls)
    normalise: vectors of length 1, so that a dot product is the cosine"""

    max_length: int = Field(256, ge=8)
    pooling: Literal["mean", "cls"] = "mean"
    normalise: bool = True


class Embeddings(argosy.Model):
    name = "embeddings"
    task = tasks.embedding
    options = Options
    batching = argosy.gather(64)

    config: Options


@Embeddings.on("openvino", weights=("openvino", "onnx"))
class OnOpenvino(Embeddings):
    """Reads `tokenizer.json` beside one .onnx or .xml."""

    def load(self, weights: Weights, engine: Openvino, device: argosy.Device) -> None:
        from argosy.encoder import TextEncoder

        self.encoder = TextEncoder(
            engine,
            weights.one(".xml" if "openvino" in weights.formats else ".onnx"),
            weights / "tokenizer.json",
            max_length=self.config.max_length,
            pooling=self.config.pooling,
            normalise=self.config.normalise,
        )
        self.about = {
            "dimensions": str(self.encoder.width),
            "pooling": self.config.pooling if self.encoder.pooled else "the graph's own",
            "max_length": f"{self.config.max_length} tokens; what is longer is cut",
        }

    def predict(self, batch: Sequence[str]) -> Sequence[tasks.Embedding]:
        vectors, tokens = self.encoder(batch)
        return [tasks.Embedding(vector, count) for vector, count in zip(vectors, tokens, strict=True)]


@argosy.hookimpl
def argosy_models() -> Sequence[type[argosy.Model]]:
    return [Embeddings]
