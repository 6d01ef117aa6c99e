"""The drivers' arithmetic, against servers that behave badly on purpose; one short real run of the whole."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks import machine, texts
from benchmarks.__main__ import main
from benchmarks.bench import Bar, Bench, Outcome, Round, Side, quantile
from benchmarks.child import Child, ChildError
from benchmarks.drivers import ClosedLoop, Load, OpenLoop
from benchmarks.machine import Usage, Watch
from benchmarks.noop import Plain
from benchmarks.report import spread
from benchmarks.wire import ChatEvents, Target, Wav, post_json

Answer = Callable[[int], Awaitable[bytes | None]]


def reply(body: bytes = b"{}", status: str = "200 OK", more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


@asynccontextmanager
async def served(answer: Answer) -> AsyncIterator[Target]:
    """A real server on loopback that answers the n-th request with `answer(n)`; None closes the connection."""
    count = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
                await reader.readexactly(int(length.split(b":")[1]))
                count += 1
                data = await answer(count)
                if data is None:
                    break
                writer.write(data)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()[:2]
        yield Target(host, port, (post_json(f"http://{host}:{port}/x", {"text": "ready"}),))


async def fine(_: int) -> bytes:
    return reply()


async def closed(target: Target, clients: int = 4, **how: Any) -> Load:
    given = {"reader": "whole", "timeout": 5.0, "seconds": None, "count": None, **how}
    return await ClosedLoop(target, clients=clients, **given).run()


async def opened(target: Target, rate: float, seconds: float, **how: Any) -> Load:
    given = {"reader": "whole", "timeout": 5.0, "limit": 64, "seed": 7, **how}
    return await OpenLoop(target, rate=rate, seconds=seconds, **given).run()


# closed loop ---------------------------------------------------------------------------------------------------------


async def test_a_closed_loop_sends_exactly_the_count_it_was_given() -> None:
    async with served(fine) as target:
        load = await closed(target, clients=8, count=100)
    assert (load.answered, len(load.latencies), load.units, load.errors) == (100, 100, 100.0, {})
    assert load.rate == pytest.approx(100 / load.seconds)


async def test_a_closed_loop_keeps_each_client_to_one_request_at_a_time() -> None:
    running = most = 0

    async def slow(_: int) -> bytes:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        return reply()

    async with served(slow) as target:
        load = await closed(target, clients=5, seconds=0.5)
    assert most == 5
    assert min(load.latencies) >= 0.019
    assert 0 < load.answered <= 5 * 0.5 / 0.02 + 5


async def test_what_is_answered_after_the_window_does_not_count() -> None:
    async def slow(_: int) -> bytes:
        await asyncio.sleep(0.3)
        return reply()

    async with served(slow) as target:
        load = await closed(target, clients=3, seconds=0.4)
    assert load.seconds == 0.4
    assert load.answered == 3  # the second three were sent within the window and answered after it


async def test_refusals_and_lost_connections_are_errors_and_no_answers() -> None:
    async def third(number: int) -> bytes | None:
        if number % 3 == 0:
            return None
        return reply(status="503 Service Unavailable") if number % 3 == 1 else reply()

    async with served(third) as target:
        load = await closed(target, clients=1, count=30)
    assert load.answered == 10
    assert load.errors == {"503": 10, "closed": 10}


async def test_an_answer_that_ends_its_connection_is_an_answer() -> None:
    async def once(_: int) -> bytes:
        return reply(more="Connection: close\r\n")

    async with served(once) as target:
        load = await closed(target, clients=2, count=10)
    assert (load.answered, load.errors) == (10, {})


async def test_a_request_past_its_time_is_an_error() -> None:
    async def hang(number: int) -> bytes:
        if number == 1:
            await asyncio.sleep(30)
        return reply()

    async with served(hang) as target:
        load = await closed(target, clients=1, count=3, timeout=0.3)
    assert (load.answered, load.errors) == (2, {"timeout": 1})


async def test_nobody_listening_is_an_error_and_an_end() -> None:
    async with served(fine) as target:
        pass
    load = await closed(target, clients=2, seconds=0.3)
    assert load.answered == 0
    assert load.errors["ConnectionRefusedError"] >= 2


# open loop -----------------------------------------------------------------------------------------------------------


async def test_an_open_loop_sends_at_its_rate_however_slow_the_answers_are() -> None:
    async def slow(_: int) -> bytes:
        await asyncio.sleep(0.2)
        return reply()

    async with served(slow) as target:
        load = await opened(target, rate=100, seconds=1.0)
    assert load.answered == len(load.late) == pytest.approx(100, abs=40)  # Poisson: four standard deviations
    assert load.errors == {}


async def test_a_stall_is_felt_by_every_request_that_was_due_in_it() -> None:
    """One connection, so that the client itself must wait: measured from sending, one request would have seen it."""

    async def stall(number: int) -> bytes:
        if number == 10:
            await asyncio.sleep(0.5)
        return reply()

    async with served(stall) as target:
        load = await opened(target, rate=200, seconds=1.5, limit=1)
    felt = [latency for latency in load.latencies if latency > 0.05]
    assert len(felt) > 50  # about 100 were due in the half second
    assert max(load.latencies) >= 0.49
    assert sum(late > 0.05 for late in load.late) >= len(felt) - 5  # and the report shows that the client was late


async def test_latencies_of_an_open_loop_count_from_when_a_request_was_due() -> None:
    async with served(fine) as target:
        load = await opened(target, rate=300, seconds=0.5)
    assert min(load.latencies) > 0
    assert min(load.late) >= 0


async def test_a_request_never_answered_counts_with_the_time_it_waited() -> None:
    async def hang(number: int) -> bytes:
        if number > 5:
            await asyncio.sleep(30)
        return reply()

    async with served(hang) as target:
        load = await opened(target, rate=100, seconds=0.3, timeout=0.4, limit=8)
    lost = load.errors["unanswered"]
    assert load.answered == 5
    assert lost + load.answered == len(load.latencies) > 10
    assert quantile(load.latencies, 0.99) >= 0.3  # type: ignore[operator]


async def test_refusals_of_an_open_loop_make_no_latency_look_good() -> None:
    async def refuse(number: int) -> bytes:
        return reply() if number % 2 else reply(status="503 Service Unavailable")

    async with served(refuse) as target:
        load = await opened(target, rate=200, seconds=0.5)
    assert load.answered == len(load.latencies)
    assert 0 < load.errors["503"] == pytest.approx(load.answered, abs=1)


# readers -------------------------------------------------------------------------------------------------------------


def chunk(delta: dict[str, str], **more: Any) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta}], **more}).encode() + b"\n\n"


def test_a_chat_begins_with_its_first_text_and_counts_tokens_by_usage() -> None:
    reader = ChatEvents()
    reader.feed(chunk({"role": "assistant", "content": ""}), 1.0)
    assert reader.first is None, "a role is no text"
    text = chunk({"content": "Paris"})
    reader.feed(text[:20], 2.0)
    assert reader.first is None
    reader.feed(text[20:], 3.0)
    reader.feed(b'data: {"choices":[],"usage":{"completion_tokens":64,"prompt_tokens":9}}\n\ndata: [DONE]\n\n', 4.0)
    assert [reader.first, reader.units()] == [3.0, 64.0]


def test_a_chat_without_usage_is_no_answer() -> None:
    reader = ChatEvents()
    reader.feed(chunk({"content": "Paris"}), 1.0)
    with pytest.raises(ValueError, match="usage"):
        reader.units()


def test_speech_begins_after_the_header_and_counts_seconds() -> None:
    reader = Wav()
    header = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 0, b"WAVE", b"fmt ", 16, 1, 1, 8000, 16000, 2, 16, b"data", 0)
    reader.feed(header, 1.0)
    assert reader.first is None
    reader.feed(bytes(16000), 2.0)
    assert [reader.first, reader.units()] == [2.0, 1.0]


# what the report says ------------------------------------------------------------------------------------------------


def one(rate: float, first: float | None = None) -> Round:
    return Round(rate, None, None, first, None, None, 10, {}, None, None, Usage(1.0, 0.0, 0.0, 0.0, 0.0, 0.0))


def outcome(*bars: Bar, **sides: Sequence[Round]) -> Outcome:
    return Outcome("x", "requests/s", {name: list(rounds) for name, rounds in sides.items()}, bars)


def test_ratios_are_taken_round_by_round() -> None:
    """The machine got twice as slow in the second round; that is not the endpoint's doing."""
    found = outcome(bare=[one(100), one(50), one(100)], endpoint=[one(80), one(40), one(90)])
    assert found.ratios("endpoint", "bare", "rate") == [0.8, 0.8, 0.9]


