"""Text to speech, as an Argosy plugin."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

import argosy
from argosy import tasks

if TYPE_CHECKING:
    from argosy.engines import Onnxruntime
    from argosy.fleet.weights import Weights

PIECE = 400  # characters that are spoken at once: first sound comes early, and memory stays bounded
ENDS = re.compile(r"(?<=[.!?;:])\s+|\n+")


class Options(argosy.Options):
    """max_characters: of one request; what is longer is refused"""

    max_characters: int = Field(20_000, ge=1)


class Speech(argosy.Model):
    name = "tts"
    task = tasks.speech
    options = Options
    batching = argosy.one_by_one
    features = frozenset({"speed"})

    config: Options


@Speech.on("onnxruntime", weights=("piper",))
class Piper(Speech):
    """Voices of Piper. piper-tts is GPL-3.0-or-later, and so an extra: pip install 'argosy-tts[piper]'."""

    def load(self, weights: Weights, engine: Onnxruntime, device: argosy.Device) -> None:
        try:
            from piper import PiperConfig, PiperVoice
        except ImportError as error:
            raise argosy.ReplicaError(
                "piper-tts (GPL-3.0-or-later, optional) to speak with Piper's voices",
                str(error),
                "pip install 'argosy-tts[piper]'",
            ) from None
        config = PiperConfig.from_dict(json.loads(weights.one(".onnx.json").read_text(encoding="utf-8")))
        self.voice = PiperVoice(session=engine.session(weights.one(".onnx")), config=config)
        name = weights.one(".onnx").stem
        self.voices = {name: 0, **config.speaker_id_map} if config.num_speakers > 1 else {name: 0}
        self.about = {"voices": ", ".join(self.voices), "rate": f"{config.sample_rate} Hz"}

    def generate(self, request: tasks.SpeechRequest, ctx: argosy.Context) -> Iterator[tasks.Sound]:
        from piper import SynthesisConfig

        if request.voice is not None and request.voice not in self.voices:
            known = ", ".join(self.voices)
            raise argosy.BadRequest(
                f"voice: found {request.voice!r}; known: {known}", param="voice", code="unknown_voice"
            )
        if len(request.text) > self.config.max_characters:
            raise argosy.BadRequest(
                f"{len(request.text)} characters are too many, at most {self.config.max_characters} are spoken at once",
                code="text_too_long",
            )
        how = SynthesisConfig(
            speaker_id=self.voices[request.voice] if request.voice else None,
            length_scale=self.voice.config.length_scale / request.speed,
        )
        for piece in pieces(request.text):
            for chunk in self.voice.synthesize(piece, how):
                yield tasks.Sound(chunk.audio_float_array.astype(np.float32, copy=False), chunk.sample_rate)


def pieces(text: str) -> Iterator[str]:
    """Sentences, the long ones cut at a space: each at most PIECE characters."""
    for sentence in ENDS.split(text):
        rest = sentence.strip()
        while len(rest) > PIECE:
            cut = rest.rfind(" ", 1, PIECE)
            cut = cut if cut > 0 else PIECE
            yield rest[:cut]
            rest = rest[cut:].strip()
        if rest:
            yield rest


@argosy.hookimpl
def argosy_models() -> Sequence[type[argosy.Model]]:
    return [Speech]
