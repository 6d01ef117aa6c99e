"""The door: ids, bounds, deadlines, clients that leave, bugs, counts and the access log, over real sockets."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from answerers import Tiny, browser, listening, serving

from argosy import tasks
from argosy.api.wire import AHEAD, batches
from argosy.model import Context
from argosy.runtime.assignment import Bounds
from argosy.runtime.meter import Recorder
from argosy.serve.door import Door
from argosy.testing.fleet import running
from argosy.testing.models import EngineBatched, Streaming

CHAT = "/v1/chat/completions"


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **more}


def counted(meter: Recorder, name: str, **tags: str) -> float:
    return sum(sample.value for sample in meter.named(name) if dict(sample.tags) == tags)


async def soon(meter: Recorder, name: str, **tags: str) -> None:
    """Until the figure is counted; a request is counted after its last byte is sent."""
    for _ in range(100):
        if counted(meter, name, **tags):
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{name} {tags} was not counted within a second")


class Socket:
    """A client that can leave whenever it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, address: str, path: str, body: bytes, length: int | None = None) -> Socket:
        url = httpx.URL(address + path)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        head = f"POST {url.path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        writer.write(f"{head}content-length: {len(body) if length is None else length}\r\n\r\n".encode() + body)
        await writer.drain()
        return cls(reader, writer)

    async def leave(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


async def answered(scope: Any, receive: Any, send: Any) -> None:
    """Says what reached it: the id of its context and its headers."""
    told = {"id": scope["state"]["ctx"].id, "headers": [key.decode() for key, _ in scope["headers"]]}
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(told).encode()})


def door(inner: Any, meter: Recorder | None = None, **options: Any) -> Door:
    options = {"bounds": Bounds(), "served_by": "a;0;cpu;CPU", **options}
    return Door(inner, service="a", meter=meter or Recorder(), **options)


async def test_a_request_keeps_its_id_and_says_who_served_it():
    async with listening(door(answered)) as address, browser() as web:
        reply = await web.get(address, headers={"x-request-id": "abc-1.2"})
        assert reply.headers["x-request-id"] == reply.json()["id"] == "abc-1.2"
        assert reply.headers["argosy-served-by"] == "a;0;cpu;CPU"
        made = [(await web.get(address)).headers["x-request-id"] for _ in range(2)]
        assert made[0] != made[1]


@pytest.mark.parametrize("wrong", ["x" * 129, "a b", 'a"b', "a{b}", ""])
async def test_an_id_that_could_confuse_a_log_is_replaced(wrong):
    async with listening(door(answered)) as address, browser() as web:
        reply = await web.get(address, headers={"x-request-id": wrong})
    assert reply.headers["x-request-id"] == reply.json()["id"] != wrong
    assert len(reply.json()["id"]) == 24


async def test_the_id_is_said_once_where_the_server_says_it_already():
    async with listening(door(answered, echo_id=False)) as address, browser() as web:
        assert "x-request-id" not in (await web.get(address)).headers


async def test_who_serves_may_change():
    names = iter(["a;0;cpu;CPU", "a;1;cpu;CPU"])
    async with listening(door(answered, served_by=lambda: next(names))) as address, browser() as web:
        assert [(await web.get(address)).headers["argosy-served-by"] for _ in range(2)] == [
            "a;0;cpu;CPU",
            "a;1;cpu;CPU",
        ]


async def test_headers_that_lift_limits_go_no_further():
    async with listening(door(answered)) as address, browser() as web:
        strange = {"X-Request-Timeout-Seconds": "9999", "x-request-disconnect-disabled": "?1", "x-other": "1"}
        reached = (await web.get(address, headers=strange)).json()["headers"]
    assert "x-other" in reached
    assert not {name.lower() for name in strange} - {"x-other"} & set(reached)


async def test_an_abandoned_stream_is_given_up_within_a_second():
    tiny, meter = Tiny(tasks.chat), Recorder()
    async with serving(tiny, meter) as address:
        client = await Socket.to(address, CHAT, json.dumps(said("a wait", stream=True)).encode())
        await client.reader.readuntil(b'"content":"a"')
        await client.leave()
        await asyncio.wait_for(tiny.left.wait(), 1)
        await soon(meter, "argosy_errors_total", code="client_left")
    assert counted(meter, "argosy_requests_total", status="499") == 1


