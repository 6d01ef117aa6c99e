"""Transcription with Whisper, as an Argosy plugin: on ctranslate2, on openvino_genai, on torch."""

from __future__ import annotations

from collections.abc import Sequence

import argosy

from .ctranslate2 import OnCtranslate2
from .openvino import OnOpenvino
from .torch import OnTorch
from .whisper import Options, Whisper

__all__ = ["OnCtranslate2", "OnOpenvino", "OnTorch", "Options", "Whisper"]


@argosy.hookimpl
def argosy_models() -> Sequence[type[argosy.Model]]:
    return [Whisper]
