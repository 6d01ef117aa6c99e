"""Sound through OpenAI's client and the plain form."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import numpy as np
import openai
import pytest
from answerers import EVERYTHING, RATE, Tiny, browser, client, serving

from argosy import audio, tasks


def sound(seconds: float = 2.0, name: str = "wav") -> bytes:
    wave = np.sin(np.arange(round(seconds * 8000), dtype=np.float32) * np.float32(0.3)) * np.float32(0.4)
    return audio.encode(wave, name, 8000)


@pytest.fixture
async def whisper() -> AsyncIterator[tuple[openai.AsyncOpenAI, Tiny]]:
    tiny = Tiny(tasks.transcription)
    async with serving(tiny) as address, client(address) as ai:
        yield ai, tiny


async def test_a_file_is_written_down_with_its_parameters(whisper):
    ai, tiny = whisper
    answer = await ai.audio.transcriptions.create(
        model="tiny", file=("a.flac", sound(2, "flac")), language="de", prompt="names", temperature=0.2
    )
    assert answer.text == "second 0 second 1"
    request = tiny.seen[0]
    assert (request.language, request.prompt, request.temperature, request.words) == ("de", "names", 0.2, False)
    assert request.seconds == pytest.approx(2, abs=0.05)
    assert request.audio.dtype == np.float32


async def test_verbose_json_has_segments_and_words(whisper):
    ai, _ = whisper
    answer = await ai.audio.transcriptions.create(
        model="tiny",
        file=("a.wav", sound()),
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert answer.language == "en"
    assert answer.duration == pytest.approx(2, abs=0.05)
    assert [(segment.start, segment.text) for segment in answer.segments] == [(0, " second 0"), (1, " second 1")]
    assert [(word.word, word.end) for word in answer.words] == [("second 0", 0.75), ("second 1", 1.75)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("text", "second 0 second 1\n"),
        (
            "srt",
            "1\n00:00:00,000 --> 00:00:01,000\nsecond 0\n\n2\n00:00:01,000 --> 00:00:02,000\nsecond 1\n",
        ),
        (
            "vtt",
            "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\nsecond 0\n\n00:00:01.000 --> 00:00:02.000\nsecond 1\n",
        ),
    ],
)
async def test_subtitles_and_text_have_their_own_formats(whisper, name, text):
    ai, _ = whisper
    answer = await ai.audio.transcriptions.create(model="tiny", file=("a.wav", sound()), response_format=name)
    assert answer == text


async def test_a_transcription_streams_deltas_and_the_whole(whisper):
    ai, _ = whisper
    stream = await ai.audio.transcriptions.create(model="tiny", file=("a.wav", sound()), stream=True)
    events = [event async for event in stream]
    assert [event.type for event in events] == ["transcript.text.delta"] * 2 + ["transcript.text.done"]
    assert "".join(event.delta for event in events[:-1]) == events[-1].text == "second 0 second 1"


async def test_translations_ask_the_task_for_english(whisper):
    ai, tiny = whisper
    async with browser() as web:
        files = {"file": ("a.wav", sound(1)), "model": (None, "tiny")}
        reply = await web.post(f"{ai.base_url}audio/translations", files=files)
    assert reply.json()["text"] == "second 0"
    assert tiny.seen[0].translate


@pytest.mark.parametrize(
    ("feature", "call"),
    [
        ("words", {"timestamp_granularities": ["word"], "response_format": "verbose_json"}),
        ("words", {"timestamp_granularities": ["word"]}),
    ],
)
async def test_words_are_refused_where_the_model_has_none(feature, call):
    async with serving(Tiny(tasks.transcription, features=EVERYTHING - {feature})) as address, client(address) as ai:
        with pytest.raises(openai.BadRequestError, match="timestamp_granularities"):
            await ai.audio.transcriptions.create(model="tiny", file=("a.wav", sound(1)), **call)


@pytest.mark.parametrize(
    ("param", "call"),
    [
        ("response_format", {"response_format": "docx"}),
        ("stream", {"response_format": "srt", "stream": True}),
        ("include", {"include": ["logprobs"]}),
        ("colour", {"extra_body": {"colour": "red"}}),
        ("temperature", {"extra_body": {"temperature": "nan"}}),
    ],
)
async def test_form_fields_are_checked_by_name(whisper, param, call):
    ai, tiny = whisper
    with pytest.raises(openai.BadRequestError) as caught:
        await ai.audio.transcriptions.create(model="tiny", file=("a.wav", sound(1)), **call)
    assert caught.value.param.startswith(param)
    assert tiny.seen == []


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 400),
        (b"no sound at all " * 100, 415),
        (sound(2)[:3000], 400),
        (sound(2, "flac")[:5], 400),
    ],
)
async def test_uploads_that_are_no_whole_sound_are_refused(whisper, data, status):
    ai, tiny = whisper
    with pytest.raises(openai.APIStatusError) as caught:
        await ai.audio.transcriptions.create(model="tiny", file=("a.wav", data))
    assert caught.value.status_code == status
    assert caught.value.body["type"] == "invalid_request_error"
    assert (await ai.audio.transcriptions.create(model="tiny", file=("a.wav", sound(1)))).text == "second 0"
    assert len(tiny.seen) == 1


async def test_the_plain_form_takes_a_raw_body_or_a_form(whisper):
    ai, tiny = whisper
    address = str(ai.base_url).removesuffix("/v1/")
    async with browser() as web:
        raw = await web.post(address, content=sound(2, "mp3"), headers={"content-type": "audio/mpeg"})
        untyped = await web.post(f"{address}/", content=sound(1))
        form = await web.post(address, files={"file": ("a.ogg", sound(1, "opus"))}, data={"language": "fr"})
    assert raw.json()["text"].startswith("second 0 second 1")
    assert untyped.json() == {"text": "second 0", "language": "en", "seconds": 1.0}
    assert form.json()["language"] == "fr"
    assert tiny.seen[-1].language == "fr"


@pytest.mark.parametrize("name", list(audio.FORMATS))
async def test_speech_comes_in_every_format(name):
    async with serving(Tiny(tasks.speech)) as address, client(address) as ai:
        reply = await ai.audio.speech.create(
            model="tiny", input="one two three four", voice="joe", response_format=name
        )
    assert reply.response.headers["content-type"] == audio.FORMATS[name]
    if name == "pcm":
        samples = np.frombuffer(reply.content, "<i2")
        assert len(samples) / audio.PCM_RATE == pytest.approx(1, abs=0.05)
    else:
        assert len(audio.decode(reply.content, rate=RATE)) / RATE == pytest.approx(1, abs=0.15)


async def test_speech_streams_as_events_too():
    async with serving(Tiny(tasks.speech)) as address, browser() as web:
        body = {"input": "one two", "response_format": "wav", "stream_format": "sse"}
        reply = await web.post(f"{address}/v1/audio/speech", json=body)
    events = [event for event in reply.text.split("\n\n") if event]
    assert '"speech.audio.delta"' in events[0]
    assert '"speech.audio.done"' in events[-1]


@pytest.mark.parametrize(
    ("param", "call"),
    [
        ("voice", {"voice": "alloy"}),
        ("response_format", {"response_format": "midi"}),
        ("instructions", {"instructions": "whisper"}),
        ("speed", {"speed": 9}),
        ("input", {"input": ""}),
    ],
)
async def test_speech_refuses_by_name(param, call):
    async with serving(Tiny(tasks.speech)) as address, client(address) as ai:
        with pytest.raises(openai.BadRequestError) as caught:
            await ai.audio.speech.create(**{"model": "tiny", "input": "a", "voice": "joe", **call})
    assert caught.value.param == param


async def test_speech_that_breaks_half_way_breaks_the_connection():
    body = {"input": "one two three break", "response_format": "wav"}
    async with serving(Tiny(tasks.speech)) as address, browser() as web:
        with pytest.raises(httpx.RemoteProtocolError):
            await web.post(f"{address}/v1/audio/speech", json=body)


async def test_plain_speech_chooses_its_format_by_field_and_by_accept():
    async with serving(Tiny(tasks.speech)) as address, browser() as web:
        wav = await web.post(address, json={"text": "one two"})
        mp3 = await web.post(address, json={"text": "one two"}, headers={"accept": "audio/mpeg"})
        flac = await web.post(address, json={"text": "one two", "format": "flac"}, headers={"accept": "audio/mpeg"})
        none = await web.post(address, json={"text": "one two"}, headers={"accept": "image/png"})
        bad = await web.post(address, json={"text": "one two", "format": "midi"})
    assert [reply.headers["content-type"] for reply in (wav, mp3, flac)] == ["audio/wav", "audio/mpeg", "audio/flac"]
    assert len(audio.decode(wav.content, rate=RATE)) == RATE // 4 * 2
    assert (none.status_code, none.json()["error"]["code"]) == (406, "not_acceptable")
    assert (bad.status_code, bad.json()["error"]["param"]) == (400, "format")
