"""A dry run of `scripts/gpu-bench`: two replicas on torch without Ray, the watchdog between them, and a report."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = [pytest.mark.engines, pytest.mark.long, pytest.mark.timeout(600)]


def test_everything_that_needs_no_gpu_holds_on_the_processor(tmp_path: Path) -> None:
    assert importlib.util.find_spec("ray") is None, "without Ray is what it is about"
    done = subprocess.run(
        [ROOT / "scripts/gpu-bench", *("--device", "cpu", "--out", tmp_path / "out"),
         *("--seconds", "0.3", "--rounds", "1", "--batch", "8", "--length", "20")],
        env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert {bar["name"]: bar["met"] for bar in report["bars"]} == {
        "a usable cpu device is detected": True,
        "the machine's tree is recorded": True,
        "texts proves its device": True,
        "hog proves its device": True,
        "embeddings beside bare torch, at equal batch": None,
        "over-allocation through torch": None,
        "over-allocation past torch": True,
        "the neighbour answers throughout": True,
    }
    assert report["met"]
    assert report["notes"]["texts_per_second"][0]["served"] > 0
    assert (tmp_path / "out/report.md").read_text() in done.stdout
    assert (tmp_path / "out/tree.tar.gz").exists()
