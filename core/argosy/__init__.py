"""Argosy: one inference service from a mixed bag of GPUs.

What stands in `__all__` is the public interface for plugins and backends; all else may change.
"""

__version__ = "0.1.0"
API = 1  # what plugins are written for; a plugin module may state `argosy_api = 1`

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
