"""OpenAI's protocol: which routes a task has, the models page, embeddings. Chat and sound have modules of their own."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from pydantic_core import to_json
from typing_extensions import TypedDict

from ..errors import NotFound
from ..tasks import EmbeddingRequest, Embeddings, Task
from . import openai_audio, openai_chat
from .dialect import Call, Dialect, Route
from .reading import Body, Items
from .wire import Reply, reply_json

Text = Annotated[str, Field(min_length=1)]
INPUTS = 2048  # OpenAI's own bound


class EmbeddingBody(Body):
    model: str | None = None
    input: Text | Annotated[Items[Text], Field(min_length=1, max_length=INPUTS)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: None = None
    user: str | None = Field(None, description="Ignored.")

    beyond: ClassVar[Mapping[str, str]] = {"dimensions": "shortened vectors"}


class Vector(TypedDict):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class ReadTokens(TypedDict):
    prompt_tokens: int
    total_tokens: int


class VectorList(TypedDict):
    object: Literal["list"]
    data: list[Vector]
    model: str
    usage: ReadTokens


async def embed(call: Call) -> Reply:
    body = await call.json(EmbeddingBody)
    call.check_model(body.model)
    texts = (body.input,) if isinstance(body.input, str) else tuple(body.input)
    answer: Embeddings = await call.answerer.answer(EmbeddingRequest(texts), call.ctx)
    if body.encoding_format == "base64":
        written = [
            b'"' + base64.b64encode(item.vector.astype("<f4", copy=False).tobytes()) + b'"' for item in answer.items
        ]
    else:
        written = [to_json(item.vector.astype(np.float32, copy=False).tolist()) for item in answer.items]
    rows = [b'{"object":"embedding","index":%d,"embedding":%s}' % row for row in enumerate(written)]
    rest = {
        "model": body.model or call.answerer.service,
        "usage": {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens},
    }
    return Reply(b'{"object":"list","data":[' + b",".join(rows) + b"]," + to_json(rest)[1:])


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A service as `/v1/models` lists it."""

    service: str
    task: str
    about: Mapping[str, str]
    created: int = 0  # seconds since 1970


class ModelCard(TypedDict):
    """OpenAI's four fields, and what the service says of itself."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    task: str
    about: dict[str, str]


class ModelList(TypedDict):
    object: Literal["list"]
    data: list[ModelCard]


def card(listed: Listed) -> ModelCard:
    return {
        "id": listed.service,
        "object": "model",
        "created": listed.created,
        "owned_by": "argosy",
        "task": listed.task,
        "about": dict(listed.about),
    }


def models_page(services: Iterable[Listed]) -> Reply:
    page: ModelList = {"object": "list", "data": [card(listed) for listed in services]}
    return reply_json(page)


def model_page(services: Iterable[Listed], name: str) -> Reply:
    """Raises NotFound."""
    known = {listed.service: listed for listed in services}
    if name not in known:
        raise NotFound(f"there is no model {name!r}; known: {', '.join(known)}", param="model", code="model_not_found")
    return reply_json(card(known[name]))


def _listed(call: Call) -> list[Listed]:
    answerer = call.answerer
    return [Listed(service=answerer.service, task=answerer.task.name, about=answerer.about)]


async def models(call: Call) -> Reply:
    return models_page(_listed(call))


async def model(call: Call) -> Reply:
    return model_page(_listed(call), call.path["model"])


def routes(task: Task[Any, Any]) -> Sequence[Route]:
    listing = [
        Route(
            method="GET",
            path="/v1/models",
            summary="The models",
            answer=models,
            reply={"application/json": ModelList},
        ),
        Route(
            method="GET",
            path="/v1/models/{model}",
            summary="One model",
            answer=model,
            reply={"application/json": ModelCard},
            errors=(404,),
        ),
    ]
    if task.name == "embedding":
        embeddings = Route(
            method="POST",
            path="/v1/embeddings",
            summary="Embed texts",
            answer=embed,
            body={"application/json": EmbeddingBody},
            reply={"application/json": VectorList},
            root=True,
        )
        return [embeddings, *listing]
    if task.name == "chat":
        return [*openai_chat.routes(), *listing]
    return [*openai_audio.routes(task), *listing]


dialect = Dialect(name="openai", routes=routes)
