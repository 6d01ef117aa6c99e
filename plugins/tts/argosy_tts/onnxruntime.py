"""Speech on onnxruntime: Piper's voices or Kokoro's, whichever the weights are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import argosy

from . import kokoro, piper
from .speech import Options, Piece, Speech

if TYPE_CHECKING:
    from argosy.engines import Onnxruntime
    from argosy.fleet.weights import Weights

# Kokoro's graph of 319 MB held 837 MB where somebody measured it (k2-fsa/sherpa-onnx#2137), of two threads on a phone.
KOKORO = 600 * 2**20  # bytes besides the weights


@Speech.on("onnxruntime", weights=("piper", "kokoro"))
class OnOnnxruntime(Speech):
    voiced: piper.Piper | kokoro.Kokoro

    @classmethod
    def memory(cls, weights: Weights, options: argosy.Options, offer: argosy.Offer) -> int | None:
        """Of Piper's voices core's own reckoning holds: 63 MB of weights held 284 MB."""
        return None if "piper" in weights.formats else weights.bytes + KOKORO

    def load(self, weights: Weights, engine: Onnxruntime, device: argosy.Device) -> None:
        assert isinstance(self.config, Options)
        of = piper.Piper if "piper" in weights.formats else kokoro.Kokoro
        self.voiced = of(weights, engine, self.config.language)
        self.speaks(self.voiced.voices)

    def speak(self, text: str, voice: Any, pace: float) -> Iterator[Piece]:
        return self.voiced.speak(text, voice, pace)
