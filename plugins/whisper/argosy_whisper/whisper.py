"""The model and what its engines share: options, what a request may ask for, the files that weights must have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import argosy
from argosy import tasks
from argosy.errors import WeightsError

if TYPE_CHECKING:
    from argosy.fleet.weights import Weights

MANY, ENGLISH = "about a hundred", "English only"

# What a hypothesis takes, as a part of weights in 16 bits: keys and values of 1500 frames and 448 tokens are 0.1 of
# large-v3 and 0.16 of tiny, and what is computed in between comes on top.
HYPOTHESIS = 0.3
CONTEXT = 300 * 2**20  # bytes that a library holds on an accelerator besides; not measured


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
    languages: Sequence[str]  # ISO 639-1; `load` sets both
    multilingual: bool
    times_words = True  # whether the weights say which heads of attention follow the sound

    def speaks(self, languages: Sequence[str], multilingual: bool) -> None:
        """What these weights understand, for `check` and for whoever asks the service."""
        self.languages, self.multilingual = languages if multilingual else ("en",), multilingual
        self.about = {"languages": MANY if multilingual else ENGLISH}

    def check(self, request: tasks.TranscriptionRequest) -> None:
        """BadRequest where these weights cannot do what is asked."""
        if request.language is not None and request.language not in self.languages:
            known = ", ".join(self.languages) if self.multilingual else "en: these weights are English only"
            raise argosy.BadRequest(f"language {request.language!r} is unknown here; known: {known}", param="language")
        if request.translate and not self.multilingual:
            raise argosy.BadRequest("these weights are English only and translate nothing", param="model")
        if request.words and not self.times_words:
            found = "their generation_config.json has no alignment_heads"
            raise argosy.BadRequest(f"these weights do not tell when a word was said: {found}", param="words")


def held(stored: int, times: float, options: Options, offer: argosy.Offer, process: int) -> int:
    """Bytes that a replica will hold: weights, of which `stored` bytes become `times` as many; what is computed; and
    the process itself (`process`) on the host's processor, or what the library needs on an accelerator."""
    return int(stored * (times + HYPOTHESIS * options.beam)) + (process if offer.device.cores else CONTEXT)


def require(weights: Weights, *names: str, fix: str) -> None:
    """WeightsError where one of these files is missing: engines would ask a model hub for it, or fail in riddles."""
    if missing := [name for name in names if not (weights / name).is_file()]:
        found = ", ".join(file.name for file in weights.files)
        raise WeightsError(f"{' and '.join(missing)} among the weights of Whisper", found, fix)


def codes(languages: Mapping[str, int]) -> Sequence[str]:
    """`lang_to_id` of a generation config (`<|de|>`: 50261) as language codes."""
    return tuple(sorted(token.strip("<|>") for token in languages))
