"""What is bounded: who waits, how long, and what becomes of clients who leave."""

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from gate import Gate, ask, gated, gated_vectors, until

from argosy import Context, Model, gather, one_by_one
from argosy.errors import DeadlineExceeded, Overloaded, RequestError
from argosy.model import Batching
from argosy.runtime.assignment import Bounds
from argosy.runtime.guard import Guard
from argosy.runtime.meter import Recorder
from argosy.runtime.replica import Replica
from argosy.tasks import EmbeddingRequest, Json
from argosy.testing import running
from argosy.testing.models import EngineBatched, Mock, Slow, Streaming, Text, Vectors


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open(10_000)  # whatever a failing test left in it


async def test_over_the_bound_a_request_is_refused_with_the_time_to_come_back(gate: Gate) -> None:
    async with running(gated(gate, one_by_one), bounds=Bounds(queue=3)) as replica:
        slow = ask(replica, "slow")
        await gate.busy()
        await asyncio.sleep(1.2)  # so that the pace of this model is known: 1.2 seconds an item
        gate.open()
        await slow
        running_now = ask(replica, "running")
        await gate.busy()
        waiting = [ask(replica, f"{number}") for number in range(3)]
        await until(lambda: replica.status().waiting == 3)
        with pytest.raises(Overloaded, match="3 requests wait") as refused:
            await replica.answer(Text(text="too many"), Context("too many"))
        assert refused.value.retry_after == pytest.approx(3 * 1.2, abs=0.5)
        assert replica.status().waiting == 3
        gate.open(4)
        await asyncio.gather(running_now, *waiting)
    assert ["too many"] not in gate.seen


async def test_without_a_queue_an_idle_model_still_answers(gate: Gate) -> None:
    async with running(gated(gate, one_by_one), bounds=Bounds(queue=0)) as replica:
        first = ask(replica, "first")
        await gate.busy()
        with pytest.raises(Overloaded):
            await replica.answer(Text(text="second"), Context("second"))
        gate.open()
        await first


async def test_ten_thousand_requests_and_none_is_lost() -> None:
    recorder = Recorder()
    async with running(Slow, meter=recorder, bounds=Bounds(queue=10_000)) as replica:
        found = await asyncio.gather(
            *(replica.answer(Text(text=f"{number}"), Context(f"{number}")) for number in range(10_000))
        )
        status = replica.status()
    assert [answer.text for answer in found] == [f"{number}" for number in range(10_000)]
    assert (status.waiting, status.running) == (0, 0)
    assert sum(sample.value for sample in recorder.named("argosy_batch_items")) == 10_001  # with the canary
    assert len(list(recorder.named("argosy_queue_seconds"))) == 10_001


async def test_a_client_that_leaves_while_waiting_is_forgotten(gate: Gate) -> None:
    async with running(gated(gate, one_by_one)) as replica:
        first = ask(replica, "first")
        await gate.busy()
        ctx = Context("leaves")
        leaves = asyncio.ensure_future(replica.answer(Text(text="leaves"), ctx))
        await until(lambda: replica.status().waiting == 1)
        leaves.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaves
        assert ctx.cancelled
        assert replica.status().waiting == 0
        last = ask(replica, "last")
        gate.open(2)
        await asyncio.gather(first, last)
    assert gate.seen == [["first"], ["last"]]


async def test_a_client_that_leaves_while_running_disturbs_nobody_in_its_batch(gate: Gate) -> None:
    async with running(gated(gate, gather(4))) as replica:
        first = ask(replica, "first")
        await gate.busy()
        leaves, stays = ask(replica, "leaves"), ask(replica, "stays")
        await until(lambda: replica.status().waiting == 2)
        gate.open()
        await gate.busy()
        leaves.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaves
        gate.open()
        assert (await stays).text == "stays"
        await first


async def test_a_big_request_that_was_given_up_is_not_worked_off(gate: Gate) -> None:
    async with running(gated_vectors(gate, 4)) as replica:
        big = asyncio.ensure_future(replica.answer(EmbeddingRequest(("a",) * 100), Context("big")))
        await gate.busy()
        big.cancel()
        with pytest.raises(asyncio.CancelledError):
            await big
        gate.open(2)
        await replica.answer(EmbeddingRequest(("b",)), Context("b"))
    assert gate.seen == [["a"] * 4, ["b"]]


async def test_a_deadline_that_passes_while_waiting_is_told_at_once(gate: Gate) -> None:
    async with running(gated(gate, one_by_one)) as replica:
        first = ask(replica, "first")
        await gate.busy()
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded, match="waited"):
            await replica.answer(Text(text="late"), Context("late", deadline=began + 0.05))
        assert time.monotonic() - began < 1
        assert replica.status().waiting == 0
        gate.open()
        await first
    assert gate.seen == [["first"]]


