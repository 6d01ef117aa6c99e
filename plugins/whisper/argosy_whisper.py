"""Transcription with Whisper, as an Argosy plugin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import argosy
from argosy import tasks
from argosy.errors import WeightsError

if TYPE_CHECKING:
    from argosy.engines import Ctranslate2
    from argosy.fleet.weights import Weights


class Options(argosy.Options):
    """beam: hypotheses that are followed; 1 is greedy, and fastest
    vad: look for speech first, so that silence gives no text, which Whisper alone likes to make up"""

    beam: int = argosy.live(1, ge=1, le=10)
    vad: bool = argosy.live(True)


class Whisper(argosy.Model):
    name = "whisper"
    task = tasks.transcription
    options = Options
    features = frozenset({"words", "translate"})

    config: Options


@Whisper.on("ctranslate2", weights=("ctranslate2",))
class OnCtranslate2(Whisper):
    def load(self, weights: Weights, engine: Ctranslate2, device: argosy.Device) -> None:
        from faster_whisper import WhisperModel

        if not (weights / "tokenizer.json").is_file():  # faster-whisper would ask a model hub for it
            raise WeightsError(
                "tokenizer.json among the weights of Whisper",
                ", ".join(file.name for file in weights.files),
                "a `model:` that adds it: {tokenizer.json: SOURCE}",
            )
        self.whisper = WhisperModel(
            str(weights.path),
            device=engine.device,
            device_index=engine.device_index,
            compute_type=engine.compute_type,
            cpu_threads=engine.threads,
            local_files_only=True,
            **engine.extra,
        )
        self.multilingual = bool(self.whisper.model.is_multilingual)
        self.about = {"languages": "about a hundred" if self.multilingual else "English only"}
        silence = tasks.TranscriptionRequest(np.zeros(tasks.TRANSCRIPTION_RATE, np.float32))
        for vad in (True, False):  # the canary of silence ends at the look for speech: the model itself has to decode
            list(self._segments(silence, vad)[0])

    def generate(self, request: tasks.TranscriptionRequest, ctx: argosy.Context) -> Iterator[tasks.Segment]:
        """Each segment as soon as it is decoded; half a minute of speech at most passes in between."""
        self._check(request)
        if not len(request.audio):
            return
        segments, language = self._segments(request, self.config.vad)
        for one in segments:
            words = tuple(tasks.Word(float(word.start), float(word.end), word.word) for word in one.words or ())
            yield tasks.Segment(float(one.start), min(float(one.end), request.seconds), one.text, words, language)
            if ctx.cancelled:
                return

    def _segments(self, request: tasks.TranscriptionRequest, vad: bool) -> tuple[Iterator[Any], str]:
        """What faster-whisper finds, lazily, and the language."""
        segments, info = self.whisper.transcribe(
            request.audio,
            language=request.language,
            task="translate" if request.translate else "transcribe",
            beam_size=self.config.beam,
            # At 0 a failed window is tried again, warmer each time; a wish above 0 is taken as it is.
            temperature=request.temperature or (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
            condition_on_previous_text=False,  # a window that went wrong would pull the next ones along
            initial_prompt=request.prompt,
            word_timestamps=request.words,
            vad_filter=vad,
        )
        return iter(segments), info.language

    def _check(self, request: tasks.TranscriptionRequest) -> None:
        """BadRequest where these weights cannot do what is asked."""
        languages = self.whisper.supported_languages
        if request.language is not None and request.language not in languages:
            known = ", ".join(languages) if self.multilingual else "en: these weights are English only"
            raise argosy.BadRequest(f"language {request.language!r} is unknown here; known: {known}", param="language")
        if request.translate and not self.multilingual:
            raise argosy.BadRequest("these weights are English only and translate nothing", param="model")


@argosy.hookimpl
def argosy_models() -> Sequence[type[argosy.Model]]:
    return [Whisper]
