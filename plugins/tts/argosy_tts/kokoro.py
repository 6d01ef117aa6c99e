"""Kokoro's voices, by kokoro-onnx: a graph of phonemes, a style and a speed, and a style for each voice."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import argosy
from argosy import tasks
from argosy.errors import WeightsError

from .speech import Piece, missing
from .text import sentences

if TYPE_CHECKING:
    from argosy.engines import Onnxruntime
    from argosy.fleet.weights import Weights

Style = NDArray[np.float32]  # (phonemes, 1, 256): a row for each length of a sentence

STYLE = 256
# The first letter of a voice's name says what it speaks; espeak-ng's names.
LANGUAGES = {"a": "en-us", "b": "en-gb", "e": "es", "f": "fr-fr", "h": "hi", "i": "it", "j": "ja", "p": "pt-br",
             "z": "cmn"}  # fmt: skip


class Kokoro:
    """One graph and its voices: `voices*.npz` or `voices*.bin` as kokoro-onnx publishes them, or a raw file for each,
    `voices/NAME.bin`, as model hubs have them."""

    def __init__(self, weights: Weights, engine: Onnxruntime, language: str) -> None:
        try:
            from kokoro_onnx import SAMPLE_RATE
            from kokoro_onnx import Kokoro as Graph
        except ImportError as error:
            wanted = "Kokoro's voices need kokoro-onnx, whose phonemes come from GPL-3.0 libraries: never unasked"
            raise missing(wanted, error, "kokoro") from error

        self.rate = SAMPLE_RATE
        session = engine.session(weights.one(".onnx"))
        styles = _styles(weights)
        with tempfile.TemporaryDirectory() as folder:  # kokoro-onnx wants a file, and checks that it is there
            archive = Path(folder, "voices.npz")
            np.savez(archive, **styles)  # type: ignore[arg-type]  # names are keyword arguments here
            self.graph = Graph.from_session(session, str(archive))
            self.graph.voices.close()
        self.voices: dict[str, tuple[Style, str]] = {
            name: (style, language or LANGUAGES.get(name[0], "en-us")) for name, style in styles.items()
        }
        self._try({spoken for _, spoken in self.voices.values()})

    def speak(self, text: str, voice: tuple[Style, str], pace: float) -> Iterator[Piece]:
        """Sentence by sentence."""
        style, language = voice
        if not 0.5 <= pace <= 2:
            raise argosy.BadRequest(f"these voices speak at 0.5 to 2 times their pace, not {pace:g}", param="speed")
        for sentence in sentences(text):
            phonemes = self.graph.tokenizer.phonemize(sentence, language)
            if any(map(str.isalpha, phonemes)):
                sound, _ = self.graph.create(phonemes, style, pace, language, is_phonemes=True)
                yield Piece(tasks.Sound(sound.astype(np.float32, copy=False), self.rate))

    def _try(self, languages: set[str]) -> None:
        """WeightsError for a language that has no phonemes here."""
        for language in languages:
            try:
                self.graph.tokenizer.phonemize("a", language)
            except RuntimeError as error:  # phonemizer's, for one that espeak-ng does not know
                known = ", ".join(sorted(LANGUAGES.values()))
                raise WeightsError(f"phonemes of {language!r}", str(error), f"a language such as {known}") from error


def _styles(weights: Weights) -> Mapping[str, Style]:
    """Every voice by name. WeightsError where there is none, or one of another shape."""
    styles: dict[str, Any] = {}
    for name in sorted(file.name for file in weights.files):
        folder, _, last = name.rpartition("/")
        stem, _, suffix = last.rpartition(".")
        if suffix in ("npz", "bin") and last.startswith("voices"):
            try:
                with np.load(weights / name) as archive:  # no pickles: numpy refuses them unless told otherwise
                    styles |= {voice: archive[voice] for voice in sorted(archive.files)}
            except (ValueError, TypeError, OSError) as error:
                raise WeightsError("an archive of voices as numpy writes it", f"{name}: {error}") from error
        elif suffix == "bin" and folder.endswith("voices"):
            raw = np.fromfile(weights / name, np.float32)
            styles[stem] = raw.reshape(-1, 1, STYLE) if not raw.size % STYLE else raw
    wrong = [name for name, style in styles.items() if style.ndim != 3 or style.shape[1:] != (1, STYLE)]
    if wrong or not styles:
        found = f"{wrong[0]} of shape {styles[wrong[0]].shape}" if wrong else "none"
        raise WeightsError(
            f"voices of Kokoro, (lengths, 1, {STYLE}) each",
            found,
            "a `model:` that adds them: {voices.npz: SOURCE}",
        )
    return styles
