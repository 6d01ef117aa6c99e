"""Bad input through the real ingress: a JSON error with the right status, and the same process answers afterwards."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import Running, body
from sounds import upload, wav

pytestmark = pytest.mark.fleet

CHAT = "/v1/chat/completions"
TRANSCRIBE = "/v1/audio/transcriptions"
SPEECH = "/v1/audio/speech"
EMBED = "/v1/embeddings"
HELLO = {"model": "llm", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 2}
TYPED = {"content-type": "application/json"}
MILLION = "a" * 1_000_000
BODY = 32 * 2**20  # bytes of a body that the default fleet lets in
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40
NOISE = np.random.default_rng(7).bytes(200_000)
AFTER: dict[str, dict[str, Any]] = {
    "llm": {"json": {"prompt": "Say hello.", "max_tokens": 2}},
    "whisper": {"content": wav(), "headers": {"content-type": "audio/wav"}},
    "tts": {"json": {"text": "Hello."}},
    "embeddings": {"json": {"text": "hello"}},
    "reranker": {"json": {"query": "hello", "documents": ["hello"]}},
    "echo": {"json": {"text": "hello"}},
}


@pytest.fixture(scope="module", autouse=True)
def _every_process_outlives_it_all(fleet: Running) -> Iterator[None]:
    """After every test of the module each service still answers, from the process that it had."""
    before = {name: fleet.pids(name) for name in AFTER}
    yield
    with httpx.Client(base_url=fleet.url, timeout=120, trust_env=False) as client:
        for name, request in AFTER.items():
            assert client.post(f"/{name}", **request).status_code == 200, name
        assert client.get("/health/ready").status_code == 200
    assert {name: fleet.pids(name) for name in AFTER} == before


def refused(reply: httpx.Response, status: int, code: str, param: str | None = None) -> str:
    """The message of a refusal in OpenAI's shape."""
    assert reply.status_code == status, reply.text[:500]
    assert reply.headers["content-type"] == "application/json"
    assert len(reply.headers.get_list("x-request-id")) == 1
    assert len(reply.headers.get_list("argosy-served-by")) == 1
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == ("server_error" if status >= 500 else "invalid_request_error")
    assert (error["code"], error["param"]) == (code, param)
    assert 10 < len(error["message"]) < 1_000
    assert "Traceback" not in error["message"]
    return str(error["message"])


PLACES = pytest.mark.parametrize("prefix", ["/llm", ""], ids=["prefix", "root"])


@PLACES
@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"", "empty_body"),
        (b"{", "invalid_json"),
        (b"hello", "invalid_json"),
        (b'{"model": "llm", "messages": [}', "invalid_json"),
        (b'{"model": "llm", "temperature": NaN}', "invalid_json"),
        (b'{"model": "llm", "temperature": Infinity}', "invalid_json"),
        (b'{"model": "llm", "temperature": -Infinity}', "invalid_json"),
        (b'{"model": "llm", "messages": [{"role": "user", "content": "\xff\xfe"}]}', "invalid_json"),
        (b'{"model": "llm", "messages": [{"role": "user", "content": "\\ud800"}]}', "invalid_json"),
        (b'{"model": "llm", "messages": ' + b"[" * 65 + b"]" * 65 + b"}", "too_deep"),
        (b'{"model": "llm", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "too_deep"),
        (b'{"model": "llm", "messages": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}", "too_deep"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_body_that_is_no_json_or_too_deep(client: httpx.Client, prefix: str, sent: bytes, code: str) -> None:
    refused(client.post(prefix + CHAT, content=sent, headers=TYPED), 400, code)


@PLACES
@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": "hello"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": True}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"stop": [1]}, "stop[0]"),
        ({"stream": "yes"}, "stream"),
        ({"seed": 2**63}, "seed"),
    ],
    ids=str,
)
def test_wrong_types_and_values_are_named(
    client: httpx.Client, prefix: str, change: dict[str, Any], param: str
) -> None:
    reply = client.post(prefix + CHAT, json={**HELLO, **change})
    assert param in refused(reply, 400, "invalid_request", param)


@PLACES
def test_missing_and_unknown_parameters_are_named(client: httpx.Client, prefix: str) -> None:
    refused(client.post(prefix + CHAT, json={"model": "llm"}), 400, "invalid_request", "messages")
    reply = client.post(prefix + CHAT, json={**HELLO, "tempreature": 1})
    assert "temperature" in refused(reply, 400, "unknown_parameter", "tempreature")
    tools = [{"type": "function", "function": {"name": "f"}}]
    refused(client.post(prefix + CHAT, json={**HELLO, "tools": tools}), 400, "unsupported", "tools")


