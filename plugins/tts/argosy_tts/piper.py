"""Piper's voices: each NAME.onnx with its NAME.onnx.json is the voice NAME, or NAME/SPEAKER where it has several."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from argosy import tasks
from argosy.errors import WeightsError

from .speech import Piece, missing
from .text import blocks

if TYPE_CHECKING:
    from argosy.engines import Onnxruntime
    from argosy.fleet.weights import Weights


class Piper:
    """The voices of a model folder. A voice has one language; `language` that is another is refused."""

    def __init__(self, weights: Weights, engine: Onnxruntime, language: str) -> None:
        try:
            from piper import PiperVoice
            from piper.config import PiperConfig
        except ImportError as error:
            wanted = "Piper voices need piper-tts, which is GPL-3.0 and therefore never installed unasked"
            raise missing(wanted, error, "piper") from error

        self.voices: dict[str, tuple[Any, int | None]] = {}  # name -> voice, speaker
        for name in sorted(file.name for file in weights.files if file.name.endswith(".onnx")):
            settings = json.loads((weights / f"{name}.json").read_bytes())
            own = str(settings.get("espeak", {}).get("voice", ""))
            if language and not own.startswith(language):
                raise WeightsError(f"voices that speak {language}", f"{name}, which speaks {own}", "another voice")
            voice = PiperVoice(session=engine.session(weights / name), config=PiperConfig.from_dict(settings))
            title = name.rpartition("/")[2].removesuffix(".onnx")
            speakers = voice.config.speaker_id_map if voice.config.num_speakers > 1 else {}
            self.voices |= {f"{title}/{speaker}": (voice, number) for speaker, number in speakers.items()}
            if not speakers:
                self.voices[title] = voice, None
        if not self.voices:
            raise WeightsError("a voice: NAME.onnx and NAME.onnx.json", "no .onnx among the weights")

    def speak(self, text: str, voice: tuple[Any, int | None], pace: float) -> Iterator[Piece]:
        """Sentence by sentence."""
        from piper.config import SynthesisConfig

        speaker, number = voice
        settings = SynthesisConfig(speaker_id=number, length_scale=speaker.config.length_scale / pace)
        for block in blocks(text):
            for chunk in speaker.synthesize(block, settings):
                yield Piece(tasks.Sound(chunk.audio_float_array, chunk.sample_rate))
