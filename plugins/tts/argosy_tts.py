"""Speech with Piper voices, as an Argosy plugin."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import argosy
from argosy import tasks
from argosy.errors import WeightsError

if TYPE_CHECKING:
    from argosy.engines import Onnxruntime
    from argosy.fleet.weights import Weights

BLOCK = 400  # characters that are spoken at once: the graph's memory grows with the square of a sentence
ENDS = (r"[.!?…。！？]+[\"'”’)\]]*\s+|\n", r"[,;:–—、，；：]\s*", r"\s+")  # where a text is best cut, best first


class Options(argosy.Options):
    """max_characters: a longer text is refused; 20,000 characters are some twenty minutes of speech
    pause: seconds of silence between sentences"""

    max_characters: int = argosy.live(20_000, ge=1)
    pause: float = argosy.live(0.25, ge=0, le=5)


class Speech(argosy.Model):
    name = "tts"
    task = tasks.speech
    options = Options
    features = frozenset({"speed"})

    config: Options


@Speech.on("onnxruntime", weights=("piper",))
class OnOnnxruntime(Speech):
    """Piper voices: each NAME.onnx with its NAME.onnx.json is the voice NAME, or NAME/SPEAKER where it has several."""

    def load(self, weights: Weights, engine: Onnxruntime, device: argosy.Device) -> None:
        try:
            from piper import PiperVoice
            from piper.config import PiperConfig
        except ImportError as error:
            raise argosy.ReplicaError(
                "Piper voices need piper-tts, which is GPL-3.0 and therefore never installed unasked",
                str(error),
                "pip install 'argosy-tts[piper]'",
            ) from error

        self.voices: dict[str, tuple[Any, int | None]] = {}  # name -> voice, speaker
        for name in sorted(file.name for file in weights.files if file.name.endswith(".onnx")):
            settings = json.loads((weights / f"{name}.json").read_bytes())
            voice = PiperVoice(session=engine.session(weights / name), config=PiperConfig.from_dict(settings))
            title = name.rpartition("/")[2].removesuffix(".onnx")
            speakers = voice.config.speaker_id_map if voice.config.num_speakers > 1 else {}
            self.voices |= {f"{title}/{speaker}": (voice, number) for speaker, number in speakers.items()}
            if not speakers:
                self.voices[title] = voice, None
        if not self.voices:
            raise WeightsError("a voice: NAME.onnx and NAME.onnx.json", "no .onnx among the weights")
        self.about = {"voices": ", ".join(self.voices)}

    def generate(self, request: tasks.SpeechRequest, ctx: argosy.Context) -> Iterator[tasks.Sound]:
        """Sentence by sentence."""
        from piper.config import SynthesisConfig

        text = self._text(request)
        voice, speaker = self._voice(request.voice)
        settings = SynthesisConfig(speaker_id=speaker, length_scale=voice.config.length_scale / request.speed)
        spoken, silence = False, np.zeros(0, np.float32)
        for block in _blocks(text):
            for chunk in voice.synthesize(block, settings):
                yield tasks.Sound(np.concatenate([silence, chunk.audio_float_array]), chunk.sample_rate)
                silence = np.zeros(int(self.config.pause * chunk.sample_rate / request.speed), np.float32)
                spoken = True
                if ctx.cancelled:
                    return
        if not spoken:
            raise argosy.BadRequest("there is nothing in the text that can be spoken", param="input")

    def _text(self, request: tasks.SpeechRequest) -> str:
        text, limit = request.text.replace("\0", " ").strip(), self.config.max_characters
        if not text:
            raise argosy.BadRequest("the text is empty", param="input")
        if len(text) > limit:
            raise argosy.BadRequest(
                f"the text has {len(text)} characters; at most {limit} are spoken", param="input", code="text_too_long"
            )
        if not 0.25 <= request.speed <= 4:
            raise argosy.BadRequest(f"speed is 0.25 to 4, not {request.speed:g}", param="speed")
        return text

    def _voice(self, name: str | None) -> tuple[Any, int | None]:
        if name is None:
            return next(iter(self.voices.values()))
        if name not in self.voices:
            raise argosy.BadRequest(f"voice {name!r} is unknown; there is: {', '.join(self.voices)}", param="voice")
        return self.voices[name]


def _blocks(text: str) -> Iterator[str]:
    """Pieces of at most BLOCK characters, cut at the end of a sentence, else of a clause, else of a word."""
    while len(text) > BLOCK:
        cuts = ([end.end() for end in re.finditer(ends, text[:BLOCK])] for ends in ENDS)
        cut = next((found[-1] for found in cuts if found), BLOCK)
        yield text[:cut]
        text = text[cut:]
    yield text


@argosy.hookimpl
def argosy_models() -> Sequence[type[argosy.Model]]:
    return [Speech]
