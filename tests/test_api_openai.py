"""OpenAI's own client, sync and async, against a service below its prefix."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import numpy as np
import openai
import pytest
from answerers import EVERYTHING, Tiny, browser, client, serving

from argosy import tasks


@pytest.fixture
async def chat() -> AsyncIterator[tuple[openai.AsyncOpenAI, Tiny]]:
    tiny = Tiny(tasks.chat)
    async with serving(tiny) as address, client(address) as ai:
        yield ai, tiny


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


async def test_a_whole_completion_carries_text_finish_and_usage(chat):
    ai, tiny = chat
    answer = await ai.chat.completions.create(model="tiny", messages=said("one two three"))
    assert answer.choices[0].message.content == "one two three"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.model_dump(exclude_none=True) == {
        "prompt_tokens": 3,
        "completion_tokens": 3,
        "total_tokens": 6,
    }
    assert answer.object == "chat.completion"
    assert answer.model == "tiny"
    assert tiny.seen[0].temperature is None


async def test_parameters_reach_the_task(chat):
    ai, tiny = chat
    answer = await ai.chat.completions.create(
        model="tiny-1m",
        messages=[{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "a b c"}]}],
        max_completion_tokens=2,
        temperature=0.5,
        top_p=0.9,
        stop="x",
        seed=7,
        presence_penalty=1,
        frequency_penalty=0.5,
        n=1,
        logprobs=False,
        response_format={"type": "text"},
        user="u",
        metadata={"a": "b"},
        store=False,
        extra_body={"ignore_eos": True},
    )
    assert answer.choices[0].finish_reason == "length"
    assert tiny.seen == [
        tasks.ChatRequest(
            (tasks.Message(role="system", content="s"), tasks.Message(role="user", content="a b c")),
            max_tokens=2,
            temperature=0.5,
            top_p=0.9,
            stop=("x",),
            seed=7,
            presence_penalty=1,
            frequency_penalty=0.5,
            ignore_eos=True,
        )
    ]


async def test_a_stream_begins_with_the_role_and_ends_with_finish_and_usage(chat):
    ai, _ = chat
    stream = await ai.chat.completions.create(
        model="tiny", messages=said("a b"), stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "a b"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None, None, None, "stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == 4
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


async def test_a_stream_without_usage_ends_with_done(chat):
    ai, _ = chat
    body = {"messages": said('ä\n"quoted"'), "stream": True}
    async with browser() as web:
        reply = await web.post(f"{ai.base_url}chat/completions", json=body)
    assert reply.headers["content-type"] == "text/event-stream"
    assert reply.headers["x-accel-buffering"] == "no"
    events = reply.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == 'ä "quoted"'
    assert all("usage" not in chunk for chunk in chunks)


async def test_a_stream_that_fails_before_its_first_token_has_a_status(chat):
    ai, _ = chat
    with pytest.raises(openai.InternalServerError) as caught:
        await ai.chat.completions.create(model="tiny", messages=said("busy"), stream=True)
    assert caught.value.status_code == 503
    assert caught.value.code == "overloaded"
    assert caught.value.response.headers["retry-after"] == "3"


async def test_a_stream_that_fails_half_way_ends_with_an_error_event(chat):
    ai, _ = chat
    heard: list[str] = []

    async def listen() -> None:
        async for chunk in await ai.chat.completions.create(model="tiny", messages=said("a b break"), stream=True):
            heard.append(chunk.choices[0].delta.content or "")

    with pytest.raises(openai.APIError, match="the model failed on this request"):
        await listen()
    assert "".join(heard) == "a b"


async def test_the_sync_client_streams_too(chat):
    ai, _ = chat

    def run() -> str:
        with openai.OpenAI(base_url=str(ai.base_url), api_key="none", max_retries=0) as sync:
            stream = sync.chat.completions.create(model="tiny", messages=said("a b"), stream=True)
            return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    assert await asyncio.to_thread(run) == "a b"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("n", 2),
        ("logprobs", True),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}),
        ("logit_bias", {"1": 5}),
        ("modalities", ["audio"]),
        ("reasoning_effort", "high"),
    ],
)
async def test_what_no_engine_does_yet_is_refused_by_name(chat, name, value):
    ai, tiny = chat
    with pytest.raises(openai.BadRequestError) as caught:
        await ai.chat.completions.create(model="tiny", messages=said("x"), extra_body={name: value})
    assert caught.value.code == "unsupported"
    assert caught.value.param.startswith(name)
    assert name in caught.value.message
    assert tiny.seen == []


@pytest.mark.parametrize("name", ["seed", "presence_penalty", "frequency_penalty", "ignore_eos"])
async def test_what_this_model_cannot_do_is_refused_by_name(name):
    tiny = Tiny(tasks.chat, features=EVERYTHING - {name})
    async with serving(tiny) as address, client(address) as ai:
        value = True if name == "ignore_eos" else 1
        with pytest.raises(openai.BadRequestError, match=name) as caught:
            await ai.chat.completions.create(model="tiny", messages=said("x"), extra_body={name: value})
    assert (caught.value.param, caught.value.code) == (name, "unsupported")


async def test_an_image_is_refused_with_its_place_in_the_body(chat):
    ai, _ = chat
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    with pytest.raises(openai.BadRequestError, match="image_url") as caught:
        await ai.chat.completions.create(model="tiny", messages=[{"role": "user", "content": [image]}])
    assert caught.value.param == "messages[0].content[0].type"


async def test_an_unknown_model_is_not_found(chat):
    ai, _ = chat
    with pytest.raises(openai.NotFoundError) as caught:
        await ai.chat.completions.create(model="gpt-9", messages=said("x"))
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        await ai.models.retrieve("gpt-9")


async def test_models_lists_this_service(chat):
    ai, _ = chat
    assert [model.id async for model in ai.models.list()] == ["tiny"]
    assert (await ai.models.retrieve("tiny")).owned_by == "argosy"


async def test_embeddings_are_the_same_as_floats_and_as_base64():
    async with serving(Tiny(tasks.embedding)) as address, client(address) as ai:
        packed = await ai.embeddings.create(model="tiny", input=["a b", "c"])
        floats = await ai.embeddings.create(model="tiny", input=["a b", "c"], encoding_format="float")
    assert [row.index for row in packed.data] == [0, 1]
    assert packed.usage.prompt_tokens == 3
    assert [row.embedding for row in packed.data] == [row.embedding for row in floats.data]
    assert np.linalg.norm(floats.data[0].embedding) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("wrong", [{"input": [1, 2, 3]}, {"input": ""}, {"input": []}, {"input": ["a", ""]}])
async def test_embeddings_refuse_what_is_no_text(wrong):
    async with serving(Tiny(tasks.embedding)) as address, client(address) as ai:
        with pytest.raises(openai.BadRequestError) as caught:
            await ai.embeddings.create(model="tiny", **wrong)
    assert caught.value.param.startswith("input")


async def test_embeddings_refuse_shortened_vectors():
    async with serving(Tiny(tasks.embedding)) as address, client(address) as ai:
        with pytest.raises(openai.BadRequestError, match="dimensions"):
            await ai.embeddings.create(model="tiny", input="a", dimensions=8)


async def test_rerank_sorts_by_score_and_says_how_it_scored():
    body = {"query": "red fox", "documents": ["a blue whale", {"text": "the red fox"}, "red"], "top_n": 2}
    async with serving(Tiny(tasks.rerank)) as address, browser() as web:
        first = (await web.post(f"{address}/v1/rerank", json=body)).json()
        second = (await web.post(f"{address}/rerank", json={**body, "return_documents": True})).json()
    assert first["results"] == [{"index": 1, "relevance_score": 2.0}, {"index": 2, "relevance_score": 1.0}]
    assert first["about"]["scores"] == "counts common words"
    assert first["usage"] == {"total_tokens": 7}
    assert [result["document"]["text"] for result in second["results"]] == ["the red fox", "red"]
