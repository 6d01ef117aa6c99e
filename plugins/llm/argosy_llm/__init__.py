"""Chat with language models, as an Argosy plugin."""

from collections.abc import Sequence

import argosy

from .chat import Chat, Options
from .openvino import OnOpenvino
from .vllm import OnVllm

__all__ = ["Chat", "OnOpenvino", "OnVllm", "Options"]


@argosy.hookimpl
def argosy_models() -> Sequence[type[argosy.Model]]:
    return [Chat]
