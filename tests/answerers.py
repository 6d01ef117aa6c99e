"""Small services that answer every task for the tests of dialects and door: real tasks, real HTTP, no engine."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import openai
import uvicorn
from pydantic import BaseModel

from argosy import Json, tasks
from argosy.api.service import app
from argosy.errors import BadRequest, ModelFailed, Overloaded
from argosy.model import Context
from argosy.runtime.assignment import Bounds
from argosy.runtime.meter import Meter, Recorder
from argosy.runtime.replica import Replica
from argosy.runtime.state import State
from argosy.serve.door import Door

LIMIT = 10_000  # characters that the models read
RATE = 22_050
EVERYTHING = frozenset({"seed", "presence_penalty", "frequency_penalty", "ignore_eos", "words", "translate", "speed"})


class Question(BaseModel):
    text: str
    times: float = 1.0


class Answer(BaseModel):
    text: str


JSON = Json(request=Question, response=Answer)


@dataclass
class Told:
    state: State = State.READY
    reason: str = ""


@dataclass
class Tiny:
    """Answers `task` by rules that a test can foresee. `seen` are the requests; `began` is set with the first
    one, `left` when one was given up.

    Chat repeats the last message word by word. "wait" waits for ever, "busy" is overloaded, "bug" raises what no model
    should, "break" fails after two words.
    """

    task: tasks.Task[Any, Any]
    service: str = "tiny"
    features: frozenset[str] = EVERYTHING
    about: dict[str, str] = field(default_factory=lambda: {"scores": "counts common words", "weights": "tiny-1m"})
    bounds: Bounds = field(default_factory=Bounds)
    served_by: str = "tiny;0;cpu;Test CPU"
    told: Told = field(default_factory=Told)
    seen: list[Any] = field(default_factory=list)
    began: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    def status(self) -> Told:
        return self.told

    async def answer(self, request: Any, ctx: Context) -> Any:
        if self.task.fold is not None:
            return self.task.fold(request, [delta async for delta in self.stream(request, ctx)])
        self.seen.append(request)
        return self.task.join(request, [self._predict(item) for item in self.task.split(request)])

    async def stream(self, request: Any, ctx: Context) -> AsyncIterator[Any]:
        self.seen.append(request)
        self.began.set()
        try:
            async for delta in getattr(self, f"_{self.task.name}")(request):
                yield delta
        except (asyncio.CancelledError, GeneratorExit):
            self.left.set()
            raise

    def _predict(self, item: Any) -> Any:
        match item:
            case tasks.Pair(query, document):
                return tasks.Score(float(len(set(query.split()) & set(document.split()))), len(document.split()))
            case Question(text=text):
                return Answer(text=text.upper())
            case str(text):
                _readable(text)
                seed = hashlib.sha256(text.encode()).digest()
                vector = np.frombuffer(seed, np.uint8).astype(np.float32)  # (32,) float32
                return tasks.Embedding(vector / np.linalg.norm(vector), len(text.split()))

    async def _chat(self, request: tasks.ChatRequest) -> AsyncIterator[tasks.ChatDelta]:
        text = request.messages[-1].content
        _readable(text)
        words = text.split()[: request.max_tokens]
        for index, word in enumerate(words):
            match word:
                case "wait":
                    await asyncio.Event().wait()
                case "busy":
                    raise Overloaded("the queue is full", retry_after=2.5)
                case "bug":
                    raise ZeroDivisionError("the model's secret")
                case "break" if index:
                    raise ModelFailed("the model failed on this request")
            yield tasks.ChatDelta(word if index == 0 else f" {word}")
        cut = len(words) < len(text.split())
        yield tasks.ChatDelta("", "length" if cut else "stop", tasks.Usage(len(text.split()), len(words)))

    async def _transcription(self, request: tasks.TranscriptionRequest) -> AsyncIterator[tasks.Segment]:
        for second in range(round(request.seconds)):
            text = f" second {second}"
            word = tasks.Word(second + 0.25, second + 0.75, text)
            yield tasks.Segment(second, second + 1, text, (word,) if request.words else (), request.language or "en")

    async def _speech(self, request: tasks.SpeechRequest) -> AsyncIterator[tasks.Sound]:
        _readable(request.text)
        if request.voice not in (None, "joe"):
            raise BadRequest(f"voice: unknown voice {request.voice!r}; known: joe", param="voice", code="unknown_voice")
        for word in request.text.split():
            if word == "break":
                raise ModelFailed("the model failed on this request")
            wave = np.sin(np.arange(RATE // 4, dtype=np.float32) * np.float32(440 * 2 * np.pi / RATE))
            yield tasks.Sound(wave * np.float32(0.5), RATE)  # (5512,) float32


def _readable(text: str) -> None:
    if len(text) > LIMIT:
        raise BadRequest(
            f"the text has {len(text)} characters, the model reads {LIMIT}", code="context_length_exceeded"
        )


def browser(address: str = "") -> httpx.AsyncClient:
    """A client for loopback: without certificates, whose loading costs a tenth of a second."""
    return httpx.AsyncClient(base_url=address, verify=False)


def client(address: str) -> openai.AsyncOpenAI:
    """OpenAI's own client for a service at this address."""
    return openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, http_client=browser())


@contextlib.asynccontextmanager
async def serving(answerer: Tiny | Replica, meter: Meter | None = None, prefix: str = "/tiny") -> AsyncIterator[str]:
    """The service behind its door on a free port, mounted as Ray Serve mounts it. Gives its address with the prefix."""
    inner = Door(
        app(answerer),
        service=answerer.service,
        bounds=answerer.bounds,
        meter=meter or Recorder(),
        served_by=answerer.served_by,
    )

    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            scope = {**scope, "root_path": prefix}
        await inner(scope, receive, send)

    async with listening(mounted) as address:
        yield address + prefix


@contextlib.asynccontextmanager
async def listening(application: Any) -> AsyncIterator[str]:
    """uvicorn without its main loop, whose ticks would cost every test a fifth of a second."""
    config = uvicorn.Config(application, log_level="warning", ws="none", lifespan="off", timeout_graceful_shutdown=1)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        await server.startup([listener])
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            for accepting in server.servers:
                accepting.close()
            for connection in list(server.server_state.connections):
                connection.shutdown()
            async with asyncio.timeout(5):
                await asyncio.gather(*server.server_state.tasks, return_exceptions=True)
