"""Engines: the libraries that execute weights, each with one frozen options type.

Backends make instances (the device, the caps and the dtype are already in them); plugins use them in `load`. Nothing
here imports an engine before a method is called, for core runs in images that have none.
"""

from .ctranslate2 import Ctranslate2
from .engine import Engine, Python, Seen
from .onnxruntime import Onnxruntime
from .openvino import Openvino, OpenvinoGenai
from .torch import Torch
from .vllm import Vllm

__all__ = ["Ctranslate2", "Engine", "Onnxruntime", "Openvino", "OpenvinoGenai", "Python", "Seen", "Torch", "Vllm"]
