"""docs/add-a-vendor.md is executed: a folder is copied, edited and installed, and a fleet is placed on its device."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from test_docs_write_a_model import blocks, commands

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/add-a-vendor.md"


def matches(wanted: str, found: str) -> bool:
    """`...` stands for anything, lines included."""
    return re.fullmatch(".*".join(map(re.escape, wanted.strip().split("..."))), found.strip(), re.DOTALL) is not None


def test_the_page_runs_as_it_stands_from_top_to_bottom(tmp_path):
    shutil.copytree(ROOT / "backends/cpu", tmp_path / "backends/cpu", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "core").symlink_to(ROOT / "core")  # which has the version that all distributions share
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PIP_TARGET": str(tmp_path / "site"),  # this environment stays as it is
        "PIP_NO_INDEX": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PYTHONPATH": str(tmp_path / "site"),
        "ARGOSY_STATE": str(tmp_path / "state"),
        "COLUMNS": "120",
    }

    def run(command: list[str], place: str, code: int = 0) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == code, f"{place}: {' '.join(command)}\n{done.stdout}{done.stderr}"
        return "\n".join(line.rstrip() for line in done.stdout.splitlines())

    ran = {"sh": 0, "python": 0, "yaml": 0, "console": 0}
    for block in blocks(PAGE):
        place = f"{PAGE.name}:{block.line}"
        ran[block.language] += 1
        if block.title:
            (tmp_path / block.title).write_text(block.text, "utf-8")
        elif block.language == "sh":
            run(["bash", "-euc", block.text], place)
        elif block.language == "console":
            for command, wanted, code in commands(block.text):
                program, *arguments = shlex.split(command)
                assert program == "argosy", place
                found = run([sys.executable, "-m", "argosy", *arguments], place, code)
                assert matches(wanted, found), f"{place}: {command}\n{found}"
    assert ran == {"sh": 6, "python": 2, "yaml": 1, "console": 4}
    assert not (ROOT / "backends/acme").exists()


def test_the_folder_that_is_copied_has_the_new_name_everywhere(tmp_path):
    """The page's first commands leave nothing of the processor's backend but its extra."""
    shutil.copytree(ROOT / "backends/cpu", tmp_path / "backends/cpu", ignore=shutil.ignore_patterns("__pycache__"))
    first = next(block for block in blocks(PAGE) if block.language == "sh")
    subprocess.run(["bash", "-euc", first.text], cwd=tmp_path, check=True)
    project = (tmp_path / "backends/acme/pyproject.toml").read_text()
    assert "cpu" not in project
    assert 'name = "argosy-acme"' in project
    assert 'acme = "argosy_acme"' in project
    assert sorted(path.name for path in (tmp_path / "backends/acme").iterdir()) == ["argosy_acme.py", "pyproject.toml"]
