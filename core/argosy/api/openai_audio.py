"""OpenAI's audio routes: transcriptions and translations of a form's file, and speech that is sent while it is made."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, ClassVar, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from .. import audio
from ..errors import BadRequest, RequestError
from ..tasks import Segment, Sound, SpeechRequest, Task, Transcription, TranscriptionRequest, transcription
from .dialect import Call, Route, fault
from .reading import Body, Fields, parse_fields
from .sound import format_of
from .wire import Reply, Stream, batches, event, reply_json

TEXT = b"text/plain; charset=utf-8"


class TranscriptionForm(Fields):
    file: bytes = Field(json_schema_extra={"format": "binary"})
    model: str | None = None
    language: str | None = Field(None, description="ISO 639-1; without it the model finds out")
    prompt: str | None = None
    response_format: Literal["json", "text", "verbose_json", "srt", "vtt"] = "json"
    temperature: float = Field(0.0, ge=0, le=1)
    stream: bool = False
    timestamp_granularities: list[Literal["word", "segment"]] = Field([], alias="timestamp_granularities[]")
    include: list[Any] = Field([], alias="include[]", max_length=0)
    chunking_strategy: str | None = Field(None, description="Ignored: the model cuts long sound by itself.")
    known_speaker_names: list[Any] = Field([], alias="known_speaker_names[]", max_length=0)
    known_speaker_references: list[Any] = Field([], alias="known_speaker_references[]", max_length=0)

    beyond: ClassVar[Mapping[str, str]] = {
        "include[]": "log probabilities",
        "known_speaker_names[]": "known speakers",
        "known_speaker_references[]": "known speakers",
    }


class Spent(TypedDict):
    type: Literal["duration"]
    seconds: int


class Written(TypedDict):
    text: str
    usage: Spent


class TimedSegment(TypedDict):
    id: int
    start: float
    end: float
    text: str


class TimedWord(TypedDict):
    word: str
    start: float
    end: float


class Verbose(TypedDict):
    task: Literal["transcribe", "translate"]
    language: str | None
    duration: float
    text: str
    segments: NotRequired[list[TimedSegment]]
    words: NotRequired[list[TimedWord]]
    usage: Spent


async def transcribe(call: Call) -> Reply | Stream:
    return await _transcribe(call, translate=False)


async def translate(call: Call) -> Reply | Stream:
    return await _transcribe(call, translate=True)


async def _transcribe(call: Call, translate: bool) -> Reply | Stream:
    form = await call.form()
    if "file" in form.fields:
        raise BadRequest(
            "file: is a text field; send it as a file, with a filename (curl: -F file=@sound.wav)", param="file"
        )
    body = parse_fields(TranscriptionForm, {**form.fields, **form.files})
    call.check_model(body.model)
    words = "word" in body.timestamp_granularities
    call.need("translate", translate, "model")
    call.need("words", words, "timestamp_granularities[]")
    if body.timestamp_granularities and body.response_format != "verbose_json":
        raise BadRequest("timestamp_granularities[]: needs response_format verbose_json", param="response_format")
    if body.stream and body.response_format not in ("json", "text"):
        raise BadRequest(f"stream: cannot be had as {body.response_format}, only as json or text", param="stream")
    samples = await call.studio.decode(body.file)
    request = TranscriptionRequest(samples, body.language, body.prompt, body.temperature, words, translate)
    if body.stream:
        return Stream(_events(call, request), failed=_failed)
    answer: Transcription = await call.answerer.answer(request, call.ctx)
    return _rendered(answer, body, translate)


def _rendered(answer: Transcription, body: TranscriptionForm, translate: bool) -> Reply:
    match body.response_format:
        case "text":
            return Reply(answer.text.encode() + b"\n", TEXT)
        case "srt":
            return Reply(_srt(answer.segments).encode(), b"application/x-subrip; charset=utf-8")
        case "vtt":
            return Reply(_vtt(answer.segments).encode(), b"text/vtt; charset=utf-8")
        case "json":
            short: Written = {"text": answer.text, "usage": _spent(answer.seconds)}
            return reply_json(short)
    long: Verbose = {
        "task": "translate" if translate else "transcribe",
        "language": answer.language,
        "duration": round(answer.seconds, 3),
        "text": answer.text,
        "usage": _spent(answer.seconds),
    }
    if not body.timestamp_granularities or "segment" in body.timestamp_granularities:
        long["segments"] = [
            {"id": index, "start": segment.start, "end": segment.end, "text": segment.text}
            for index, segment in enumerate(answer.segments)
        ]
    if "word" in body.timestamp_granularities:
        long["words"] = [
            {"word": word.text.strip(), "start": word.start, "end": word.end}
            for segment in answer.segments
            for word in segment.words
        ]
    return reply_json(long)


def _spent(seconds: float) -> Spent:
    return {"type": "duration", "seconds": max(1, round(seconds))}


def _clock(seconds: float, comma: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{comma}{rest % 1000:03d}"


def _cues(segments: Sequence[Segment], comma: str) -> list[str]:
    return [
        f"{_clock(segment.start, comma)} --> {_clock(segment.end, comma)}\n{segment.text.strip()}\n"
        for segment in segments
    ]


def _srt(segments: Sequence[Segment]) -> str:
    return "\n".join(f"{number}\n{cue}" for number, cue in enumerate(_cues(segments, ","), 1))


def _vtt(segments: Sequence[Segment]) -> str:
    return "\n".join(["WEBVTT\n", *_cues(segments, ".")])


class TextDelta(TypedDict):
    type: Literal["transcript.text.delta", "transcript.text.done"]
    delta: NotRequired[str]
    text: NotRequired[str]
    usage: NotRequired[Spent]


def _failed(error: RequestError) -> bytes:
    return event(fault(error))


async def _events(call: Call, request: TranscriptionRequest) -> AsyncGenerator[bytes, None]:
    heard: list[Segment] = []
    async with aclosing(batches(call.answerer.stream(request, call.ctx))) as ready:
        async for segments in ready:
            deltas = [
                segment.text if heard or index else segment.text.lstrip() for index, segment in enumerate(segments)
            ]
            heard += segments
            yield b"".join([event({"type": "transcript.text.delta", "delta": delta}) for delta in deltas])
    fold = transcription.fold
    assert fold is not None  # the task streams
    whole = fold(request, heard)
    yield event({"type": "transcript.text.done", "text": whole.text, "usage": _spent(whole.seconds)})


class SpeechBody(Body):
    model: str | None = None
    input: str = Field(min_length=1)
    voice: str | None = Field(None, description="Without it the service's first voice")
    response_format: str = Field("mp3", description="mp3, opus, aac, flac, wav or pcm")
    speed: float = Field(1.0, ge=0.25, le=4)
    stream_format: Literal["audio", "sse"] = "audio"
    instructions: None = None

    beyond: ClassVar[Mapping[str, str]] = {"instructions": "instructions on how to speak"}


class SoundDelta(TypedDict):
    type: Literal["speech.audio.delta", "speech.audio.done"]
    audio: NotRequired[str]
    usage: NotRequired[dict[str, int]]


async def speak(call: Call) -> Stream:
    body = await call.json(SpeechBody)
    call.check_model(body.model)
    call.need("speed", body.speed != 1.0)
    name = _format(body.response_format)
    request = SpeechRequest(body.input, body.voice, body.speed)
    sounds: AsyncIterator[Sound] = call.answerer.stream(request, call.ctx)
    made = call.studio.encoded(sounds, name)
    if body.stream_format == "sse":
        return Stream(_sound_events(made), failed=_failed)
    return Stream(made, audio.FORMATS[name].encode())


def _format(name: str) -> str:
    try:
        return format_of(name, b"", "mp3")
    except BadRequest as error:
        raise BadRequest(f"response_{error.message}", param="response_format", code=error.code) from None


async def _sound_events(made: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(made):
        async for data in made:
            yield event({"type": "speech.audio.delta", "audio": base64.b64encode(data).decode()})
    yield event({"type": "speech.audio.done", "usage": {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}})


def routes(task: Task[Any, Any]) -> Sequence[Route]:
    if task.name == "transcription":
        reply = {
            "application/json": Written | Verbose,
            "text/plain": str,
            "application/x-subrip": str,
            "text/vtt": str,
            "text/event-stream": TextDelta,
        }
        form = {"multipart/form-data": TranscriptionForm}
        return [
            Route(
                method="POST",
                path=f"/v1/audio/{name}",
                summary=summary,
                answer=answer,
                body=form,
                reply=reply,
                root=True,
            )
            for name, summary, answer in (
                ("transcriptions", "Write down what is said", transcribe),
                ("translations", "Write down in English what is said", translate),
            )
        ]
    if task.name == "speech":
        return [
            Route(
                method="POST",
                path="/v1/audio/speech",
                summary="Speak a text",
                answer=speak,
                body={"application/json": SpeechBody},
                reply={**dict.fromkeys(audio.FORMATS.values(), bytes), "text/event-stream": SoundDelta},
                root=True,
            )
        ]
    return []
