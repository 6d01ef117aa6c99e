"""Bad input: each kind gets its own status, a JSON error in the dialect's shape, and leaves the service answering."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest
from answerers import JSON, Tiny, browser, serving

from argosy import audio, tasks
from argosy.api.sound import THREADS, Studio
from argosy.errors import BadRequest, Overloaded
from argosy.runtime.assignment import Bounds

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "hello"}]}
TYPED = {"content-type": "application/json"}


@pytest.fixture
async def web() -> AsyncIterator[httpx.AsyncClient]:
    """A chat service; it still answers after every test."""
    tiny = Tiny(tasks.chat, bounds=Bounds(body=4_000_000, depth=16))
    async with serving(tiny) as address, browser(address) as client:
        yield client
        reply = await client.post(CHAT, json=HELLO)
        assert reply.json()["choices"][0]["message"]["content"] == "hello"


def refused(reply: httpx.Response, status: int, code: str = "invalid_request") -> dict[str, Any]:
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-request-id"]
    assert reply.headers["argosy-served-by"] == "tiny;0;cpu;Test CPU"
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == ("server_error" if status >= 500 else "invalid_request_error")
    assert error["code"] == code
    return error


async def test_an_empty_body(web):
    refused(await web.post(CHAT, headers=TYPED), 400, "empty_body")


@pytest.mark.parametrize("body", [b"{", b"[1,", b"hello", b'{"messages": [}', b"\x00\x01", b'\xef\xbb\xbf{"a": 1}'])
async def test_invalid_json(web, body):
    assert "JSON" in refused(await web.post(CHAT, content=body, headers=TYPED), 400, "invalid_json")["message"]


@pytest.mark.parametrize("body", [b"[]", b"null", b'"x"', b"7"])
async def test_json_that_is_no_object(web, body):
    assert "object" in refused(await web.post(CHAT, content=body, headers=TYPED), 400)["message"]


@pytest.mark.parametrize("depth", [17, 150, 100_000])
async def test_deep_json(web, depth):
    body = b'{"messages":' + b"[" * depth + b"]" * depth + b"}"
    refused(await web.post(CHAT, content=body, headers=TYPED), 400, "too_deep")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
async def test_numbers_that_json_does_not_have(web, number):
    body = json.dumps(HELLO)[:-1] + f', "temperature": {number}}}'
    refused(await web.post(CHAT, content=body, headers=TYPED), 400, "invalid_json")


async def test_a_number_beyond_all_bounds(web):
    body = json.dumps(HELLO)[:-1] + ', "temperature": 1e999}'
    error = refused(await web.post(CHAT, content=body, headers=TYPED), 400)
    assert error["param"] == "temperature"


@pytest.mark.parametrize("text", [b"\xff\xfe", b"\xc3(", b"\\ud800"])
async def test_invalid_utf8(web, text):
    body = b'{"messages": [{"role": "user", "content": "' + text + b'"}]}'
    refused(await web.post(CHAT, content=body, headers=TYPED), 400, "invalid_json")


@pytest.mark.parametrize(
    ("param", "body"),
    [
        ("messages", {}),
        ("messages", {"messages": []}),
        ("messages", {"messages": "hello"}),
        ("messages[0].role", {"messages": [{"content": "x"}]}),
        ("messages[0].role", {"messages": [{"role": "robot", "content": "x"}]}),
        ("messages[0].content", {"messages": [{"role": "user"}]}),
        ("messages[0].content", {"messages": [{"role": "user", "content": 7}]}),
        ("messages[0].content[0].text", {"messages": [{"role": "user", "content": [{"type": "text"}]}]}),
        ("max_tokens", {**HELLO, "max_tokens": "many"}),
        ("max_tokens", {**HELLO, "max_tokens": 0}),
        ("temperature", {**HELLO, "temperature": True}),
        ("stop[0]", {**HELLO, "stop": [1]}),
        ("stream_options", {**HELLO, "stream_options": {"include_usage": True}}),
        ("stream_options.include_usage", {**HELLO, "stream": True, "stream_options": {"include_usage": "yes"}}),
        ("model", {**HELLO, "model": 5}),
    ],
)  # fmt: skip
async def test_wrong_types_are_named_by_their_path(web, param, body):
    error = refused(await web.post(CHAT, json=body), 400)
    assert error["param"] == param
    assert error["message"].startswith(param)
    assert "\n" not in error["message"]


async def test_an_unknown_parameter(web):
    error = refused(await web.post(CHAT, json={**HELLO, "tempreature": 1}), 400, "unknown_parameter")
    assert error["param"] == "tempreature"
    assert "temperature" in error["message"]


async def test_a_text_of_a_million_characters(web):
    body = {"messages": [{"role": "user", "content": "a" * 1_000_000}]}
    refused(await web.post(CHAT, json=body), 400, "context_length_exceeded")


@pytest.mark.parametrize("path", ["/v1/embeddings", "/"])
async def test_a_million_characters_to_embed(path):
    async with serving(Tiny(tasks.embedding)) as address, browser() as web:
        body = {"input": "a" * 1_000_000} if path != "/" else {"text": "a" * 1_000_000}
        refused(await web.post(address + path, json=body), 400, "context_length_exceeded")


@pytest.mark.parametrize(
    "body",
    [
        b'{"messages": [' + b"1," * 1_500_000 + b"1]}",
        b'{"messages": [{"role": "user", "content": [' + b"1," * 1_500_000 + b"1]}]}",
        b'{"stop": [' + b"1," * 1_500_000 + b"1]}",
        b"{" + b'"a" :1,' * 400_000 + b'"b":1}',
    ],
    ids=["messages", "parts", "stop", "names"],
)
async def test_millions_of_mistakes_cost_no_more_than_one(web, body):
    started = time.process_time()
    reply = await web.post(CHAT, content=body, headers=TYPED)
    refused(reply, 400, reply.json()["error"]["code"])
    assert time.process_time() - started < 2


async def test_an_unknown_model(web):
    error = refused(await web.post(CHAT, json={**HELLO, "model": "gpt-9"}), 404, "model_not_found")
    assert error["param"] == "model"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [("GET", CHAT, "POST"), ("PUT", "/", "GET, HEAD, POST"), ("DELETE", "/v1/models/tiny", "GET, HEAD")],
)
async def test_a_wrong_method(web, method, path, allow):
    reply = await web.request(method, path)
    refused(reply, 405, "method_not_allowed")
    assert reply.headers["allow"] == allow


async def test_an_unknown_path_lists_the_known_ones(web):
    error = refused(await web.post("/v1/chat/complete", json=HELLO), 404, "not_found")
    assert CHAT in error["message"]


@pytest.mark.parametrize(
    "media", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
async def test_a_wrong_content_type(web, media):
    reply = await web.post(CHAT, content=json.dumps(HELLO), headers={"content-type": media})
    assert "application/json" in refused(reply, 415, "unsupported_media_type")["message"]


async def test_a_body_that_announces_too_much(web):
    reply = await web.post(CHAT, content=b"x" * 4_000_001, headers=TYPED)
    assert "4000000" in refused(reply, 413, "too_large")["message"]


async def test_a_body_that_becomes_too_much_while_it_is_sent(web):
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(80):
            yield b" " * 100_000

    refused(await web.post(CHAT, content=chunks(), headers=TYPED), 413, "too_large")


FORM = {"content-type": "multipart/form-data; boundary=cut"}
PART = b'--cut\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF'


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"content-type": "multipart/form-data"}, PART + b"\r\n--cut--\r\n", 400),
        (FORM, b"", 400),
        (FORM, PART, 400),
        (FORM, b"no form", 400),
        (FORM, b'--cut\r\ncontent-disposition: form-data; name="model"\r\n\r\ntiny\r\n--cut--\r\n', 400),
        (FORM, b'--cut\r\ncontent-disposition: form-data; name="file"\r\n\r\ntext\r\n--cut--\r\n', 400),
        (FORM, b"--cut\r\ncontent-type: x\r\n\r\ntext\r\n--cut--\r\n", 400),
        (FORM, b'--cut\r\ncontent-disposition: form-data; name="prompt"\r\n\r\n\xff\r\n--cut--\r\n', 400),
        (FORM, b'--cut\r\ncontent-disposition: form-data; name="x"\r\n\r\n\r\n' * 100 + b"--cut--\r\n", 400),
        (FORM, b"--cut\r\nx: " + b"y" * 20_000 + b"\r\n\r\n\r\n--cut--\r\n", 400),
        (TYPED, b"{}", 415),
        ({}, b"{}", 415),
    ],
    ids=["no boundary", "empty", "cut off", "no form", "no file", "file as text", "no name", "utf-8", "many parts",
         "long header", "json", "untyped"],
)  # fmt: skip
async def test_forms_that_are_none(headers, body, status):
    async with serving(Tiny(tasks.transcription)) as address, browser() as web:
        reply = await web.post(f"{address}/v1/audio/transcriptions", content=body, headers=headers)
    refused(reply, status, reply.json()["error"]["code"])
    assert len(reply.json()["error"]["message"]) > 15


async def test_the_plain_form_wants_one_of_two_fields(web):
    assert "prompt" in refused(await web.post("", json={}), 400)["message"]
    assert "prompt" in refused(await web.post("", json={"prompt": "a", **HELLO}), 400)["message"]
    assert (await web.post("", json={"prompt": "a b"})).json()["text"] == "a b"


async def test_a_plugins_own_type_is_checked_like_any_other():
    async with serving(Tiny(JSON)) as address, browser() as web:
        assert (await web.post(address, json={"text": "abc"})).json() == {"text": "ABC"}
        assert refused(await web.post(address, json={"text": []}), 400)["param"] == "text"
        reply = await web.post(address, content=b'{"text": "a", "times": NaN}', headers=TYPED)
        refused(reply, 400, "invalid_json")


async def test_sounds_that_wait_for_a_thread_are_bounded():
    sound = audio.encode(np.zeros(16_000 * 60, np.float32), "flac", 16_000)
    studio = Studio(waiting=0)
    working = [asyncio.create_task(studio.decode(sound)) for _ in range(THREADS)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await studio.decode(sound)
    assert [len(samples) for samples in await asyncio.gather(*working)] == [16_000 * 60] * THREADS
    assert len(await studio.decode(sound)) == 16_000 * 60


async def test_errors_of_the_model_keep_their_code_and_its_secrets(web):
    body = {"messages": [{"role": "user", "content": "bug"}]}
    error = refused(await web.post(CHAT, json=body), 500, "internal_error")
    assert "secret" not in error["message"]


async def test_too_busy_says_when_to_come_back(web):
    reply = await web.post(CHAT, json={"messages": [{"role": "user", "content": "busy"}]})
    refused(reply, 503, "overloaded")
    assert reply.headers["retry-after"] == "3"


def test_a_bad_request_of_a_model_is_what_its_dialect_shows():
    from argosy.api.dialect import refuse

    reply = refuse(BadRequest("no", param="voice", code="unknown_voice"))
    assert json.loads(reply.body)["error"]["param"] == "voice"
