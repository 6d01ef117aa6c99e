"""What the fleet file says of its nodes, against what was found on them."""

from __future__ import annotations

from typing import Any

import pytest

from argosy.backend import Device
from argosy.errors import FleetError
from argosy.fleet.schema import Fleet
from argosy.plan.nodes import hold
from argosy.plan.place import Node

GIB = 2**30
CPU = Device(backend="cpu", name="A Processor", architecture="x86-64", memory_bytes=16 * GIB, index=1, cores=8)
CARD = Device(backend="mock", name="Mock 2070", architecture="mk_75", memory_bytes=8 * GIB, index=0)


def fleet(*devices: dict[str, Any]) -> Fleet:
    services = {"echo": {"plugin": "echo"}}
    return Fleet.model_validate({"version": 1, "nodes": {"here": {"devices": devices}}, "services": services})


def found(*devices: Device) -> list[Node]:
    return [Node(name="here", devices=devices, cores=8), Node(name="other", devices=(CPU,), cores=8)]


def test_a_node_that_has_what_is_written_is_as_it_was_found() -> None:
    written = fleet({"backend": "mock", "name": "mock 2070", "architecture": "mk_75"}, {"backend": "cpu"})
    assert hold(written, found(CARD, CPU)) == tuple(found(CARD, CPU))


def test_less_memory_in_the_file_than_on_the_device_is_what_the_plan_may_use() -> None:
    here, other = hold(fleet({"backend": "mock", "memory": "6GiB"}), found(CARD, CPU))
    assert [device.memory_bytes for device in here.devices] == [6 * GIB, 16 * GIB]
    assert other.devices == (CPU,)


def test_every_device_that_is_missing_or_smaller_is_told_with_its_place_in_the_file() -> None:
    written = fleet({"backend": "mock"}, {"backend": "mock"}, {"backend": "cpu", "memory": "64GiB"})
    with pytest.raises(FleetError) as refused:
        hold(written, found(CARD, CPU))
    first, second = refused.value.problems
    assert first.startswith("nodes.here.devices.1: wanted mock; found cpu (A Processor")
    assert second.startswith("nodes.here.devices.2.memory: wanted 68719476736 bytes")


def test_a_node_that_is_away_is_no_error() -> None:
    assert hold(fleet({"backend": "mock"}), found(CARD)[1:]) == (found(CARD)[1],)
