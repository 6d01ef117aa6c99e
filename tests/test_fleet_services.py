"""Every service through its prefix and through the root, the pages, and what every answer says of itself."""

from __future__ import annotations

import json
import uuid
from typing import Any

import httpx
import jsonschema
import pytest
from conftest import Running, body

from argosy import audio

pytestmark = pytest.mark.fleet

SERVICES = {
    "llm": "chat",
    "whisper": "transcription",
    "tts": "speech",
    "embeddings": "embedding",
    "reranker": "rerank",
    "echo": "json",
}
HELLO = [{"role": "user", "content": "Say hello."}]
# what OpenAI's protocol (and Jina's, for rerank) wants to see, and what has to come back
ASKED = {
    "llm": ("/v1/chat/completions", {"messages": HELLO, "max_tokens": 4}, "choices"),
    "tts": ("/v1/audio/speech", {"input": "Hello.", "response_format": "wav"}, ""),
    "embeddings": ("/v1/embeddings", {"input": ["one", "two"]}, "data"),
    "reranker": ("/v1/rerank", {"query": "one", "documents": ["two", "one"]}, "results"),
}
PLAIN = {
    "llm": ({"prompt": "Say hello.", "max_tokens": 4}, "text"),
    "tts": ({"text": "Hello."}, ""),
    "embeddings": ({"texts": ["one", "two"]}, "embeddings"),
    "reranker": ({"query": "one", "documents": ["two", "one"]}, "scores"),
    "echo": ({"text": "hello"}, "text"),
}


def answered(reply: httpx.Response, field: str) -> None:
    """A sound where no field is named, else JSON that has it."""
    if field:
        assert body(reply)[field]
    else:
        assert reply.status_code == 200, reply.text
        assert len(audio.decode(reply.content, rate=16_000)) > 1_600


def signed(reply: httpx.Response, server: str, request_id: str) -> None:
    """Once each: who served it, and under which id."""
    assert [by.split(";")[0] for by in reply.headers.get_list("argosy-served-by")] == [server]
    assert reply.headers.get_list("x-request-id") == [request_id]


@pytest.mark.parametrize("service", ASKED)
def test_a_service_answers_under_its_prefix_and_at_the_root_and_says_so(client: httpx.Client, service: str) -> None:
    path, asked, field = ASKED[service]
    reply = client.post(f"/{service}{path}", json=asked, headers={"x-request-id": f"prefix-{service}"})
    answered(reply, field)
    signed(reply, service, f"prefix-{service}")
    reply = client.post(path, json={**asked, "model": service}, headers={"x-request-id": f"root-{service}"})
    answered(reply, field)
    signed(reply, service, f"root-{service}")


@pytest.mark.parametrize("service", PLAIN)
def test_a_service_answers_a_plain_post(client: httpx.Client, service: str) -> None:
    asked, field = PLAIN[service]
    reply = client.post(f"/{service}", json=asked, headers={"x-request-id": "plain"})
    answered(reply, field)
    signed(reply, service, "plain")


def test_transcription_answers_a_form_and_bare_sound_in_all_its_places(client: httpx.Client) -> None:
    sound = client.post("/tts", json={"text": "Good morning."}).content
    upload = {"file": ("said.wav", sound)}
    for path, form in (
        ("/whisper/v1/audio/transcriptions", {}),
        ("/whisper/v1/audio/transcriptions", {"model": "whisper"}),
        ("/v1/audio/transcriptions", {"model": "whisper"}),
        ("/whisper", {}),
    ):
        reply = client.post(path, files=upload, data=form, headers={"x-request-id": "heard"})
        assert "good morning" in body(reply)["text"].lower()
        signed(reply, "whisper", "heard")
    bare = body(client.post("/whisper", content=sound, headers={"content-type": "audio/wav"}))
    assert "good morning" in bare["text"].lower()
    assert bare["seconds"] == pytest.approx(len(audio.decode(sound, rate=16_000)) / 16_000, abs=0.01)


def test_the_root_finds_a_service_without_model_only_where_there_is_no_choice(client: httpx.Client) -> None:
    assert len(body(client.post("/v1/embeddings", json={"input": "one"}))["data"]) == 1
    reply = client.post("/v1/audio/transcriptions", files={"file": ("x.wav", b"x")})
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["param"] == "model"
    assert "whisper" in error["message"]
    assert "narrow" in error["message"]


def test_ids_are_made_where_the_client_sends_none_and_are_never_the_same(client: httpx.Client) -> None:
    replies = [client.get(path) for path in ("/echo", "/echo", "/v1/models", "/v1/models")]
    ids = [reply.headers.get_list("x-request-id") for reply in replies]
    assert all(len(found) == 1 and len(found[0]) >= 16 for found in ids)
    assert len({found[0] for found in ids}) == 4


