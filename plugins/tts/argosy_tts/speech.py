"""The model and what its engines share: options, what a request may ask for, sentences and the pauses between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

import argosy
from argosy import tasks
from argosy.errors import WeightsError


class Options(argosy.Options):
    """max_characters: a longer text is refused; 20,000 characters are some twenty minutes of speech
    pause: seconds of silence between sentences
    voice: who speaks where a request names nobody; empty: the first voice
    speed: the pace of the service, by which a request's own is multiplied
    language: of the text, for voices that speak several; empty: the voice's own, else English
    accept_licence: the licence of the weights, for those that have to be accepted"""

    max_characters: int = argosy.live(20_000, ge=1)
    pause: float = argosy.live(0.25, ge=0, le=5)
    voice: str = argosy.live("")
    speed: float = argosy.live(1.0, ge=0.25, le=4)
    language: str = ""
    accept_licence: Literal["", "coqui-cpml-1.0"] = ""


class Piece(NamedTuple):
    """Sound as it is made; `first` where a sentence begins with it."""

    sound: tasks.Sound
    first: bool = True


class Speech(argosy.Model):
    name = "tts"
    task = tasks.speech
    options = Options
    features = frozenset({"speed"})

    config: Options
    voices: Mapping[str, Any]  # name -> whatever `speak` takes; `load` sets it, by `speaks`

    def speak(self, text: str, voice: Any, pace: float) -> Iterator[Piece]:
        """The text in this voice, `pace` times as fast as it speaks by itself. BadRequest for a pace it has not."""
        raise NotImplementedError(f"{type(self).__name__} does not say how to speak")  # pragma: no cover

    def speaks(self, voices: Mapping[str, Any], **about: str) -> None:
        """Which voices these weights have, for requests and for whoever asks the service."""
        if self.config.voice and self.config.voice not in voices:
            first = next(iter(voices))
            raise WeightsError(f"the voice {self.config.voice!r}", ", ".join(voices), f"options: {{voice: {first}}}")
        self.voices, self.about = voices, {"voices": ", ".join(voices), **about}

    def generate(self, request: tasks.SpeechRequest, ctx: argosy.Context) -> Iterator[tasks.Sound]:
        """Sentence by sentence, or finer where the engine speaks so."""
        text, voice, pace = self._text(request), self._voice(request.voice), request.speed * self.config.speed
        spoken, silence = False, np.zeros(0, np.float32)
        for sound, first in self.speak(text, voice, pace):
            yield tasks.Sound(np.concatenate([silence, sound.samples]) if first else sound.samples, sound.rate)
            silence = np.zeros(int(self.config.pause * sound.rate / pace), np.float32)
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

    def _voice(self, name: str | None) -> Any:
        name = name or self.config.voice or next(iter(self.voices))
        if name not in self.voices:
            raise argosy.BadRequest(f"voice {name!r} is unknown; there is: {', '.join(self.voices)}", param="voice")
        return self.voices[name]


def missing(wanted: str, error: Exception, extra: str) -> argosy.ReplicaError:
    """A library that this plugin only installs where it is asked for is not here."""
    return argosy.ReplicaError(wanted, str(error), f"pip install 'argosy-tts[{extra}]'")
