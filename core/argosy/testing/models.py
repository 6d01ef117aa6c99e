"""Models that need no weights and no engine, one for each way in which a model can behave.

The module is a plugin: `registry.load([("mock", argosy.testing.models)])` installs it for a test.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel

from .. import tasks
from ..backend import Backend
from ..errors import BadRequest
from ..hookspecs import hookimpl
from ..model import Context, Model, Options, engine_batches, gather, live, one_by_one
from ..tasks import ChatDelta, ChatRequest, Embedding, Json, Usage
from .backend import MockBackend


class Text(BaseModel):
    text: str


class Pace(Options):
    """`seconds` that a batch, or a word, takes; `voice` is an option whose change restarts."""

    seconds: float = live(0.0, ge=0)
    voice: str = "plain"


class Mock(Model):
    """What they share: nothing to load."""

    engines = ("python",)
    options = Pace
    needs_weights = False
    config: Pace

    def load(self, weights: Any, engine: Any, device: Any) -> Any:
        return None


class Slow(Mock):
    """Gives each text back, and takes `seconds` for a batch of up to eight."""

    name = "mock-slow"
    task = Json(request=Text, response=Text)
    batching = gather(8)

    def canary(self) -> Text:
        return Text(text="ready")

    def predict(self, batch: Sequence[Text]) -> Sequence[Text]:
        if self.config.seconds:
            time.sleep(self.config.seconds)
        return batch


class FailsOnLoad(Slow):
    """Cannot be loaded."""

    name = "mock-fails-on-load"

    def load(self, weights: Any, engine: Any, device: Any) -> Any:
        raise OSError("the weights are made of cheese")


class FailsOnRequest(Slow):
    """Raises on the text `fail`, refuses the text `refuse`, and gives all others back."""

    name = "mock-fails-on-request"

    def predict(self, batch: Sequence[Text]) -> Sequence[Text]:
        for item in batch:
            if item.text == "fail":
                raise ValueError("this text breaks it")
            if item.text == "refuse":
                raise BadRequest("not this text", param="text")
        return super().predict(batch)


class Vectors(Mock):
    """A made-up vector for each text, of length 1 and always the same; a token is a word."""

    name = "mock-vectors"
    task = tasks.embedding
    batching = gather(8)

    def predict(self, batch: Sequence[str]) -> Sequence[Embedding]:
        if self.config.seconds:
            time.sleep(self.config.seconds)
        return [Embedding(_vector(text), len(text.split())) for text in batch]


class Streaming(Mock):
    """Says the last message again, word for word, one request at a time, from a plain generator."""

    name = "mock-streaming"
    task = tasks.chat
    batching = one_by_one

    def generate(self, request: ChatRequest, ctx: Context) -> Iterator[ChatDelta]:
        said, last = _words(request)
        for word in said:
            if self.config.seconds:
                time.sleep(self.config.seconds)
            yield ChatDelta(word)
        yield last


class EngineBatched(Mock):
    """As Streaming, from an asynchronous generator, for many requests at once."""

    name = "mock-engine-batched"
    task = tasks.chat
    batching = engine_batches

    async def generate(self, request: ChatRequest, ctx: Context) -> AsyncIterator[ChatDelta]:
        said, last = _words(request)
        for word in said:
            await asyncio.sleep(self.config.seconds)
            yield ChatDelta(word)
        yield last


def _words(request: ChatRequest) -> tuple[list[str], ChatDelta]:
    """The words of the answer, and the delta that ends it."""
    words = request.messages[-1].content.split()
    said = words[: request.max_tokens]
    prompt = sum(len(message.content.split()) for message in request.messages)
    last = ChatDelta(
        "", finish="stop" if len(said) == len(words) else "length", usage=Usage(prompt, len(said)), tokens=0
    )
    return [word if index == 0 else f" {word}" for index, word in enumerate(said)], last


def _vector(text: str) -> Any:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    vector = np.random.default_rng(seed).standard_normal(8).astype(np.float32)  # (8,) float32
    return vector / np.linalg.norm(vector)


@hookimpl
def argosy_models() -> Sequence[type[Model]]:
    return [Slow, FailsOnLoad, FailsOnRequest, Vectors, Streaming, EngineBatched]


@hookimpl
def argosy_backends() -> Sequence[Backend]:
    return [MockBackend()]
