"""Speech to text with Whisper, as an Argosy plugin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pydantic import Field

import argosy
from argosy import tasks

if TYPE_CHECKING:
    from argosy.engines import Ctranslate2
    from argosy.fleet.weights import Weights

# A model that is unsure of a passage tries it again at these temperatures: OpenAI's own list.
RETRIES = (0.2, 0.4, 0.6, 0.8, 1.0)


class Options(argosy.Options):
    """beam_size: hypotheses that are followed at once; 1 is greedy, and takes about half the time of 5
    vad: leave out what is not speech, so that silence gives no invented words
    language: what is assumed where a request does not say (ISO 639-1); empty: found out, one pass more"""

    beam_size: int = argosy.live(1, ge=1, le=10)
    vad: bool = argosy.live(True)
    language: str = Field("", pattern="^([a-z]{2,3})?$")


class Whisper(argosy.Model):
    name = "whisper"
    task = tasks.transcription
    options = Options
    batching = argosy.one_by_one
    features = frozenset({"words", "prompt", "temperature"})

    config: Options


@Whisper.on("ctranslate2", weights=("ctranslate2",))
class OnCtranslate2(Whisper):
    def load(self, weights: Weights, engine: Ctranslate2, device: argosy.Device) -> None:
        from faster_whisper import WhisperModel

        self.model = WhisperModel(
            str(weights.path),
            device=engine.device,
            device_index=engine.device_index,
            compute_type=engine.compute_type,
            cpu_threads=engine.threads,
            local_files_only=True,
            **engine.extra,
        )
        languages = self.model.supported_languages
        self.languages = frozenset(languages)
        self.about = {"languages": ", ".join(languages) if len(languages) < 5 else f"{len(languages)} languages"}

    def generate(self, request: tasks.TranscriptionRequest, ctx: argosy.Context) -> Iterator[tasks.Segment]:
        language = request.language or self.config.language or None
        if language is not None and language not in self.languages:
            raise argosy.BadRequest(
                f"language: found {language!r}; these weights know {', '.join(sorted(self.languages))}",
                param="language",
            )
        if request.translate and not self.model.model.is_multilingual:
            raise argosy.BadRequest(
                "translation needs multilingual weights; these know English alone", code="unsupported"
            )
        segments, info = self.model.transcribe(
            request.audio,
            language=language,
            task="translate" if request.translate else "transcribe",
            beam_size=self.config.beam_size,
            temperature=request.temperature or (0.0, *RETRIES),
            initial_prompt=request.prompt,
            word_timestamps=request.words,
            vad_filter=self.config.vad,
        )
        for segment in segments:
            words = [tasks.Word(word.start, word.end, word.word) for word in segment.words or ()]
            yield tasks.Segment(segment.start, segment.end, segment.text, tuple(words), info.language)


@argosy.hookimpl
def argosy_models() -> Sequence[type[argosy.Model]]:
    return [Whisper]
