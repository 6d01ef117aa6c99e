"""What core itself registers: the six engines, and Python for models that need none."""

from __future__ import annotations

from collections.abc import Sequence

from .engines import Ctranslate2, Engine, Onnxruntime, Openvino, OpenvinoGenai, Python, Torch, Vllm
from .hookspecs import hookimpl


@hookimpl
def argosy_engines() -> Sequence[type[Engine]]:
    return [Vllm, OpenvinoGenai, Openvino, Onnxruntime, Ctranslate2, Torch, Python]
