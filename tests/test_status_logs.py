"""What is asked of a running fleet: status, logs, config; and of two fleets on one machine, one of which dies."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import yaml
from conftest import Running, body, free_port
from test_fleet_kills import eventually

from argosy.cli.tail import tail
from argosy.serve import cluster as clusters
from argosy.serve.home import Cluster, Home

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(600)]


def home(fleet: Running) -> Home:
    return Home.of(Path(fleet.environment["ARGOSY_STATE"]), fleet.name)


def cluster(fleet: Running) -> Cluster:
    found = clusters.running(home(fleet))
    assert found is not None
    return found


def echo(fleet: Running, **headers: str) -> None:
    reply = httpx.post(f"{fleet.url}/echo", json={"text": "hello"}, headers=headers, timeout=60, trust_env=False)
    assert body(reply) == {"text": "hello"}


# status ---------------------------------------------------------------------------------------------------------------


def test_status_is_one_line_a_service_and_names_each_device_once(fleet: Running) -> None:
    shown = fleet.argosy("status").stdout
    status = fleet.status()
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 100, shown
    for name, service in status["services"].items():
        (line,) = [line for line in lines if line.startswith(f"/{name} ")]
        assert re.search(rf" ready +{service['engine']} +local/cpu:0 ", line), line
    (device,) = status["nodes"]["local"]
    assert shown.count(device["name"]) == 1
    assert f"local/cpu:0  {device['name']}" in shown


def test_status_of_a_fleet_elsewhere_is_asked_by_its_url(fleet: Running) -> None:
    elsewhere = {**fleet.environment, "ARGOSY_STATE": f"{fleet.environment['ARGOSY_STATE']}-of-another-machine"}
    stranger = Running(fleet.url, fleet.file, fleet.name, elsewhere)
    assert "/echo" in stranger.argosy("status", "--url", fleet.url).stdout
    bare = stranger.argosy("status", "--json", "--url", fleet.url.removeprefix("http://"))
    assert json.loads(bare.stdout)["services"].keys() == fleet.status()["services"].keys()
    nothing = stranger.argosy("status", check=False)
    assert nothing.returncode == 7
    assert "none on this machine" in nothing.stderr
    assert "--url" in nothing.stderr
    silent = stranger.argosy("status", "--url", f"127.0.0.1:{free_port()}", check=False)
    assert silent.returncode == 7
    assert "Connection refused" in silent.stderr
    other = stranger.argosy("status", "--url", cluster(fleet).dashboard, check=False)
    assert other.returncode == 7
    assert "Traceback" not in silent.stderr + other.stderr


# logs -----------------------------------------------------------------------------------------------------------------


def test_logs_are_json_lines_where_the_fleet_file_says_so(fleet: Running) -> None:
    for number in range(5):
        echo(fleet, **{"x-request-id": f"one-of-five-{number}"})
    lines = fleet.argosy("logs", "echo", "-n", "5").stdout.splitlines()
    assert [json.loads(line)["request"] for line in lines] == [f"one-of-five-{number}" for number in range(5)]
    assert {json.loads(line)["service"] for line in lines} == {"echo"}
    assert fleet.argosy("logs", "echo", "-n", "0").stdout == ""


def test_logs_of_nothing_list_what_there_is(fleet: Running) -> None:
    done = fleet.argosy("logs", "nothing", check=False)
    assert done.returncode == 7
    for name in (*fleet.status()["services"], "control", "gateway", "ray"):
        assert re.search(rf"logs: .*\b{name}\b", done.stderr), done.stderr


class Following:
    """`argosy logs SERVICE -f`, whose words are kept as they come."""

    def __init__(self, fleet: Running, service: str) -> None:
        self.said = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "argosy", "logs", service, "-f", "-n", "1"],
            env=fleet.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        while data := os.read(self.process.stdout.fileno(), 4096):
            self.said += data.decode()

    def says(self, text: str, act: Callable[[], None] = lambda: None) -> None:
        act()
        eventually(lambda: text in self.said, 60, text)

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(30)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join(5)
        assert self.process.stdout
        self.process.stdout.close()


def test_following_a_log_goes_on_over_its_renaming_and_ends_on_ctrl_c(fleet: Running) -> None:
    echo(fleet, **{"x-request-id": "before-anyone-follows"})
    following = Following(fleet, "echo")
    try:
        following.says("before-anyone-follows")
        following.says("followed-1", lambda: echo(fleet, **{"x-request-id": "followed-1"}))
        log = home(fleet).logs / "echo.log"
        os.replace(log, f"{log}.1")  # as the replica does when it has grown too long
        following.says("followed-2", lambda: echo(fleet, **{"x-request-id": "followed-2"}))
        following.says("followed-3", lambda: echo(fleet, **{"x-request-id": "followed-3"}))
        assert following.interrupt() == 0
    finally:
        following.close()
    assert "Traceback" not in following.said
    assert "Abort" not in following.said
    assert [json.loads(line)["request"] for line in following.said.splitlines()][-3:] == [
        f"followed-{number}" for number in (1, 2, 3)
    ]
    # What was written before the renaming counts among the last lines.
    assert "followed-1" in fleet.argosy("logs", "echo", "-n", "3").stdout


def test_no_line_is_lost_between_a_log_and_the_one_that_follows_it(tmp_path: Path) -> None:
    log = tmp_path / "service.log"
    log.write_text("".join(f"{number}\n" for number in range(10)))
    following = tail(log, 3, True)
    assert [next(following) for _ in range(3)] == ["7\n", "8\n", "9\n"]
    with log.open("a") as old:
        os.replace(log, f"{log}.1")
        log.write_text("11\n")
        old.write("10\n")
    said = ""
    while "11\n" not in said:
        said += next(following)
    assert said == "10\n11\n"
    following.close()  # type: ignore[attr-defined]
    assert list(tail(log, 3, False)) == ["9\n", "10\n", "11\n"]


# config and Ray's token -----------------------------------------------------------------------------------------------


def test_config_prints_the_fleet_file_as_it_was_applied(fleet: Running) -> None:
    done = fleet.argosy("config")
    assert yaml.safe_load(done.stdout) == yaml.safe_load(fleet.file.read_text())
    for place in (str(home(fleet).path), fleet.environment["ARGOSY_CACHE"], fleet.url, cluster(fleet).dashboard):
        assert place in done.stderr


def test_the_dashboard_wants_the_token_that_config_prints(fleet: Running) -> None:
    (token,) = fleet.argosy("config", "--token").stdout.split()
    version = f"{cluster(fleet).dashboard}/api/version"
    assert httpx.get(version, trust_env=False).status_code == 401
    wrong = {"authorization": f"Bearer {token[::-1]}"}
    assert httpx.get(version, headers=wrong, trust_env=False).status_code in (401, 403)
    right = {"authorization": f"Bearer {token}"}
    assert body(httpx.get(version, headers=right, trust_env=False))["ray_version"]


def environment(process: psutil.Process) -> dict[str, str]:
    """What it was started with. A long title is written over it; such a process has what its parent has."""
    found = process.environ()
    parent = process.parent()
    return found if found or parent is None else environment(parent)


def test_every_process_of_the_fleet_is_told_how_ray_authenticates(fleet: Running) -> None:
    modes = {}
    for process in fleet.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            modes[" ".join(process.cmdline())[:80]] = environment(process).get("RAY_AUTH_MODE")
    assert len(modes) > 10
    assert set(modes.values()) == {"token"}, modes


DRIVER = "import ray; ray.init('{address}'); print('joined with', len(ray.nodes()), 'nodes')"


def test_a_driver_without_the_token_is_refused(fleet: Running) -> None:
    found = cluster(fleet)
    loopback = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # without it Ray would look at another address of this machine
    drivers = [
        subprocess.Popen(
            [sys.executable, "-c", DRIVER.format(address=found.address)],
            env={**fleet.environment, loopback: found.environment[loopback], "RAY_AUTH_MODE": mode, **token},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for mode, token in (("disabled", {}), ("token", {"RAY_AUTH_TOKEN": "not-the-token-of-this-fleet" * 2}))
    ]
    for driver in drivers:
        said, _ = driver.communicate(timeout=180)
        assert driver.returncode != 0
        assert "joined" not in said
        assert re.search("unauthenticated|token", said, re.IGNORECASE), said[-2000:]


# two fleets -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def second(fleet: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Another fleet of the same user on the same machine: the no-op alone, no dashboard, logs as text."""
    port = free_port()
    file = tmp_path_factory.mktemp("second") / "fleet.yaml"
    text = {"version": 1, "name": "second", "endpoint": {"port": port}, "logs": "text"}
    file.write_text(yaml.safe_dump({**text, "services": {"echo": {"plugin": "echo", "share": 0.1}}}))
    running = Running(f"http://127.0.0.1:{port}", file, "second", fleet.environment)
    try:
        running.argosy("up", "--detach", "--no-dashboard", str(file), timeout=300)
        yield running
    finally:
        running.argosy("down", "--fleet", "second", check=False)
        left = running.processes()
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=10)


