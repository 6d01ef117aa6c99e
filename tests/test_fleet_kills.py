"""Kill -9: control, the gateway and a replica come back by themselves, and what was not killed does not notice."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import httpx
import psutil
import pytest
from conftest import Running, body

pytestmark = pytest.mark.fleet


def eventually(true: Callable[[], bool], seconds: float, what: str) -> float:
    """Seconds until it was true. AssertionError when it was not in time."""
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        try:
            if true():
                return time.monotonic() - started
        except (httpx.HTTPError, KeyError):  # the endpoint may be away for the moment
            pass
        time.sleep(0.05)
    raise AssertionError(f"{what} within {seconds} s")


def actor(fleet: Running, title: str) -> psutil.Process:
    """The process that Ray runs an actor in."""
    for process in fleet.processes():
        command = process.cmdline()
        if command and command[0].startswith(title):
            return process
    raise AssertionError(f"no process {title}")


def echoes(client: httpx.Client) -> bool:
    return client.post("/echo", json={"text": "hello"}).status_code == 200


def test_a_killed_replica_comes_back(fleet: Running, client: httpx.Client) -> None:
    (victim,) = fleet.pids("echo")
    others = {name: fleet.pids(name) for name in fleet.status()["services"] if name != "echo"}
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: fleet.pids("echo") not in ([], [victim]) and fleet.status()["ready"], 60, "a new replica")
    assert body(client.post("/echo", json={"text": "hello"})) == {"text": "hello"}
    assert {name: fleet.pids(name) for name in others} == others


def test_a_killed_control_comes_back_and_touches_no_replica(fleet: Running, client: httpx.Client) -> None:
    before = {name: fleet.pids(name) for name in fleet.status()["services"]}
    victim = actor(fleet, "ray::Control")
    failed = 0
    os.kill(victim.pid, signal.SIGKILL)
    until = time.monotonic() + 5
    while time.monotonic() < until:  # services own their prefixes, and the gateway keeps control's last word
        failed += not echoes(client)
        failed += client.post("/v1/embeddings", json={"model": "embeddings", "input": "hello"}).status_code != 200
    assert failed == 0

    def back() -> bool:
        return actor(fleet, "ray::Control").pid != victim.pid and fleet.status()["ready"]

    eventually(back, 60, "control, and every service Ready in its eyes")
    assert {name: fleet.pids(name) for name in before} == before
    done = fleet.argosy("up", "--detach", str(fleet.file))
    assert "nothing to do" in done.stdout


def test_a_killed_gateway_comes_back_and_no_service_notices(fleet: Running, client: httpx.Client) -> None:
    victim = actor(fleet, "ray::ServeReplica:argosy-gateway")
    os.kill(victim.pid, signal.SIGKILL)
    for _ in range(20):
        assert echoes(client)
    eventually(lambda: client.get("/v1/models").status_code == 200, 60, "the gateway")
    assert client.get("/health/ready").status_code == 200
