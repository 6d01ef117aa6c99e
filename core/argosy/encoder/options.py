"""The options that every model of texts has."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .. import model

Pooling = Literal["mean", "cls"]


class Options(model.Options):
    """max_length: tokens that are read of a text, what is longer is cut; without it, as many as the model can read
    pooling: how the tokens' vectors become one; without it, as the model was trained (`1_Pooling/config.json`, or the
    mean where nothing tells). Whatever ends in scores needs none"""

    max_length: int | None = Field(None, ge=8)
    pooling: Pooling | None = None
