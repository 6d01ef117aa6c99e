"""docs/write-a-model.md is executed: its files are written, its commands run, its Python holds."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import argosy.testing
from argosy.engines import Python

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/write-a-model.md"


@dataclass(frozen=True)
class Block:
    """One fenced block: ` ```LANGUAGE title=FILE `."""

    line: int
    language: str
    title: str
    text: str


def blocks(page: Path = PAGE) -> list[Block]:
    text = page.read_text("utf-8")
    found = []
    for match in re.finditer(r"^```(\w+)(?: title=(\S+))?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        found.append(Block(text[: match.start()].count("\n") + 1, match[1], match[2] or "", match[3]))
    assert text.count("\n```") == 2 * len(found), "a fence that this test cannot read"
    return found


def commands(text: str) -> list[tuple[str, str, int]]:
    """(command, what it prints, exit code) of a console block. `...` stands for anything."""
    found = []
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        output, _, code = output.partition("[exit code ")
        found.append((command, output, int(code.strip("]\n") or 0)))
    return found


def matches(wanted: str, found: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in wanted.strip().split("..."))
    return re.fullmatch(pattern, found.strip()) is not None


def test_the_page_runs_as_it_stands_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path / "argosy-sentiment"), *sys.path])
    names = {"Python": Python, **{name: getattr(argosy.testing, name) for name in argosy.testing.__all__}}
    ran = {"python": 0, "yaml": 0, "console": 0}
    for block in blocks():
        where = f"{PAGE.name}:{block.line}"
        if block.title:
            (tmp_path / block.title).write_text(block.text, "utf-8")
        elif block.language == "python":
            exec(compile("\n" * block.line + block.text, str(PAGE), "exec"), names)
        if block.language == "console":
            for command, wanted, code in commands(block.text):
                program, *arguments = shlex.split(command)
                assert program == "argosy", where
                done = subprocess.run(
                    [sys.executable, "-m", "argosy", *arguments],
                    cwd=tmp_path,
                    capture_output=True,
                    text=True,
                    check=False,
                    env={**os.environ, "ARGOSY_CACHE": str(tmp_path / "cache")},
                )
                assert done.returncode == code, f"{where}: {command}\n{done.stdout}{done.stderr}"
                assert matches(wanted, done.stdout), f"{where}: {command}\n{done.stdout}"
        if block.language in ran:
            ran[block.language] += 1
    assert ran["python"] >= 6
    assert ran["yaml"] >= 2
    assert ran["console"] >= 5


@pytest.mark.parametrize("name", ["fleet.yaml", "near.yaml"])
def test_the_fleet_files_of_the_page_are_valid_for_its_models(name, tmp_path, monkeypatch):
    from argosy.cli.project import modules
    from argosy.fleet.file import check, read
    from argosy.registry import load

    monkeypatch.setattr(sys, "path", sys.path.copy())
    (tmp_path / "argosy-sentiment").mkdir()
    for block in blocks():
        if block.title:
            (tmp_path / block.title).write_text(block.text, "utf-8")
    extra = [
        pair
        for module in ("argosy-sentiment/argosy_sentiment.py", "argosy_nearness.py")
        for pair in modules(tmp_path / module)
    ]
    check(read(tmp_path / name), load(extra), tmp_path / name)


def test_the_engines_of_the_page_agree(tmp_path):
    """Both classes of the page answer, alone and in batches, on real weights."""
    for block in blocks():
        if block.title in ("argosy_nearness.py", "near.yaml"):
            (tmp_path / block.title).write_text(block.text, "utf-8")
    answers = []
    for engine in ("openvino", "onnxruntime"):
        file = tmp_path / f"{engine}.yaml"
        file.write_text(
            re.sub(r"    variants:.*", f"    engine: {engine}\n", (tmp_path / "near.yaml").read_text(), flags=re.S)
        )
        request = '{"one": "a man eats food", "other": "the stock market fell"}'
        done = subprocess.run(
            [sys.executable, "-m", "argosy", "run-one", "argosy_nearness.py", "-f", file.name, "--once", request],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert f"loading on {engine}," in done.stderr
        answers.append(float(re.search(r'"cosine":([-\d.e]+)', done.stdout)[1]))
    assert answers[0] == pytest.approx(answers[1], abs=0.02)
    assert answers[0] < 0.2
