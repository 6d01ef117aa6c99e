"""Devices in Ray, on a cluster of two nodes that `argosy node` made: masks, shares, turns, guards, and who joins.

Each node has three made-up devices of two vendors beside its processor (`vendors.py`); all else is the real thing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import vendors
import yaml
from conftest import Running, body, free_port
from test_fleet_kills import eventually
from test_jobs import belongs

from argosy.serve.flags import Ports

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(300)]

IN_TIME = 2.0  # seconds from an overrun to its end


@dataclass(frozen=True)
class Cluster:
    head: str
    nodes: dict[str, subprocess.Popen[bytes]]
    environment: dict[str, str]
    fleet: Running

    def ask(self, service: str, mib: int = 0) -> dict[str, Any]:
        url = f"{self.fleet.url}/{service}"
        return dict(body(httpx.post(url, json={"mib": mib}, timeout=60, trust_env=False)))

    def up(self, services: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        endpoint = {"port": int(self.fleet.url.rpartition(":")[2])}
        document = {"version": 1, "name": "two", "endpoint": endpoint, "services": services}
        self.fleet.file.write_text(yaml.safe_dump(document, sort_keys=False))
        file = str(self.fleet.file)
        return self.fleet.argosy("up", "--detach", "--address", self.head, file, check=False, timeout=200)

    def node_argument(self, name: str) -> list[str]:
        """The command that runs in a node's process."""
        return psutil.Process(self.nodes[name].pid).children()[0].cmdline()


def own(ports: Ports) -> list[str]:
    """Ports that Ray would fix, for two nodes of one machine have to share them out."""
    return [
        f"--dashboard-agent-listen-port={ports.agent}",
        f"--dashboard-agent-grpc-port={ports.agent_grpc}",
        f"--metrics-export-port={ports.metrics}",
        f"--runtime-env-agent-port={ports.runtime_env}",
    ]


def until_it_runs(log: Path, node: subprocess.Popen[bytes]) -> None:
    def runs() -> bool:
        assert node.poll() is None, log.read_text()
        return "Ray runtime started" in log.read_text()

    eventually(runs, 120, f"a node that runs; {log}")


def slowly(device: str, share: float, seconds: float = 0.0, node: str = "one") -> dict[str, Any]:
    return {"plugin": "slowly", "node": node, "device": device, "share": share, "options": {"seconds": seconds}}


SERVICES = {
    # as the plan places them, the larger of two first; small is there first, and loads faster
    "small": slowly("orion", 0.2, 0.2),
    "large": slowly("orion", 0.7, 1.0),
    "left": slowly("nova:1", 0.5, 0.7),
    "right": slowly("nova:1", 0.5, 0.7),
    "third": slowly("nova:1", 0.1),
    "far": slowly("nova:0", 1.0, node="two"),
    "hog": {"plugin": "slowly", "node": "one", "device": "cpu", "memory": "400MiB"},
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    base = tmp_path_factory.mktemp("two")
    temp = Path(tempfile.mkdtemp(prefix="a2", dir="/tmp"))  # Ray's sockets want a short path
    (base / "token").write_text("a-token-of-our-own-0123456789abcdef")
    site = vendors.install(base)
    ports = Ports.free()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "ARGOSY_"))},
        "PYTHONPATH": str(site),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(base / "token"),
        "RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(free_port()),
        "AUTOSCALER_METRIC_PORT": str(ports.autoscaler_metrics),
        "DASHBOARD_METRIC_PORT": str(ports.dashboard_metrics),
        "ARGOSY_STATE": str(base / "state"),
        "ARGOSY_CACHE": str(base / "cache"),
    }
    # Addresses of loopback, which Ray takes for two machines'; 127.0.0.1 it would take for this one's own.
    head = f"127.0.0.2:{ports.gcs}"
    roles = {
        "one": [
            *("--head", "--listen", "127.0.0.2", "--port", str(ports.gcs), "--", f"--temp-dir={temp}"),
            *("--num-cpus=4", "--include-dashboard=false", f"--ray-client-server-port={ports.client}", *own(ports)),
        ],
        "two": ["--address", head, "--listen", "127.0.0.3", "--", "--num-cpus=4", *own(Ports.free())],
    }
    nodes: dict[str, subprocess.Popen[bytes]] = {}
    fleet = Running(f"http://127.0.0.1:{free_port()}", base / "fleet.yaml", "two", environment)
    try:
        for name, role in roles.items():
            command = [sys.executable, "-m", "argosy", "node", "--name", name, "--no-haproxy", *role]
            with (base / f"{name}.log").open("wb") as log:
                nodes[name] = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            until_it_runs(base / f"{name}.log", nodes[name])
        yield Cluster(head, nodes, environment, fleet)
    finally:
        for process in nodes.values():
            process.terminate()
        for process in nodes.values():
            process.wait(30)
        left = [one for one in psutil.process_iter() if belongs(one, str(temp), str(base / "state"))]
        for one in left:
            one.kill()
        psutil.wait_procs(left, timeout=10)
        shutil.rmtree(temp, ignore_errors=True)


