"""What the gateway needs to offer every service's routes at the root: which they are, which model a body names, and how
an error looks on a path."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from .. import tasks
from ..errors import BadRequest, RequestError, UnsupportedMedia
from ..tasks import Task
from . import openapi
from .dialect import Dialect, Route, refuse
from .dialects import dialects
from .form import boundary
from .openai import Listed, model_page, models_page
from .reading import refused
from .wire import Reply, Scope

__all__ = ["Listed", "RootRoute", "model_of", "model_page", "models_page", "refusal", "root_document", "root_routes"]

TASKS = (tasks.chat, tasks.transcription, tasks.speech, tasks.embedding, tasks.rerank)


@dataclass(frozen=True, kw_only=True)
class RootRoute:
    """A route that exists at the root as it does below a service's prefix; `task` says which services can answer it."""

    path: str
    method: str
    task: Task[Any, Any]
    dialect: Dialect
    route: Route


def root_routes() -> Sequence[RootRoute]:
    return [
        RootRoute(path=route.path, method=route.method, task=task, dialect=dialect, route=route)
        for task in TASKS
        for dialect in dialects()
        for route in dialect.routes(task)
        if route.root
    ]


class _Named(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)
    model: str | None = None


def model_of(scope: Scope, body: bytes) -> str | None:
    """The `model` that a JSON or multipart body names; None where it names none.

    Nothing else of the body becomes a Python object. Raises BadRequest where the body is empty or broken, and
    UnsupportedMedia, as the services do.
    """
    media = next((value for key, value in scope["headers"] if key == b"content-type"), b"")
    kind = media.partition(b";")[0].strip().lower()
    if kind not in (b"", b"application/json", b"multipart/form-data") and not kind.endswith(b"+json"):
        raise UnsupportedMedia(
            f"content-type is {kind.decode('latin-1')!r}; wanted application/json (curl: --json '…'), or "
            "multipart/form-data where there is a file"
        )
    if not body:
        raise BadRequest("the body is empty; wanted a JSON object, or a form with a file", code="empty_body")
    if kind != b"multipart/form-data":
        try:
            return _Named.model_validate_json(body).model
        except ValidationError as error:
            raise refused(_Named, error, body) from None
    separator = b"--" + re.escape(boundary(media))
    field = (
        rb'(?:[^\r\n]+\r\n){0,16}?content-disposition:[^\r\n]*;[ \t]*name="?model"?[ \t]*\r\n(?:[^\r\n]+\r\n){0,16}\r\n'
    )
    found = re.search(separator + rb"\r\n" + field + rb"([^\r\n]{0,256})\r\n" + separator, body, re.IGNORECASE)
    return found[1].decode("utf-8", "replace") if found else None


def refusal(path: str, error: RequestError) -> Reply:
    """`error` as the dialect of `path` says it; the path may lie below a service's prefix."""
    for root in root_routes():
        if path.endswith(root.path):
            return root.dialect.refuse(error)
    return refuse(error)


def root_document(extra: Iterable[tuple[Dialect, Route]] = ()) -> dict[str, Any]:
    """OpenAPI of the root; `extra` are the gateway's own routes."""
    return openapi.document("argosy", [*((root.dialect, root.route) for root in root_routes()), *extra])
