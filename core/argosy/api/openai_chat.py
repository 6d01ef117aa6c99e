"""OpenAI's chat completions, whole and streamed.

Parameters are supported, refused by name, or (those that change nothing in the answer) accepted and ignored:
`ChatBody` says which.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Annotated, Any, ClassVar, Literal, NotRequired

from pydantic import Field
from pydantic_core import to_json
from typing_extensions import TypedDict

from ..errors import BadRequest
from ..tasks import ChatDelta, ChatRequest, ChatResponse, Finish, Message, Usage
from .dialect import Call, Route, fault
from .reading import Body, Items
from .wire import Reply, Stream, batches, event, reply_json

Nothing = Annotated[Items[Any], Field(max_length=0)] | None


class Part(Body):
    """A part of a message. Text alone: no model of the task sees or hears."""

    type: Literal["text"]
    text: str


class Turn(Body):
    """One message. The fields that must be empty are what clients send back of an earlier answer."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Items[Part] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: Nothing = None
    function_call: None = None
    refusal: None = None
    audio: None = None
    annotations: Nothing = None


class StreamOptions(Body):
    include_usage: bool = False
    include_obfuscation: bool | None = Field(None, description="Ignored: no padding is sent.")


class TextFormat(Body):
    type: Literal["text"]


class ChatBody(Body):
    model: str | None = None
    messages: Items[Turn] = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    stop: Annotated[Items[str], Field(max_length=4)] | str | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    ignore_eos: bool = Field(False, description="Generate `max_tokens` tokens whatever the model says (not OpenAI's).")
    # only what asks for nothing
    n: Literal[1] | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: Literal[0] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    tools: Nothing = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    functions: Nothing = None
    function_call: Literal["none", "auto"] | None = None
    response_format: TextFormat | None = None
    modalities: Items[Literal["text"]] | None = None
    audio: None = None
    prediction: None = None
    reasoning_effort: Literal["none"] | None = None
    web_search_options: None = None
    # accepted and ignored
    user: str | None = Field(None, description="Ignored.")
    safety_identifier: str | None = Field(None, description="Ignored.")
    prompt_cache_key: str | None = Field(None, description="Ignored: the engine caches prefixes by their text.")
    prompt_cache_retention: str | None = Field(None, description="Ignored.")
    metadata: dict[str, str] | None = Field(None, description="Ignored: nothing is stored.")
    store: bool | None = Field(None, description="Ignored: nothing is stored.")
    service_tier: Literal["auto", "default"] | None = Field(None, description="Ignored.")
    verbosity: Literal["low", "medium", "high"] | None = Field(None, description="Ignored: say it in the prompt.")

    beyond: ClassVar[Mapping[str, str]] = {
        "n": "several choices at once",
        "logprobs": "log probabilities",
        "top_logprobs": "log probabilities",
        "logit_bias": "biased tokens",
        "tools": "tool calls",
        "tool_choice": "tool calls",
        "functions": "function calls",
        "function_call": "function calls",
        "response_format": "guided formats, only plain text",
        "modalities": "any output but text",
        "audio": "any output but text",
        "prediction": "predicted outputs",
        "reasoning_effort": "reasoning",
        "web_search_options": "web searches",
    }


class Said(TypedDict):
    role: Literal["assistant"]
    content: str
    refusal: None


class Choice(TypedDict):
    index: int
    message: Said
    logprobs: None
    finish_reason: Literal["stop", "length"]


