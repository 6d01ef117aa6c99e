"""Tool environments: libraries that conversions need and that a serving process never imports.

Each is known by its requirements and lives below `tools/` in the weights cache, so that plugins which want the same
tools share them. It is made on demand by uv, or is an interpreter that the owner names.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from packaging.requirements import InvalidRequirement, Requirement

from ..errors import PluginError, WeightsError
from ..model import Model, Options

OWN = ("numpy>=2", "pluggy>=1.6", "pydantic>=2.11")  # what importing a plugin and argosy's contract needs
ASK_SECONDS = 60.0  # in which an interpreter says what it has; a slow disk takes some
VERSIONS = (
    "import importlib.metadata as m, json, re\n"
    "name = lambda d: re.sub('[-_.]+', '-', d.metadata['Name']).lower()\n"
    "print(json.dumps({name(d): d.version for d in m.distributions()}))"
)


@dataclass(frozen=True)
class Tools:
    """One tool environment, be it there or not."""

    requirements: tuple[str, ...]
    folder: Path

    @classmethod
    def of(cls, needs: Sequence[str], cache: Path) -> Tools:
        """Of whoever needs these requirements. PluginError where one of them is none."""
        for need in needs:
            try:
                Requirement(need)
            except InvalidRequirement as error:
                raise PluginError(f"a requirement in convert_needs: {error}", repr(need), "torch==2.13.0") from None
        wanted = tuple(sorted(needs))
        return cls(wanted, cache / "tools" / hashlib.sha256("\n".join(wanted).encode()).hexdigest()[:16])

    @property
    def python(self) -> Path | None:
        """Its interpreter; None where there is none yet, or none any more."""
        try:
            found = Path((self.folder / "interpreter").read_text("utf-8").strip())
        except OSError:
            found = self.folder / "venv/bin/python"
        return found if found.is_file() else None

    def install(self, tell: Callable[[str], None]) -> Path:
        """Make it, unless it is there; uv's own words go to standard error. Returns its interpreter.

        WeightsError where there is no uv, or where uv fails.
        """
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.folder}.lock"):
            if found := self.python:
                return found
            uv = _uv()
            fresh = self.folder.with_suffix(".new")
            shutil.rmtree(fresh, ignore_errors=True)
            tell(f"installing {' '.join(self.requirements)} into {self.folder}")
            python = fresh / "venv/bin/python"
            _run([uv, "venv", "--quiet", "--no-project", "--python", sys.executable, str(fresh / "venv")])
            _run([uv, "pip", "install", "--python", str(python), *self.requirements, *OWN])
            shutil.rmtree(self.folder, ignore_errors=True)
            fresh.rename(self.folder)
        assert self.python is not None
        return self.python

    def adopt(self, python: Path, tell: Callable[[str], None]) -> None:
        """Use another environment's interpreter from now on. What it has in other versions than asked for is told;
        WeightsError where it lacks something."""
        had = _versions(python)
        needs = [Requirement(text) for text in (*self.requirements, *OWN)]
        if missing := [str(need) for need in needs if _plain(need.name) not in had]:
            raise WeightsError(
                f"{' and '.join(missing)} for the interpreter {python}",
                "not installed there",
                f"uv pip install --python {python} {' '.join(missing)}",
            )
        for need in needs:
            if not need.specifier.contains(version := had[_plain(need.name)], prereleases=True):
                tell(f"{python} has {need.name} {version}, not {need.specifier}: taken all the same")
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        (self.folder / "interpreter").write_text(f"{python}\n", "utf-8")

    def convert(self, model: type[Model], source: Path, target: Path, options: Options, log: Path) -> None:
        """`model.convert` in a process of this environment; what it says goes to `log`.

        WeightsError with its last words where it fails. It ends with this process, and asks no model hub.
        """
        assert self.python is not None
        arguments = (model.__module__, model.__qualname__, str(source), str(target), options.model_dump_json())
        with tempfile.TemporaryDirectory() as code, log.open("wb") as words:
            for name in {"argosy", model.__module__.partition(".")[0]}:
                place = _place(name)
                (Path(code) / place.name).symlink_to(place)
            done = subprocess.Popen(
                [str(self.python), "-P", "-m", "argosy.convert", *arguments],
                env=_environment(Path(code)),
                stdin=subprocess.PIPE,  # closed when this process ends, however it ends
                stdout=words,
                stderr=subprocess.STDOUT,
            )
            with done:
                code_of = done.wait()
        if code_of:
            raise WeightsError(
                f"a conversion by {model.__name__}.convert()", _last(log) or f"exit code {code_of}", f"see {log}"
            )


def _environment(code: Path) -> Mapping[str, str]:
    """As here, but for the code: neither this environment's packages nor a network."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "VIRTUAL_ENV")}
    return {**kept, "PYTHONPATH": str(code), "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1"}


def _place(name: str) -> Path:
    """The file or folder of a top-level module that is loaded here."""
    file = Path(str(sys.modules[name].__file__))
    return (file.parent if file.stem == "__init__" else file).resolve()


def _last(log: Path) -> str:
    lines = [line.strip() for line in log.read_text("utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _uv() -> str:
    beside = Path(sys.executable).parent / "uv"
    found = str(beside) if beside.is_file() else shutil.which("uv")
    if found is None:
        raise WeightsError("uv, which makes tool environments", "none here", "pip install uv")
    return found


def _run(command: Sequence[str]) -> None:
    if done := subprocess.run(command, stdout=sys.stderr, check=False).returncode:
        raise WeightsError(
            f"{' '.join(command[:3])} to make a tool environment",
            f"exit code {done}; its words stand above",
            "mending that, or --tools PYTHON for an interpreter that has the libraries",
        )


def _versions(python: Path) -> Mapping[str, str]:
    """Distribution -> version of an environment."""
    try:
        done = subprocess.run(
            [str(python), "-c", VERSIONS], capture_output=True, text=True, check=True, timeout=ASK_SECONDS
        )
        found: Mapping[str, str] = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        wanted = f"the versions that the interpreter {python} has, within {ASK_SECONDS:g} s"
        raise WeightsError(wanted, "no answer", "--tools FOLDER/bin/python of one that starts") from None
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        raise WeightsError("an interpreter of Python", str(error), "--tools FOLDER/bin/python") from None
    return found


def _plain(name: str) -> str:
    from packaging.utils import canonicalize_name

    return canonicalize_name(name)