def listening(fleet: Running) -> set[int]:
    found = set()
    for process in fleet.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            found |= {one.laddr.port for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN}
    return found


def test_two_fleets_share_neither_ports_nor_folders_nor_tokens(fleet: Running, second: Running) -> None:
    echo(fleet)
    echo(second)
    assert set(second.status()["services"]) == {"echo"}
    assert listening(fleet).isdisjoint(listening(second))
    assert int(second.url.rpartition(":")[2]) in listening(second)
    one, other = cluster(fleet), cluster(second)
    assert one.temp != other.temp
    assert one.address != other.address
    assert home(fleet).token.read_text() != home(second).token.read_text()
    assert {one.pid for one in fleet.processes()}.isdisjoint(one.pid for one in second.processes())


def test_with_two_fleets_a_command_wants_to_know_which(fleet: Running, second: Running) -> None:
    for command in ("status", "down", "config"):
        done = fleet.argosy(command, check=False)
        assert done.returncode == 2
        assert "2 run here: second, tests" in done.stderr
        assert "--fleet NAME" in done.stderr
    assert second.argosy("status", "--fleet", "second").stdout.startswith("fleet second")


def test_a_fleet_without_a_dashboard_runs_none(fleet: Running, second: Running) -> None:
    def dashboards(running: Running) -> list[str]:
        """What serves the dashboard. Ray runs a head of it without a frontend, for its statistics, in any case."""
        commands = [" ".join(process.cmdline()) for process in running.processes()]
        heads = [one for one in commands if "dashboard/dashboard.py" in one and "--disable-frontend" not in one]
        return [*heads, *(one for one in commands if one.startswith("ray-dashboard-"))]

    assert len(dashboards(fleet)) > 1
    assert dashboards(second) == []
    assert cluster(second).dashboard == ""
    assert "dashboard off" in second.argosy("config", "--fleet", "second").stderr


