"""The smallest plugin of Argosy: it answers what it was asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

import argosy


class Text(BaseModel):
    text: str


class Echo(argosy.Model):
    """Needs no weights and no library, so its speed is what Argosy itself costs: the benchmarks' no-op."""

    name = "echo"
    task = argosy.Json(request=Text, response=Text)
    engines = ("python",)
    batching = argosy.gather(64)
    needs_weights = False

    def canary(self) -> Text:
        return Text(text="ready")

    def load(self, weights: Any, engine: Any, device: argosy.Device) -> None:
        """There is nothing to load."""

    def predict(self, batch: Sequence[Text]) -> Sequence[Text]:
        return batch


@argosy.hookimpl
def argosy_models() -> Sequence[type[argosy.Model]]:
    return [Echo]
