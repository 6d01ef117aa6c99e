"""The workspace: one version, a lock that matches and names no address, wheels that hold what they should."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
MEMBERS = sorted(
    path.parent for pattern in ("core", "backends/*", "plugins/*") for path in ROOT.glob(f"{pattern}/pyproject.toml")
)
LOCKS = ("tools", "default", "dev", "engines")
# What the weight wheels' own metadata would drag in, and what is GPL only by choice. NVML's binding is plain Python.
UNWANTED = re.compile(
    r"torch|torch-.*|nvidia-(?!ml-py$).*|cuda-.*|triton|transformers|sentence-transformers|llama-cpp-python|llm"
)


def toml(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text("utf-8"))


def pins(name: str) -> dict[str, str]:
    """Distribution to version, as one lock has them. One version serves both Pythons."""
    found: dict[str, str] = {}
    for line in (ROOT / f"requirements/{name}.txt").read_text("utf-8").splitlines():
        if found_here := re.match(r"([a-z0-9.-]+)==(\S+)", line):
            assert found_here[1] not in found, f"{found_here[1]} is locked twice"
            found[found_here[1]] = found_here[2]
    return found


def declared(group: str) -> list[Requirement]:
    """What a group asks of the registry: its own requirements, and those of the members and extras it names."""
    projects = {
        toml(member / "pyproject.toml")["project"]["name"]: toml(member / "pyproject.toml")["project"]
        for member in MEMBERS
    }
    groups = toml(ROOT / "pyproject.toml")["dependency-groups"]
    outside: list[Requirement] = []
    done: set[tuple[str, str]] = set()

    def add(text: str) -> None:
        requirement = Requirement(text)
        project = projects.get(requirement.name)
        if project is None:
            outside.append(requirement)
            return
        for extra in ("", *requirement.extras):
            if (requirement.name, extra) not in done:
                done.add((requirement.name, extra))
                needed = project["optional-dependencies"][extra] if extra else project["dependencies"]
                for inner in needed:
                    add(inner)

    def collect(name: str) -> None:
        for item in groups[name]:
            if isinstance(item, Mapping):
                collect(item["include-group"])
            else:
                add(item)

    collect(group)
    return outside


@pytest.mark.parametrize("group", LOCKS)
def test_the_lock_fits_what_the_workspace_declares(group):
    locked = pins(group)
    wrong = [
        f"{requirement} (locked: {locked.get(canonicalize_name(requirement.name), 'no')})"
        for requirement in declared(group)
        if (version := locked.get(canonicalize_name(requirement.name))) is None
        or not requirement.specifier.contains(version)
    ]
    assert not wrong, f"run scripts/lock: {wrong}"


def test_the_tests_run_on_what_the_fleet_runs_on():
    default, dev = pins("default"), pins("dev")
    assert len(default) > 50
    assert {name: dev.get(name) for name in default} == default


def test_the_environment_is_what_the_lock_says():
    locked = {**pins("dev"), **pins("tools")}
    installed = {canonicalize_name(each.name): each.version for each in metadata.distributions()}
    differs = {
        name: (version, installed[name]) for name, version in locked.items() if installed.get(name, version) != version
    }
    assert differs == {}, "make dev brings the environment to the lock"


@pytest.mark.parametrize("name", ["tools", "default", "dev"])
def test_the_lock_has_no_torch_no_cuda_and_nothing_compiled_from_source(name):
    assert [package for package in pins(name) if UNWANTED.fullmatch(package)] == []


def test_the_heavy_engines_run_on_torch_s_cpu_build_and_on_nothing_for_gpus():
    found = {name: version for name, version in pins("engines").items() if UNWANTED.fullmatch(name)}
    assert found.pop("torch").endswith("+cpu")
    assert found.keys() == {"transformers", "sentence-transformers"}


@pytest.fixture
def run(tmp_path):
    """A script of this repository in a copy of it that has no .venv-engines, beside a registry without any torch."""
    for folder in ("scripts", "requirements", ".venv/bin", "registry/torch"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("scripts/environment", "scripts/test", "requirements/engines.txt"):
        shutil.copy(ROOT / file, tmp_path / file)
    (tmp_path / ".venv/bin/uv").symlink_to(uv())
    (tmp_path / ".venv/bin/pytest").symlink_to(Path(sys.prefix, "bin/pytest"))
    (tmp_path / "registry/torch/index.html").write_text("<html></html>", "utf-8")

    def run(script: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "ENGINES"))}
        registry = {"UV_DEFAULT_INDEX": (tmp_path / "registry").as_uri(), "UV_CACHE_DIR": str(tmp_path / "cache")}
        command = [tmp_path / "scripts" / script, *arguments]
        return subprocess.run(command, env={**clean, **registry, **more}, capture_output=True, text=True, check=False)

    return run


def test_a_machine_that_cannot_have_the_heavy_engines_is_told_why(run, tmp_path):
    wanted = "torch==2.13.0+cpu for Python 3.11 is not to be had: get that wheel"
    done = run("environment", "engines")
    assert (done.returncode, wanted in done.stderr) == (3, True), done.stderr
    assert run("environment", "engines", ENGINES="required").returncode == 1
    assert not (tmp_path / ".venv-engines").exists()
    skipped = run("test", "tests/test_engines_chat.py")
    assert skipped.returncode == 0
    assert f"SKIPPED tests/test_engines_*.py: no .venv-engines: {wanted}" in skipped.stdout
    assert run("test", "tests/test_engines_chat.py", ENGINES="required").returncode == 1
    (tmp_path / "registry/torch/index.html").unlink()
    assert run("environment", "engines").returncode == 3


def test_a_registry_that_does_not_answer_is_no_reason_to_skip_the_heavy_engines(run, tmp_path):
    nobody = {"UV_DEFAULT_INDEX": "http://127.0.0.1:1/simple", "UV_HTTP_RETRIES": "0"}
    for trouble, said in (
        (nobody, "Failed to fetch"),
        ({**nobody, "UV_OFFLINE": "1"}, "the network was disabled"),
        ({"UV_FIND_LINKS": str(tmp_path / "no-such-folder")}, "Failed to read `--find-links` directory"),
    ):
        done = run("environment", "engines", UV_CACHE_DIR=str(tmp_path / said[:8]), **trouble)
        assert (done.returncode, said in done.stderr) == (1, True), done.stderr
        assert not (tmp_path / ".venv/engines.missing").exists()


def test_the_whole_suite_fails_where_nobody_tried_to_make_the_heavy_engines(run, tmp_path):
    python = tmp_path / ".venv/bin/python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n', "utf-8")
    python.chmod(0o755)
    (tmp_path / "test_one.py").write_text("def test_one(): pass\n", "utf-8")
    done = run("test")
    assert "1 passed" in done.stdout
    assert (done.returncode, "run 'make engines' first" in done.stderr) == (1, True), done.stderr
    (tmp_path / ".venv/engines.missing").write_text("no such wheel\n", "utf-8")
    assert run("test").returncode == 0


def test_runtimes_that_hold_the_same_files_exclude_each_other():
    declared = toml(ROOT / "pyproject.toml")["tool"]["uv"]["conflicts"]
    excluded = {(one["package"], one["extra"]) for group in declared for one in group}
    for member in ROOT.glob("backends/*/pyproject.toml"):
        project = toml(member)["project"]
        runtime = project["optional-dependencies"]["runtime"]
        assert any(Requirement(text).name.startswith("onnxruntime") for text in runtime)
        assert (project["name"], "runtime") in excluded


def test_a_plain_environment_has_every_adapter_and_one_runtime():
    default = [Requirement(text) for text in toml(ROOT / "pyproject.toml")["dependency-groups"]["default"]]
    folders = {f"argosy-{path.parent.name}" for path in ROOT.glob("backends/*/pyproject.toml")}
    adapters = {each.name: each.extras for each in default if each.name in folders}
    assert {name: extras for name, extras in adapters.items() if extras} == {"argosy-cpu": {"runtime"}}
    assert set(adapters) == folders


def test_the_larger_whisper_weights_are_a_choice():
    whisper = toml(ROOT / "plugins/whisper/pyproject.toml")["project"]["optional-dependencies"]
    assert all(Requirement(text).name not in pins("dev") for text in whisper["weights-base"])


def test_nothing_that_is_always_installed_is_gpl():
    for member in MEMBERS:
        names = [Requirement(text).name for text in toml(member / "pyproject.toml")["project"]["dependencies"]]
        assert "piper-tts" not in names


@pytest.mark.parametrize("name", LOCKS)
def test_the_lock_names_no_address_and_every_pin_has_hashes(name):
    text = (ROOT / f"requirements/{name}.txt").read_text("utf-8")
    logical = [line for line in text.replace("\\\n", " ").splitlines() if not line.startswith("#")]
    assert logical
    for line in logical:
        # Nothing but a pin, its marker and its hashes: no option, path, host or direct reference.
        assert re.fullmatch(
            r"[a-z0-9.-]+==[A-Za-z0-9.+!]+( ; [\w\s.'<>=!()]+)?(\s+--hash=sha256:[0-9a-f]{64})+\s*", line
        ), line


def test_weights_come_without_what_their_packagers_used():
    table = {each["name"]: each for each in toml(ROOT / "pyproject.toml")["tool"]["uv"]["dependency-metadata"]}
    weights = [
        Requirement(text)
        for member in MEMBERS
        for extra, texts in toml(member / "pyproject.toml")["project"].get("optional-dependencies", {}).items()
        if extra.startswith("weights")
        for text in texts
    ]
    assert len({each.name for each in weights}) == len(table) == 7
    for requirement in weights:
        assert table[requirement.name]["requires-dist"] == []
        assert str(requirement.specifier) == f"=={table[requirement.name]['version']}"


def test_the_version_is_kept_in_one_place():
    import argosy

    versions = set()
    for member in MEMBERS:
        project = toml(member / "pyproject.toml")
        assert "version" not in project["project"]
        kept = (member / project["tool"]["hatch"]["version"]["path"]).resolve()
        assert kept == ROOT / "core/argosy/__init__.py"
        versions.add(metadata.version(project["project"]["name"]))
    assert versions == {argosy.__version__}


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.name)
def test_folder_distribution_module_and_entry_point_derive_from_each_other(member):
    project = toml(member / "pyproject.toml")["project"]
    assert project["requires-python"] == ">=3.11,<3.13"
    assert project["license"] == "Apache-2.0"
    if member.name == "core":
        assert project["scripts"] == {"argosy": "argosy.cli:main"}
        return
    name = member.name
    assert project["name"] == f"argosy-{name}"
    assert project["entry-points"]["argosy"] == {name: f"argosy_{name}"}
    points = {point.name: point.value for point in metadata.entry_points(group="argosy")}
    assert points[name] == f"argosy_{name}"
    assert (member / f"argosy_{name}.py").exists() != (member / f"argosy_{name}").is_dir()


def test_every_member_builds_a_wheel_of_its_own_module(tmp_path):
    subprocess.run([ROOT / "scripts/build", tmp_path], check=True, capture_output=True)
    wheels = {path.name.split("-")[0]: zipfile.ZipFile(path).namelist() for path in tmp_path.glob("*.whl")}
    assert len(wheels) == len(MEMBERS)
    for module, names in wheels.items():
        inside = {name for name in names if ".dist-info/" not in name}
        assert inside
        assert all(name == f"{module}.py" or name.startswith(f"{module}/") for name in inside), inside
        assert not any(name.endswith((".pyc", ".toml")) for name in inside)
    assert "argosy/py.typed" in wheels["argosy"]


def test_a_plugin_that_became_a_package_builds_with_its_data(tmp_path):
    member = tmp_path / "plugins/echo"
    (member / "argosy_echo").mkdir(parents=True)
    (member / "argosy_echo/__init__.py").write_text('"""A package."""\n', "utf-8")
    (member / "argosy_echo/labels.json").write_text("[]", "utf-8")
    (member / "notes.py").write_text("", "utf-8")
    shutil.copy(ROOT / "plugins/echo/pyproject.toml", member)
    (tmp_path / "core/argosy").mkdir(parents=True)
    shutil.copy(ROOT / "core/argosy/__init__.py", tmp_path / "core/argosy")
    build = [
        uv(),
        "build",
        "--quiet",
        "--offline",
        "--wheel",
        "--no-build-isolation",
        "--python",
        sys.executable,
        "--out-dir",
        tmp_path,
        member,
    ]
    subprocess.run(build, check=True, env={**os.environ, "VIRTUAL_ENV": sys.prefix})
    (wheel,) = tmp_path.glob("*.whl")
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert sorted(names) == ["argosy_echo/__init__.py", "argosy_echo/labels.json"]


def test_editable_members_are_found_by_their_folder_so_that_a_module_may_become_a_package():
    for member in MEMBERS:
        name = toml(member / "pyproject.toml")["project"]["name"].replace("-", "_")
        (pth,) = Path(metadata.distribution(name).locate_file("")).glob(f"*{name}.pth")
        assert Path(pth.read_text("utf-8").strip()) == member


def test_a_python_that_is_too_old_or_missing_is_refused_with_the_way_out(tmp_path):
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/environment", tmp_path / "scripts")
    old = tmp_path / "old-python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2 && exit 0\nexit 1\n', "utf-8")
    old.chmod(0o755)
    for python, sentence in (
        (old, "is Python 3.9.2: say make PYTHON=python3.12"),
        ("no-such-python", "install Python 3.11 or 3.12"),
    ):
        environment = {**os.environ, "PYTHON": str(python)}
        done = subprocess.run(
            [tmp_path / "scripts/environment", "default"], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert sentence in done.stderr
        assert not (tmp_path / ".venv").exists()


def test_make_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split()
    listed = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    assert re.findall(r"^  make (\w+)  +\S", listed, re.MULTILINE) == targets


def test_uv_lock_stays_out_of_git():
    done = subprocess.run(
        ["git", "ls-files", "uv.lock", ".venv", ".venv-engines", "dist"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == ""
    ignored = subprocess.run(["git", "check-ignore", "uv.lock"], cwd=ROOT, check=False, capture_output=True, text=True)
    assert ignored.stdout.strip() == "uv.lock"


def uv() -> str:
    found = Path(sys.prefix, "bin/uv")
    assert found.exists(), "make dev installs uv into .venv"
    return str(found)