def test_logs_are_lines_of_text_by_default(second: Running) -> None:
    echo(second, **{"x-request-id": "a-line-of-text"})
    (line,) = second.argosy("logs", "echo", "--fleet", "second", "-n", "1").stdout.splitlines()
    assert re.fullmatch(r"[\d-]+ [\d:,]+ INFO argosy\.door \[echo a-line-of-text\] POST /\S* 200 [\d.]+ ms", line), line


def dies(fleet: Running) -> None:
    """Kill the Ray head: its supervisor and what hangs on it."""
    supervisor = psutil.Process(cluster(fleet).pid)
    family = [supervisor, *supervisor.children(recursive=True)]
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(family, timeout=10)


def test_a_dead_ray_head_is_told_and_taken_away(fleet: Running, second: Running) -> None:
    before = {name: fleet.pids(name) for name in fleet.status()["services"]}
    dead = cluster(second)
    dies(second)
    done = second.argosy("status", "--fleet", "second", check=False)
    assert done.returncode == 7
    assert f"its Ray head (process {dead.pid}) is dead" in " ".join(done.stderr.split())
    assert "argosy up" in done.stderr
    assert "ready" in fleet.argosy("status").stdout, "the one that runs is meant where nothing else is said"

    up = second.argosy("up", "--detach", "--no-dashboard", str(second.file), timeout=300)
    assert "taking away what a dead cluster left" in up.stdout
    assert cluster(second).pid != dead.pid
    echo(second)

    dies(second)
    noted = home(second).cluster()
    assert noted is not None
    down = second.argosy("down", "--fleet", "second")
    assert "the Ray head of second is dead" in down.stdout
    assert list(clusters.processes(noted)) == []
    assert not Path(noted.temp).exists()
    assert {name: fleet.pids(name) for name in before} == before
    again = second.argosy("down", "--fleet", "second")
    assert "no fleet second runs here" in again.stdout


def test_down_of_one_fleet_ends_that_one_alone(fleet: Running, second: Running) -> None:
    second.argosy("up", "--detach", "--no-dashboard", str(second.file), timeout=300)
    replicas = {name: fleet.pids(name) for name in fleet.status()["services"]}
    done = second.argosy("down", "--fleet", "second")
    assert "stopped second" in done.stdout
    assert second.processes() == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(second.url, trust_env=False)
    assert {name: fleet.pids(name) for name in replicas} == replicas
    assert "argosy.door" in second.argosy("logs", "echo", "--fleet", "second").stdout, "its logs are still there"


def test_down_where_nothing_runs_is_no_error(fleet: Running, tmp_path: Path) -> None:
    nobody = Running("", fleet.file, "", {**fleet.environment, "ARGOSY_STATE": str(tmp_path)})
    assert "no fleet runs here" in nobody.argosy("down").stdout