class Used(TypedDict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(TypedDict):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Used


class Piece(TypedDict, total=False):
    role: Literal["assistant"]
    content: str


class ChunkChoice(TypedDict):
    index: int
    delta: Piece
    logprobs: None
    finish_reason: Literal["stop", "length"] | None


class Chunk(TypedDict):
    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: NotRequired[Used | None]


def text_of(turn: Turn, at: str) -> Message:
    """A turn as the task has it. Raises BadRequest where it says nothing."""
    content = turn.content
    if content is None:
        raise BadRequest(f"{at}.content: is required", param=f"{at}.content")
    text = content if isinstance(content, str) else "".join(part.text for part in content)
    return Message.model_construct(role=turn.role, content=text, name=turn.name)  # both are validated already


def request_of(call: Call, body: ChatBody) -> ChatRequest:
    """The task's request. Raises BadRequest for what this model cannot do."""
    call.need("seed", body.seed is not None)
    call.need("presence_penalty", bool(body.presence_penalty))
    call.need("frequency_penalty", bool(body.frequency_penalty))
    call.need("ignore_eos", body.ignore_eos)
    if body.stream_options is not None and not body.stream:
        raise BadRequest("stream_options: is allowed only together with stream: true", param="stream_options")
    stop = body.stop or ()
    return ChatRequest(
        tuple(text_of(turn, f"messages[{index}]") for index, turn in enumerate(body.messages)),
        max_tokens=body.max_completion_tokens or body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        seed=body.seed,
        presence_penalty=body.presence_penalty or None,
        frequency_penalty=body.frequency_penalty or None,
        ignore_eos=body.ignore_eos,
    )


async def complete(call: Call) -> Reply | Stream:
    body = await call.json(ChatBody)
    call.check_model(body.model)
    request = request_of(call, body)
    model = body.model or call.answerer.service
    if body.stream:
        options = body.stream_options
        return Stream(_events(call, request, model, options is not None and options.include_usage), failed=failed)
    answer: ChatResponse = await call.answerer.answer(request, call.ctx)
    completion: Completion = {
        "id": f"chatcmpl-{call.ctx.id}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": answer.text, "refusal": None},
                "logprobs": None,
                "finish_reason": reason(answer.finish),
            }
        ],
        "usage": used(answer.usage),
    }
    return reply_json(completion)


def reason(finish: Finish) -> Literal["stop", "length"]:
    """OpenAI knows no word for an answer that was given up: it is cut short, like one that grew too long."""
    return "stop" if finish == "stop" else "length"


def used(usage: Usage) -> Used:
    read, written = usage.prompt_tokens, usage.completion_tokens
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def failed(error: Any) -> bytes:
    return event(fault(error))


async def _events(call: Call, request: ChatRequest, model: str, usage: bool) -> AsyncGenerator[bytes, None]:
    """Chunks as OpenAI cuts them: the role, texts, the finish, the usage where asked for, [DONE]. What all chunks have
    in common is written once."""
    head = to_json(
        {
            "id": f"chatcmpl-{call.ctx.id}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
        }
    )
    head = b"data: " + head[:-1] + b',"choices":['
    tail = b'],"usage":null}\n\n' if usage else b"]}\n\n"
    begin = head + b'{"index":0,"delta":{"content":'
    end = b'},"logprobs":null,"finish_reason":null}' + tail
    role = b'{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}'
    opening = head + role + tail
    last = ChatDelta()
    async with aclosing(batches(call.answerer.stream(request, call.ctx))) as ready:
        async for deltas in ready:
            yield opening + b"".join([begin + to_json(delta.text) + end for delta in deltas if delta.text])
            opening, last = b"", deltas[-1]
    finish = b'{"index":0,"delta":{},"logprobs":null,"finish_reason":"%s"}' % reason(last.finish or "stop").encode()
    closing = opening + head + finish + tail
    if usage:
        closing += head + b'],"usage":' + to_json(used(last.usage or Usage())) + b"}\n\n"
    yield closing + b"data: [DONE]\n\n"


def routes() -> Sequence[Route]:
    return [
        Route(
            method="POST",
            path="/v1/chat/completions",
            summary="Answer a conversation",
            answer=complete,
            body={"application/json": ChatBody},
            reply={"application/json": Completion, "text/event-stream": Chunk},
            root=True,
        )
    ]
