"""Argosy from its source tree, on a machine where nothing of it is installed."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
HOG = ("argosy-gpu-bench", {"hog": "benchmarks.gpu.hog"})
# What a replica without Ray imports: by us, and by the engine, which takes its time.
OURS = "argosy.cli.run_one argosy.api.service argosy.serve.door argosy.runtime.replica argosy.runtime.prometheus "
OURS += "argosy.runtime.watchdog argosy.fleet.weights uvicorn httpx"
ENGINE = "torch transformers tokenizers safetensors"
LOOK = """
import importlib, importlib.util, sys
ours, engine = (words.split() for words in sys.argv[1:])
for name in ours:
    try: importlib.import_module(name)
    except ModuleNotFoundError as error: print(error.name)
for name in engine:
    if importlib.util.find_spec(name) is None: print(name)
"""


def environment(folder: Path) -> dict[str, str]:
    """This process's environment with every distribution of the tree, and the hog, on the path. `folder` gets what an
    installer would have written: their names, their version and their entry points."""
    version = re.search(r'__version__ = "(.+)"', (ROOT / "core/argosy/__init__.py").read_text("utf-8"))
    assert version
    members = [ROOT / "core", *sorted(ROOT.glob("backends/*")), *sorted(ROOT.glob("plugins/*"))]
    found = [HOG]
    for member in members:
        project = tomllib.loads((member / "pyproject.toml").read_text("utf-8"))["project"]
        found.append((project["name"], project.get("entry-points", {}).get("argosy", {})))
    for name, points in found:
        info = folder / f"{name.replace('-', '_')}-{version[1]}.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version[1]}\n")
        lines = [f"{point} = {value}" for point, value in points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[argosy]", *lines, ""]))
    path = [str(folder), str(ROOT), *map(str, members), os.environ.get("PYTHONPATH", "")]
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("ARGOSY_", "RAY_"))},
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "ARGOSY_STATE": str(folder / "state"),
        "ARGOSY_CACHE": str(folder / "cache"),
        "PYTHONUNBUFFERED": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }


def missing(environ: dict[str, str]) -> tuple[list[str], list[str]]:
    """Modules that are not here and have to be carried along, as their imports name them; and, where there are some,
    the distributions that Argosy asks for and that are not here either: one missing import hides the next."""
    command = [sys.executable, "-c", LOOK, OURS, ENGINE]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"gpu-bench: argosy cannot be imported here:\n{done.stderr}")
    modules = sorted(set(done.stdout.split()))
    asked = (
        tomllib.loads((ROOT / "core/pyproject.toml").read_text("utf-8"))["project"]["dependencies"] if modules else []
    )
    names = [re.split(r"[<>=!~;\[ ]", one)[0] for one in asked]
    installed = {re.sub(r"[-_.]+", "-", one.name).lower() for one in importlib.metadata.distributions()}
    return modules, [name for name in names if name not in installed]
