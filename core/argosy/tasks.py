"""Tasks: the contract of each kind of model, free of any dialect and of any engine.

A task says what one request is, what one answer is, and what travels in between. Where a request holds many
independent items (the texts of an embedding request), the task splits it, so that a model sees a flat batch of items
from many requests and returns one answer per item, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

Request = TypeVar("Request")
Response = TypeVar("Response")

Audio = NDArray[np.float32]  # (samples,) mono, -1 to 1


def _whole(request: Any) -> Sequence[Any]:
    return (request,)


def _single(request: Any, answers: Sequence[Any]) -> Any:
    return answers[0]


@dataclass(frozen=True)
class Task(Generic[Request, Response]):
    """One kind of work.

    split:  request -> items, each of which `Model.predict` answers by itself
    join:   request, one answer per item in order -> response
    fold:   request, all deltas in order -> response; None where the task does not stream
    canary: a request that any model of the task can answer; None where the model must bring its own
    """

    name: str
    request: type[Request]
    response: type[Response]
    delta: type | None = None
    split: Callable[[Request], Sequence[Any]] = _whole
    join: Callable[[Request, Sequence[Any]], Response] = _single
    fold: Callable[[Request, Sequence[Any]], Response] | None = None
    canary: Callable[[], Request] | None = None


# chat ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Usage:
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Message(BaseModel):
    """One turn. `content` is plain text; parts that are not text are the dialect's to refuse or to attach."""

    model_config = ConfigDict(frozen=True)
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str = ""
    name: str | None = None


@dataclass(frozen=True)
class ChatRequest:
    """`None` means: the service's own default. `max_tokens` counts generated tokens."""

    messages: tuple[Message, ...]
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    ignore_eos: bool = False


Finish = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class ChatDelta:
    """The next piece of text; the last delta carries `finish` and `usage`. `tokens` counts what this piece holds."""

    text: str = ""
    finish: Finish | None = None
    usage: Usage | None = None
    tokens: int = 1


@dataclass(frozen=True)
class ChatResponse:
    text: str
    finish: Finish = "stop"
    usage: Usage = Usage()


def _fold_chat(request: ChatRequest, deltas: Sequence[ChatDelta]) -> ChatResponse:
    last = deltas[-1] if deltas else ChatDelta()
    return ChatResponse("".join(delta.text for delta in deltas), last.finish or "stop", last.usage or Usage())


chat: Task[ChatRequest, ChatResponse] = Task(
    "chat",
    ChatRequest,
    ChatResponse,
    ChatDelta,
    fold=_fold_chat,
    canary=lambda: ChatRequest((Message(role="user", content="Say hello."),), max_tokens=4, temperature=0.0),
)


# transcription -------------------------------------------------------------------------------------------------------

TRANSCRIPTION_RATE = 16_000  # samples per second: what every Whisper was trained on


@dataclass(frozen=True)
class TranscriptionRequest:
    """`audio` is (samples,) float32 at 16 kHz. `language` is an ISO 639-1 code; None lets the model find out."""

    audio: Audio
    language: str | None = None
    prompt: str | None = None
    temperature: float = 0.0
    words: bool = False
    translate: bool = False

    @property
    def seconds(self) -> float:
        return len(self.audio) / TRANSCRIPTION_RATE


@dataclass(frozen=True)
class Word:
    start: float  # seconds
    end: float
    text: str


@dataclass(frozen=True)
class Segment:
    """A delta of transcription: times in seconds from the start of the audio."""

    start: float
    end: float
    text: str
    words: tuple[Word, ...] = ()
    language: str | None = None


@dataclass(frozen=True)
class Transcription:
    text: str
    segments: tuple[Segment, ...]
    language: str | None
    seconds: float


def _fold_transcription(request: TranscriptionRequest, segments: Sequence[Segment]) -> Transcription:
    language = next((segment.language for segment in segments if segment.language), request.language)
    text = "".join(segment.text for segment in segments).strip()
    return Transcription(text, tuple(segments), language, request.seconds)


transcription: Task[TranscriptionRequest, Transcription] = Task(
    "transcription",
    TranscriptionRequest,
    Transcription,
    Segment,
    fold=_fold_transcription,
    canary=lambda: TranscriptionRequest(np.zeros(TRANSCRIPTION_RATE, np.float32)),
)


# speech --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SpeechRequest:
    """`voice` None is the service's first voice; `speed` 1.0 is the voice's own pace (0.25 to 4.0)."""

    text: str
    voice: str | None = None
    speed: float = 1.0


@dataclass(frozen=True)
class Sound:
    """A delta and a response of speech: (samples,) float32 at `rate` samples per second."""

    samples: Audio
    rate: int


def _fold_speech(request: SpeechRequest, sounds: Sequence[Sound]) -> Sound:
    if not sounds:
        return Sound(np.zeros(0, np.float32), 22_050)
    return Sound(np.concatenate([sound.samples for sound in sounds]), sounds[0].rate)


speech: Task[SpeechRequest, Sound] = Task(
    "speech", SpeechRequest, Sound, Sound, fold=_fold_speech, canary=lambda: SpeechRequest("Ready.")
)


# embedding -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EmbeddingRequest:
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Embedding:
    """One item's answer: (dimensions,) float32, of length 1 where the model normalises; `tokens` is what was read."""

    vector: NDArray[np.float32]
    tokens: int = 0


@dataclass(frozen=True)
class Embeddings:
    items: tuple[Embedding, ...]

    @property
    def tokens(self) -> int:
        return sum(item.tokens for item in self.items)


embedding: Task[EmbeddingRequest, Embeddings] = Task(
    "embedding",
    EmbeddingRequest,
    Embeddings,
    split=lambda request: request.texts,
    join=lambda request, answers: Embeddings(tuple(answers)),
    canary=lambda: EmbeddingRequest(("ready",)),
)


# rerank --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RerankRequest:
    query: str
    documents: tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """What a rerank model's `predict` sees: one query with one document."""

    query: str
    document: str


@dataclass(frozen=True)
class Score:
    """Higher is better; what the number means is the model's to say in its `about`."""

    score: float
    tokens: int = 0


@dataclass(frozen=True)
class Scores:
    """One score per document, in the request's order."""

    items: tuple[Score, ...]

    @property
    def tokens(self) -> int:
        return sum(item.tokens for item in self.items)


rerank: Task[RerankRequest, Scores] = Task(
    "rerank",
    RerankRequest,
    Scores,
    split=lambda request: [Pair(request.query, document) for document in request.documents],
    join=lambda request, answers: Scores(tuple(answers)),
    canary=lambda: RerankRequest("ready", ("yes", "no")),
)


# anything in, anything out -------------------------------------------------------------------------------------------

JsonRequest = TypeVar("JsonRequest", bound=BaseModel)
JsonResponse = TypeVar("JsonResponse", bound=BaseModel)


@dataclass(frozen=True)
class JsonTask(Task[JsonRequest, JsonResponse]):
    name: str = field(default="json", init=False)


def Json(request: type[JsonRequest], response: type[JsonResponse]) -> JsonTask[JsonRequest, JsonResponse]:
    """A task of the plugin's own: pydantic types, from which validation and OpenAPI follow."""
    return JsonTask(request=request, response=response)
