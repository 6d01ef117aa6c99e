"""XTTS v2's files: the licence that has to be accepted, the checkpoint, the clips whose voices are taken."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import argosy
from argosy import audio, tasks
from argosy.errors import RequestError, WeightsError

if TYPE_CHECKING:
    from argosy.fleet.weights import Weights

log = logging.getLogger("argosy.tts")

LICENCE = "coqui-cpml-1.0"
TERMS = (
    "XTTS v2 comes under the Coqui Public Model License 1.0.0 (CPML): neither the model nor what it says may be used "
    "commercially"
)
SPEAKERS = "speakers_xtts.pth"
RATE = 22_050  # samples per second of what XTTS hears
MOST = 600.0  # seconds of one clip
LEAST = 1.0
CLIPS = (".wav", ".flac", ".mp3", ".ogg", ".m4a")


def accepted(licence: str, weights: Weights) -> str:
    """What the service says of the licence. WeightsError, with the line to add, unless the fleet file accepts it."""
    if licence == LICENCE:
        log.info("%s; the fleet file accepts it (accept_licence: %s)", TERMS, LICENCE)
        return f"{TERMS}; accepted in the fleet file"
    text = next((file.name for file in weights.files if PurePosixPath(file.name).name.startswith("LICEN")), "")
    where = f"; its text is {weights / text}" if text else ""
    raise WeightsError(f"{TERMS}{where}", "it is not accepted", f"options: {{accept_licence: {LICENCE}}}")


def cache(weights: Weights) -> int:
    """Bytes of keys and values of one sentence at its longest, in float32, as config.json says; 0 where it does not."""
    try:
        said = json.loads((weights / "config.json").read_bytes())["model_args"]
        names = ("gpt_max_audio_tokens", "gpt_max_text_tokens", "gpt_max_prompt_tokens")
        positions = sum(int(said[name]) for name in names)
        return 4 * 2 * int(said["gpt_layers"]) * int(said["gpt_n_model_channels"]) * positions
    except (ValueError, KeyError, TypeError, OSError):
        return 0


def tensors(path: Path) -> Any:
    """The checkpoint's tensors. Nothing in it is run: of objects only coqui's own settings are known.

    coqui's own way to read it writes the file anew where it holds such settings, as the published one does, and the
    file is the cache's, which every service shares.
    """
    import torch
    from TTS.config.shared_configs import BaseDatasetConfig
    from TTS.tts.configs.xtts_config import XttsArgs, XttsAudioConfig, XttsConfig

    known = [BaseDatasetConfig, XttsConfig, XttsArgs, XttsAudioConfig]
    formerly = [(one, f"TTS.tts.models.xtts.{one.__name__}") for one in (XttsArgs, XttsAudioConfig)]
    with torch.serialization.safe_globals([*known, *formerly]):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)["model"]


def clips(weights: Weights) -> Iterator[tuple[str, tasks.Audio]]:
    """Each `voices/NAME.wav` (or flac, mp3, ogg, m4a) among the weights: NAME, (samples,) at RATE."""
    for name in sorted(file.name for file in weights.files):
        path = PurePosixPath(name)
        if path.parent.name != "voices" or path.suffix.lower() not in CLIPS:
            continue
        try:
            sound = audio.decode((weights / name).read_bytes(), rate=RATE, max_seconds=MOST)
        except RequestError as error:
            raise WeightsError("a clip of the voice to speak with", f"{name}: {error}", "another recording") from error
        if len(sound) < LEAST * RATE:
            found = f"{name}, {len(sound) / RATE:.2f} s long"
            raise WeightsError(f"a clip of {LEAST:g} s at least, 6 s for a good likeness", found, "a longer recording")
        yield path.stem, sound


def nobody(weights: Weights) -> argosy.ArgosyError:
    found = ", ".join(file.name for file in weights.files)
    return WeightsError(
        f"a voice: {SPEAKERS}, or a clip of one",
        found,
        "a `model:` that adds one: {voices/NAME.wav: file://CLIP.wav}",
    )
