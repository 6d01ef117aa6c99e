"""A fleet on a Ray cluster that others started, without HAProxy: brought by jobs, with a plugin from outside."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from conftest import Running, body, free_port
from test_fleet_kills import eventually

from argosy.serve.flags import Ports

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(600)]

BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Others:
    """A Ray cluster that knows nothing of us: its address, its dashboard, and the environment of whoever may use it."""

    supervisor: psutil.Process
    address: str
    dashboard: str
    environment: dict[str, str]
    folder: Path  # the working directory of its jobs
    fleet: Running

    def submit(self) -> str:
        """Run `argosy up` as a job, until it has ended. Returns what it wrote; AssertionError when it failed."""
        ray = [str(BIN / "ray"), "job", "submit", "--address", self.dashboard, "--working-dir", "."]
        done = subprocess.run(
            [*ray, "--", "python", "-m", "argosy", "up", "--detach", "fleet.yaml"],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    def write(self, **services: Any) -> None:
        fleet = {"version": 1, "name": "abroad", "endpoint": {"port": int(self.fleet.url.rpartition(":")[2])}}
        (self.folder / "fleet.yaml").write_text(yaml.safe_dump({**fleet, "services": services}, sort_keys=False))


WORDS = {"plugin": "words", "share": 0.2}
ECHO = {"plugin": "echo", "share": 0.3}


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Others]:
    """The cluster, with a plugin's project and a fleet file beside it in the folder that jobs are submitted from."""
    base = tmp_path_factory.mktemp("jobs")
    temp = Path(tempfile.mkdtemp(prefix="aj", dir="/tmp"))  # Ray's sockets want a short path
    (base / "token").write_text("a-token-of-our-own-0123456789abcdef")
    ports = Ports.free()
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "ARGOSY_"))}
    environment = {
        **clean,
        "PATH": f"{BIN}:{clean['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(base / "token"),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # loopback only
        "RAY_USAGE_STATS_ENABLED": "0",
        "AUTOSCALER_METRIC_PORT": str(ports.autoscaler_metrics),
        "DASHBOARD_METRIC_PORT": str(ports.dashboard_metrics),
        "ARGOSY_STATE": str(base / "state"),
        "ARGOSY_CACHE": str(base / "cache"),
    }
    folder = base / "work"
    folder.mkdir()
    command = [str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=4", "--num-gpus=0", f"--temp-dir={temp}"]
    command += ["--node-ip-address=127.0.0.1", f"--port={ports.gcs}", "--dashboard-host=127.0.0.1"]
    command += [f"--dashboard-port={ports.dashboard}", f"--dashboard-agent-listen-port={ports.agent}"]
    command += [f"--dashboard-agent-grpc-port={ports.agent_grpc}", f"--metrics-export-port={ports.metrics}"]
    command += [f"--runtime-env-agent-port={ports.runtime_env}", f"--ray-client-server-port={ports.client}"]
    command += [f"--object-store-memory={100 * 2**20}", "--disable-usage-stats"]
    with (base / "ray.log").open("wb") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    address, dashboard = f"127.0.0.1:{ports.gcs}", f"http://127.0.0.1:{ports.dashboard}"
    fleet = Running(f"http://127.0.0.1:{free_port()}", folder / "fleet.yaml", "abroad", environment)
    try:
        found = Others(psutil.Process(head.pid), address, dashboard, environment, folder, fleet)
        found.write(words=WORDS, echo=ECHO)
        fleet.argosy("new", "words", "--dir", str(folder / "argosy-words"))
        bearer = {"authorization": f"Bearer {(base / 'token').read_text()}"}
        agents = f"{dashboard}/api/jobs/"
        eventually(lambda: httpx.get(agents, headers=bearer, trust_env=False).status_code == 200, 120, "a Ray head")
        yield found
    finally:
        mine = [one for one in psutil.process_iter() if belongs(one, str(temp), str(base / "state"))]
        for process in mine:
            process.kill()
        psutil.wait_procs(mine, timeout=10)
        head.wait(10)
        shutil.rmtree(temp, ignore_errors=True)


def belongs(process: psutil.Process, temp: str, state: str) -> bool:
    try:
        return temp in " ".join(process.cmdline()) or process.environ().get("ARGOSY_STATE") == state
    except psutil.Error:
        return False


@pytest.fixture(scope="module")
def brought(others: Others) -> str:
    """What the first job wrote; it has ended, and the fleet has not."""
    return others.submit()


def words(others: Others, text: str) -> Any:
    return body(httpx.post(f"{others.fleet.url}/words", json={"text": text}, timeout=60, trust_env=False))


def test_a_job_brings_a_fleet_with_a_plugin_that_is_not_installed_there(others: Others, brought: str) -> None:
    assert "words" not in {point.name for point in importlib.metadata.entry_points(group="argosy")}
    assert "plugin sent along: argosy_words-0.1.0-" in brought
    assert words(others, "five words in this sentence") == {"words": 5}
    assert body(httpx.post(f"{others.fleet.url}/echo", json={"text": "hello"}, trust_env=False)) == {"text": "hello"}


def test_without_haproxy_it_works_and_status_says_so(others: Others, brought: str) -> None:
    assert others.fleet.status()["haproxy"] is False
    assert others.fleet.status()["ready"] is True
    assert not [one for one in others.supervisor.children(recursive=True) if "haproxy" in one.name().lower()]
    shown = others.fleet.argosy("status", "--url", others.fleet.url).stdout
    assert "/words" in shown
    assert "/echo" in shown
    assert "Ray's Python proxy" in shown


def test_a_killed_replica_comes_back_with_its_plugin(others: Others, brought: str) -> None:
    (victim,) = others.fleet.pids("words")
    os.kill(victim, signal.SIGKILL)

    def again() -> bool:
        fresh = others.fleet.pids("words")
        return len(fresh) == 1 and fresh != [victim] and bool(others.fleet.status()["ready"])

    eventually(again, 120, "another replica, and it alone")
    assert words(others, "once more") == {"words": 2}


def test_shares_are_counted_where_ray_has_no_devices_of_ours(others: Others, brought: str) -> None:
    before = {name: others.fleet.pids(name) for name in ("words", "echo")}
    others.write(words=WORDS, echo=ECHO, big={"plugin": "echo", "share": 0.9})
    file = str(others.fleet.file)
    done = others.fleet.argosy("up", "--detach", "--address", others.address, file, check=False, timeout=300)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "wants a share of 0.9" in " ".join(done.stdout.split())
    status = others.fleet.status()["services"]
    assert (status["big"]["phase"], status["echo"]["share"], status["words"]["share"]) == ("pending", 0.3, 0.2)
    assert {name: others.fleet.pids(name) for name in before} == before


def test_a_second_job_with_a_new_version_restarts_that_plugin_alone(others: Others, brought: str) -> None:
    before = {name: others.fleet.pids(name) for name in ("words", "echo")}
    project = others.folder / "argosy-words"
    for file, old, new in (
        (project / "pyproject.toml", 'version = "0.1.0"', 'version = "0.2.0"'),
        (project / "argosy_words.py", "len(item.text.split())", "len(item.text)"),
    ):
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))
    others.write(words=WORDS, echo=ECHO)
    assert "plugin sent along: argosy_words-0.2.0-" in others.submit()
    assert words(others, "hello") == {"words": 5}
    assert others.fleet.pids("echo") == before["echo"]
    assert others.fleet.pids("words") not in ([], before["words"])


