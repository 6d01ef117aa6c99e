"""Requests on their way to a model: batches, turns, and what becomes of those who share a batch."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from gate import Gate, ask, gated, gated_vectors, until

from argosy import Context, gather, one_by_one, tasks
from argosy.errors import BadRequest, DeadlineExceeded, ModelFailed, Overloaded, PluginError
from argosy.model import Batching
from argosy.runtime.assignment import Bounds
from argosy.runtime.batching import on_loop
from argosy.tasks import EmbeddingRequest, Json
from argosy.testing import running
from argosy.testing.models import FailsOnRequest, Mock, Slow, Text


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open(10_000)  # whatever a failing test left in it


async def test_what_arrives_while_the_model_is_busy_goes_in_one_batch(gate: Gate) -> None:
    async with running(gated(gate, gather(4))) as replica:
        first = ask(replica, "first")
        await gate.busy()
        others = [ask(replica, f"{number}") for number in range(6)]
        await until(lambda: replica.status().waiting == 6)
        gate.open(3)
        answers = await asyncio.gather(first, *others)
    assert gate.seen == [["first"], ["0", "1", "2", "3"], ["4", "5"]]
    assert [answer.text for answer in answers] == ["first", *"012345"]


async def test_a_request_that_finds_the_model_idle_waits_for_nobody() -> None:
    async with running(Slow) as replica:
        took = []
        for _ in range(200):
            began = time.perf_counter()
            await replica.answer(Text(text="x"), Context("x"))
            took.append(time.perf_counter() - began)
    assert sorted(took)[100] < 0.005, "the median says that something is waited for"


async def test_one_by_one_answers_requests_in_the_order_in_which_they_came(gate: Gate) -> None:
    async with running(gated(gate, one_by_one)) as replica:
        asked = [ask(replica, f"{number}") for number in range(4)]
        gate.open(4)
        await asyncio.gather(*asked)
    assert gate.seen == [["0"], ["1"], ["2"], ["3"]]


async def test_one_by_one_sees_a_request_of_many_items_whole(gate: Gate) -> None:
    model = gated_vectors(gate, 4)
    model.batching = one_by_one
    gate.open(1)
    async with running(model) as replica:
        found = await replica.answer(EmbeddingRequest(tuple("abcdefg")), Context("many"))
    assert gate.seen == [list("abcdefg")]
    assert len(found.items) == 7


async def test_a_big_request_does_not_hold_up_small_ones(gate: Gate) -> None:
    async with running(gated_vectors(gate, 8)) as replica:
        texts = tuple(f"big {number}" for number in range(1000))
        big = asyncio.ensure_future(replica.answer(EmbeddingRequest(texts), Context("big")))
        await gate.busy()
        small = [
            asyncio.ensure_future(replica.answer(EmbeddingRequest((f"small {number}",)), Context(f"{number}")))
            for number in range(5)
        ]
        await until(lambda: replica.status().waiting == 5)
        gate.open(2)
        await asyncio.wait_for(asyncio.gather(*small), 5)
        assert not big.done()
        assert {f"small {number}" for number in range(5)} <= set(gate.seen[1])
        assert len(gate.seen[1]) == 8, "the rest of the batch is the big one's"
        gate.open(1000)
        found = await big
        alone = await replica.answer(EmbeddingRequest(("big 777",)), Context("alone"))
    assert len(found.items) == 1000
    assert (found.items[777].vector == alone.items[0].vector).all(), "answers stand where their items stood"
    assert all(len(batch) <= 8 for batch in gate.seen)


async def test_two_big_requests_share_the_batches(gate: Gate) -> None:
    async with running(gated_vectors(gate, 4)) as replica:
        first = asyncio.ensure_future(replica.answer(EmbeddingRequest(("a",) * 20), Context("a")))
        await gate.busy()
        second = asyncio.ensure_future(replica.answer(EmbeddingRequest(("b",) * 20), Context("b")))
        await until(lambda: replica.status().waiting == 1)
        gate.open(20)
        await asyncio.gather(first, second)
    assert sorted(gate.seen[1]) == ["a", "a", "b", "b"]


async def test_interactive_requests_go_before_batch_ones(gate: Gate) -> None:
    async with running(gated(gate, gather(2))) as replica:
        first = ask(replica, "first")
        await gate.busy()
        asked = [ask(replica, f"b{number}", priority="batch") for number in range(3)]
        await until(lambda: replica.status().waiting == 3)
        asked += [ask(replica, f"i{number}") for number in range(3)]
        await until(lambda: replica.status().waiting == 6)
        gate.open(4)
        await asyncio.gather(first, *asked)
    assert gate.seen == [["first"], ["i0", "i1"], ["i2", "b0"], ["b1", "b2"]]


async def test_an_empty_request_needs_no_model(gate: Gate) -> None:
    async with running(gated_vectors(gate, 4)) as replica:
        found = await replica.answer(EmbeddingRequest(()), Context("none"))
    assert found.items == ()
    assert gate.seen == []


async def test_one_bad_item_fails_alone(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    class Both(FailsOnRequest):
        """Waits at the gate, then fails on what it fails on."""

        def canary(self) -> None:
            return None

        def predict(self, batch: Sequence[Text]) -> Sequence[Text]:
            gate.enter([item.text for item in batch])
            return super().predict(batch)

    async with running(Both) as replica:
        first = ask(replica, "first")
        await gate.busy()
        asked = {text: ask(replica, text) for text in ("good", "fail", "fine", "refuse")}
        await until(lambda: replica.status().waiting == 4)
        gate.open(10)
        done = dict(zip(asked, await asyncio.gather(*asked.values(), return_exceptions=True), strict=True))
        await first
        assert (await replica.answer(Text(text="after"), Context("after"))).text == "after"
    assert done["good"] == Text(text="good")
    assert done["fine"] == Text(text="fine")
    assert isinstance(done["fail"], ModelFailed)
    assert "request fail" in str(done["fail"])
    assert "this text breaks it" not in str(done["fail"]), "the model's internals are the log's"
    assert isinstance(done["refuse"], BadRequest)
    assert done["refuse"].param == "text"
    failures = [record for record in caplog.records if record.levelname == "ERROR"]
    assert [record.getMessage() for record in failures] == ["the model failed on request fail"]
    assert failures[0].exc_info is not None
    assert "this text breaks it" in str(failures[0].exc_info[1])


async def test_a_wrong_number_of_answers_fails_the_request() -> None:
    class Forgetful(Slow):
        """Answers one item less."""

        def canary(self) -> None:
            return None

        def predict(self, batch: Sequence[Text]) -> Sequence[Text]:
            return batch[1:]

    async with running(Forgetful) as replica:
        with pytest.raises(ModelFailed):
            await replica.answer(Text(text="x"), Context("x"))


async def test_a_model_that_exits_or_panics_fails_one_request_and_lives() -> None:
    class Panic(BaseException):
        """As native libraries raise it."""

    class Exits(Slow):
        """Tries to end the process."""

        def predict(self, batch: Sequence[Text]) -> Sequence[Text]:
            if batch[0].text == "exit":
                raise SystemExit(1)
            if batch[0].text == "panic":
                raise Panic
            return batch

    async with running(Exits) as replica:
        for text in ("exit", "panic"):
            with pytest.raises(ModelFailed):
                await replica.answer(Text(text=text), Context(text))
        assert (await replica.answer(Text(text="after"), Context("after"))).text == "after"


async def test_coroutines_run_at_once_up_to_the_batch_size_and_wait_beyond() -> None:
    let_through = asyncio.Event()
    inside: list[str] = []
    most = 0

    class Waits(Mock):
        """Coroutines that wait for the test."""

        name = "waits"
        task = Json(request=Text, response=Text)
        batching = Batching("engine", 3)

        def canary(self) -> None:
            return None

        async def predict(self, batch: Sequence[Text]) -> Sequence[Text]:
            nonlocal most
            inside.append(batch[0].text)
            most = max(most, len(inside))
            await let_through.wait()
            inside.remove(batch[0].text)
            return batch

    async with running(Waits, bounds=Bounds(queue=2)) as replica:
        asked = [ask(replica, f"{number}") for number in range(5)]
        await until(lambda: len(inside) == 3)
        assert (replica.status().running, replica.status().waiting) == (3, 2)
        with pytest.raises(Overloaded):
            await replica.answer(Text(text="too many"), Context("too many"))
        asked[3].cancel()
        await asyncio.wait({asked[3]})
        with pytest.raises(DeadlineExceeded):
            await replica.answer(Text(text="late"), Context("late", deadline=time.monotonic() + 0.05))
        let_through.set()
        answers = await asyncio.gather(*asked[:3], asked[4])
        assert (replica.status().running, replica.status().waiting) == (0, 0)
    assert [answer.text for answer in answers] == ["0", "1", "2", "4"]
    assert most == 3


def test_a_model_that_cannot_run_as_its_batching_says_is_refused() -> None:
    class PlainForEngine(Slow):
        batching = Batching("engine", 8)

    class AsyncGathered(Slow):
        async def predict(self, batch: Sequence[Text]) -> Sequence[Text]:  # type: ignore[override]
            return batch

    class StreamsGathered(Mock):
        name, task, batching = "streams", tasks.chat, gather(8)

        def generate(self, request: Any, ctx: Context) -> Iterator[Any]:
            yield from ()

    class NeverYields(Mock):
        name, task, batching = "never", tasks.chat, one_by_one

        async def generate(self, request: Any, ctx: Context) -> Any:
            return None

    for model, sentence in (
        (PlainForEngine, "async def predict"),
        (AsyncGathered, "def predict"),
        (StreamsGathered, "one_by_one"),
        (NeverYields, "yield in generate"),
    ):
        with pytest.raises(PluginError, match=sentence):
            on_loop(model)
