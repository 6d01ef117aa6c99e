"""OpenAI's own client against the running fleet: at the root by the service's name, and at each prefix."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import httpx
import numpy as np
import openai
import pytest
from conftest import Running
from spoken import PARAGRAPH, speak, wav_of, word_errors

from argosy import audio

pytestmark = pytest.mark.fleet

Connect = Callable[[str], openai.OpenAI]
PLACES = pytest.mark.parametrize("place", ["root", "prefix"])


@pytest.fixture
def connect(fleet: Running) -> Iterator[Connect]:
    """Make a client for `/v1` below a prefix (empty: the root)."""
    with ExitStack() as stack:

        def connected(prefix: str) -> openai.OpenAI:
            web = openai.DefaultHttpxClient(trust_env=False)
            address = f"{fleet.url}{prefix}/v1"
            return stack.enter_context(
                openai.OpenAI(base_url=address, api_key="none", max_retries=0, timeout=120, http_client=web)
            )

        yield connected


@pytest.fixture(scope="module")
def recording(fleet: Running) -> bytes:
    """PARAGRAPH as a wav."""
    with httpx.Client(base_url=fleet.url, timeout=120, trust_env=False) as client:
        return wav_of(speak(client, PARAGRAPH))


def at(place: str, service: str) -> str:
    return "" if place == "root" else f"/{service}"


@PLACES
def test_chat(connect: Connect, place: str) -> None:
    client = connect(at(place, "llm"))
    answer = client.chat.completions.create(
        model="llm",
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        max_tokens=20,
        temperature=0,
    )
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "llm"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    cut = client.chat.completions.create(model="llm", messages=[{"role": "user", "content": "Tell me."}], max_tokens=1)
    assert cut.choices[0].finish_reason == "length"


@PLACES
def test_a_chat_stream_says_what_the_whole_answer_says(connect: Connect, place: str) -> None:
    client = connect(at(place, "llm"))
    with client.chat.completions.create(
        model="llm",
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        max_tokens=20,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    ) as stream:
        chunks = list(stream)
    assert "Paris" in "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 3
    assert len({chunk.id for chunk in chunks}) == 1


@PLACES
def test_embeddings(connect: Connect, place: str) -> None:
    client = connect(at(place, "embeddings"))
    texts = ["a man eats food", "someone is having a meal"]
    packed = client.embeddings.create(model="embeddings", input=texts)  # the client asks for base64
    plain = client.embeddings.create(model="embeddings", input=texts, encoding_format="float")
    assert [row.index for row in packed.data] == [0, 1]
    for one, other in zip(packed.data, plain.data, strict=True):
        assert len(one.embedding) == 384
        assert np.linalg.norm(one.embedding) == pytest.approx(1, abs=1e-3)
        assert one.embedding == pytest.approx(other.embedding, abs=1e-5)
    assert packed.usage.prompt_tokens > len(texts)


@PLACES
def test_transcription_in_every_format(connect: Connect, place: str, recording: bytes) -> None:
    transcriptions = connect(at(place, "whisper")).audio.transcriptions
    upload = ("said.wav", io.BytesIO(recording))
    short = transcriptions.create(model="whisper", file=upload)
    assert word_errors(short.text, PARAGRAPH) <= 0.05
    long = transcriptions.create(
        model="whisper", file=upload, response_format="verbose_json", timestamp_granularities=["word", "segment"]
    )
    assert long.duration == pytest.approx((len(recording) - 44) / 32_000, abs=0.1)
    assert long.language == "en"
    assert long.segments
    assert long.words
    assert word_errors(" ".join(word.word for word in long.words), PARAGRAPH) <= 0.05
    starts = [word.start for word in long.words]
    assert starts == sorted(starts)
    assert long.words[-1].end <= long.duration + 0.1
    text = transcriptions.create(model="whisper", file=upload, response_format="text")
    assert word_errors(str(text), PARAGRAPH) <= 0.05
    srt = str(transcriptions.create(model="whisper", file=upload, response_format="srt"))
    assert srt.startswith("1\n00:00:0")
    assert "," in srt.split(" --> ")[0]
    vtt = str(transcriptions.create(model="whisper", file=upload, response_format="vtt"))
    assert vtt.startswith("WEBVTT\n\n00:00:0")
    for cues in (srt, vtt):
        spoken = " ".join(line for line in cues.splitlines() if "-->" not in line and not line.isdigit())
        assert word_errors(spoken.removeprefix("WEBVTT"), PARAGRAPH) <= 0.05


@PLACES
def test_a_transcription_stream(connect: Connect, place: str, recording: bytes) -> None:
    transcriptions = connect(at(place, "whisper")).audio.transcriptions
    with transcriptions.create(model="whisper", file=("said.wav", io.BytesIO(recording)), stream=True) as stream:
        events = list(stream)
    assert [event.type for event in events[-2:]] == ["transcript.text.delta", "transcript.text.done"]
    said = events[-1].text if events[-1].type == "transcript.text.done" else ""
    deltas = "".join(event.delta for event in events if event.type == "transcript.text.delta")
    assert deltas.split() == said.split()
    assert word_errors(said, PARAGRAPH) <= 0.05


@PLACES
@pytest.mark.parametrize("kind", audio.FORMATS)
def test_speech_in_every_format(connect: Connect, place: str, kind: str) -> None:
    speech = connect(at(place, "tts")).audio.speech
    with speech.with_streaming_response.create(
        model="tts", input="Good morning.", voice="en_US-joe-medium", response_format=kind
    ) as reply:
        assert reply.headers["content-type"].startswith(audio.FORMATS[kind])
        sound = reply.read()
    if kind == "pcm":  # 16 bits little-endian, no header, at the rate that OpenAI's clients expect
        assert np.abs(np.frombuffer(sound, "<i2")).max() > 1_000
        seconds = len(sound) / 2 / 24_000
    else:
        samples = audio.decode(sound, rate=16_000)
        assert np.abs(samples).max() > 0.03
        seconds = len(samples) / 16_000
    assert 0.4 < seconds < 3


def test_speech_at_twice_the_speed_is_much_shorter(connect: Connect) -> None:
    speech = connect("").audio.speech

    def seconds(speed: float) -> float:
        reply = speech.create(
            model="tts", input=PARAGRAPH, voice="en_US-joe-medium", response_format="wav", speed=speed
        )
        return len(audio.decode(reply.content, rate=16_000)) / 16_000

    # not half: a sound has a shortest length, and the voice draws each anew
    assert 0.4 < seconds(2.0) / seconds(1.0) < 0.75


@PLACES
def test_models(connect: Connect, place: str) -> None:
    client = connect(at(place, "tts"))
    names = [model.id for model in client.models.list()]
    assert "tts" in names if place == "root" else names == ["tts"]
    assert client.models.retrieve("tts").object == "model"
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("nobody")
    assert refused.value.code == "model_not_found"


def test_errors_reach_the_client_as_its_own_classes(connect: Connect) -> None:
    hello: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]
    for prefix in ("", "/llm"):
        client = connect(prefix)
        with pytest.raises(openai.NotFoundError) as unknown:
            client.chat.completions.create(model="gpt-9", messages=hello)
        assert (unknown.value.param, unknown.value.code) == ("model", "model_not_found")
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(model="llm", messages=hello, temperature=9)
        assert refused.value.param == "temperature"
        assert refused.value.request_id