async def test_an_abandoned_request_is_given_up_within_a_second():
    tiny, meter = Tiny(tasks.chat), Recorder()
    async with serving(tiny, meter) as address:
        client = await Socket.to(address, CHAT, json.dumps(said("wait")).encode())
        await asyncio.wait_for(tiny.began.wait(), 1)
        await client.leave()
        await asyncio.wait_for(tiny.left.wait(), 1)
        await soon(meter, "argosy_errors_total", code="client_left")


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("model", [Streaming, EngineBatched], ids=lambda model: model.name)
async def test_an_abandoned_chat_frees_the_slot_of_a_real_replica_within_a_second(model, stream):
    async with running(model, options={"seconds": 0.05}) as replica, serving(replica) as address, browser() as web:
        body = json.dumps(said("word " * 400, stream=stream)).encode()  # 20 s of words
        client = await Socket.to(address, CHAT, body)
        if stream:
            await client.reader.readuntil(b'"content":"word"')
        else:
            await asyncio.sleep(0.3)
        assert replica.status().running == 1
        left = time.monotonic()
        await client.leave()
        while replica.status().running:
            await asyncio.sleep(0.01)
            assert time.monotonic() - left < 1
        assert (await web.post(address, json={"prompt": "next"})).json()["text"] == "next"


async def test_an_abandoned_upload_is_counted_and_answers_nobody():
    tiny, meter = Tiny(tasks.chat), Recorder()
    async with serving(tiny, meter) as address:
        client = await Socket.to(address, CHAT, b'{"messages":', length=1000)
        await asyncio.sleep(0.1)
        await client.leave()
        await soon(meter, "argosy_errors_total", code="client_left")
    assert tiny.seen == []


async def test_what_the_server_cancels_is_cancelled_within():
    meter, ctxs = Recorder(), []

    async def waits(scope: Any, receive: Any, send: Any) -> None:
        ctxs.append(scope["state"]["ctx"])
        await asyncio.Event().wait()

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    task = asyncio.create_task(door(waits, meter)(scope, asyncio.Event().wait, asyncio.Event().wait))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ctxs[0].cancelled
    assert counted(meter, "argosy_errors_total", code="client_left") == 1


async def test_a_connection_serves_on_after_slow_requests():
    """The listener for a client's leaving must not eat what comes next on the connection."""
    seen: list[bytes] = []

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        seen.append((await receive())["body"])
        await asyncio.sleep(0.1)
        await answered(scope, receive, send)

    async with listening(door(slow)) as address:
        client = await Socket.to(address, "/", b"first")
        await client.reader.readuntil(b"0\r\n\r\n")
        client.writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\nsecond")
        assert (await client.reader.readline()).startswith(b"HTTP/1.1 200")
        await client.leave()
    assert seen == [b"first", b"second"]


async def test_a_server_that_repeats_the_body_does_not_hold_up_the_loop():
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.1)
        await answered(scope, receive, send)

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    await asyncio.wait_for(door(slow)(scope, receive, send), 2)
    assert sent[0]["status"] == 200


