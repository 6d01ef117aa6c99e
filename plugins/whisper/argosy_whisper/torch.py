"""Whisper on torch, by transformers: every size, large-v3 and its turbo among them, on whatever torch runs on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import argosy
from argosy import tasks
from argosy.convert import sixteen
from argosy.errors import WeightsError

from .whisper import Options, Whisper, codes, held, require
from .windows import RATE, WARMER, Hear, Heard, require_speech, segments
from .words import words_of

if TYPE_CHECKING:
    from argosy.engines import Torch
    from argosy.fleet.weights import Weights

# When a window is tried again, warmer, and when it is silence: OpenAI's own limits, the first in transformers' unit.
THRESHOLDS = {"compression_ratio_threshold": 1.35, "logprob_threshold": -1.0, "no_speech_threshold": 0.6}

# Measured: tiny in float32, 151 MB, held 761 MB, and 1013 at its peak: torch and transformers themselves are the most.
PROCESS = 800 * 2**20  # bytes


@Whisper.on("torch", weights=("safetensors",))
class OnTorch(Whisper):
    @classmethod
    def memory(cls, weights: Weights, options: argosy.Options, offer: argosy.Offer) -> int | None:
        assert isinstance(options, Options)
        wide = vars(offer.engine)["dtype"] == "float32"
        return held(weights.bytes, (4 if wide else 2) / (2 if sixteen(weights.path) else 4), options, offer, PROCESS)

    def load(self, weights: Weights, engine: Torch, device: argosy.Device) -> None:
        import torch
        from tokenizers import Tokenizer
        from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

        fix = "a checkpoint of Whisper as a model hub has it"
        require(weights, "config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.json", fix=fix)
        if self.config.vad:
            require_speech(engine.name)
        self.torch, self.device = torch, torch.device(engine.device)
        model, report = WhisperForConditionalGeneration.from_pretrained(
            weights.path,
            dtype=getattr(torch, engine.dtype),
            attn_implementation="sdpa",
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **engine.extra,
        )
        if missing := sorted(report["missing_keys"]):
            raise WeightsError("every tensor of Whisper", f"none for {', '.join(missing[:4])}", fix)
        self.model = model.to(self.device).eval()
        self.features_of = WhisperFeatureExtractor.from_pretrained(weights.path, local_files_only=True)
        self.tokenizer = Tokenizer.from_file(str(weights / "tokenizer.json"))
        settings = self.model.generation_config
        self.speaks(codes(getattr(settings, "lang_to_id", {})), bool(getattr(settings, "is_multilingual", False)))
        self.times_words = bool(getattr(settings, "alignment_heads", None))
        self.first_time = int(settings.no_timestamps_token_id) + 1
        silence = tasks.TranscriptionRequest(np.zeros(RATE, np.float32))
        self._hearing(silence, (0.0,))(silence.audio, True, True)  # kernels are made now

    def generate(self, request: tasks.TranscriptionRequest, ctx: argosy.Context) -> Iterator[tasks.Segment]:
        """Each segment as soon as its window of half a minute is decoded."""
        self.check(request)
        heats = (request.temperature,) if request.temperature else WARMER
        yield from segments(request, self._hearing(request, heats), ctx, vad=self.config.vad)

    def _hearing(self, request: tasks.TranscriptionRequest, heats: tuple[float, ...]) -> Hear:
        """What `segments` asks of each window. The language is found in the first one, and kept. `heats` are the
        temperatures that are tried in turn until nothing speaks against the text."""
        language = request.language if self.multilingual else "en"

        def hear(audio: tasks.Audio, first: bool, last: bool) -> Heard:
            nonlocal language
            with self.torch.inference_mode():
                given = self.features_of(audio, sampling_rate=RATE, return_tensors="pt", return_attention_mask=True)
                features = given.input_features.to(self.device, self.model.dtype)  # (1, mels, 3000)
                language = language or self._language(features)
                found = self._decode(request, heats, features, given.attention_mask, language, first)
            return self._heard(found, language, request.words)

        return hear

    def _language(self, features: Any) -> str:
        token = int(self.model.detect_language(features)[0])
        named = {number: name for name, number in self.model.generation_config.lang_to_id.items()}
        return str(named[token]).strip("<|>")

    def _decode(
        self,
        request: tasks.TranscriptionRequest,
        heats: tuple[float, ...],
        features: Any,
        mask: Any,
        language: str,
        first: bool,
    ) -> Sequence[Any]:
        """transformers' segments of one window: start and end in seconds, tokens, and where asked for their times."""
        wishes: dict[str, Any] = {}
        if self.multilingual:
            wishes |= {"language": language, "task": "translate" if request.translate else "transcribe"}
        if request.prompt and first:
            ids = self.tokenizer.encode(f" {request.prompt.strip()}", add_special_tokens=False).ids
            before = self.model.generation_config.prev_sot_token_id
            wishes["prompt_ids"] = self.torch.tensor([before, *ids], device=self.device)
        if request.words:
            wishes["return_token_timestamps"] = True
        try:
            found = self.model.generate(
                features,
                attention_mask=mask.to(self.device),
                return_timestamps=True,
                return_segments=True,
                force_unique_generate_call=True,  # the next window begins where `segments` says
                num_beams=self.config.beam,
                temperature=heats,
                **THRESHOLDS,
                **wishes,
            )
        finally:
            if request.words:  # times of words come out of attention weights, for which transformers turns sdpa off
                self.model.set_attn_implementation("sdpa")
        pieces: Sequence[Any] = found["segments"][0]
        return pieces

    def _heard(self, found: Sequence[Any], language: str, words: bool) -> Heard:
        pieces, again = [], None
        for piece in found:
            tokens = piece["tokens"].tolist()
            start, end = float(piece["start"]), float(piece["end"])
            said = [place for place, token in enumerate(tokens) if token < self.model.generation_config.eos_token_id]
            mine: tuple[tasks.Word, ...] = ()
            if words:
                times = [float(piece["token_timestamps"][place]) for place in said]
                mine = words_of([tokens[place] for place in said], times, end, self._text, language)
            text = self._text([tokens[place] for place in said])
            pieces.append(tasks.Segment(start, end, text, mine, language))
            # Two timestamps at the end: there was more, whose end was not found, and which transformers leaves out.
            again = end if len(tokens) > 2 and min(tokens[-2:]) >= self.first_time else None
        return Heard([piece for piece in pieces if piece.text.strip()], again)

    def _text(self, tokens: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text
