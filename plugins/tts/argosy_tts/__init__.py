"""Speech, as an Argosy plugin: Piper's and Kokoro's voices on onnxruntime, XTTS on torch."""

from __future__ import annotations

from collections.abc import Sequence

import argosy

from .onnxruntime import OnOnnxruntime
from .speech import Options, Speech
from .torch import OnTorch

__all__ = ["OnOnnxruntime", "OnTorch", "Options", "Speech"]


@argosy.hookimpl
def argosy_models() -> Sequence[type[argosy.Model]]:
    return [Speech]
