"""`argosy detect | doctor`: what an owner types to see what a machine has, and what is wrong with it."""

from __future__ import annotations

import dataclasses
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import Running, free_port
from typer.testing import CliRunner

from argosy import registry
from argosy.cli import app, up
from argosy.serve.status import FleetStatus, Phase, ServiceStatus
from argosy.testing import MockBackend, installed
from argosy.testing.machines import MACHINES

FIELDS = {"backend", "name", "architecture", "pci", "integrated", "memory_bytes", "usable", "problems"}


def argosy(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, result.output
    return result.stdout


@pytest.fixture
def mock(monkeypatch: pytest.MonkeyPatch) -> MockBackend:
    """The only backend that is installed."""
    backend = MockBackend(memory=(8 * 2**30, None))
    monkeypatch.setattr(registry, "load", lambda extra=(): installed(backend=backend))
    return backend


def test_detect_gives_programs_a_list_of_devices_the_processor_among_them():
    found = json.loads(argosy("detect", "--json"))
    assert isinstance(found, list)
    assert all(set(device) >= FIELDS | {"index", "identity", "driver", "engines", "cores"} for device in found)
    (cpu,) = [device for device in found if device["backend"] == "cpu"]
    assert cpu["memory_bytes"] > 0
    assert cpu["cores"] >= 1
    assert {"python", "openvino", "onnxruntime"} <= set(cpu["engines"])
    assert "torch" in cpu["engines"] or registry.load().engines["torch"].version() is None


def test_detect_shows_people_devices_problems_and_reasons(mock):
    mock.vanish(1, "untold: it fell off the bus")
    text = argosy("detect")
    assert "8.0 GiB" in text
    assert "not usable" in text
    assert "#1 untold: it fell off the bus" in text
    mock.vanish(0)
    mock.vanish(1)
    assert "mock: no mock device below /" in argosy("detect")


@pytest.mark.parametrize("name", ["workstation", "laptop", "empty-vm"])
def test_detect_reads_another_machine_from_a_folder_or_from_a_recording(name, tmp_path):
    machine = MACHINES[name]
    machine.build(tmp_path / "machine")
    backends = set(registry.load().backends)
    expected = [device for device in machine.expected if device.backend in backends]
    argosy("doctor", "--root", str(tmp_path / "machine"), "--record", str(tmp_path / "machine.tar.gz"), "--json")
    for root in ("machine", "machine.tar.gz"):
        found = json.loads(argosy("detect", "--json", "--root", str(tmp_path / root)))
        assert [{key: one[key] for key in FIELDS} for one in found] == [
            {key: getattr(one, key) if key != "problems" else list(one.problems) for key in FIELDS} for one in expected
        ]
        assert all(one["engines"] for one in found if one["usable"])


def test_the_processor_of_a_recording_is_left_out(tmp_path):
    argosy("doctor", "--record", str(tmp_path / "here.tar.gz"))
    found = json.loads(argosy("detect", "--json", "--root", str(tmp_path / "here.tar.gz")))
    assert "cpu" not in [one["backend"] for one in found]


def test_a_root_that_is_none_is_refused(tmp_path):
    result = CliRunner().invoke(app, ["detect", "--root", str(tmp_path / "none")])
    assert result.exit_code == 1
    assert "argosy doctor --record FILE.tar.gz" in result.stderr


def test_what_a_vendor_s_library_tells_is_asked_here_and_not_of_another_machine(mock, tmp_path, monkeypatch):
    def probe(devices):
        return tuple(dataclasses.replace(device, memory_bytes=2**40, architecture="told") for device in devices)

    monkeypatch.setattr(mock, "probe", probe, raising=False)
    monkeypatch.setattr(mock, "detect", lambda root=Path("/"): MockBackend().detect())
    assert [one["architecture"] for one in json.loads(argosy("detect", "--json"))] == ["told"]
    assert [one["architecture"] for one in json.loads(argosy("detect", "--json", "--root", str(tmp_path)))] == ["mock"]


def test_the_doctor_exits_with_8_where_something_is_fatal(mock):
    report = json.loads(argosy("doctor", "--json"))
    assert report["exit_code"] == 0
    assert not [one for one in report["findings"] if one["fatal"]]
    assert {"kernel", "distribution", "python", "ray", "argosy"} == set(report["machine"])
    mock.vanish(0, "untold: it fell off the bus")
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 8
    report = json.loads(result.stdout)
    assert report["exit_code"] == 8
    (finding,) = [one for one in report["findings"] if one["check"] == "untold"]
    assert finding["exit_code"] == 8
    assert {"check", "symptom", "evidence", "fix", "fatal", "exit_code"} == set(finding)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 8
    assert "✗ untold: mock 0 is not used\n    found: it fell off the bus\n    try: " in result.stdout
    assert "untold" in result.stderr


def test_warnings_stop_nothing_unless_they_are_asked_to(mock, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://proxy.invalid:1")
    monkeypatch.setenv("no_proxy", "")
    assert "! proxy-loopback" in argosy("doctor")
    argosy("doctor", "--strict", code=8)


@contextmanager
def answering(body: bytes, **headers: str) -> Iterator[str]:
    """A server on loopback that answers every GET alike."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *given: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_the_versions_of_a_fleet_elsewhere_are_held_against_those_here(mock, tmp_path, monkeypatch):
    monkeypatch.setenv("ARGOSY_STATE", str(tmp_path))
    with answering(json.dumps({"versions": {"python": "3.12.99", "ray": "2.60.0"}}).encode()) as url:
        report = json.loads(argosy("doctor", "--json", "--url", url, code=8))
    (finding,) = [one for one in report["findings"] if one["check"] == "py-ray-skew"]
    assert "3.12.99 on the fleet's head" in finding["evidence"]
    with answering(b"{}") as url:  # a fleet of a version that did not say
        argosy("doctor", "--url", url)
    assert "py-ray-skew" not in argosy("doctor")
    argosy("doctor", "--url", f"http://127.0.0.1:{free_port()}", code=7)
    with answering(b"not JSON") as url:
        argosy("doctor", "--url", url, code=7)


def test_up_reaches_its_fleet_whatever_proxy_is_set(monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setattr(up, "ROUTE_SECONDS", 1)
    service = ServiceStatus(name="echo", phase=Phase.READY)
    status = FleetStatus(fleet="f", version=1, ready=True, haproxy=True, services={"echo": service})
    with answering(b"", argosy_served_by="echo;0;cpu;0") as url:
        up._routed(url, status)


@pytest.mark.fleet
def test_a_fleet_that_runs_tells_the_doctor_its_versions(fleet: Running):
    report = json.loads(fleet.argosy("doctor", "--json", "--url", fleet.url, check=False).stdout)
    told = fleet.status()["versions"]
    assert told == {key: report["machine"][key] for key in ("python", "ray", "argosy")}
    assert "py-ray-skew" not in [one["check"] for one in report["findings"]]