@pytest.mark.parametrize(
    ("bar", "met"),
    [
        (Bar("rate", 0.80, "endpoint", "bare"), True),
        (Bar("rate", 0.81, "endpoint", "bare"), False),
        (Bar("first", 1.6, "endpoint", "bare"), True),
        (Bar("first", 1.5, "endpoint", "bare"), False),
    ],
)
def test_a_rate_must_reach_its_bar_and_a_time_stay_below(bar: Bar, met: bool) -> None:
    found = outcome(bar, bare=[one(100, 0.5)], endpoint=[one(80, 0.75)])
    assert found.met(bar) is met


def test_what_was_not_measured_meets_no_bar() -> None:
    bar = Bar("first", 1.5, "endpoint", "bare")
    assert not outcome(bar, bare=[one(1)], endpoint=[one(1)]).met(bar)


def test_quantiles_are_values_that_were_seen() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [quantile(values, at) for at in (0.5, 0.99, 1.0)] == [50.0, 99.0, 100.0]
    assert quantile([], 0.5) is None
    assert spread([3.0, 1.0, 2.0], str) == "2.0 (1.0–3.0)"
    assert spread([], str) == "–"


def test_sides_take_turns() -> None:
    ran: list[str] = []

    def side(name: str) -> Side:
        def run(scale: float) -> Load:
            ran.append(f"{name} {scale:g}")
            return Load(1.0, 1, 1.0)

        return Side(name, "bare", run)

    Bench(2, (), lambda line: None).compare("x", "y", [side("a"), side("b")])
    assert ran == ["a 0.3", "b 0.3", "a 1", "b 1", "a 1", "b 1"]


