"""Bodies to typed values, and what is wrong with a body as one readable sentence."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, from_json

from ..errors import BadRequest

B = TypeVar("B", bound=BaseModel)
T = TypeVar("T")

# Ends at the first wrong item. Otherwise pydantic describes each: four megabytes of `[1,1,…]` cost gigabytes.
Items = Annotated[list[T], Field(fail_fast=True)]

KEYS = 100_000  # names in one body of our own types; each unknown one is an error that pydantic describes
LONG = 65_536  # bytes from which on they are counted


class Body(BaseModel):
    """A JSON body: nothing is converted, nothing unknown is passed over.

    `beyond` names the parameters whose type allows only the value that asks for nothing, and what they would ask for.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
    beyond: ClassVar[Mapping[str, str]] = {}


class Fields(Body):
    """The fields of a form: text, converted to the type of the field."""

    model_config = ConfigDict(strict=False)


def parse(kind: type[B], data: bytes, depth: int) -> B:
    """`data` as `kind`. Raises BadRequest: not JSON, nested deeper than `depth`, NaN, or not of the type."""
    if not data:
        raise BadRequest("the body is empty; wanted a JSON object", code="empty_body")
    if data.count(b"{") + data.count(b"[") > depth or b"NaN" in data or b"Infinity" in data:
        _check(data, depth)
    if len(data) > LONG and issubclass(kind, Body) and len(re.findall(rb'"[ \t\r\n]*:', data)) > KEYS:
        raise BadRequest(f"the JSON has more than {KEYS} names", code="too_many_names")
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise refused(kind, error, data) from None


def parse_fields(kind: type[B], fields: Mapping[str, Any]) -> B:
    """A form's fields as `kind`. Raises BadRequest."""
    try:
        return kind.model_validate(dict(fields))
    except ValidationError as error:
        raise refused(kind, error, fields) from None


def _check(data: bytes, depth: int) -> None:
    try:
        value = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise _not_json(str(error)) from None
    level = [value]
    for _ in range(depth):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise BadRequest(f"the JSON is nested too deep: more than {depth} levels", code="too_deep")


def _not_json(found: str) -> BadRequest:
    if "recursion limit" in found:
        return BadRequest("the JSON is nested too deep", code="too_deep")
    return BadRequest(f"the body is not valid JSON (UTF-8, no NaN or Infinity): {found}", code="invalid_json")


def refused(kind: type[BaseModel], error: ValidationError, source: bytes | Mapping[str, Any]) -> BadRequest:
    """The first thing wrong, as a sentence with the field's path; how many more there are."""
    problems = error.errors(include_url=False)
    first = problems[0]
    if first["type"] == "json_invalid":
        return _not_json(str(first["ctx"]["error"]))
    value = from_json(source) if isinstance(source, bytes) else source
    located = [(_path(problem, value), problem) for problem in problems]
    path, first = max(located, key=lambda found: len(found[0]))  # the deepest: it says most where a union was tried
    name = str(path[0]) if path else None
    param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".") or None
    beyond: Mapping[str, str] = getattr(kind, "beyond", {})
    if name is not None and name in beyond:
        return BadRequest(
            f"{name}: this service does not do {beyond[name]}; leave `{name}` out", param=param, code="unsupported"
        )
    if first["type"] == "extra_forbidden":
        known = ", ".join(sorted(set(kind.model_fields) - set(beyond))) if len(path) == 1 else ""
        hint = f"; known here: {known}" if known else ""
        return BadRequest(f"{param}: unknown parameter{hint}", param=param, code="unknown_parameter")
    rest = {found[0] for found, _ in located if found} - {name}  # other fields; one field's branches count once
    more = f" (and {len(rest)} more)" if rest else ""
    return BadRequest(f"{param or 'the body'}: {_sentence(first)}{more}", param=param)


def _path(problem: ErrorDetails, value: Any) -> tuple[str | int, ...]:
    """Where in the body it is: pydantic's location without the names of the union's branches."""
    path: list[str | int] = []
    for part in problem["loc"]:
        inside = part in value if isinstance(value, Mapping) else isinstance(part, int) and part < _length(value)
        if inside:
            path.append(part)
            value = value[part]
    if problem["type"] == "missing":
        path.append(problem["loc"][-1])
    return tuple(path)


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list) else 0


def _sentence(problem: ErrorDetails) -> str:
    if problem["type"] == "missing":
        return "is required"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{message[:1].lower()}{message[1:]}; found: {reprlib.repr(problem['input'])}"
