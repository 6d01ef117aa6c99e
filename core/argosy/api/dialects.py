"""The dialects, in the order in which they are asked for a path. A new one is one line here."""

from __future__ import annotations

from . import health, openai, plain, rerank
from .dialect import Dialect


def dialects() -> tuple[Dialect, ...]:
    return (
        openai.dialect,
        rerank.dialect,
        health.dialect,
        plain.dialect,
    )
