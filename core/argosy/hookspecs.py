"""The hooks a plugin may implement, through pluggy, in the entry-point group `argosy`."""

from __future__ import annotations

from collections.abc import Sequence

import pluggy

from .backend import Backend
from .engines import Engine
from .model import Model

GROUP = "argosy"
hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec
def argosy_models() -> Sequence[type[Model]]:  # type: ignore[empty-body]
    """Models that a fleet file can name."""


@hookspec
def argosy_backends() -> Sequence[Backend]:  # type: ignore[empty-body]
    """Adapters of vendors."""


@hookspec
def argosy_engines() -> Sequence[type[Engine]]:  # type: ignore[empty-body]
    """Option types of engines."""
