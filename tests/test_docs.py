"""The documentation is true: README's commands run, links lead somewhere, tables hold what the code has."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from conftest import ROOT, Running
from test_rooms import LEVELS

from argosy import registry
from argosy.fleet import file
from argosy.fleet.schema import Service
from argosy.runtime import sampling
from argosy.runtime.meter import METRICS
from argosy.serve.status import Phase
from argosy.settings import PREFIX, Settings

README = ROOT / "README.md"
ARCHITECTURE, METRICS_PAGE, RUNNING = (ROOT / f"docs/{name}.md" for name in ("architecture", "metrics", "running"))
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]
IDS = [page.relative_to(ROOT).as_posix() for page in PAGES]

QUIETLY = "curl --noproxy '*' --fail-with-body --silent --show-error --max-time 120 "
NUMBER = r"-?\d+(?:\.\d+)?(?:e-?\d+)?"
README_PORT = "http://127.0.0.1:8000"


@dataclass(frozen=True)
class Fence:
    """A code block between fences: its language, its lines, and where it stands."""

    language: str
    text: str
    place: str


def fences(page: Path) -> Iterator[Fence]:
    language, found, start = "", [], 0
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        if not line.startswith("```"):
            found.append(line)
        elif start:
            yield Fence(language, "\n".join(found), f"{page.name}:{start}")
            start = 0
        else:
            language, found, start = line.removeprefix("```").strip(), [], number


def without_fences(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def code(page: Path) -> str:
    """Whatever a reader would type or read as code: fences, indented lines, spans."""
    text = page.read_text("utf-8")
    spans = re.findall(r"`([^`\n]+)`", without_fences(page))
    indented = re.findall(r"^ {4}(\S.*)$", text, re.MULTILINE)
    return "\n".join([*(fence.text for fence in fences(page)), *indented, *spans])


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", without_fences(page), re.MULTILINE)}


def rows(page: Path, heading: str) -> list[list[str]]:
    """The cells of the table whose first column is called so."""
    lines = page.read_text("utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    found = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def pattern(output: str) -> str:
    """What an answer has to match: `…` stands for anything, a number for any number."""
    pieces = re.split(rf"(…|{NUMBER})", output.strip())
    free = {True: r"[\s\S]*", False: NUMBER}
    return "".join(free[piece == "…"] if odd % 2 else re.escape(piece) for odd, piece in enumerate(pieces))


def test_an_answer_matches_its_documentation_up_to_numbers_and_ellipses() -> None:
    shown = '{"text":"Paris.","seconds":1.5,"vector":[0.1,-2e-05,…]}'
    assert re.fullmatch(pattern(shown), '{"text":"Paris.","seconds":12,"vector":[-0.3,0.25,1,2,3]}')
    assert not re.fullmatch(pattern(shown), '{"text":"Lyon.","seconds":1.5,"vector":[0.1,0.2,0.3]}')
    assert not re.fullmatch(pattern(shown), '{"text":"Paris.","seconds":"long","vector":[0.1,0.2,0.3]}')


@pytest.mark.fleet
def test_readme_s_requests_are_answered_as_it_shows(fleet: Running, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    blocks = [fence for fence in fences(README) if fence.language == "console"]
    services = set()
    for block in blocks:
        prompt, _, output = block.text.partition("\n")
        assert prompt.startswith("$ curl http://127.0.0.1:8000/"), f"{block.place}: {prompt}"
        services.add(prompt.removeprefix(f"$ curl {README_PORT}/").split("/")[0].split(" ")[0])
        command = prompt.removeprefix("$ ").replace(README_PORT, fleet.url)
        command = command.replace(
            "curl ", "curl --noproxy '*' --fail-with-body --silent --show-error --max-time 120 ", 1
        )
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{block.place}: {prompt}\n{done.stdout}{done.stderr}"
        assert re.fullmatch(pattern(output), done.stdout.strip()), f"{block.place}: {prompt}\n{done.stdout}"
    assert {"llm", "whisper", "tts", "embeddings", "reranker"} <= services


def test_readme_s_model_passes_the_contract(tmp_path: Path) -> None:
    (fence,) = [fence for fence in fences(README) if fence.language == "python"]
    module = tmp_path / "argosy_shout.py"
    module.write_text(fence.text)
    command = [sys.executable, "-m", "argosy", "check", str(module)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "shout on python: loads, answers its canary" in done.stdout


def test_fleet_files_that_pages_show_are_valid() -> None:
    installed = registry.load()
    shown = [
        fence for page in PAGES for fence in fences(page) if fence.language == "yaml" and "version: 1" in fence.text
    ]
    assert any(fence.place.startswith("README") for fence in shown)
    for fence in shown:
        path = Path(fence.place)
        fleet = file.parse(fence.text, path)
        if fence.place.startswith("README"):
            file.check(fleet, installed, path, text=fence.text)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_fences(page)):
        if target.startswith(("https://", "http://")):
            continue
        name, _, anchor = target.partition("#")
        other = (page.parent / name).resolve() if name else page
        assert other.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(other), f"{page.name} links to {target}: no such heading"


def test_the_index_lists_every_page_once() -> None:
    listed = re.findall(r"^\| \[[^\]]+\]\(([^)#]+)\)", (ROOT / "docs/index.md").read_text("utf-8"), re.MULTILINE)
    pages = [path.name for path in ROOT.glob("docs/*.md") if path.name != "index.md"]
    assert sorted(name for name in listed if "/" not in name) == sorted(pages)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_make_targets_that_pages_name_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = set(re.findall(r"^make ((?:[a-z]+ ?)+)", code(page), re.MULTILINE))
    assert {target for line in named for target in line.split()} <= targets


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_that_pages_name_exist(page: Path) -> None:
    from argosy.cli import app

    command = typer.main.get_command(app)
    named = set(re.findall(r"(?:^|/|-- |\$ )argosy ([a-z][a-z-]*)", code(page), re.MULTILINE))
    assert named <= set(command.commands)  # type: ignore[attr-defined]


def test_the_metrics_page_says_what_looking_at_memory_may_take() -> None:
    assert f"would take more than {sampling.COST * 100:g} % of a core" in " ".join(METRICS_PAGE.read_text().split())


def test_the_metrics_page_is_made_from_the_code() -> None:
    done = subprocess.run([sys.executable, "scripts/metrics", "--check"], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    listed = [(cells[0], cells[1], cells[2], cells[3]) for cells in rows(METRICS_PAGE, "metric")]
    tags = [", ".join(f"`{tag}`" for tag in ("service", *metric.tags)) for metric in METRICS]
    known = [(f"`{one.name}`", one.kind, tag, one.help) for one, tag in zip(METRICS, tags, strict=True)]
    assert listed == known


def test_the_rooms_of_the_architecture_are_those_that_the_tests_enforce() -> None:
    (fence,) = [fence for fence in fences(ARCHITECTURE) if fence.language == "levels"]
    assert [tuple(line.split()) for line in fence.text.splitlines()] == [tuple(level) for level in LEVELS]


def test_bounds_are_what_the_architecture_says() -> None:
    page = ARCHITECTURE.read_text("utf-8")
    bounds = {"body": "32 MiB", "depth": "64 levels", "timeout": "300 s", "queue": "256", "start_timeout": "900 s"}
    for name, shown in bounds.items():
        number, _, unit = shown.partition(" ")
        assert Service.model_fields[name].default == int(number) * (2**20 if unit == "MiB" else 1)
        assert re.search(rf"`{name}`, {shown}[ ;]", page)


def test_variables_and_states_are_those_of_the_code() -> None:
    variables = [cells[0].strip("`") for cells in rows(RUNNING, "variable")]
    assert sorted(variables) == sorted(f"{PREFIX}{name.upper()}" for name in Settings.model_fields)
    states = {cells[0].strip("`") for cells in rows(RUNNING, "state")}
    assert states == {str(phase) for phase in Phase} - {"leaving"}