async def test_a_deadline_that_passes_while_running_is_told_at_once(gate: Gate) -> None:
    async with running(gated(gate, one_by_one)) as replica:
        ctx = Context("late", deadline=time.monotonic() + 0.05)
        with pytest.raises(DeadlineExceeded, match="was answered"):
            await replica.answer(Text(text="late"), ctx)
        assert ctx.cancelled
        assert ctx.error == "deadline_exceeded"
        gate.open(2)
        assert (await ask(replica, "next")).text == "next"


async def test_a_request_without_a_deadline_gets_the_services_own(gate: Gate) -> None:
    async with running(gated(gate, one_by_one), bounds=Bounds(timeout=0.05)) as replica:
        with pytest.raises(DeadlineExceeded):
            await replica.answer(Text(text="slow"), Context("slow"))
        gate.open()


async def test_stopping_refuses_who_waits_and_answers_who_runs(gate: Gate) -> None:
    async with running(gated(gate, one_by_one)) as replica:
        first = ask(replica, "first")
        await gate.busy()
        waits = ask(replica, "waits")
        await until(lambda: replica.status().waiting == 1)
        stop = asyncio.ensure_future(replica.stop())
        with pytest.raises(Overloaded, match="stopping"):
            await waits
        gate.open()
        assert (await first).text == "first"
        await stop
        with pytest.raises(Overloaded, match="stopped"):
            await replica.answer(Text(text="after"), Context("after"))


async def test_a_client_that_leaves_as_its_turn_comes_gives_the_slot_back() -> None:
    let_through = asyncio.Event()

    class Waits(Mock):
        """One at a time, when the test says so."""

        name = "waits"
        task = Json(request=Text, response=Text)
        batching = Batching("engine", 1)

        def canary(self) -> None:
            return None

        async def predict(self, batch: Sequence[Text]) -> Sequence[Text]:
            await let_through.wait()
            return batch

    async with running(Waits) as replica:
        first, second = ask(replica, "first"), ask(replica, "second")
        await until(lambda: replica.status().waiting == 1)
        let_through.set()  # the first goes on in the loop's next round, and hands its slot to the second,
        asyncio.get_running_loop().call_soon(second.cancel)  # who leaves in the same round
        await first
        with pytest.raises(asyncio.CancelledError):
            await second
        assert replica.status().running == 0
        assert (await ask(replica, "third")).text == "third"


async def test_a_client_that_leaves_at_its_deadline_has_left() -> None:
    loop = asyncio.get_running_loop()
    guard = Guard(loop, Context("x", deadline=time.monotonic() + 0.01))
    waits = asyncio.ensure_future(guard.wait(loop.create_future()))
    await asyncio.sleep(0)
    loop.call_later(0.02, waits.cancel)
    time.sleep(0.05)  # noqa: ASYNC251 - holds the loop, so that both are due in its next round
    with pytest.raises(asyncio.CancelledError):
        await waits


@pytest.mark.parametrize("model", [Slow, Vectors, Streaming, EngineBatched])
async def test_whatever_clients_do_nothing_is_left_behind(model: type[Model]) -> None:
    chance = random.Random(7)
    many = EmbeddingRequest(tuple(f"{number}" for number in range(20)))

    async def client(replica: Replica, number: int) -> str:
        await asyncio.sleep(chance.random() * 0.5)
        request = many if model is Vectors and number % 5 == 0 else replica.canary()
        late = time.monotonic() + chance.random() * 0.05 if chance.random() < 0.3 else None
        ctx = Context(f"{number}", late, chance.choice(["interactive", "batch"]))  # type: ignore[arg-type]
        asked: asyncio.Future[Any]
        if chance.random() < 0.5 and model.task.delta is not None:
            asked = asyncio.ensure_future(_read(replica, request, ctx))
        else:
            asked = asyncio.ensure_future(replica.answer(request, ctx))
        if chance.random() < 0.3:
            await asyncio.sleep(chance.random() * 0.05)
            asked.cancel()
        try:
            await asked
        except asyncio.CancelledError:
            return "left"
        except RequestError as error:
            return error.code
        return "answered"

    async with running(model, options={"seconds": 0.002}, bounds=Bounds(queue=50)) as replica:
        ends = await asyncio.gather(*(client(replica, number) for number in range(600)))
        await until(lambda: (replica.status().running, replica.status().waiting) == (0, 0))
        assert await replica.answer(replica.canary(), Context("last"))
    assert set(ends) <= {"answered", "left", "deadline_exceeded", "overloaded"}
    assert {"answered", "left", "deadline_exceeded"} <= set(ends)


async def _read(replica: Replica, request: Any, ctx: Context) -> None:
    async for _ in replica.stream(request, ctx):
        pass
