"""`argosy plugins | new | check`: what an author of a plugin meets first."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from argosy.cli import app
from argosy.cli.scaffold import tasks

ROOT = Path(__file__).parent.parent


def argosy(*arguments: str, code: int = 0) -> str:
    """What the command prints on both streams, in this process."""
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, result.output
    return result.output


def test_help_is_there_at_once_and_loads_neither_engine_nor_numpy_nor_pydantic():
    script = (
        "import sys, time; began = time.process_time()\n"
        "from argosy.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'pydantic', 'ray', 'starlette', 'httpx', 'uvicorn', 'huggingface_hub'} & set(sys.modules)\n"
        "print('took', time.process_time() - began, *heavy)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()[
            -1
        ]
        for _ in range(3)
    ]
    assert [run.split()[2:] for run in runs] == [[], [], []]
    assert min(float(run.split()[1]) for run in runs) < 0.4  # seconds of processor time, whatever else runs here


def test_every_command_has_a_sentence_of_help():
    for command in ("plugins", "new", "check", "run-one", "dev", "init", "validate", "schema", "detect", "weights"):
        assert argosy(command, "--help").strip()


def test_plugins_lists_models_backends_and_engines_with_where_they_come_from():
    text = argosy("plugins")
    for words in (
        ("echo", "model", "json", "python", "argosy-echo", metadata.version("argosy-echo")),
        ("cpu", "backend", "this machine", "argosy-cpu"),
        ("openvino", "engine", metadata.version("openvino"), "argosy"),
        ("torch", "engine", "not installed here"),
    ):
        line = next(line for line in text.splitlines() if line.startswith(words[0] + " "))
        assert all(word in line for word in words), line


def test_plugins_as_json_says_the_same_to_programs():
    found = json.loads(argosy("plugins", "--json"))
    rows = {(row["kind"], row["name"]): row for row in found["plugins"]}
    assert rows["model", "echo"]["engines"] == ["python"]
    assert rows["model", "echo"]["distribution"] == "argosy-echo"
    assert rows["backend", "cpu"]["absent"] == ""
    assert rows["engine", "vllm"]["installed"] is None


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """An installed distribution whose module cannot be imported."""
    info = tmp_path / "argosy_crash-0.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: argosy-crash\nVersion: 0.3\n")
    (info / "entry_points.txt").write_text("[argosy]\ncrash = argosy_crash\n")
    (tmp_path / "argosy_crash.py").write_text("import json\njson.loads('{')\n")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("broken")
def test_a_broken_plugin_is_named_with_its_cause_and_leaves_the_others_alone():
    text = argosy("plugins")
    assert "broken: crash, from argosy-crash 0.3" in text
    assert "JSONDecodeError: Expecting property name" in text
    assert "argosy-echo" in text
    assert "Traceback" not in text
    assert 'argosy_crash.py", line 2' in argosy("plugins", "--verbose")
    (crash,) = (each for each in json.loads(argosy("plugins", "--json"))["broken"] if each["plugin"] == "crash")
    assert crash["why"].startswith("JSONDecodeError")


@pytest.mark.usefixtures("broken")
def test_strict_turns_a_broken_plugin_into_an_exit_code():
    assert "crash" in argosy("plugins", "--strict", code=3).splitlines()[-1]


@pytest.mark.parametrize("task", tasks())
def test_a_new_plugin_passes_its_check_as_it_is_and_is_short(task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    argosy("new", f"try-{task}", "--task", task)
    folder = tmp_path / f"argosy-try-{task}"
    module = folder / f"argosy_try_{task}.py"
    assert len(module.read_text().splitlines()) <= 40
    assert len((folder / "pyproject.toml").read_text().splitlines()) <= 12
    text = argosy("check", str(folder))
    assert text.count("✓") == 4
    assert "✗" not in text
    assert "–" not in text
    assert argosy("check", str(module)).count("✓") == 4


def test_the_tests_of_a_new_plugin_run_its_wheel_holds_its_module_and_ruff_is_content(tmp_path):
    folder = tmp_path / "argosy-tried"
    argosy("new", "tried", "--dir", str(folder))
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."]
    done = subprocess.run(tests, cwd=folder, capture_output=True, text=True, check=False)
    assert "2 passed" in done.stdout, done.stdout
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    subprocess.run(build, cwd=folder, capture_output=True, check=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert "argosy_tried.py" in archive.namelist()
        points = archive.read("argosy_tried-0.1.0.dist-info/entry_points.txt").decode()
    assert points.split() == ["[argosy]", "tried", "=", "argosy_tried"]
    ruff = [
        Path(sys.executable).with_name("ruff"),
        "check",
        "--isolated",
        "--line-length=120",
        "--select=B,E,F,I,UP",
        "--no-cache",
    ]
    done = subprocess.run(ruff, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_new_plugin_names_the_version_that_it_is_written_for(tmp_path):
    argosy("new", "tried", "--dir", str(tmp_path / "tried"))
    project = tomllib.loads((tmp_path / "tried/pyproject.toml").read_text())["project"]
    assert project["dependencies"] == [f"argosy>={metadata.version('argosy')}"]


@pytest.mark.parametrize("name", ["Sentiment", "9lives", "a_b", "a--b", "a-", "ä", "", "x" * 41, "../up"])
def test_a_name_that_cannot_be_one_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "a plugin's name of lower case letters" in argosy("new", "--", name, code=3)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_an_unknown_task_and_an_installed_name_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "a task: json, chat, embedding" in argosy("new", "mine", "--task", "vision", code=3)
    assert "a name that no installed model has" in argosy("new", "echo", code=3)
    (tmp_path / "argosy-mine").mkdir()
    assert "argosy new mine --dir ANOTHER" in argosy("new", "mine", code=1)


def test_check_takes_an_installed_model():
    assert argosy("check", "echo").count("✓") == 4


def test_check_says_what_is_installed_when_a_name_is_unknown():
    text = argosy("check", "ehco", code=1)
    assert "✗ the plugin loads: model 'ehco'; found: installed:" in text
    assert "echo" in text


MODULE = """
import argosy


