"""What a field of the fleet file may hold, in words, from the schema itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .schema import Fleet

Json = Mapping[str, Any]


def known(where: Sequence[str | int]) -> list[str]:
    """The fields of the mapping at `where`, sorted; empty where the names are free or there is no mapping."""
    return sorted({name for one in _at(where) for name in one.get("properties", {})})


def allowed(where: Sequence[str | int]) -> str:
    """What may stand at `where`, as one phrase; empty where the schema does not know the place."""
    found = _at(where)
    note = next((str(one["description"]) for one in found if "description" in one), "")
    words = " or ".join(dict.fromkeys(_words(one) for one in found if _words(one)))
    if not note or any("pattern" in one and note == one.get("description") for one in found):
        return words
    return f"{words} ({note})" if words else note


def _at(where: Sequence[str | int]) -> list[Json]:
    """Every branch of the schema that describes the place, without references and unions."""
    root: Json = Fleet.model_json_schema(mode="validation")
    here = _branches(root, root)
    for part in where:
        inner: list[Json] = []
        for one in here:
            if isinstance(part, int):
                inner += [one["items"]] if "items" in one else []
            elif part in one.get("properties", {}):
                inner.append(one["properties"][part])
            elif "patternProperties" in one:
                inner += one["patternProperties"].values()
            elif isinstance(one.get("additionalProperties"), Mapping):
                inner.append(one["additionalProperties"])
        here = [branch for one in inner for branch in _branches(one, root)]
    return here


def _branches(one: Json, root: Json) -> list[Json]:
    if "$ref" in one:
        name = str(one["$ref"]).rpartition("/")[2]
        return _branches({**root["$defs"][name], **{key: one[key] for key in one if key == "description"}}, root)
    if "anyOf" not in one:
        return [one]
    outer = {key: one[key] for key in ("description",) if key in one}
    return [
        branch for each in one["anyOf"] for branch in _branches({**outer, **each}, root) if branch.get("type") != "null"
    ]


def _words(one: Json) -> str:
    if "enum" in one:
        return " or ".join(str(value) for value in one["enum"])
    if "const" in one:
        return str(one["const"])
    if "pattern" in one:
        return str(one.get("description", "text"))
    match one.get("type"):
        case "number" | "integer" as kind:
            return _number(one, "a whole number" if kind == "integer" else "a number")
        case "string":
            return "text"
        case "boolean":
            return "true or false"
        case "array":
            return "a list"
        case "object" if "properties" in one:
            return f"a mapping with {', '.join(sorted(one['properties']))}"
        case "object":
            return "a mapping of names"
    return ""


def _number(one: Json, noun: str) -> str:
    low = f"from {one['minimum']:g}" if "minimum" in one else ""
    low = f"above {one['exclusiveMinimum']:g}" if "exclusiveMinimum" in one else low
    high = f"to {one['maximum']:g}" if "maximum" in one else ""
    return " ".join(part for part in (noun, low, high if "minimum" in one else high and f"and up {high}") if part)
