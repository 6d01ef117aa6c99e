"""One fleet for the whole test run: the default one and the no-op, started by the command itself."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest
import yaml

if TYPE_CHECKING:
    from hub import Client, Hub

ROOT = Path(__file__).parent.parent

# These need .venv-engines: scripts/test names them there, and what is named is collected all the same.
collect_ignore_glob = ["test_engines_*.py"]


def pytest_configure(config: pytest.Config) -> None:
    """Where the tests were started in the background, Ctrl-C is ignored, and would be by all they start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Running:
    """A fleet that runs: its address, its file, and the environment in which `argosy` finds it."""

    url: str
    file: Path
    name: str
    environment: dict[str, str]

    def argosy(self, *arguments: str, check: bool = True, timeout: float = 180) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "argosy", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"argosy {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def status(self) -> dict[str, Any]:
        return dict(httpx.get(f"{self.url}/fleet", timeout=30, trust_env=False).json())

    def pids(self, service: str) -> list[int]:
        """Process ids of a service's replicas."""
        return [report["pid"] for report in self.status()["services"][service]["running"]]

    def processes(self) -> list[psutil.Process]:
        """Every process of this fleet's cluster."""
        from argosy.serve import cluster
        from argosy.serve.home import Home

        found = cluster.running(Home.of(Path(self.environment["ARGOSY_STATE"]), self.name))
        return list(cluster.processes(found)) if found else []


def start(folder: Path, fleet: dict[str, Any], *options: str, timeout: float = 280) -> Running:
    """Start a fleet with state, port and file of its own below `folder`. AssertionError with its words otherwise."""
    port = free_port()
    fleet = {**fleet, "endpoint": {"port": port}}
    file = folder / "fleet.yaml"
    file.write_text(yaml.safe_dump(fleet, sort_keys=False))
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "ARGOSY_"))}
    environment = {**clean, "ARGOSY_STATE": str(folder / "state"), "ARGOSY_CACHE": str(folder / "cache")}
    running = Running(f"http://127.0.0.1:{port}", file, fleet.get("name", "default"), environment)
    try:
        running.argosy("up", "--detach", *options, str(file), timeout=timeout)
    except BaseException:
        stop(running)
        raise
    return running


def stop(running: Running) -> None:
    running.argosy("down", check=False)
    left = running.processes()
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=10)


def default_fleet() -> dict[str, Any]:
    """The services of the default fleet file, the no-op, and `narrow`: a transcription that hardly lets anybody in."""
    fleet: dict[str, Any] = yaml.safe_load((ROOT / "examples/default/fleet.yaml").read_text())
    fleet["services"]["echo"] = {"plugin": "echo", "share": 0.02}
    bounds = {"queue": 1, "timeout": 5, "cores": 1}
    fleet["services"]["narrow"] = {**fleet["services"]["whisper"], "share": 0.05, **bounds}
    return fleet


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = start(tmp_path_factory.mktemp("fleet"), {**default_fleet(), "name": "tests", "logs": "json"})
    try:
        yield running
    finally:
        stop(running)


@pytest.fixture
def client(fleet: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=fleet.url, timeout=120, trust_env=False) as http:
        yield http


def body(response: httpx.Response) -> Any:
    """The JSON of a response that has to be one. AssertionError with its text otherwise."""
    assert response.status_code == 200, f"{response.status_code} {response.text}"
    return json.loads(response.text)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A model hub on loopback. No test sends it a token that this machine's user may have."""
    from hub import Hub

    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    with Hub() as one:
        yield one


@pytest.fixture
def hub_client(hub: Hub, tmp_path: Path) -> Client:
    from hub import Client

    return Client(hub, tmp_path / "cache")
