"""The rooms of the code and the one direction in which they import: docs/architecture.md, checked on syntax trees."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the bottom up. A room imports what stands below it, itself, and nobody beside it.
LEVELS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("settings", "audio", "machine"),
    ("contract",),
    ("argosy",),
    ("convert", "encoder", "registry"),
    ("fleet",),
    ("plan",),
    ("api", "runtime"),
    ("kube", "serve"),
    ("testing",),
    ("cli",),
    ("__main__",),
)
LEVEL = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}
# One room in several modules: they name each other's types.
CONTRACT = {"backend", "engines", "hookspecs", "model", "tasks"}
REGISTRY = {"registry", "_builtin"}

# Libraries that are absent from an image, or that open a device when imported: never at the top of a module.
INSIDE_FUNCTIONS = {
    *("ctranslate2", "faster_whisper", "onnxruntime", "openvino", "openvino_genai", "openvino_tokenizers", "piper"),
    *("TTS", "kokoro_onnx", "phonemizer"),
    *("sentence_transformers", "tokenizers", "torch", "transformers", "vllm"),
    *("amdsmi", "cupy", "dpctl", "pynvml"),
}

VENDORS = {
    "cuda": ("cuda", "geforce", "nvidia", "nvml", "pynvml"),
    "rocm": ("amd", "amdsmi", "radeon", "rocm"),
    "xpu": ("dpctl", "intel", "level zero", "level_zero", "sycl", "xpu"),
}
# What a vendor's own libraries spell like another's: HIP devices of torch and vLLM, and the mask that they read too.
SPELT_ALIKE = {"backends/rocm": re.compile(r'"cuda:0"|torch\.cuda|CUDA_VISIBLE_DEVICES')}
TASKS_AND_MODELS = (
    "chat",
    "embeddings?",
    "kokoro",
    "llm",
    "piper",
    "rerank",
    "reranker",
    "speech",
    "transcription",
    "tts",
    "whisper",
    "xtts",
)

MAX_LINES = 400


@dataclass(frozen=True)
class Import:
    """One import statement's target. `late`: inside a function; `typing`: under `if TYPE_CHECKING`."""

    target: str
    line: int
    late: bool
    typing: bool


@dataclass(frozen=True)
class Source:
    """One file of the product; `module` is its dotted name, `owner` the member's folder (`core`, `plugins/echo`)."""

    path: str
    module: str
    owner: str
    text: str

    @property
    def room(self) -> str:
        return room_of(self.module)

    @property
    def is_package(self) -> bool:
        return self.path.endswith("__init__.py")


def sources(root: Path) -> list[Source]:
    """Every module of core, the backends and the plugins; one that does not exist yet is simply not there."""
    found = []
    for member in [root / "core", *sorted(root.glob("backends/*")), *sorted(root.glob("plugins/*"))]:
        for path in sorted([*member.glob("argosy*/**/*.py"), *member.glob("argosy*.py")]):
            parts = path.relative_to(member).with_suffix("").parts
            module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            owner = member.relative_to(root).as_posix()
            found.append(Source(path.relative_to(root).as_posix(), module, owner, path.read_text("utf-8")))
    return found


def room_of(module: str) -> str:
    """`argosy.serve.control` is in `serve`; `argosy_llm` and other libraries are their own room."""
    top, _, rest = module.partition(".")
    if top != "argosy":
        return top
    room = rest.partition(".")[0]
    if not room:
        return "argosy"
    return "contract" if room in CONTRACT else "registry" if room in REGISTRY else room


