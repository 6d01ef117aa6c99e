"""Whisper on openvino_genai."""

from __future__ import annotations

import secrets
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import argosy
from argosy import tasks

from . import export
from .whisper import Options, Whisper, codes, held, require
from .windows import REPEATED, WARMER, Hear, Heard, require_speech, segments

if TYPE_CHECKING:
    from argosy.engines import OpenvinoGenai
    from argosy.fleet.weights import Weights

# Measured: tiny, 75 MB on disk, held 455 MB at its peak. Weights are kept as they came and as the processor wants them.
PROCESS, COPIES = 250 * 2**20, 3  # bytes; times the weights
FILES = ("encoder_model", "decoder_model", "tokenizer", "detokenizer")


@Whisper.on("openvino_genai", weights=("openvino",))
class OnOpenvino(Whisper):
    """One WhisperPipeline, fed with half a minute at a time, so that segments come as they are heard and a client who
    leaves is noticed. It decodes greedily, or samples."""

    convert_from, convert_needs = ("safetensors",), export.OPENVINO

    @staticmethod
    def convert(source: Path, target: Path, options: Options) -> None:
        export.to_openvino(source, target)

    @classmethod
    def memory(cls, weights: Weights, options: argosy.Options, offer: argosy.Offer) -> int | None:
        assert isinstance(options, Options)
        return held(weights.bytes, COPIES if offer.device.cores else 1, options, offer, PROCESS)

    def load(self, weights: Weights, engine: OpenvinoGenai, device: argosy.Device) -> None:
        import openvino_genai

        fix = "argosy weights convert, which makes them of a checkpoint"
        require(weights, *(f"openvino_{name}.xml" for name in FILES), "generation_config.json", fix=fix)
        self._greedy()
        if self.config.vad:
            require_speech(engine.name)
        self.pipeline = openvino_genai.WhisperPipeline(
            weights.path, engine.device, word_timestamps=True, **engine.settings()
        )
        config = self.pipeline.get_generation_config()
        self.speaks(codes(config.lang_to_id), config.is_multilingual)
        self.times_words = bool(config.alignment_heads)
        silence = tasks.TranscriptionRequest(np.zeros(tasks.TRANSCRIPTION_RATE, np.float32))
        self._hearing(silence, (0.0,))(silence.audio, True, True)  # kernels are made now

    def generate(self, request: tasks.TranscriptionRequest, ctx: argosy.Context) -> Iterator[tasks.Segment]:
        """Each segment as soon as its window of half a minute is decoded."""
        self.check(request)
        self._greedy()
        heats = (request.temperature,) if request.temperature else WARMER
        yield from segments(request, self._hearing(request, heats), ctx, vad=self.config.vad)

    def _greedy(self) -> None:
        if self.config.beam > 1:
            raise argosy.ReplicaError(
                f"beam: {self.config.beam}", "openvino_genai follows one hypothesis", "`options: {beam: 1}`"
            )

    def _hearing(self, request: tasks.TranscriptionRequest, heats: tuple[float, ...]) -> Hear:
        """What `segments` asks of each window. The language is found in the first one, and kept. `heats` are the
        temperatures that are tried in turn until the text does not repeat itself."""
        config = self.pipeline.get_generation_config()
        config.return_timestamps, config.word_timestamps = True, request.words
        language = request.language if self.multilingual else "en"

        def hear(audio: tasks.Audio, first: bool, last: bool) -> Heard:
            nonlocal language
            if self.multilingual:
                config.task = "translate" if request.translate else "transcribe"
                if language is not None:
                    config.language = f"<|{language}|>"
            config.initial_prompt = request.prompt if first else None
            found = self._warmer(audio, config, heats)
            language = language or found.language
            return _heard(found, len(audio) / tasks.TRANSCRIPTION_RATE, language, last)

        return hear

    def _warmer(self, audio: tasks.Audio, config: Any, heats: tuple[float, ...]) -> Any:
        for heat in heats:
            config.do_sample, config.temperature = heat > 0, heat or 1.0
            config.rng_seed = secrets.randbits(32) if heat else 0
            found = self.pipeline.generate(audio.tolist(), config)
            text = "".join(found.texts).encode()
            if len(text) <= REPEATED * len(zlib.compress(text)):
                break
        return found


def _heard(found: Any, seconds: float, language: str | None, last: bool) -> Heard:
    """The pipeline's chunks, times from the window's start. One without an end ends where the next one begins; the last
    one was cut off by the window's end."""
    chunks = list(found.chunks or ())
    words = [tasks.Word(float(one.start_ts), float(one.end_ts), one.word) for one in found.words or ()]
    starts = [float(chunk.start_ts) for chunk in chunks]
    pieces = []
    for chunk, start, following in zip(chunks, starts, [*starts[1:], seconds], strict=True):
        end = float(chunk.end_ts) if chunk.end_ts >= start else following
        mine = [word for word in words if start <= word.start < end or (chunk is chunks[-1] and word.start >= end)]
        words = [word for word in words if word not in mine]
        pieces.append(tasks.Segment(start, end, chunk.text, tuple(mine), language))
    if last or not pieces:
        return Heard(pieces)
    if chunks[-1].end_ts < starts[-1]:
        return Heard(pieces[:-1], starts[-1]) if starts[-1] else Heard(pieces)
    return Heard(pieces, pieces[-1].end)  # the pipeline does not tell whether it began another
