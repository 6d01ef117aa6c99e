"""XTTS v2 on torch, by coqui-tts: seventeen languages, in voices that it takes from clips."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import argosy
from argosy import tasks
from argosy.errors import WeightsError

from . import xtts
from .speech import Piece, Speech, missing
from .text import blocks, sentences

if TYPE_CHECKING:
    from argosy.engines import Torch
    from argosy.fleet.weights import Weights

# Of half a minute of sound, the longest that one sentence can get: 24 kHz times 32 channels in float32, and what comes
# before, in half a dozen layers at once.
COMPUTED = 512 * 2**20  # bytes
CONTEXT = 500 * 2**20  # bytes that a vendor's libraries take on an accelerator
# Measured: weights of 87 MiB held 681 MiB, 728 at their peak: coqui-tts and all that it imports.
PROCESS = 650 * 2**20  # bytes


class Voice(NamedTuple):
    """How somebody sounds: (1, 32, channels) for the language model, (1, 512, 1) for the vocoder."""

    latents: Any
    speaker: Any


@Speech.on("torch", weights=("xtts",))
class OnTorch(Speech):
    """Computes in float32 on every device, as the weights are: coqui-tts has no other way."""

    @classmethod
    def memory(cls, weights: Weights, options: argosy.Options, offer: argosy.Offer) -> int | None:
        """The published weights, 1.9 GB, were seen to take 2.1 GB of a GPU (coqui-ai/TTS#3976) for short sentences."""
        return weights.bytes + xtts.cache(weights) + COMPUTED + (PROCESS if offer.device.cores else CONTEXT)

    def load(self, weights: Weights, engine: Torch, device: argosy.Device) -> None:
        licence = xtts.accepted(self.config.accept_licence, weights)
        clips = dict(xtts.clips(weights))
        if not clips and not (weights / xtts.SPEAKERS).is_file():
            raise xtts.nobody(weights)
        try:
            import torch
            from TTS.tts.configs.xtts_config import XttsConfig
            from TTS.tts.models.xtts import Xtts
        except (ImportError, OSError) as error:  # a torchaudio that was built for another torch is an OSError
            wanted = "XTTS needs coqui-tts, and torchaudio and torchcodec that were built for this torch"
            raise missing(wanted, error, "xtts") from error

        settings = XttsConfig()
        settings.load_json(str(weights / "config.json"))
        self.language = self.config.language or "en"
        if self.language not in settings.languages:
            known = ", ".join(settings.languages)
            raise WeightsError(f"XTTS in the language {self.language!r}", known, "options: {language: en}")
        self.torch, self.settings = torch, settings
        self.model = Xtts(settings)
        self.model._load_checkpoint = xtts.tensors
        self.model.load_checkpoint(settings, checkpoint_dir=str(weights.path), eval=True)
        self.model.to(torch.device(engine.device))
        self.rate = int(settings.audio.output_sample_rate)
        self.most = int(self.model.tokenizer.char_limits.get(self.language.split("-")[0], 250))
        self._tokens("a")  # some languages need a library of their own, and say so here
        voices = {name: self._like(clip) for name, clip in clips.items()}
        if self.model.speaker_manager is not None:
            voices |= {name: Voice(*found.values()) for name, found in self.model.speaker_manager.speakers.items()}
        self.speaks(voices, language=self.language, licence=licence)

    def speak(self, text: str, voice: Voice, pace: float) -> Iterator[Piece]:
        """In pieces of about a second, while the rest of a sentence is made."""
        for sentence in sentences(text, self.most):
            for part in self._fitting(sentence):
                first = True
                for chunk in self._stream(part, voice, pace):
                    samples = chunk.float().cpu().numpy().reshape(-1)
                    if samples.size:
                        yield Piece(tasks.Sound(samples, self.rate), first)
                        first = False

    def _stream(self, text: str, voice: Voice, pace: float) -> Iterator[Any]:
        chunks: Iterator[Any] = self.model.inference_stream(
            text,
            self.language,
            voice.latents,
            voice.speaker,
            temperature=self.settings.temperature,
            length_penalty=self.settings.length_penalty,
            repetition_penalty=self.settings.repetition_penalty,
            top_k=self.settings.top_k,
            top_p=self.settings.top_p,
            speed=pace,
        )
        return chunks

    def _like(self, clip: tasks.Audio) -> Voice:
        """The voice of a clip, as coqui-tts takes it from a file."""
        sound = self.torch.from_numpy(np.clip(clip, -1, 1))[None]  # (1, samples)
        sound = sound[:, : xtts.RATE * self.settings.max_ref_len].to(self.model.device)
        if self.settings.sound_norm_refs:
            sound = sound / sound.abs().max() * 0.75
        latents = self.model.get_gpt_cond_latents(
            sound, xtts.RATE, length=self.settings.gpt_cond_len, chunk_length=self.settings.gpt_cond_chunk_len
        )
        return Voice(latents, self.model.get_speaker_embedding(sound, xtts.RATE))

    def _fitting(self, text: str) -> Iterator[str]:
        """The sentence, or its halves where it has more tokens than the model has places for."""
        if len(text) < 2 or self._tokens(text) < self.settings.model_args.gpt_max_text_tokens:
            yield text
        else:
            for half in blocks(text, (len(text) + 1) // 2):
                yield from self._fitting(half)

    def _tokens(self, text: str) -> int:
        return len(self.model.tokenizer.encode(text.strip().lower(), lang=self.language))