@pytest.fixture(scope="module")
def placed(cluster: Cluster) -> dict[str, Any]:
    """The status of the fleet once every service is Ready or known not to become it."""
    done = cluster.up(SERVICES)
    status = cluster.fleet.status()
    assert done.returncode == 1, done.stdout + done.stderr
    phases = {name: one["phase"] for name, one in status["services"].items()}
    assert phases == {**dict.fromkeys(SERVICES, "ready"), "third": "pending"}, done.stdout + done.stderr
    return status


def test_a_further_machine_joins_with_its_devices(cluster: Cluster, placed: dict[str, Any]) -> None:
    assert {name: [one["backend"] for one in devices] for name, devices in placed["nodes"].items()} == {
        name: ["nova", "orion", "nova", "cpu"] for name in ("one", "two")
    }
    assert "--labels=argosy.io/node=two,argosy.io/backend=cpu.nova.orion" in cluster.node_argument("two")
    assert placed["services"]["far"]["node"] == "two"
    assert cluster.ask("far")["masks"] == {"SEEN_BY_NOVA": "nova-1"}


def test_a_replica_gets_exactly_the_planned_device_and_ray_masks_nothing(
    cluster: Cluster, placed: dict[str, Any]
) -> None:
    masks = {name: cluster.ask(name)["masks"] for name in ("small", "large", "left", "right", "hog")}
    assert masks == {
        "small": {"SEEN_BY_ORION": "orion-2"},
        "large": {"SEEN_BY_ORION": "orion-2"},
        "left": {"SEEN_BY_NOVA": "nova-3"},
        "right": {"SEEN_BY_NOVA": "nova-3"},
        "hog": {},
    }
    assert {name: placed["services"][name]["index"] for name in masks} == {
        "small": 1, "large": 1, "left": 2, "right": 2, "hog": 3,
    }  # fmt: skip


def test_two_halves_fit_and_a_tenth_more_does_not(placed: dict[str, Any]) -> None:
    third = placed["services"]["third"]
    assert third["phase"] == "pending"
    assert "wants a share of 0.1" in third["reason"]


def test_engines_on_one_device_load_one_at_a_time_the_largest_first(cluster: Cluster, placed: dict[str, Any]) -> None:
    large, small = cluster.ask("large"), cluster.ask("small")
    assert large["ended"] <= small["began"]
    left, right = sorted((cluster.ask(name) for name in ("left", "right")), key=lambda one: one["began"])
    assert left["ended"] <= right["began"]


RAY = """
import sys, ray
from ray.exceptions import GetTimeoutError
ray.init(address=sys.argv[1], logging_level="ERROR", namespace="stranger")
@ray.remote(num_cpus=0, resources={"argosy-device-2": 0.1}, label_selector={"argosy.io/node": "one"})
def tenth(): return "in"
@ray.remote(num_cpus=0, resources={"argosy-device-1": 0.1}, label_selector={"argosy.io/node": "one"})
def left_over(): return "in"
wanted = tenth.remote()
print(ray.get(left_over.remote(), timeout=30), flush=True)
print(ray.wait([wanted], timeout=1)[0] or "waits", flush=True)
free = next(n for n in ray.nodes() if n["Labels"].get("argosy.io/node") == "one")["Resources"]
print(free["argosy-device-2"], free.get("GPU"), flush=True)
sys.stdin.readline()
print(ray.get(wanted, timeout=30), flush=True)
"""


def test_ray_itself_keeps_the_shares_and_a_dead_replica_s_lease_returns(
    cluster: Cluster, placed: dict[str, Any]
) -> None:
    stranger = subprocess.Popen(
        [sys.executable, "-c", RAY, cluster.head],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=cluster.environment, text=True,
    )  # fmt: skip
    try:
        assert stranger.stdout
        assert stranger.stdout.readline() == "in\n", "a tenth is left of orion 2"
        assert stranger.stdout.readline() == "waits\n", "nothing is left of nova 3"
        assert stranger.stdout.readline() == "1.0 None\n"
        before = cluster.ask("left")["pid"]
        os.kill(before, signal.SIGKILL)
        out, _ = stranger.communicate("now\n", timeout=60)
        assert out == "in\n", "what the dead replica held was free for a moment"
    finally:
        stranger.kill()
        stranger.communicate()
    eventually(lambda: cluster.ask("left")["pid"] != before, 60, "its successor, with the same share")
    assert cluster.ask("left")["masks"] == {"SEEN_BY_NOVA": "nova-3"}


