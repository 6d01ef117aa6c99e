"""What services say of themselves: OpenAPI, docs, health, description; and what the gateway needs of the dialects."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import jsonschema
import numpy as np
import pytest
from answerers import JSON, Tiny, browser, serving

from argosy import audio, tasks
from argosy.api import root
from argosy.api.form import parse_form
from argosy.api.openai import Listed
from argosy.errors import BadRequest, Overloaded, UnsupportedMedia
from argosy.runtime.state import State

TASKS = [tasks.chat, tasks.transcription, tasks.speech, tasks.embedding, tasks.rerank, JSON]
WAV = audio.encode(np.zeros(16_000, np.float32), "wav", 16_000)
REQUESTS: dict[tuple[str, str], dict[str, Any]] = {
    ("chat", "/v1/chat/completions"): {"json": {"messages": [{"role": "user", "content": "a b"}]}},
    ("chat", "/"): {"json": {"prompt": "a"}},
    ("transcription", "/v1/audio/transcriptions"): {"files": {"file": ("a.wav", WAV)}},
    ("transcription", "/v1/audio/translations"): {
        "files": {"file": ("a.wav", WAV)},
        "data": {"response_format": "verbose_json"},
    },
    ("transcription", "/"): {"content": WAV},
    ("speech", "/v1/audio/speech"): {"json": {"input": "a"}},
    ("speech", "/"): {"json": {"text": "a"}},
    ("embedding", "/v1/embeddings"): {"json": {"input": ["a"]}},
    ("embedding", "/"): {"json": {"text": "a"}},
    ("rerank", "/v1/rerank"): {"json": {"query": "a", "documents": ["a"]}},
    ("rerank", "/rerank"): {"json": {"query": "a", "documents": ["a"], "return_documents": True}},
    ("rerank", "/"): {"json": {"query": "a", "documents": ["a"]}},
    ("json", "/"): {"json": {"text": "a"}},
}


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
async def test_every_operation_answers_and_refuses_as_openapi_says(task):
    async with serving(Tiny(task)) as address, browser(address) as web:
        document = (await web.get("/openapi.json")).json()
        assert document["openapi"] == "3.1.0"
        assert document["servers"] == [{"url": "/tiny"}]
        for path, item in document["paths"].items():
            for method, operation in item.items():
                sent = REQUESTS[task.name, path] if method == "post" else {}
                reply = await web.request(method, path.replace("{model}", "tiny"), **sent)
                _check(document, operation, reply, 200)
                if method == "post":
                    _check(document, operation, await web.post(path), 400 if task.name != "transcription" else None)


def _check(document: dict[str, Any], operation: dict[str, Any], reply: httpx.Response, status: int | None) -> None:
    assert status in (None, reply.status_code), reply.text
    content = operation["responses"][str(reply.status_code)]["content"]
    media = reply.headers["content-type"].partition(";")[0]
    assert media in content
    if media == "application/json":
        schema = {**content[media]["schema"], "components": document.get("components", {})}
        jsonschema.validate(reply.json(), schema)


async def test_request_schemas_say_what_is_refused():
    async with serving(Tiny(tasks.chat)) as address, browser() as web:
        document = (await web.get(f"{address}/openapi.json")).json()
    schema = {"$ref": "#/components/schemas/ChatBody", "components": document["components"]}
    said = {"messages": [{"role": "user", "content": "a"}]}
    jsonschema.validate({**said, "n": 1, "stop": "x"}, schema)
    for wrong in ({"n": 2}, {"tools": [{}]}, {"unknown": 1}, {"max_tokens": 0}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**said, **wrong}, schema)


async def test_the_docs_page_loads_nothing_from_anywhere():
    async with serving(Tiny(tasks.chat)) as address, browser() as web:
        reply = await web.get(f"{address}/docs")
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert "POST /tiny/v1/chat/completions" in reply.text
    assert re.findall(r'(?:src|href)="([^"]*)"', reply.text) == ["/tiny/openapi.json"]
    assert "<script" not in reply.text
    assert "url(" not in reply.text


async def test_live_is_not_ready_until_the_replica_is():
    tiny = Tiny(tasks.chat)
    async with serving(tiny) as address, browser(address) as web:
        for state, status in ((State.LOADING, 503), (State.READY, 200), (State.DEGRADED, 200), (State.FAILED, 503)):
            tiny.told.state, tiny.told.reason = state, "because"
            reply = await web.get("/health/ready")
            assert (reply.status_code, reply.json()["state"]) == (status, str(state))
            assert (await web.get("/health/live")).status_code == 200
        head = await web.head("/health/live")
        assert (head.status_code, head.content) == (200, b"")


async def test_a_service_says_what_it_is():
    async with serving(Tiny(tasks.rerank)) as address, browser() as web:
        said = (await web.get(address)).json()
    assert (said["service"], said["task"], said["about"]["scores"]) == ("tiny", "rerank", "counts common words")


@pytest.mark.parametrize("prefix", ["/llm", "/a/b"])
async def test_a_service_works_below_any_prefix(prefix):
    async with serving(Tiny(tasks.chat), prefix=prefix) as address, browser() as web:
        assert (await web.post(address, json={"prompt": "x"})).json()["text"] == "x"
        assert (await web.post(f"{address}/", json={"prompt": "x"})).json()["text"] == "x"
        assert (await web.get(f"{address}/v1/models")).json()["data"][0]["id"] == "tiny"


# the gateway's side --------------------------------------------------------------------------------------------------


def scope(content_type: str) -> dict[str, Any]:
    return {"headers": [(b"content-type", content_type.encode())]}


def test_root_routes_are_those_of_the_protocols():
    found = {(route.method, route.path): route.task.name for route in root.root_routes()}
    assert found == {
        ("POST", "/v1/chat/completions"): "chat",
        ("POST", "/v1/audio/transcriptions"): "transcription",
        ("POST", "/v1/audio/translations"): "transcription",
        ("POST", "/v1/audio/speech"): "speech",
        ("POST", "/v1/embeddings"): "embedding",
        ("POST", "/v1/rerank"): "rerank",
        ("POST", "/rerank"): "rerank",
    }
    assert set(root.root_document()["paths"]) == {path for _, path in found}


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"model": "llm", "messages": []}', "llm"),
        (b'{"metadata": {"model": "inner"}, "input": "\\"model\\": \\"text\\"", "model": "b"}', "b"),
        (b'{"input": "a"}', None),
        (b'{"model": null}', None),
    ],
)
def test_the_model_is_found_in_json(body, name):
    assert root.model_of(scope("application/json"), body) == name


@pytest.mark.parametrize("body", [b"", b"{", b'{"model": 5}', b"[]"])
def test_a_body_that_names_no_model_because_it_is_broken_is_refused(body):
    with pytest.raises(BadRequest):
        root.model_of(scope("application/json"), body)


@pytest.mark.parametrize("media", ["application/json", "multipart/form-data; boundary=x", ""])
def test_an_empty_body_is_called_empty_at_the_root_too(media):
    with pytest.raises(BadRequest) as refused:
        root.model_of(scope(media), b"")
    assert refused.value.code == "empty_body"


@pytest.mark.parametrize("media", ["text/plain", "application/x-www-form-urlencoded", "audio/wav"])
def test_another_content_type_is_refused_at_the_root_too(media):
    with pytest.raises(UnsupportedMedia, match=media):
        root.model_of(scope(media), b'{"model": "llm"}')


@pytest.mark.parametrize("media", ["", "Application/JSON; charset=utf-8", "application/problem+json"])
def test_json_may_be_called_json_in_many_ways_at_the_root_too(media):
    assert root.model_of(scope(media), b'{"model": "llm"}') == "llm"


@pytest.mark.parametrize("first", [True, False])
def test_the_model_is_found_in_a_form(first):
    parts = {"model": (None, "whisper"), "file": ("a.wav", b'name="model"\r\n\r\nno\r\n' + bytes(100_000))}
    files = parts if first else dict(reversed(parts.items()))
    request = httpx.Request("POST", "http://x", files=files)
    body = request.read()
    found = {"headers": [(b"content-type", request.headers["content-type"].encode())]}
    assert root.model_of(found, body) == "whisper"
    assert parse_form(body, request.headers["content-type"].encode()).fields["model"] == "whisper"


def test_a_form_without_a_model_names_none():
    request = httpx.Request("POST", "http://x", files={"file": ("a.wav", b'name="model"\r\n\r\nno\r\n')})
    found = {"headers": [(b"content-type", request.headers["content-type"].encode())]}
    assert root.model_of(found, request.read()) is None


def test_a_refusal_has_the_shape_of_its_path():
    reply = root.refusal("/llm/v1/chat/completions", Overloaded("llm is loading", retry_after=7))
    assert (reply.status, json.loads(reply.body)["error"]["code"]) == (503, "overloaded")
    assert (b"retry-after", b"7") in reply.headers


def test_the_models_page_lists_what_it_is_given():
    listed = [Listed(service="llm", task="chat", about={}), Listed(service="tts", task="speech", about={})]
    assert [row["id"] for row in json.loads(root.models_page(listed).body)["data"]] == ["llm", "tts"]
    assert json.loads(root.model_page(listed, "tts").body)["task"] == "speech"
