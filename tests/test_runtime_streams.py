"""Answers that come in pieces, from threads and from coroutines, to readers who are fast, slow, or gone."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest
from gate import until

from argosy import Context, Model, engine_batches, one_by_one, tasks
from argosy.errors import BadRequest, DeadlineExceeded, ModelFailed, Overloaded
from argosy.runtime.meter import Recorder
from argosy.runtime.streams import ROOM, Channel
from argosy.tasks import (
    ChatDelta,
    ChatRequest,
    ChatResponse,
    Message,
    Sound,
    SpeechRequest,
    TranscriptionRequest,
    Usage,
)
from argosy.testing import running
from argosy.testing.models import EngineBatched, Mock, Slow, Streaming, Text

STREAMING = pytest.mark.parametrize("model", [Streaming, EngineBatched], ids=["thread", "loop"])


def says(text: str, **fields: Any) -> ChatRequest:
    return ChatRequest((Message(role="user", content=text),), **fields)


async def read(stream: AsyncIterator[ChatDelta], texts: list[str]) -> None:
    async for delta in stream:
        texts.append(delta.text)


class Traced(Mock):
    """Says numbers without end, until it is told to stop; remembers in which thread it was closed."""

    name = "traced"
    task = tasks.chat
    batching = one_by_one
    said = 0
    closed_in = ""

    def canary(self) -> None:
        return None

    def generate(self, request: ChatRequest, ctx: Context) -> Iterator[ChatDelta]:
        type(self).said = 0
        type(self).closed_in = ""
        try:
            while True:
                time.sleep(0.0001)
                type(self).said += 1
                yield ChatDelta(f"{self.said} ")
        finally:
            type(self).closed_in = threading.current_thread().name


class TracedLoop(Mock):
    """The same in a coroutine."""

    name = "traced-loop"
    task = tasks.chat
    batching = engine_batches
    said = 0
    closed_in = ""

    def canary(self) -> None:
        return None

    async def generate(self, request: ChatRequest, ctx: Context) -> AsyncIterator[ChatDelta]:
        type(self).said = 0
        type(self).closed_in = ""
        try:
            while True:
                await asyncio.sleep(0.0001)
                type(self).said += 1
                yield ChatDelta(f"{self.said} ")
        finally:
            type(self).closed_in = threading.current_thread().name


ENDLESS = pytest.mark.parametrize("model", [Traced, TracedLoop], ids=["thread", "loop"])


@STREAMING
async def test_a_stream_comes_in_pieces_and_a_whole_answer_is_their_sum(model: type[Model]) -> None:
    recorder = Recorder()
    async with running(model, meter=recorder) as replica:
        deltas = [delta async for delta in replica.stream(says("the quick brown fox"), Context("1"))]
        whole = await replica.answer(says("the quick brown fox"), Context("2"))
    assert [delta.text for delta in deltas] == ["the", " quick", " brown", " fox", ""]
    assert deltas[-1].usage == Usage(4, 4)
    assert whole == ChatResponse("the quick brown fox", "stop", Usage(4, 4))
    tokens = [(dict(sample.tags)["direction"], sample.value) for sample in recorder.named("argosy_tokens_total")]
    assert tokens == [("in", 4), ("out", 4)] * 2, "the canary is nobody's request"
    assert len(list(recorder.named("argosy_first_seconds"))) == 3
    assert all(0 <= sample.value < 1 for sample in recorder.named("argosy_first_seconds"))


@STREAMING
async def test_the_first_piece_is_here_before_the_last_is_made(model: type[Model]) -> None:
    async with running(model, options={"seconds": 0.05}) as replica:
        began, first = time.monotonic(), 0.0
        async for _ in replica.stream(says("one two three four five six"), Context("1")):
            first = first or time.monotonic() - began
        assert first < 0.5 * (time.monotonic() - began)


async def test_coroutines_stream_to_many_at_once_and_threads_to_one() -> None:
    async def note(replica: Any, name: str, order: list[str]) -> None:
        async for _ in replica.stream(says("a b c"), Context(name)):
            order.append(name)

    for model, mixed in ((EngineBatched, True), (Streaming, False)):
        order: list[str] = []
        async with running(model, options={"seconds": 0.02}) as replica:
            await asyncio.gather(*(note(replica, name, order) for name in "xy"))
        assert (order[:4] != ["x"] * 4) is mixed


@ENDLESS
async def test_a_reader_who_closes_the_stream_frees_the_slot(model: Any) -> None:
    async with running(model) as replica:
        ctx = Context("leaves")
        async with contextlib.aclosing(replica.stream(says("x"), ctx)) as stream:
            async for _ in stream:
                break
        left = time.monotonic()
        await until(lambda: replica.status().running == 0)
        assert time.monotonic() - left < 1
        assert ctx.cancelled
        assert model.closed_in == ("argosy-traced" if model is Traced else threading.current_thread().name)
        said = model.said
        await asyncio.sleep(0.02)
        assert model.said == said, "nobody listens, and it still talks"


@ENDLESS
async def test_a_reader_whose_task_is_cancelled_frees_the_slot(model: Any) -> None:
    async with running(model) as replica:
        reader = asyncio.create_task(read(replica.stream(says("x"), Context("leaves")), []))
        await until(lambda: model.said > 3)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        await until(lambda: replica.status().running == 0, 1)
        assert model.closed_in


@ENDLESS
async def test_a_whole_answer_that_is_given_up_frees_the_slot(model: Any) -> None:
    async with running(model) as replica:
        asked = asyncio.ensure_future(replica.answer(says("x"), Context("leaves")))
        await until(lambda: model.said > 3)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        await until(lambda: replica.status().running == 0, 1)


@ENDLESS
async def test_a_deadline_ends_a_stream_in_the_middle(model: Any) -> None:
    async with running(model) as replica:
        texts: list[str] = []
        with pytest.raises(DeadlineExceeded):
            await read(replica.stream(says("x"), Context("late", deadline=time.monotonic() + 0.1)), texts)
        assert texts
        await until(lambda: replica.status().running == 0, 1)
        with pytest.raises(DeadlineExceeded):
            await replica.answer(says("x"), Context("late", deadline=time.monotonic() + 0.1))


@ENDLESS
async def test_a_slow_reader_holds_the_model_back(model: Any) -> None:
    async with running(model) as replica:
        stream = replica.stream(says("x"), Context("slow"))
        assert (await anext(stream)).text == "1 "
        await asyncio.sleep(0.3)  # the model could say hundreds meanwhile
        assert model.said <= ROOM + 2
        rest = [(await anext(stream)).text for _ in range(3 * ROOM)]
        assert rest == [f"{number} " for number in range(2, 3 * ROOM + 2)], "none was lost and none came twice"
        await stream.aclose()  # type: ignore[attr-defined]


async def test_a_reader_who_takes_nothing_for_long_loses_the_stream() -> None:
    channel = Channel(asyncio.get_running_loop(), room=2, patience=0.05)
    kept = await asyncio.to_thread(lambda: [channel.put(number) for number in range(4)])
    assert kept == [True, True, False, False]
    with pytest.raises(DeadlineExceeded, match="read nothing"):
        await anext(channel)


async def test_a_deadline_frees_a_model_that_waits_for_a_reader() -> None:
    async with running(Traced) as replica:
        ctx = Context("slow", deadline=time.monotonic() + 0.2)
        stream = replica.stream(says("x"), ctx)
        await anext(stream)
        await until(lambda: Traced.said > ROOM)
        await until(lambda: replica.status().running == 0, 2)
        with pytest.raises(DeadlineExceeded):
            await read(stream, [])


async def test_stopping_ends_a_stream_whose_reader_is_slow() -> None:
    async with running(Traced) as replica:
        stream = replica.stream(says("x"), Context("slow"))
        await anext(stream)
        await until(lambda: Traced.said > ROOM)
        began = time.monotonic()
        await replica.stop()
        assert time.monotonic() - began < 2
        with pytest.raises(Overloaded, match="stopping"):
            await read(stream, [])


async def test_a_hundred_thousand_pieces_arrive_in_order() -> None:
    channel = Channel(asyncio.get_running_loop())

    def put() -> None:
        for number in range(100_000):
            assert channel.put(number)
        channel.end()

    putting = asyncio.ensure_future(asyncio.to_thread(put))
    found = [number async for number in channel]
    await putting
    assert found == list(range(100_000))


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("batching", [one_by_one, engine_batches], ids=["thread", "loop"])
async def test_a_model_that_fails_in_the_middle_fails_the_stream_there(batching: Any, after: int) -> None:
    class Breaks(Mock):
        """Says so much, then raises."""

        name, task = "breaks", tasks.chat

        def canary(self) -> None:
            return None

        def generate(self, request: ChatRequest, ctx: Context) -> Iterator[ChatDelta]:
            for number in range(after):
                yield ChatDelta(f"{number}")
            raise RuntimeError("out of words")

    class BreaksLoop(Breaks):
        async def generate(self, request: ChatRequest, ctx: Context) -> AsyncIterator[ChatDelta]:  # type: ignore[override]
            for delta in range(after):
                yield ChatDelta(f"{delta}")
            raise RuntimeError("out of words")

    model = Breaks if batching is one_by_one else BreaksLoop
    model.batching = batching
    async with running(model) as replica:
        ctx = Context("breaks")
        texts: list[str] = []
        with pytest.raises(ModelFailed, match="request breaks"):
            await read(replica.stream(says("x"), ctx), texts)
        assert texts == [f"{number}" for number in range(after)]
        assert ctx.error == "model_failed"
        with pytest.raises(ModelFailed):
            await replica.answer(says("x"), Context("whole"))
        await until(lambda: replica.status().running == 0)


async def test_a_coroutine_that_does_not_end_loses_its_slot_within_a_second(caplog: pytest.LogCaptureFixture) -> None:
    ended = asyncio.Event()

    class Clings(Mock):
        """Will not be closed."""

        name, task, batching = "clings", tasks.chat, engine_batches

        def canary(self) -> None:
            return None

        async def generate(self, request: ChatRequest, ctx: Context) -> AsyncIterator[ChatDelta]:
            try:
                yield ChatDelta("here")
            finally:
                await ended.wait()

    async with running(Clings) as replica:
        async with contextlib.aclosing(replica.stream(says("x"), Context("1"))) as stream:
            assert (await anext(stream)).text == "here"
            began = time.monotonic()
        assert replica.status().running == 0
        assert time.monotonic() - began < 1.5
        ended.set()
        await asyncio.sleep(0)
    assert "has not ended" in caplog.text


async def test_a_model_that_answers_whole_refuses_to_stream() -> None:
    async with running(Slow) as replica:
        with pytest.raises(BadRequest, match="does not stream") as refused:
            await anext(replica.stream(Text(text="x"), Context("1")))
    assert refused.value.param == "stream"


async def test_a_whole_answer_that_is_also_a_piece_streams_as_one() -> None:
    class Beep(Mock):
        """One sound for every text."""

        name, task = "beep", tasks.speech

        def predict(self, batch: list[SpeechRequest]) -> list[Sound]:
            return [Sound(np.zeros(8000, np.float32), 16_000) for _ in batch]

    recorder = Recorder()
    async with running(Beep, meter=recorder) as replica:
        sounds = [sound async for sound in replica.stream(SpeechRequest("x"), Context("1"))]
    assert [len(sound.samples) for sound in sounds] == [8000]
    spoken = list(recorder.named("argosy_audio_seconds_total"))
    assert [(sample.value, sample.tags) for sample in spoken] == [(0.5, (("direction", "out"),))]


async def test_seconds_of_sound_are_counted_both_ways() -> None:
    class Hears(Mock):
        """Hears nothing, in one segment."""

        name, task = "hears", tasks.transcription

        def generate(self, request: TranscriptionRequest, ctx: Context) -> Iterator[tasks.Segment]:
            yield tasks.Segment(0.0, request.seconds, "nothing", language="en")

    recorder = Recorder()
    async with running(Hears, meter=recorder) as replica:
        found = await replica.answer(TranscriptionRequest(np.zeros(48_000, np.float32)), Context("1"))
    assert (found.text, found.language, found.seconds) == ("nothing", "en", 3.0)
    heard = [(sample.value, sample.tags) for sample in recorder.named("argosy_audio_seconds_total")]
    assert heard == [(3.0, (("direction", "in"),))]
