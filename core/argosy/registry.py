"""The registry: which models, backends and engines are installed, and what is broken and why.

Plugins are loaded one by one; a broken one is named with its cause and leaves the others alone.
"""

from __future__ import annotations

import importlib.metadata
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

import pluggy
from packaging.requirements import InvalidRequirement, Requirement

from . import API, __version__, _builtin, hookspecs
from .backend import Backend
from .engines import Engine
from .errors import PluginError
from .model import Model, runs


@dataclass(frozen=True)
class Plugin:
    """One entry point: where it came from, what it registered, and, where it is broken, why."""

    name: str
    distribution: str
    version: str
    models: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    engines: tuple[str, ...] = ()
    broken: str = ""
    detail: str = ""  # the traceback, where there is one


T = TypeVar("T")


@dataclass(frozen=True)
class Registry:
    plugins: tuple[Plugin, ...]
    models: Mapping[str, type[Model]]
    backends: Mapping[str, Backend]
    engines: Mapping[str, type[Engine]]

    def model(self, name: str) -> type[Model]:
        """The model of that name. PluginError that says what is installed, or why it is broken."""
        return self._get(self.models, name, "model")

    def backend(self, name: str) -> Backend:
        return self._get(self.backends, name, "backend")

    def engine(self, name: str) -> type[Engine]:
        return self._get(self.engines, name, "engine")

    def _get(self, table: Mapping[str, T], name: str, kind: str) -> T:
        if name in table:
            return table[name]
        for plugin in self.plugins:
            if plugin.broken and name in (plugin.name, plugin.distribution):
                raise PluginError(
                    f"{kind} {name!r}", f"{plugin.distribution} is broken: {plugin.broken}", "argosy plugins"
                )
        raise PluginError(
            f"{kind} {name!r}", f"installed: {', '.join(sorted(table)) or 'none'}", f"pip install argosy-{name}"
        )


def load(extra: Iterable[tuple[str, Any]] = ()) -> Registry:
    """Load every installed plugin; `extra` adds (name, module or object with hooks) pairs: tests, `argosy dev`."""
    found: list[Plugin] = []
    models: dict[str, type[Model]] = {}
    backends: dict[str, Backend] = {}
    engines: dict[str, type[Engine]] = {}
    seen: set[str] = set()
    extras = list(extra)
    given = {name for name, _ in extras}
    sources: list[tuple[str, str, str, Any]] = [("argosy", "argosy", __version__, lambda: _builtin)]
    sources += [(name, name, "", lambda value=value: value) for name, value in extras]
    for point in sorted(importlib.metadata.entry_points(group=hookspecs.GROUP), key=lambda point: point.name):
        distribution = point.dist
        if point.name in seen | given or distribution is None:
            continue
        seen.add(point.name)
        sources.append((point.name, distribution.name, distribution.version, lambda point=point: _load(point)))
    for name, distribution_name, version, source in sources:
        try:
            mine = _register(name, source())
            for table, new in ((models, mine[0]), (backends, mine[1]), (engines, mine[2])):
                if clash := table.keys() & new.keys():
                    raise PluginError(f"{', '.join(clash)} once", f"registered a second time by {distribution_name}")
            models |= mine[0]
            backends |= mine[1]
            engines |= mine[2]
        except Exception as error:  # noqa: BLE001 - a plugin's import may raise anything; the others must load
            sentence = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
            found.append(Plugin(name, distribution_name, version, broken=sentence, detail=traceback.format_exc()))
        else:
            names = [tuple(sorted(table)) for table in mine]
            found.append(Plugin(name, distribution_name, version, names[0], names[1], names[2]))
    return Registry(tuple(found), MappingProxyType(models), MappingProxyType(backends), MappingProxyType(engines))


def _load(point: importlib.metadata.EntryPoint) -> Any:
    """Import the plugin, unless its metadata asks for another argosy."""
    for text in (point.dist.requires if point.dist else None) or ():
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue  # the installer's business
        if requirement.name == "argosy" and not requirement.specifier.contains(__version__, prereleases=True):
            raise PluginError(
                f"a plugin for argosy {__version__}", f"it asks for {text}", "install its matching version"
            )
    return point.load()


def _register(name: str, module: Any) -> tuple[dict[str, type[Model]], dict[str, Backend], dict[str, type[Engine]]]:
    if (api := getattr(module, "argosy_api", API)) != API:
        raise PluginError(
            f"a plugin for argosy's API {API}", f"it was written for API {api}", "install its matching version"
        )
    hooks = pluggy.PluginManager(hookspecs.GROUP)
    hooks.add_hookspecs(hookspecs)
    hooks.register(module, name=name)
    hooks.check_pending()  # a misspelt hook is an error
    models = {model.name: model for group in hooks.hook.argosy_models() for model in group}
    for model in models.values():
        _check(model)
    backends = {backend.name: backend for group in hooks.hook.argosy_backends() for backend in group}
    engines = {engine.name: engine for group in hooks.hook.argosy_engines() for engine in group}
    if not (models or backends or engines):
        raise PluginError(f"{name} to register a model, a backend or an engine", "no hook answered", "@argosy.hookimpl")
    return models, backends, engines


def _check(model: type[Model]) -> None:
    implementations = model.implementations()
    if not implementations:
        raise PluginError(f"{model.name} to name its engines", "none", 'engines = ("onnxruntime",)')
    for implementation in implementations:
        runs(implementation.model)