@pytest.mark.parametrize(
    ("service", "path", "asked", "param"),
    [
        ("embeddings", EMBED, {}, "input"),
        ("embeddings", EMBED, {"input": []}, "input"),
        ("embeddings", EMBED, {"input": ["a", 7]}, "input[1]"),
        ("embeddings", EMBED, {"input": {"a": 1}}, "input"),
        ("reranker", "/v1/rerank", {"query": "a"}, "documents"),
        ("reranker", "/v1/rerank", {"query": "a", "documents": ["a"], "top_n": 0}, "top_n"),
        ("reranker", "/v1/rerank", {"query": 5, "documents": ["a"]}, "query"),
        ("tts", SPEECH, {}, "input"),
        ("tts", SPEECH, {"input": "a", "speed": 9}, "speed"),
        ("tts", SPEECH, {"input": ["a"]}, "input"),
        ("echo", "", {}, "text"),
        ("echo", "", {"text": 5}, "text"),
    ],
    ids=str,
)
def test_every_service_names_the_field_at_fault(
    client: httpx.Client, service: str, path: str, asked: dict[str, Any], param: str
) -> None:
    refused(client.post(f"/{service}{path}", json=asked), 400, "invalid_request", param)


@pytest.mark.parametrize(
    ("service", "path", "asked"),
    [
        ("llm", CHAT, HELLO),
        ("embeddings", EMBED, {"input": "a"}),
        ("reranker", "/v1/rerank", {"query": "a", "documents": ["a"]}),
        ("tts", SPEECH, {"input": "a"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_unknown_model_is_not_found(client: httpx.Client, service: str, path: str, asked: dict[str, Any]) -> None:
    for address in (f"/{service}{path}", path):
        reply = client.post(address, json={**asked, "model": "gpt-9"})
        assert service in refused(reply, 404, "model_not_found", "model")
    # a model of another task, which exists
    refused(client.post(path, json={**asked, "model": "echo"}), 400, "invalid_request", "model")


def test_unknown_paths_and_wrong_methods(client: httpx.Client) -> None:
    for path in ("/nothing", "/v1/nothing", "/llm/nothing", "/llm/v1/embeddings", "/llmx"):
        reply = client.post(path, json=HELLO)
        refused(reply, 404, "not_found")
    for method, path, allowed in (
        ("GET", CHAT, "POST"),
        ("GET", f"/llm{CHAT}", "POST"),
        ("DELETE", f"/tts{SPEECH}", "POST"),
        ("PUT", "/echo", "GET, HEAD, POST"),
        ("PATCH", "/whisper/v1/models", "GET, HEAD"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("POST", "/fleet", "GET, HEAD"),
    ):
        reply = client.request(method, path)
        refused(reply, 405, "method_not_allowed")
        assert reply.headers["allow"] == allowed


@pytest.mark.parametrize("media", ["text/plain", "application/x-www-form-urlencoded", "application/xml", "image/png"])
def test_a_wrong_content_type(client: httpx.Client, media: str) -> None:
    for address in (f"/llm{CHAT}", CHAT, "/llm", f"/whisper{TRANSCRIBE}", "/whisper", "/echo", f"/tts{SPEECH}"):
        reply = client.post(address, content=json.dumps(HELLO), headers={"content-type": media})
        assert media in refused(reply, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("path", "asked", "code", "param"),
    [
        (f"/tts{SPEECH}", {"input": "Hello.", "response_format": "midi"}, "unknown_format", "response_format"),
        ("/tts", {"text": "Hello.", "format": "midi"}, "unknown_format", "format"),
        (SPEECH, {"model": "tts", "input": "Hello.", "response_format": "midi"}, "unknown_format", "response_format"),
    ],
    ids=["openai", "plain", "root"],
)
def test_an_unknown_format(client: httpx.Client, path: str, asked: dict[str, Any], code: str, param: str) -> None:
    assert "flac" in refused(client.post(path, json=asked), 400, code, param)


def test_an_unknown_voice_is_told_which_there_are(client: httpx.Client) -> None:
    for address in (f"/tts{SPEECH}", SPEECH):
        reply = client.post(address, json={"model": "tts", "input": "Hello.", "voice": "nobody"})
        error = reply.json()["error"]
        assert "joe" in refused(reply, 400, error["code"], "voice")


def test_an_unknown_answer_format_of_a_transcription(client: httpx.Client) -> None:
    file = {"file": ("a.wav", wav())}
    reply = client.post(f"/whisper{TRANSCRIBE}", files=file, data={"response_format": "xml"})
    assert "srt" in refused(reply, 400, "invalid_request", "response_format")
    refused(
        client.post(f"/whisper{TRANSCRIBE}", files=file, data={"language": "xx"}), 400, "invalid_request", "language"
    )
    other = {"other": ("a.wav", wav())}
    refused(client.post(f"/whisper{TRANSCRIBE}", files=other), 400, "invalid_request", "file")


@pytest.mark.parametrize(
    ("sound", "status", "code"),
    [
        (b"", 400, "empty_audio"),
        (PNG, 415, "unsupported_media_type"),
        (NOISE, 415, "unsupported_media_type"),
        (bytes(100_000), 415, "unsupported_media_type"),
        (b"hello world\n" * 1_000, 415, "unsupported_media_type"),
        (upload("wav")[:50_000], 400, "truncated_audio"),
        (upload("flac")[:20_000], 400, "truncated_audio"),
        (wav()[:30], 400, None),
        (wav(size=1 << 30), 400, "truncated_audio"),
        (wav(rate=0), 400, None),
        (wav(rate=0xFFFF_FFFF), 400, None),
        (wav(channels=0), 400, None),
        (wav(channels=65_535), 400, None),
        (wav(block=65_535), 400, None),
        (wav(bits=65_535), 400, None),
        (wav(body=b""), 400, None),
    ],
    ids=[
        "empty", "png", "noise", "zeros", "text", "half a wav", "half a flac", "half a header", "longer than it is",
        "no rate", "mad rate", "no channels", "mad channels", "mad block", "mad bits", "no sound",
    ],
)  # fmt: skip
def test_sound_that_is_none_or_lies(client: httpx.Client, sound: bytes, status: int, code: str | None) -> None:
    for reply in (
        client.post(f"/whisper{TRANSCRIBE}", files={"file": ("a.wav", sound)}),
        client.post(TRANSCRIBE, files={"file": ("a.wav", sound)}, data={"model": "whisper"}),
        client.post("/whisper", content=sound, headers={"content-type": "audio/wav"}),
    ):
        refused(reply, status, code or reply.json()["error"]["code"], "file")


@pytest.mark.parametrize("address", [f"/whisper{TRANSCRIBE}", TRANSCRIBE])
def test_a_form_that_is_broken(client: httpx.Client, address: str) -> None:
    form = {"content-type": "multipart/form-data; boundary=x"}
    refused(client.post(address, content=b"", headers=form), 400, "empty_body")
    for sent in (b"hello", b'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\nwhisper\r\n'):
        whole = sent if address == f"/whisper{TRANSCRIBE}" else sent.replace(b"hello", b"--x")
        reply = client.post(address, content=whole, headers=form)
        assert reply.status_code == 400
        refused(reply, 400, reply.json()["error"]["code"], reply.json()["error"]["param"])


@pytest.mark.parametrize(
    ("address", "asked"),
    [
        ("/llm", {"prompt": MILLION}),
        (f"/llm{CHAT}", {**HELLO, "messages": [{"role": "user", "content": MILLION}]}),
        (CHAT, {**HELLO, "messages": [{"role": "user", "content": "word " * 200_000}]}),
        ("/tts", {"text": MILLION}),
        (f"/tts{SPEECH}", {"input": MILLION}),
        (SPEECH, {"model": "tts", "input": "word. " * 166_667}),
    ],
    ids=["chat", "chat, OpenAI", "chat at the root", "speech", "speech, OpenAI", "speech at the root"],
)
def test_a_million_characters_are_too_many(client: httpx.Client, address: str, asked: dict[str, Any]) -> None:
    started = time.monotonic()
    reply = client.post(address, json=asked)
    error = reply.json()["error"]
    refused(reply, 400, error["code"], error["param"])
    assert "characters" in error["message"]
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("address", "asked"),
    [
        (EMBED, {"input": MILLION}),
        ("/embeddings", {"text": "word " * 200_000}),
        ("/reranker", {"query": MILLION, "documents": [MILLION, "a"]}),
        ("/echo", {"text": MILLION}),
    ],
    ids=["embedding at the root", "embedding", "rerank", "echo"],
)
def test_a_million_characters_are_cut_where_the_service_says_that_it_cuts(
    client: httpx.Client, address: str, asked: dict[str, Any]
) -> None:
    started = time.monotonic()
    body(client.post(address, json=asked))
    assert time.monotonic() - started < 10
    if address != "/echo":
        about = body(client.get(f"/{'reranker' if 'query' in asked else 'embeddings'}"))["about"]
        assert "cut" in about["max_length"]


@pytest.mark.parametrize(
    ("address", "media"),
    [
        ("/whisper", "audio/wav"),
        (f"/whisper{TRANSCRIBE}", "multipart/form-data; boundary=x"),
        (TRANSCRIBE, "multipart/form-data; boundary=x"),
        (f"/llm{CHAT}", "application/json"),
        (CHAT, "application/json"),
        ("/echo", "application/json"),
        ("/tts", "application/json"),
    ],
)
def test_a_body_over_the_bound_is_refused_before_it_is_sent(fleet: Running, address: str, media: str) -> None:
    host, port = fleet.url.removeprefix("http://").split(":")
    head = f"POST {address} HTTP/1.1\r\nhost: {host}\r\ncontent-type: {media}\r\n"
    with socket.create_connection((host, int(port)), timeout=30) as wire:
        wire.sendall(f"{head}content-length: {100 * BODY}\r\n\r\n".encode() + bytes(64 * 1024))
        reply = b""
        while b'"code":"too_large"' not in reply and (more := wire.recv(65_536)):
            reply += more
    assert reply.startswith(b"HTTP/1.1 413 ")
    assert b'"code":"too_large"' in reply


def test_a_body_without_an_announced_length_is_cut_off_at_the_bound(client: httpx.Client) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(BODY // 2**20 + 2):
            yield bytes(2**20)

    for address in ("/echo", "/whisper", EMBED):
        media = "audio/wav" if address == "/whisper" else "application/json"
        message = refused(client.post(address, content=endless(), headers={"content-type": media}), 413, "too_large")
        assert str(BODY) in message
