"""Whisper on ctranslate2, by faster-whisper, which also brings the look for speech."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import argosy
from argosy import tasks

from . import export
from .whisper import Options, Whisper, held, require

if TYPE_CHECKING:
    from argosy.engines import Ctranslate2
    from argosy.fleet.weights import Weights

# Measured: tiny held 301 MB at its peak and base 375 in int8, tiny 448 in float32.
PROCESS = 260 * 2**20  # bytes
WIDTHS = {"int8": 1, "16": 2, "float32": 4}  # bytes of a weight by compute type; int8_float16 is int8


@Whisper.on("ctranslate2", weights=("ctranslate2",))
class OnCtranslate2(Whisper):
    convert_from, convert_needs = ("safetensors",), export.CTRANSLATE2

    @staticmethod
    def convert(source: Path, target: Path, options: Options) -> None:
        export.to_ctranslate2(source, target)

    @classmethod
    def memory(cls, weights: Weights, options: argosy.Options, offer: argosy.Offer) -> int | None:
        """Weights are stored in 16 bits, unless somebody converted them otherwise."""
        assert isinstance(options, Options)
        width = next((size for kind, size in WIDTHS.items() if kind in str(vars(offer.engine)["compute_type"])), 2)
        return held(weights.bytes, width / 2, options, offer, PROCESS)

    def load(self, weights: Weights, engine: Ctranslate2, device: argosy.Device) -> None:
        from faster_whisper import WhisperModel

        # faster-whisper would ask a model hub for it
        require(weights, "tokenizer.json", fix="a `model:` that adds it: {tokenizer.json: SOURCE}")
        self.whisper = WhisperModel(
            str(weights.path),
            device=engine.device,
            device_index=engine.device_index,
            compute_type=engine.compute_type,
            cpu_threads=engine.threads,
            local_files_only=True,
            **engine.extra,
        )
        engine.loaded(self.whisper.model)
        self.speaks(self.whisper.supported_languages, bool(self.whisper.model.is_multilingual))
        silence = tasks.TranscriptionRequest(np.zeros(tasks.TRANSCRIPTION_RATE, np.float32))
        for vad in (True, False):  # the canary of silence ends at the look for speech: the model itself has to decode
            list(self._segments(silence, vad)[0])

    def generate(self, request: tasks.TranscriptionRequest, ctx: argosy.Context) -> Iterator[tasks.Segment]:
        """Each segment as soon as it is decoded; half a minute of speech at most passes in between."""
        self.check(request)
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
