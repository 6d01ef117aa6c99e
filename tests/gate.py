"""A model that answers when the test says so."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from argosy import Context, Model, gather
from argosy.model import Batching
from argosy.tasks import Embedding, Json
from argosy.testing.models import Mock, Text, Vectors


class Gate:
    """Holds a model's calls until the test lets them through, and remembers what they were."""

    def __init__(self) -> None:
        self.seen: list[list[str]] = []
        self._passes = threading.Semaphore(0)
        self._entered = threading.Semaphore(0)

    def enter(self, items: Sequence[str]) -> None:
        """In the model."""
        self.seen.append(list(items))
        self._entered.release()
        assert self._passes.acquire(timeout=10), "the test never opened the gate"

    def open(self, times: int = 1) -> None:
        for _ in range(times):
            self._passes.release()

    async def busy(self) -> None:
        """Until the model is in its next call."""
        assert await asyncio.to_thread(self._entered.acquire, timeout=10), "the model was never called"


def gated(gate: Gate, batching: Batching) -> type[Model]:
    class Gated(Mock):
        """Waits at the gate for every batch but the canary's."""

        name = "gated"
        task = Json(request=Text, response=Text)

        def canary(self) -> None:
            return None

        def predict(self, batch: Sequence[Text]) -> Sequence[Text]:
            gate.enter([item.text for item in batch])
            return batch

    Gated.batching = batching
    return Gated


def gated_vectors(gate: Gate, size: int) -> type[Model]:
    class GatedVectors(Vectors):
        """Waits at the gate for every batch."""

        def canary(self) -> None:
            return None

        def predict(self, batch: Sequence[str]) -> Sequence[Embedding]:
            gate.enter(batch)
            return super().predict(batch)

    GatedVectors.batching = gather(size)
    return GatedVectors


async def until(true: Callable[[], bool], seconds: float = 5.0) -> None:
    """Give other tasks their turn until something is so."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never became so"
        await asyncio.sleep(0.001)


def ask(replica: Any, text: str, **fields: Any) -> "asyncio.Future[Any]":
    return asyncio.ensure_future(replica.answer(Text(text=text), Context(text, **fields)))
