"""`scripts/gpu-bench` up to where it needs a GPU: from the bare source tree, without anything installed of it."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from conftest import ROOT

from benchmarks.gpu import carried
from benchmarks.gpu.report import Report

TORCH = """__version__ = "2.99"
class version: cuda = None
class cuda: is_available = staticmethod(lambda: False)
"""


def run(tmp_path: Path, **modules: str) -> subprocess.CompletedProcess[str]:
    """gpu-bench with these modules in place of what is installed."""
    for name, text in modules.items():
        (tmp_path / f"{name}.py").write_text(text)
    return subprocess.run(
        [ROOT / "scripts/gpu-bench", "--out", tmp_path / "out"],
        env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_without_a_gpu_it_says_so_and_runs_nothing(tmp_path: Path) -> None:
    done = run(tmp_path, torch=TORCH, transformers="")
    assert done.returncode == 4, done.stdout + done.stderr
    assert "wanted an NVIDIA GPU; found torch 2.99 (built without CUDA), which sees none" in done.stderr
    assert not (tmp_path / "out/report.md").exists()


def test_modules_that_are_missing_are_named_with_how_to_carry_them(tmp_path: Path) -> None:
    absent = "raise ModuleNotFoundError(f'No module named {__name__!r}', name=__name__)"
    done = run(tmp_path, torch=TORCH, transformers="", httpx=absent, uvicorn=absent)
    assert done.returncode == 3
    assert "found no httpx, uvicorn;" in done.stderr
    assert "pip install --no-index" in done.stderr


def test_the_source_tree_alone_is_enough(tmp_path: Path) -> None:
    """No site-packages of ours: every distribution is found by its entry points, from its folder."""
    environ = carried.environment(tmp_path)
    script = (
        "import importlib.metadata as m, sys\n"
        "sys.path[:] = [one for one in sys.path if 'site-packages' not in one]\n"
        "print(*sorted(point.name for point in m.entry_points(group='argosy')), m.version('argosy'))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True)
    *points, version = done.stdout.split()
    assert {"cpu", "cuda", "embeddings", "hog", "rocm", "whisper", "xpu"} <= set(points)
    assert version == "0.1.0"


def test_one_missing_module_hides_none_of_the_next(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here = [one for one in metadata.distributions() if one.name not in ("rich", "prometheus_client")]
    monkeypatch.setattr(metadata, "distributions", lambda: here)
    (tmp_path / "uvicorn.py").write_text("raise ModuleNotFoundError('gone', name=__name__)")
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    modules, distributions = carried.missing(environ)
    assert "uvicorn" in modules
    assert {"prometheus-client", "rich"} <= set(distributions)
    assert "numpy" not in distributions


def test_a_bar_that_a_device_cannot_decide_is_neither_met_nor_missed() -> None:
    report = Report(device="cpu", machine={})
    report.bar("speed", "0.9", "0.5", None)
    assert not report.met, "nothing was decided"
    report.bar("proof", "ready", "ready", True)
    assert report.met
    report.bar("watchdog", "2 s", "3 s", False)
    assert not report.met
    page = report.page()
    assert "| speed | 0.9 | 0.5 | not decided here |" in page
    assert "| watchdog | 2 s | 3 s | **missed** |" in page
    assert "A dry run on the processor" in page


def test_it_explains_itself() -> None:
    environ = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(
        [ROOT / "scripts/gpu-bench", "--help"], env=environ, capture_output=True, text=True, check=True
    )
    assert "--device" in done.stdout
