"""Rerank, in the fields that Jina's and Cohere's shapes share: {query, documents, top_n} to scored indices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from ..tasks import RerankRequest, Scores, Task
from .dialect import Call, Dialect, Route
from .reading import Body, Items
from .wire import Reply, reply_json


class Document(Body):
    text: str


class RerankBody(Body):
    model: str | None = None
    query: str = Field(min_length=1)
    documents: Annotated[Items[str | Document], Field(min_length=1, max_length=10_000)]
    top_n: int | None = Field(None, ge=1, description="Without it all documents come back, best first")
    return_documents: bool = False
    max_tokens_per_doc: None = None
    rank_fields: None = None

    beyond: ClassVar[Mapping[str, str]] = {
        "max_tokens_per_doc": "cutting documents at a length of your own",
        "rank_fields": "documents of several fields",
    }


class Result(TypedDict):
    index: int
    relevance_score: float
    document: NotRequired[dict[str, str]]


class TotalTokens(TypedDict):
    total_tokens: int


class Ranking(TypedDict):
    """`about` says how the scores were made."""

    model: str
    results: list[Result]
    usage: TotalTokens
    about: dict[str, str]


async def rank(call: Call) -> Reply:
    body = await call.json(RerankBody)
    call.check_model(body.model)
    texts = tuple(document if isinstance(document, str) else document.text for document in body.documents)
    answer: Scores = await call.answerer.answer(RerankRequest(body.query, texts), call.ctx)
    order = sorted(range(len(texts)), key=lambda index: answer.items[index].score, reverse=True)
    results: list[Result] = []
    for index in order[: body.top_n]:
        result: Result = {"index": index, "relevance_score": answer.items[index].score}
        if body.return_documents:
            result["document"] = {"text": texts[index]}
        results.append(result)
    reply: Ranking = {
        "model": body.model or call.answerer.service,
        "results": results,
        "usage": {"total_tokens": answer.tokens},
        "about": dict(call.answerer.about),
    }
    return reply_json(reply)


def routes(task: Task[Any, Any]) -> Sequence[Route]:
    if task.name != "rerank":
        return []
    return [
        Route(
            method="POST",
            path=path,
            summary="Sort documents by how well they answer a query",
            answer=rank,
            body={"application/json": RerankBody},
            reply={"application/json": Ranking},
            root=True,
        )
        for path in ("/v1/rerank", "/rerank")
    ]


dialect = Dialect(name="rerank", routes=routes)