def test_the_work_of_a_stranger_is_told_from_our_own() -> None:
    watch = Watch()
    with Child(Spinner) as child:
        child.call("spin", 0.3)
        usage = watch.stop()
    assert usage.ours >= 0.25
    assert usage.others <= 100 * (1 - usage.ours / usage.seconds / machine.describe().cores) + 10


class Spinner:
    """Uses processor time in a child."""

    def spin(self, seconds: float) -> None:
        import time

        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    def fail(self) -> None:
        raise ValueError("what the engine said")


def test_what_a_child_raises_is_shown() -> None:
    with Child(Spinner) as child, pytest.raises(ChildError, match="what the engine said"):
        child.call("fail")


def test_texts_are_as_long_as_they_say_and_all_different() -> None:
    said = texts.sentences(100, 20)
    assert {len(one.split()) for one in said} <= set(range(15, 20))
    assert len(set(said)) == 100
    assert texts.prompts(3, seed=1) == texts.prompts(3, seed=1) != texts.prompts(3, seed=2)


# the whole -----------------------------------------------------------------------------------------------------------


def test_a_short_run_writes_a_report_of_a_real_server(tmp_path: Path) -> None:
    with Child(Plain) as plain:
        address = plain.call("address")
        asked = ["--endpoint", address, "--only", "noop", "--rounds", "1", "--seconds", "0.3"]
        assert main([*asked, "--out", str(tmp_path), "--name", "short"]) == 0
    page, numbers = (tmp_path / "short.md").read_text(), json.loads((tmp_path / "short.json").read_text())
    assert "python -m benchmarks" in page
    assert "cores" in page
    (first, single, open_loop) = numbers["outcomes"]
    assert "open loop" in open_loop["name"]
    for found in (first, single, open_loop):
        for rounds in found["rounds"].values():
            assert rounds[0]["answered"] > 0
            assert rounds[0]["errors"] == {}
            assert rounds[0]["client"] < 0.01  # seconds of the client's processor a request


def test_an_endpoint_that_is_not_there_ends_the_run_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--endpoint", "http://127.0.0.1:9"]) == 1
    assert "start a fleet" in capsys.readouterr().err


def test_an_absent_service_is_named_and_the_rest_is_measured(tmp_path: Path) -> None:
    with Child(Plain) as plain:
        asked = ["--endpoint", plain.call("address"), "--only", "rerank", "--rounds", "1", "--seconds", "0.2"]
        assert main([*asked, "--out", str(tmp_path), "--name", "absent"]) == 1
    assert "answered 404" in (tmp_path / "absent.md").read_text()