def test_the_pages_of_the_root(client: httpx.Client, fleet: Running) -> None:
    assert body(client.get("/health/live")) == {"status": "live"}
    assert body(client.get("/health/ready")) == {"ready": True, "waiting": {}}
    cards = {card["id"]: card for card in body(client.get("/v1/models"))["data"]}
    assert SERVICES.items() <= {name: card["task"] for name, card in cards.items()}.items()
    assert body(client.get("/v1/models/llm")) == cards["llm"]
    assert client.get("/v1/models/nobody").json()["error"]["code"] == "model_not_found"
    status = body(client.get("/fleet"))
    assert status["ready"]
    assert status["fleet"] == fleet.name
    assert set(status["services"]) == set(cards)
    for one in status["services"].values():
        assert one["phase"] == "ready"
        assert [report["state"] for report in one["running"]] == ["ready"]
    front = body(client.get("/"))
    assert front["fleet"] == fleet.name
    for path in ("/", "/health/live", "/health/ready", "/v1/models", "/fleet", "/openapi.json", "/docs"):
        reply = client.get(path, headers={"x-request-id": "page"})
        signed(reply, "argosy-gateway", "page")
        assert client.head(path).status_code == 200


@pytest.mark.parametrize("service", SERVICES)
def test_the_pages_of_a_service(client: httpx.Client, service: str) -> None:
    assert body(client.get(f"/{service}/health/live"))["state"] == "ready"
    assert body(client.get(f"/{service}/health/ready"))["service"] == service
    (card,) = body(client.get(f"/{service}/v1/models"))["data"]
    assert card["id"] == service
    assert body(client.get(f"/{service}/v1/models/{service}")) == card
    described = body(client.get(f"/{service}"))
    assert described["task"] == SERVICES[service]
    reply = client.get(f"/{service}", headers={"x-request-id": "who"})
    signed(reply, service, "who")
    assert described["served_by"] == reply.headers["argosy-served-by"]


def inside(document: Any) -> list[dict[str, Any]]:
    """Every object of a JSON document."""
    if isinstance(document, dict):
        return [document, *(found for value in document.values() for found in inside(value))]
    return [found for value in document for found in inside(value)] if isinstance(document, list) else []


@pytest.mark.parametrize("prefix", ["", *(f"/{service}" for service in SERVICES)])
def test_openapi_is_whole_and_its_paths_answer(client: httpx.Client, prefix: str) -> None:
    document = body(client.get(f"{prefix}/openapi.json"))
    assert document["openapi"].startswith("3.1.")
    assert document["info"]["title"]
    assert document["info"]["version"]
    assert document["servers"] == [{"url": prefix or "/"}]
    schemas = document.get("components", {}).get("schemas", {})
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    named = {found["$ref"] for found in inside(document) if isinstance(found.get("$ref"), str)}
    assert named <= {f"#/components/schemas/{name}" for name in schemas}
    operations = [(path, method, one) for path, item in document["paths"].items() for method, one in item.items()]
    ids = [one["operationId"] for _, _, one in operations]
    assert len(set(ids)) == len(ids)
    for path, method, one in operations:
        assert set(one["responses"]) >= {"200"}
        address = prefix + path.replace("{model}", prefix.strip("/") or "llm")
        reply = client.request(method, address)
        # A path that is described exists: without a body it answers, or says what is wrong with an empty body.
        expected = {"get": (200,)}.get(method, (400, 415))
        assert reply.status_code in expected, f"{method} {address}: {reply.text}"
        assert str(reply.status_code) in one["responses"]
        if reply.status_code != 200:
            schema = one["responses"][str(reply.status_code)]["content"]["application/json"]["schema"]
            jsonschema.validate(reply.json(), {**schema, "components": document["components"]})


def test_what_a_service_answers_is_what_its_openapi_says(client: httpx.Client) -> None:
    for service, (path, asked, field) in ASKED.items():
        if not field:
            continue
        document = body(client.get(f"/{service}/openapi.json"))
        schema = document["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.validate(
            body(client.post(f"/{service}{path}", json=asked)), {**schema, "components": document["components"]}
        )


@pytest.mark.parametrize("prefix", ["", *(f"/{service}" for service in SERVICES)])
def test_docs_are_a_page_that_loads_nothing_from_elsewhere(client: httpx.Client, prefix: str) -> None:
    page = client.get(f"{prefix}/docs")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert f'href="{prefix}/openapi.json"' in page.text
    for path in body(client.get(f"{prefix}/openapi.json"))["paths"]:
        assert f"{prefix}{path}".rstrip("/") in page.text
    assert "<script" not in page.text
    assert "http" not in page.text.split("<h2>Types")[0].split("<details>")[0]


def test_a_request_id_is_found_in_the_log_of_the_service_that_answered(client: httpx.Client, fleet: Running) -> None:
    near, far = f"to-the-door/{uuid.uuid4()}", f"through-the-root/{uuid.uuid4()}"
    body(client.post("/echo", json={"text": "hello"}, headers={"x-request-id": near}))
    asked = {"model": "embeddings", "input": "hello"}
    body(client.post("/v1/embeddings", json=asked, headers={"x-request-id": far}))
    for service, name in (("echo", near), ("embeddings", far), ("gateway", far)):
        lines = [json.loads(line) for line in fleet.argosy("logs", "-n", "200", service).stdout.splitlines()]
        (line,) = [line for line in lines if line.get("request") == name]
        assert line["service"] == service
        assert " 200 " in line["message"]
