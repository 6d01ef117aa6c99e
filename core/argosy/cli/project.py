"""A plugin that need not be installed: its module, imported from the project's folder or from one file."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import tomllib
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from ..errors import PluginError

if TYPE_CHECKING:
    from ..registry import Registry


def is_path(target: str) -> bool:
    """Whether a folder or a file is meant, and not a name."""
    return target.endswith(".py") or "/" in target or Path(target).is_dir()


def find(target: str) -> tuple[Registry, list[str]]:
    """The registry, and the names of the models that `target` means: an installed model, a project's folder or a
    module's file. PluginError that says what is missing or broken."""
    from ..registry import load

    path = Path(target)
    if not is_path(target):
        registry = load()
        registry.model(target)
        return registry, [target]
    return loaded(modules(path), path)


def loaded(given: list[tuple[str, ModuleType]], path: Path) -> tuple[Registry, list[str]]:
    """The registry with these modules in it, and the models they registered, of which there is at least one."""
    from ..registry import load

    registry = load(extra=given)
    names = {name for name, _ in given}
    mine = [plugin for plugin in registry.plugins if plugin.name in names]
    for plugin in mine:
        if plugin.broken:
            raise PluginError(f"the plugin in {path} to register", plugin.broken, "docs/write-a-model.md")
    models = [name for plugin in mine for name in plugin.models]
    if not models:
        raise PluginError(f"a model in {path}", "it registers none", "@argosy.hookimpl on def argosy_models()")
    return registry, models


def modules(path: Path) -> list[tuple[str, ModuleType]]:
    """(entry point, module) pairs of a project's folder, or of one file."""
    if path.suffix == ".py":
        return [(path.stem.removeprefix("argosy_"), module(path))]
    try:
        with (path / "pyproject.toml").open("rb") as file:
            points = tomllib.load(file).get("project", {}).get("entry-points", {}).get("argosy", {})
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise PluginError(f"a plugin's pyproject.toml in {path}", str(error), "argosy new NAME") from None
    if not points:
        wanted = f"an entry point in the group `argosy` in {path / 'pyproject.toml'}"
        raise PluginError(wanted, "none", '[project.entry-points.argosy] with NAME = "argosy_NAME"')
    for folder in (path / "src", path):
        if folder.is_dir() and str(folder.resolve()) not in sys.path:
            sys.path.insert(0, str(folder.resolve()))
    return [(name, _import(path, partial(importlib.import_module, value))) for name, value in points.items()]


def module(path: Path) -> ModuleType:
    """The file's module, executed anew at each call. PluginError with the file's own line when it raises; the module
    that was imported from it before then stays in place."""
    if not path.is_file():
        raise PluginError(f"a plugin's module at {path}", "no such file", "argosy new NAME")

    def run() -> ModuleType:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec
        fresh, before = importlib.util.module_from_spec(spec), sys.modules.get(path.stem)
        sys.modules[path.stem] = fresh  # pydantic and pickle look their module up there
        try:
            # From the source: bytecode is told apart by whole seconds, and misses a quick save.
            exec(compile(path.read_bytes(), str(path), "exec"), fresh.__dict__)
        except BaseException:
            if before is None:
                del sys.modules[path.stem]
            else:
                sys.modules[path.stem] = before
            raise
        return fresh

    return _import(path, run)


def _import(path: Path, run: Callable[[], ModuleType]) -> ModuleType:
    try:
        return run()
    except Exception as error:  # an author's module may raise anything while it is imported
        raise PluginError(f"to import the plugin in {path}", _where(error), "mend that line") from error


def _where(error: Exception) -> str:
    """The error with the last line of the author's that it passed through: the end of the traceback is a library's."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: {error.msg}"
    own = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if "site-packages" not in f.filename and f.filename[0] != "<"
    ]
    at = f"{own[-1].filename}:{own[-1].lineno}: " if own and own[-1].filename != __file__ else ""
    return f"{at}{type(error).__name__}: {error}"