def test_down_takes_the_fleet_off_and_leaves_ray_alone(others: Others, brought: str) -> None:
    wrong = others.fleet.argosy("down", "--address", others.address, "--fleet", "another", check=False)
    assert wrong.returncode == 7
    assert "it runs the fleet abroad" in wrong.stderr
    replicas = [*others.fleet.pids("words"), *others.fleet.pids("echo")]
    done = others.fleet.argosy("down", "--address", others.address)
    assert f"took the fleet abroad off {others.address}; Ray runs on" in done.stdout
    eventually(lambda: not any(psutil.pid_exists(pid) for pid in replicas), 30, "the end of every replica")
    gone = others.fleet.argosy("status", "--url", others.fleet.url, check=False)
    assert gone.returncode == 7
    assert f"the endpoint {others.fleet.url}" in gone.stderr
    assert others.supervisor.is_running()
    # RAY_ADDRESS says the same as --address, and nothing to take off is no error.
    again = Running(
        others.fleet.url, others.fleet.file, "abroad", {**others.environment, "RAY_ADDRESS": others.address}
    )
    assert f"no fleet runs on {others.address}" in again.argosy("down").stdout


def test_an_address_where_no_ray_listens_is_told_at_once(others: Others) -> None:
    for address, said in ((f"127.0.0.1:{free_port()}", "refused"), (others.dashboard, "HOST:PORT of a Ray head")):
        done = others.fleet.argosy("down", "--address", address, check=False, timeout=60)
        assert done.returncode == 7
        assert said in done.stderr
        assert "Traceback" not in done.stderr