def titled(cluster: Cluster, title: str) -> set[int]:
    """Process ids of the actors that Ray calls so."""
    found = set()
    for node in cluster.nodes.values():
        for one in psutil.Process(node.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # a zombie is one too
                if " ".join(one.cmdline()).startswith(title):
                    found.add(one.pid)
    return found


WATCHING = """
import sys, time
import ray
from argosy.serve.names import GUARD, NAMESPACE

ray.init(address=sys.argv[1], logging_level="ERROR", namespace=NAMESPACE)
end = time.monotonic() + 60
for node in ray.nodes():
    while True:
        try:
            report = ray.get(ray.get_actor(f"{GUARD}-{node['NodeID']}").report.remote())
            if report.held or report.counted:
                break
        except (ray.exceptions.RayError, ValueError):
            pass  # it starts again
        assert time.monotonic() < end, node
        time.sleep(0.1)
"""


def test_each_node_has_a_guard_that_comes_back_and_goes_on(cluster: Cluster, placed: dict[str, Any]) -> None:
    before = titled(cluster, "ray::Guard")
    assert len(before) == 2
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: len(titled(cluster, "ray::Guard") - before) == 2, 60, "two new guards")
    subprocess.run([sys.executable, "-c", WATCHING, cluster.head], env=cluster.environment, check=True, timeout=120)


def overrun(cluster: Cluster) -> None:
    """Let hog hold far more than its budget; its neighbour answers throughout, and hog's end comes in time."""
    victim = psutil.Process(cluster.ask("hog")["pid"])
    with httpx.Client(trust_env=False, timeout=30) as client:
        greed = subprocess.Popen(
            [sys.executable, "-c", "import sys, httpx; httpx.post(sys.argv[1], json={'mib': 700}, trust_env=False)",
             f"{cluster.fleet.url}/hog"], stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            since = time.monotonic()
            while victim.is_running() and victim.status() != psutil.STATUS_ZOMBIE:
                try:
                    if victim.memory_info().rss < 464 * 2**20:
                        since = time.monotonic()
                except psutil.NoSuchProcess:
                    break
                assert client.post(f"{cluster.fleet.url}/small", json={}).status_code == 200
                assert time.monotonic() - since < IN_TIME
        finally:
            greed.kill()
            greed.wait()


def test_who_holds_too_much_is_ended_in_time_comes_back_and_is_given_up_the_third_time(
    cluster: Cluster, placed: dict[str, Any]
) -> None:
    others = {name: cluster.fleet.pids(name) for name in ("small", "large", "right")}
    for control_dies in (True, False):
        eventually(lambda: cluster.fleet.status()["services"]["hog"]["phase"] == "ready", 60, "hog, Ready")
        if control_dies:  # the guard goes on without it, and tells the one that comes back
            os.kill(*titled(cluster, "ray::Control"), signal.SIGKILL)
        overrun(cluster)
        eventually(lambda: "ended" in cluster.fleet.status()["services"]["hog"]["event"], 60, "the reason in /fleet")
    hog = cluster.fleet.status()["services"]["hog"]
    assert "its budget is 0.39 GiB" in hog["event"]
    eventually(lambda: cluster.fleet.status()["services"]["hog"]["phase"] == "ready", 60, "hog, Ready")
    shown = cluster.fleet.argosy("status", "--url", cluster.fleet.url, check=False).stdout
    assert "its budget is 0.39 GiB" in " ".join(shown.split())
    overrun(cluster)
    eventually(lambda: cluster.fleet.status()["services"]["hog"]["phase"] == "failed", 30, "hog, given up")
    assert "ended 3 times in 10 minutes" in cluster.fleet.status()["services"]["hog"]["reason"]
    # One that comes while Ray Serve takes the application away waits for a replica in Ray's own proxy.
    hog_at = f"{cluster.fleet.url}/hog"
    eventually(
        lambda: httpx.post(hog_at, json={}, trust_env=False, timeout=3).status_code == 503, 60, "the gateway there"
    )
    assert {name: cluster.fleet.pids(name) for name in others} == others


def test_a_node_ends_as_it_is_told_and_leaves_nothing_behind(cluster: Cluster, placed: dict[str, Any]) -> None:
    family = [psutil.Process(cluster.nodes["two"].pid), *psutil.Process(cluster.nodes["two"].pid).children(True)]
    cluster.nodes["two"].send_signal(signal.SIGTERM)
    assert cluster.nodes["two"].wait(30) == 0
    _, left = psutil.wait_procs(family, timeout=5)
    assert left == []
    assert not list(Path("/tmp").glob(f"argosy-node-*/{cluster.nodes['two'].pid}"))
