"""Who listens where: what docs/running.md says, and nothing else."""

from __future__ import annotations

import ipaddress

import psutil
import pytest
from conftest import ROOT, Running

pytestmark = pytest.mark.fleet


def outside(fleet: Running) -> set[tuple[str, int]]:
    """(command, port) of every socket of the fleet that listens beyond loopback."""
    found = set()
    for process in fleet.processes():
        for connection in process.net_connections("inet"):
            if connection.status != psutil.CONN_LISTEN:
                continue
            address = ipaddress.ip_address(connection.laddr.ip)
            mapped = getattr(address, "ipv4_mapped", None)
            if not (mapped or address).is_loopback:
                found.add((" ".join(process.cmdline())[:60], connection.laddr.port))
    return found


def test_nothing_but_what_is_documented_listens_beyond_loopback(fleet: Running) -> None:
    found = outside(fleet)
    replicas = [(command, port) for command, port in found if command.startswith("ray::ServeReplica:")]
    others = [(command, port) for command, port in found if (command, port) not in replicas]
    assert others == []
    assert len({command for command, _ in replicas}) == len(replicas), "Ray Serve's own gRPC, one port a replica"
    assert "gRPC" in (ROOT / "docs/running.md").read_text()
