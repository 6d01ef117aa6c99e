"""The simplest form of each task: a POST on the service's prefix, and a GET that says what the service is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from pydantic import BaseModel, Field, model_validator
from typing_extensions import TypedDict

from .. import audio
from ..errors import UnsupportedMedia
from ..tasks import (
    ChatRequest,
    ChatResponse,
    EmbeddingRequest,
    Embeddings,
    Message,
    RerankRequest,
    Scores,
    SpeechRequest,
    Task,
    Transcription,
    TranscriptionRequest,
)
from .dialect import Call, Dialect, Route
from .openai_chat import Turn, Used, text_of, used
from .reading import Body, Fields, Items, parse_fields
from .sound import format_of
from .wire import JSON, Reply, Stream, reply_json


class Prompt(Body):
    """Either `prompt` or `messages`."""

    prompt: str | None = None
    messages: Items[Turn] | None = Field(None, min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either `prompt` or `messages`")
        return self


class Answered(TypedDict):
    text: str
    finish: str
    usage: Used


async def chat(call: Call) -> Reply:
    body = await call.json(Prompt)
    if body.messages is None:
        messages: tuple[Message, ...] = (Message(role="user", content=body.prompt or ""),)
    else:
        messages = tuple(text_of(turn, f"messages[{index}]") for index, turn in enumerate(body.messages))
    request = ChatRequest(messages, body.max_tokens, body.temperature, body.top_p)
    answer: ChatResponse = await call.answerer.answer(request, call.ctx)
    reply: Answered = {"text": answer.text, "finish": answer.finish, "usage": used(answer.usage)}
    return reply_json(reply)


class Upload(Fields):
    """What a form may hold beside its `file`."""

    language: str | None = None
    prompt: str | None = None


class UploadForm(Upload):
    file: bytes = Field(json_schema_extra={"format": "binary"})


class Heard(TypedDict):
    text: str
    language: str | None
    seconds: float


async def transcription(call: Call) -> Reply:
    """A form with a `file`, or the sound itself: curl --data-binary @speech.wav -H 'content-type: audio/wav'."""
    media = call.media
    if media == b"multipart/form-data":
        form = await call.form()
        fields = parse_fields(UploadForm, {**form.fields, **form.files})
        data, upload = fields.file, Upload(language=fields.language, prompt=fields.prompt)
    elif not media or media.startswith((b"audio/", b"video/")) or media == b"application/octet-stream":
        data, upload = await call.body(), Upload()
    else:
        raise UnsupportedMedia(
            f"content-type is {media.decode('latin-1')!r}; wanted the sound itself (audio/…, application/octet-stream) "
            "or multipart/form-data with a `file`"
        )
    samples = await call.studio.decode(data)
    request = TranscriptionRequest(samples, language=upload.language, prompt=upload.prompt)
    answer: Transcription = await call.answerer.answer(request, call.ctx)
    reply: Heard = {"text": answer.text, "language": answer.language, "seconds": round(answer.seconds, 3)}
    return reply_json(reply)


class Speak(Body):
    text: str = Field(min_length=1)
    voice: str | None = None
    speed: float = Field(1.0, ge=0.25, le=4)
    format: str | None = Field(
        None, description="wav, mp3, flac, opus, aac or pcm; without it `Accept` chooses, else wav"
    )


async def speech(call: Call) -> Stream:
    body = await call.json(Speak)
    call.need("speed", body.speed != 1.0)
    name = format_of(body.format, call.header(b"accept"), "wav")
    sounds = call.answerer.stream(SpeechRequest(body.text, body.voice, body.speed), call.ctx)
    return Stream(call.studio.encoded(sounds, name), audio.FORMATS[name].encode())


class Texts(Body):
    """Either `text` or `texts`."""

    text: str | None = None
    texts: Items[str] | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.text is None) == (self.texts is None):
            raise ValueError("give either `text` or `texts`")
        return self


class Vectors(TypedDict):
    embeddings: list[list[float]]


async def embedding(call: Call) -> Reply:
    body = await call.json(Texts)
    texts = tuple(body.texts) if body.texts is not None else (body.text or "",)
    answer: Embeddings = await call.answerer.answer(EmbeddingRequest(texts), call.ctx)
    reply: Vectors = {"embeddings": [item.vector.tolist() for item in answer.items]}
    return reply_json(reply)


class Question(Body):
    query: str
    documents: Items[str] = Field(min_length=1)


class Marks(TypedDict):
    scores: list[float]


async def rerank(call: Call) -> Reply:
    body = await call.json(Question)
    answer: Scores = await call.answerer.answer(RerankRequest(body.query, tuple(body.documents)), call.ctx)
    reply: Marks = {"scores": [item.score for item in answer.items]}
    return reply_json(reply)


async def typed(call: Call) -> Reply:
    """A task of the plugin's own: its types are the protocol."""
    request = await call.json(call.answerer.task.request)
    answer: BaseModel = await call.answerer.answer(request, call.ctx)
    return Reply(answer.__pydantic_serializer__.to_json(answer), JSON)


class Description(TypedDict):
    service: str
    task: str
    about: dict[str, str]
    features: list[str]
    served_by: str


async def describe(call: Call) -> Reply:
    answerer = call.answerer
    reply: Description = {
        "service": answerer.service,
        "task": answerer.task.name,
        "about": dict(answerer.about),
        "features": sorted(answerer.features),
        "served_by": answerer.served_by,
    }
    return reply_json(reply)


def routes(task: Task[Any, Any]) -> Sequence[Route]:
    sounds = {"audio/wav": bytes, "audio/*": bytes, "application/octet-stream": bytes}
    known: dict[str, tuple[Any, str, dict[str, Any], dict[str, Any]]] = {
        "chat": (chat, "Answer a prompt", {"application/json": Prompt}, {"application/json": Answered}),
        "transcription": (
            transcription,
            "Write down what is said",
            {**sounds, "multipart/form-data": UploadForm},
            {"application/json": Heard},
        ),
        "speech": (
            speech,
            "Speak a text",
            {"application/json": Speak},
            dict.fromkeys(audio.FORMATS.values(), bytes),
        ),
        "embedding": (embedding, "Embed texts", {"application/json": Texts}, {"application/json": Vectors}),
        "rerank": (rerank, "Score documents", {"application/json": Question}, {"application/json": Marks}),
    }
    answer, summary, body, reply = known.get(
        task.name, (typed, "Answer", {"application/json": task.request}, {"application/json": task.response})
    )
    return [
        Route(method="POST", path="/", summary=summary, answer=answer, body=body, reply=reply),
        Route(
            method="GET",
            path="/",
            summary="What this service is",
            answer=describe,
            reply={"application/json": Description},
        ),
    ]


dialect = Dialect(name="plain", routes=routes)
