"""Texts through a transformer encoder, on openvino, onnxruntime or torch: what embedding and rerank models share.

It lives in core because plugins do not import each other; it knows no model by name. `texts` is common to all engines:
tokenising, cutting, sorting, batching. What differs is the forward pass, a module per engine.
"""

from __future__ import annotations

from .estimate import memory
from .options import Options
from .prefer import preferred
from .texts import Text, TextEncoder, load

__all__ = ["Options", "Text", "TextEncoder", "load", "memory", "preferred"]
