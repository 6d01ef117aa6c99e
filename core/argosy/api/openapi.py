"""OpenAPI 3.1 made from the routes and their types, and a page to read it that loads nothing from anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import to_json

from .. import __version__
from ..tasks import Task
from .dialect import Call, Dialect, Route
from .wire import JSON, Reply

REF = "#/components/schemas/{model}"
MEANING = {
    400: "The request is wrong; the message says where",
    404: "No such path or model",
    405: "The method is not allowed on this path",
    406: "No acceptable format",
    413: "The body or the sound is too large",
    415: "Wrong content type, or no sound",
    500: "The model failed",
    503: "Too busy, or not ready; with Retry-After where trying again can help",
    504: "The deadline has passed",
}


def document(title: str, routes: Iterable[tuple[Dialect, Route]], server: str = "/") -> dict[str, Any]:
    """The OpenAPI document of `routes`; `server` is the prefix they lie under."""
    routes = list(routes)
    kinds: list[tuple[int, Any, TypeAdapter[Any]]] = []

    def schema(kind: Any, mode: str) -> dict[str, Any]:
        if kind is bytes:
            return {"type": "string", "format": "binary"}
        if kind is str:
            return {"type": "string"}
        kinds.append((len(kinds), mode, TypeAdapter(kind)))
        return {"$kind": (len(kinds) - 1, mode)}

    paths: dict[str, dict[str, Any]] = {}
    for dialect, route in routes:
        item = paths.setdefault(route.path, {})
        if route.method.lower() not in item:
            item[route.method.lower()] = _operation(dialect, route, schema)
    schemas, definitions = TypeAdapter.json_schemas(kinds, ref_template=REF)
    found = {
        "openapi": "3.1.0",
        "info": {"title": title, "version": __version__},
        "servers": [{"url": server or "/"}],
        "paths": _filled(paths, schemas),
    }
    if named := definitions.get("$defs"):
        found["components"] = {"schemas": named}
    return found


def _operation(dialect: Dialect, route: Route, schema: Any) -> dict[str, Any]:
    name = f"{route.method.lower()}{route.path}".replace("/", "_").replace("{", "").replace("}", "").rstrip("_")
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": f"{dialect.name}_{name}",
        "tags": [dialect.name],
    }
    braces = [part[1:-1] for part in route.path.split("/") if part.startswith("{")]
    if braces:
        operation["parameters"] = [
            {"name": brace, "in": "path", "required": True, "schema": {"type": "string"}} for brace in braces
        ]
    errors = {*route.errors, 404, 500, 503, 504} if route.body else {*route.errors, 500}
    if route.body:
        content = {media: {"schema": schema(kind, "validation")} for media, kind in route.body.items()}
        operation["requestBody"] = {"required": True, "content": content}
        errors |= {400, 413, 415}
    if any(media.startswith("audio/") for media in route.reply):
        errors.add(406)
    content = {media: {"schema": schema(kind, "serialization")} for media, kind in route.reply.items()}
    operation["responses"] = {"200": {"description": "The answer", "content": content}}
    refusal = {"application/json": {"schema": schema(dialect.refusal, "serialization")}}
    for status in sorted(errors):
        operation["responses"][str(status)] = {"description": MEANING[status], "content": refusal}
    return operation


def _filled(value: Any, schemas: Any) -> Any:
    """The placeholders that `schema` left, replaced by what pydantic made of all types together."""
    if isinstance(value, dict):
        if "$kind" in value:
            return schemas[value["$kind"]]
        return {key: _filled(inner, schemas) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, schemas) for inner in value]
    return value


STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "code,pre{font:14px/1.4 ui-monospace,monospace;background:#f4f4f4;border-radius:4px}code{padding:.1em .3em}"
    "pre{padding:.8em;overflow-x:auto}details{margin:.6em 0;border-top:1px solid #ddd;padding-top:.6em}"
    "summary{cursor:pointer}@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}code,pre{background:#262626}}"
)


def html(found: dict[str, Any]) -> bytes:
    """The document as a page: one fold per operation, the schemas at the end."""
    title = escape(str(found["info"]["title"]))
    server = str(found["servers"][0]["url"]).rstrip("/")
    folds = [
        f"<details><summary><code>{method.upper()} {escape(server + path) or '/'}</code> {escape(operation['summary'])}"
        f"</summary><pre>{_pretty(operation)}</pre></details>"
        for path, item in found["paths"].items()
        for method, operation in item.items()
    ]
    named = found.get("components", {}).get("schemas", {})
    types = [
        f"<details><summary><code>{escape(name)}</code></summary><pre>{_pretty(schema)}</pre></details>"
        for name, schema in named.items()
    ]
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style><h1>{title}</h1>'
        f'<p>As a file: <a href="{escape(server)}/openapi.json">openapi.json</a></p>'
        f"{''.join(folds)}<h2>Types</h2>{''.join(types)}</html>"
    )
    return page.encode()


def _pretty(value: Any) -> str:
    return escape(to_json(value, indent=2).decode())


def pages(title: str, routes: Sequence[tuple[Dialect, Route]]) -> Dialect:
    """`/openapi.json` and `/docs` of an application; made at the first request, for they cost some milliseconds."""
    made: dict[str, dict[str, Any]] = {}

    def found(call: Call) -> dict[str, Any]:
        server = str(call.scope.get("root_path", "")) or "/"
        if server not in made:
            made.clear()  # one prefix is the rule; a stranger's headers must not fill memory
            made[server] = document(title, [*routes, *((dialect, route) for route in own)], server)
        return made[server]

    async def openapi(call: Call) -> Reply:
        return Reply(to_json(found(call)), JSON)

    async def docs(call: Call) -> Reply:
        return Reply(html(found(call)), b"text/html; charset=utf-8")

    own = (
        Route(
            method="GET",
            path="/openapi.json",
            summary="This document",
            answer=openapi,
            reply={"application/json": dict[str, Any]},
        ),
        Route(method="GET", path="/docs", summary="This document as a page", answer=docs, reply={"text/html": str}),
    )

    def routes_of(task: Task[Any, Any]) -> Sequence[Route]:
        return own

    dialect = Dialect(name="pages", routes=routes_of)
    return dialect
