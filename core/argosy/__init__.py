"""Argosy: one inference service from a mixed bag of GPUs.

What stands in `__all__` is the public interface for plugins and backends; all else may change. Names are loaded when
they are first used, so that `argosy --help` does not wait for numpy and pydantic.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
API = 1  # what plugins are written for; a plugin module may state `argosy_api = 1`

if TYPE_CHECKING:
    from . import tasks
    from .backend import Backend, Device, Finding, Held, Offer
    from .engines import Engine
    from .errors import ArgosyError, BadRequest, ReplicaError, RequestError
    from .hookspecs import hookimpl
    from .model import Batching, Context, Model, Options, engine_batches, gather, live, one_by_one
    from .tasks import Json

__all__ = [
    "API",
    "ArgosyError",
    "Backend",
    "BadRequest",
    "Batching",
    "Context",
    "Device",
    "Engine",
    "Finding",
    "Held",
    "Json",
    "Model",
    "Offer",
    "Options",
    "ReplicaError",
    "RequestError",
    "engine_batches",
    "gather",
    "hookimpl",
    "live",
    "one_by_one",
    "tasks",
]

_MODULES = {
    "backend": ("Backend", "Device", "Finding", "Held", "Offer"),
    "engines": ("Engine",),
    "errors": ("ArgosyError", "BadRequest", "ReplicaError", "RequestError"),
    "hookspecs": ("hookimpl",),
    "model": ("Batching", "Context", "Model", "Options", "engine_batches", "gather", "live", "one_by_one"),
    "tasks": ("Json", "tasks"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f".{_HOMES[name]}", __name__)
    value = module if name == _HOMES[name] else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
