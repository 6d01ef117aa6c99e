"""What stands between Ray and HAProxy: run for real, on a configuration as Ray writes it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from argosy.serve import flags

CONFIG = """global
    log 127.0.0.1:514 local0 info
frontend prometheus
    bind :9101
    mode http
frontend http_frontend
    bind 0.0.0.0:8000
    log global
listen stats
  bind *:8404
  stats enable
"""


def run(tmp_path: Path, *arguments: str) -> str:
    """What the binary would be called with."""
    binary = tmp_path / "a binary"
    binary.write_text('#!/bin/sh\necho "$@"\n')
    binary.chmod(0o700)
    script = tmp_path / "haproxy"
    script.write_text(flags.haproxy_script(str(binary)))
    script.chmod(0o700)
    return subprocess.run([script, *arguments], capture_output=True, text=True, check=True).stdout.strip()


def test_haproxy_is_started_without_splice_and_its_own_pages_on_loopback(tmp_path: Path) -> None:
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIG)
    assert run(tmp_path, "-db", "-f", str(config), "-sf", "1") == f"-dS -db -f {config} -sf 1"
    once = config.read_text()
    assert "    bind 127.0.0.1:9101\n" in once
    assert "  bind 127.0.0.1:8404\n" in once
    assert "    bind 0.0.0.0:8000\n" in once, "the endpoint is where the owner wants it"
    run(tmp_path, "-c", "-f", str(config))
    assert config.read_text() == once


def test_headers_that_lift_limits_are_taken_off_first_thing_in_the_frontend(tmp_path: Path) -> None:
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIG)
    run(tmp_path, "-f", str(config))
    lines = config.read_text().split("frontend http_frontend\n")[1].splitlines()
    assert lines[1:3] == [f"    http-request del-header {name}" for name in flags.LIFTING]
    assert config.read_text().count("del-header") == len(flags.LIFTING)


def test_without_a_configuration_it_is_haproxy_all_the_same(tmp_path: Path) -> None:
    assert run(tmp_path, "-v") == "-dS -v"


def test_every_port_of_a_fleet_is_its_own() -> None:
    ports = flags.Ports.free()
    numbers = [getattr(ports, name) for name in ports.__dataclass_fields__]
    assert len(set(numbers)) == len(numbers)