class Bad(argosy.Model):
    \"\"\"A model for the check.\"\"\"

    name = "bad"
    task = argosy.tasks.embedding
    engines = ("python",)
    needs_weights = False

    def load(self, weights, engine, device):
        pass

    def predict(self, batch):
        return [argosy.tasks.Embedding(__import__("numpy").ones(3)) for text in batch]


@argosy.hookimpl
def argosy_models():
    return [Bad]
"""


@pytest.mark.parametrize(
    ("found", "instead", "sentence"),
    [
        ("import argosy\n", "import argosy\nimport nothing_like_it\n", "argosy_bad.py:3: ModuleNotFoundError"),
        ("class Bad", "clas Bad", "argosy_bad.py:5: invalid syntax"),
        ("return [Bad]", "return []", "no hook answered"),
        ("def argosy_models", "def argosy_modles", "unknown hook 'argosy_modles'"),
        ('("python",)', "()", "bad to name its engines"),
        ('("python",)', '("pyhton",)', "'pyhton' is an engine; there are"),
        ("def predict", "def answer", "has to define one of predict(batch) and generate(request, ctx)"),
        ("        pass", "        raise OSError('no such file')", "OSError: no such file"),
        ("for text in batch]", "for text in batch[1:]]", "answer"),
        ('name = "bad"', 'name = "Very Bad"', "name is in lower case, like-this"),
    ],
)
def test_what_breaks_the_contract_is_told_in_a_sentence_and_fails(found, instead, sentence, tmp_path):
    assert found in MODULE
    module = tmp_path / "argosy_bad.py"
    module.write_text(MODULE.replace(found, instead, 1))
    text = argosy("check", str(module), code=1)
    assert "✗" in text
    assert sentence in text
    assert "Traceback" not in text


def test_a_folder_that_is_no_plugin_says_what_is_missing(tmp_path):
    assert "a plugin's pyproject.toml" in argosy("check", str(tmp_path), code=1)
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert "an entry point in the group `argosy`" in argosy("check", str(tmp_path), code=1)
    assert "no such file" in argosy("check", str(tmp_path / "argosy_none.py"), code=1)


def test_debug_shows_the_traceback_and_without_it_there_is_none(monkeypatch):
    command = [sys.executable, "-c", "from argosy.cli import main; main()"]
    plain = subprocess.run([*command, "new", "Bad"], capture_output=True, text=True, check=False)
    assert plain.returncode == 3
    assert len(plain.stderr.splitlines()) == 1
    assert plain.stderr.startswith("argosy: a plugin's name")
    debug = subprocess.run([*command, "--debug", "new", "Bad"], capture_output=True, text=True, check=False)
    assert "Traceback" in debug.stderr
    monkeypatch.setenv("ARGOSY_DEBUG", "1")
    debug = subprocess.run([*command, "new", "Bad"], capture_output=True, text=True, check=False)
    assert "Traceback" in debug.stderr
