"""The public interface is what `__all__` says, and importing it does nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import argosy

HEAVY = ("ray", "torch", "vllm", "openvino", "openvino_genai", "onnxruntime", "ctranslate2", "faster_whisper", "piper",
         "av", "huggingface_hub", "starlette", "typer", "rich")  # fmt: skip


def test_all_is_exact_and_sorted() -> None:
    (for_types,) = (node for node in ast.parse(Path(argosy.__file__).read_text()).body if isinstance(node, ast.If))
    declared = {alias.name for node in for_types.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(argosy.__all__) == declared | {"API"}, "what type checkers see is what is there"
    assert argosy.__all__ == sorted(argosy.__all__)
    assert set(argosy.__all__) <= set(dir(argosy))
    for name in argosy.__all__:
        assert getattr(argosy, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Replica'"):
        _ = argosy.Replica


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_importing_argosy_loads_no_ray_no_engine_and_no_server() -> None:
    assert run(f"import sys, argosy; print(sorted(set({HEAVY!r}) & set(sys.modules)))") == "[]"


def test_importing_the_runtime_and_the_testing_kit_loads_no_ray_and_no_engine() -> None:
    modules = "argosy.runtime.replica, argosy.runtime.prometheus, argosy.testing, argosy.testing.models"
    assert run(f"import sys, {modules}; print(sorted(set({HEAVY!r}) & set(sys.modules)))") == "[]"


def test_importing_has_no_effect() -> None:
    code = """
import logging, os, sys, threading
environ, handlers, path = dict(os.environ), list(logging.root.handlers), list(sys.path)
threads = threading.active_count()
import argosy, argosy.runtime.replica, argosy.runtime.logs, argosy.testing.models
assert dict(os.environ) == environ
assert logging.root.handlers == handlers
assert sys.path == path
assert threading.active_count() == threads
print(logging.getLogger("argosy").level)
"""
    assert run(code) == "0"