async def test_the_deadline_ends_a_request_with_504():
    tiny, meter = Tiny(tasks.chat, bounds=Bounds(timeout=0.2)), Recorder()
    async with serving(tiny, meter) as address, browser() as web:
        started = time.monotonic()
        reply = await web.post(address + CHAT, json=said("wait"))
        assert 0.2 <= time.monotonic() - started < 2
    assert (reply.status_code, reply.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert tiny.left.is_set()
    assert counted(meter, "argosy_errors_total", code="deadline_exceeded") == 1
    assert counted(meter, "argosy_requests_total", status="504") == 1


async def test_the_deadline_holds_for_slow_senders_too():
    async with serving(Tiny(tasks.chat, bounds=Bounds(timeout=0.2))) as address:
        client = await Socket.to(address, CHAT, b"{", length=1000)
        assert (await asyncio.wait_for(client.reader.readline(), 3)).startswith(b"HTTP/1.1 504")
        await client.leave()


async def test_a_huge_announcement_is_refused_unread():
    async with serving(Tiny(tasks.chat, bounds=Bounds(body=1000))) as address:
        client = await Socket.to(address, CHAT, b"", length=10**12)
        assert (await asyncio.wait_for(client.reader.readline(), 1)).startswith(b"HTTP/1.1 413")
        await client.leave()


async def test_a_bug_is_answered_in_json_and_logged_with_its_id(caplog):
    meter = Recorder()
    async with serving(Tiny(tasks.chat), meter) as address, browser() as web:
        reply = await web.post(address + CHAT, json=said("bug"), headers={"x-request-id": "b-1"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "internal_error")
    assert "b-1" in reply.json()["error"]["message"]
    assert "b-1" in caplog.records[0].getMessage()
    assert caplog.records[0].exc_info[0] is ZeroDivisionError
    assert counted(meter, "argosy_errors_total", code="internal_error") == 1


async def test_requests_are_counted_timed_and_logged(caplog):
    meter = Recorder()
    async with serving(Tiny(tasks.chat), meter) as address, browser() as web:
        with caplog.at_level(logging.INFO, "argosy.door"):
            await web.post(address, json={"prompt": "a"})
            await web.post(address, json={})
            await web.get(f"{address}/nowhere")
            await soon(meter, "argosy_requests_total", status="404")
    assert [counted(meter, "argosy_requests_total", status=status) for status in ("200", "400", "404")] == [1, 1, 1]
    assert counted(meter, "argosy_errors_total", code="invalid_request") == 1
    assert counted(meter, "argosy_errors_total", code="not_found") == 1
    assert len(list(meter.named("argosy_request_seconds"))) == 3
    lines = [record.getMessage() for record in caplog.records if record.name == "argosy.door"]
    assert lines[0].startswith("POST /tiny 200 ")
    assert lines[2].startswith("GET /tiny/nowhere 404 ")
    assert lines[2].endswith(" not_found")


async def test_websockets_are_refused():
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await door(answered)({"type": "websocket", "path": "/", "headers": []}, receive, send)
    assert [(message["type"], message["code"]) for message in sent] == [("websocket.close", 1008)]


def test_the_door_and_the_dialects_import_no_ray():
    code = "import sys, argosy.serve.door, argosy.api.service; print(*{'ray', 'av', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# what lies between a model and the wire ------------------------------------------------------------------------------


async def numbers(count: int, made: list[int], ended: list[bool]) -> AsyncIterator[int]:
    try:
        for number in range(count):
            made.append(number)
            yield number
    finally:
        ended.append(True)


async def test_deltas_that_are_there_already_go_out_together():
    ended: list[bool] = []
    found = [batch async for batch in batches(numbers(200, [], ended))]
    assert [number for batch in found for number in batch] == list(range(200))
    assert len(found) < 10
    assert ended == [True]


async def test_deltas_go_out_one_by_one_when_they_come_one_by_one():
    async def slowly() -> AsyncIterator[int]:
        for number in range(3):
            await asyncio.sleep(0.01)
            yield number

    assert [batch async for batch in batches(slowly())] == [[0], [1], [2]]


async def test_a_model_is_not_let_run_ahead_of_a_slow_client():
    made: list[int] = []
    ready = batches(numbers(10_000, made, []))
    assert await anext(ready)
    await asyncio.sleep(0.05)
    assert len(made) <= 2 * AHEAD
    await ready.aclose()


async def test_a_stream_that_is_closed_closes_its_model():
    ended: list[bool] = []
    ready = batches(numbers(10_000, [], ended))
    await anext(ready)
    await ready.aclose()
    assert ended == [True]


async def test_what_was_made_before_a_failure_still_goes_out():
    async def fails() -> AsyncIterator[int]:
        yield 1
        yield 2
        raise ValueError("half-way")

    ready = batches(fails())
    assert await anext(ready) == [1, 2]
    with pytest.raises(ValueError, match="half-way"):
        await anext(ready)


async def test_a_context_given_by_the_door_has_the_deadline_of_the_service():
    found: list[Context] = []

    async def keeps(scope: Any, receive: Any, send: Any) -> None:
        found.append(scope["state"]["ctx"])
        await answered(scope, receive, send)

    async with listening(door(keeps, bounds=Bounds(timeout=5))) as address, browser() as web:
        await web.get(address)
    assert found[0].deadline == pytest.approx(time.monotonic() + 5, abs=1)