def imports(source: Source, modules: frozenset[str]) -> Iterator[Import]:
    """Each import, its target absolute: `from . import hookspecs` is the module, `from . import API` its package."""

    def walk(node: ast.AST, late: bool, typing: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            in_function = late or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            if isinstance(child, ast.Import):
                yield from (Import(alias.name, child.lineno, late, typing) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = absolute(source, child)
                for alias in child.names:
                    full = f"{base}.{alias.name}"
                    yield Import(full if full in modules else base, child.lineno, late, typing)
            elif isinstance(child, ast.Call) and (name := imported_by_name(child)):
                yield Import(name, child.lineno, late, typing)
                yield from walk(child, late, typing)
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                yield from walk(ast.Module(child.body, []), late, True)
                yield from walk(ast.Module(child.orelse, []), late, typing)
            else:
                yield from walk(child, in_function, typing)

    yield from walk(ast.parse(source.text, source.path), False, False)


def absolute(source: Source, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = source.module.split(".")
    package = parts[: len(parts) - node.level + source.is_package]
    return ".".join([*package, *([node.module] if node.module else [])])


def imported_by_name(call: ast.Call) -> str | None:
    """`importlib.import_module("ray")` and `__import__("ray")`, where the name is written out."""
    if ast.unparse(call.func) not in ("importlib.import_module", "import_module", "__import__") or not call.args:
        return None
    first = call.args[0]
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else None


def against_the_direction(every: list[Source]) -> list[str]:
    """What the picture forbids. An import for types alone does not run, and is let through."""
    modules = frozenset(source.module for source in every)
    wrong = []
    for source in every:
        for item in imports(source, modules):
            here, there = source.room, room_of(item.target)
            where = f"{source.path}:{item.line}: {here} imports {item.target}"
            if item.typing or there == here:
                continue
            if there.startswith("argosy_"):
                wrong.append(
                    f"{where}: {'core' if source.owner == 'core' else 'a distribution'} knows no other by name"
                )
            elif item.target.partition(".")[0] != "argosy":
                continue
            elif there not in LEVEL:
                wrong.append(f"{where}: {there} is no room: add it to LEVELS and to docs/architecture.md")
            elif source.owner != "core":
                if LEVEL[there] > LEVEL["fleet"] or there == "registry":
                    wrong.append(f"{where}: plugins and backends meet core at its contract")
            elif here not in LEVEL:
                wrong.append(f"{where}: {here} is no room: add it to LEVELS and to docs/architecture.md")
            elif LEVEL[there] >= LEVEL[here]:
                wrong.append(f"{where}: {there} does not stand below {here}")
    return wrong


def ray_outside_serve(every: list[Source]) -> list[str]:
    return [
        f"{source.path}:{item.line}: only argosy.serve imports ray"
        for source in every
        if source.room != "serve"
        for item in imports(source, frozenset())
        if item.target.partition(".")[0] == "ray"
    ]


def engines_at_the_top(every: list[Source]) -> list[str]:
    return [
        f"{source.path}:{item.line}: {item.target} is imported before the replica's environment is set"
        for source in every
        for item in imports(source, frozenset())
        if item.target.partition(".")[0] in INSIDE_FUNCTIONS and not (item.late or item.typing)
    ]


def vendors_outside_their_folder(every: list[Source]) -> list[str]:
    wrong = []
    for vendor, words in VENDORS.items():
        # CUDA_VISIBLE_DEVICES is found, amd64 and GenuineIntel (what a CPU calls itself) are not.
        pattern = re.compile(rf"(?<![a-z])({'|'.join(words)})(?![a-z0-9])", re.IGNORECASE)
        for source in every:
            if source.owner == f"backends/{vendor}" or source.room == "testing":
                continue
            alike = SPELT_ALIKE.get(source.owner)
            text = alike.sub("", source.text) if alike else source.text
            wrong += [f"{source.path}:{number}: names {word}" for number, word in hits(pattern, text)]
    return wrong


def tasks_and_models_in_backends(every: list[Source]) -> list[str]:
    pattern = re.compile(rf"(?<![a-z])({'|'.join(TASKS_AND_MODELS)})(?![a-z])", re.IGNORECASE)
    return [
        f"{source.path}:{number}: a backend names {word}"
        for source in every
        if source.owner.startswith("backends/")
        for number, word in hits(pattern, source.text)
    ]


def hits(pattern: re.Pattern[str], text: str) -> Iterator[tuple[int, str]]:
    """Line numbers and what was found there. Names of Ray's own switches (RAY_…) are Ray's choice, not ours."""
    for number, line in enumerate(text.splitlines(), 1):
        if found := pattern.search(re.sub(r"\bRAY_\w+", "", line)):
            yield number, found[0]


RULES = (
    against_the_direction,
    ray_outside_serve,
    engines_at_the_top,
    vendors_outside_their_folder,
    tasks_and_models_in_backends,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_code_keeps_to_the_picture(rule):
    every = sources(ROOT)
    assert {"argosy.errors", "argosy_cpu", "argosy_echo"} <= {source.module for source in every}
    assert not (wrong := rule(every)), "\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (against_the_direction, "core/argosy/errors.py", "from .tasks import Task"),
        (against_the_direction, "core/argosy/model.py", "from argosy import registry"),
        (against_the_direction, "core/argosy/tasks.py", "from . import Model"),
        (against_the_direction, "core/argosy/fleet/file.py", "from ..plan import place"),
        (against_the_direction, "core/argosy/fleet/file.py", "def later():\n    from ..serve import control"),
        (against_the_direction, "core/argosy/api/openai.py", "from argosy.runtime import replica"),
        (against_the_direction, "core/argosy/plan/__init__.py", "from ..api import openai"),
        (
            against_the_direction,
            "core/argosy/plan/__init__.py",
            "import importlib\nimportlib.import_module('argosy.cli')",
        ),
        (against_the_direction, "core/argosy/api/openai.py", "import argosy_llm"),
        (against_the_direction, "core/argosy/api/openai.py", "import argosy.cellar"),
        (against_the_direction, "core/argosy/cellar.py", "from .errors import ArgosyError"),
        (against_the_direction, "plugins/llm/argosy_llm/chat.py", "from argosy.serve import control"),
        (against_the_direction, "plugins/llm/argosy_llm/chat.py", "import argosy_cpu"),
        (against_the_direction, "backends/cpu/argosy_cpu.py", "from argosy.registry import load"),
        (ray_outside_serve, "core/argosy/cli/__init__.py", "def up():\n    import ray"),
        (ray_outside_serve, "plugins/echo/argosy_echo.py", "from ray import serve"),
        (engines_at_the_top, "plugins/tts/argosy_tts/piper.py", "import onnxruntime"),
        (
            engines_at_the_top,
            "plugins/tts/argosy_tts/piper.py",
            "try:\n    from piper import x\nexcept ImportError: ...",
        ),
        (engines_at_the_top, "core/argosy/engines/torch.py", "class Torch:\n    import torch"),
        (vendors_outside_their_folder, "core/argosy/engines/torch.py", 'device = "cuda:0"'),
        (vendors_outside_their_folder, "backends/cpu/argosy_cpu.py", "# CUDA_VISIBLE_DEVICES"),
        (vendors_outside_their_folder, "backends/rocm/argosy_rocm.py", "NVIDIA = 0x10DE"),
        (vendors_outside_their_folder, "backends/rocm/argosy_rocm.py", "import cuda"),
        (tasks_and_models_in_backends, "backends/cpu/argosy_cpu.py", "if model == 'whisper': ..."),
    ],
)
def test_a_breach_is_found(rule, path, text, tmp_path):
    write(tmp_path, path, text)
    assert len(rule(sources(tmp_path))) == 1


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("core/argosy/model.py", "from . import tasks\nfrom .backend import Device\nfrom .errors import ArgosyError"),
        (
            "core/argosy/model.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .fleet.weights import Weights",
        ),
        ("core/argosy/serve/control.py", "import ray\nfrom ..api import openai\nfrom . import store"),
        (
            "core/argosy/cli/__init__.py",
            "from ..kube import render\nfrom ..serve import control\nfrom .. import __version__",
        ),
        ("core/argosy/engines/torch.py", "class Torch:\n    def load(self):\n        import torch"),
        ("plugins/llm/argosy_llm/__init__.py", "import argosy\nfrom argosy import tasks\nfrom .chat import Chat"),
        (
            "backends/cuda/argosy_cuda.py",
            "import argosy\ndef mask():\n    import pynvml\n    return 'CUDA_VISIBLE_DEVICES'",
        ),
        ("backends/cpu/argosy_cpu.py", "ENGINES = ('vllm',)\nPLATFORM = 'amd64'"),
        (
            "backends/rocm/argosy_rocm/__init__.py",
            'HIP = "cuda:0"\nMASKS = ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")',
        ),
        ("core/argosy/serve/flags.py", "SWITCH = 'RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES'"),
    ],
)
def test_what_the_picture_allows_is_let_through(path, text, tmp_path):
    for module in ("tasks", "errors", "backend", "serve/store", "api/openai"):
        write(tmp_path, f"core/argosy/{module}.py", "")
    write(tmp_path, path, text)
    assert [wrong for rule in RULES for wrong in rule(sources(tmp_path))] == []


def test_no_module_is_longer_than_400_lines():
    files = [
        path
        for folder in ("core", "backends", "plugins", "benchmarks", "tests")
        for path in ROOT.glob(f"{folder}/**/*.py")
    ]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines()) for path in files}
    assert lengths
    assert {path: length for path, length in lengths.items() if length > MAX_LINES} == {}


def test_importing_the_lower_rooms_and_the_plugins_loads_no_engine_and_no_ray():
    top = LEVEL["runtime"]
    modules = [source.module for source in sources(ROOT) if LEVEL.get(source.room, 0) <= top]
    script = (
        "import importlib, sys\n"
        f"for module in {modules!r}: importlib.import_module(module)\n"
        f"print(*sorted({{'ray', *{INSIDE_FUNCTIONS!r}}} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def write(root: Path, path: str, text: str) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, "utf-8")
