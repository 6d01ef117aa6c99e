"""Nodes: what each reported of itself, and what a fleet file writes down of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from ..backend import Device
from ..errors import FleetError
from ..fleet.schema import DeviceSpec, Fleet


@dataclass(frozen=True, kw_only=True)
class Node:
    """One machine as it reported itself. `id` is what Ray calls it; devices are in the order of their index.

    cores: 0 where nobody knows
    engines: what is installed there, name -> version
    taken: device index -> bytes that processes hold there which are no replicas of this fleet
    assumed: known from the fleet file alone (or from a recording): every engine is taken to be there, of any version
    """

    name: str
    id: str = ""
    devices: tuple[Device, ...] = ()
    cores: int = 1
    engines: Mapping[str, str] = field(default_factory=dict)
    taken: Mapping[int, int] = field(default_factory=dict)
    assumed: bool = False


def written(fleet: Fleet, known: Collection[str], engines: Collection[str]) -> tuple[Node, ...]:
    """The file's nodes that are not `known`, from what it says of them: devices in its order, every engine there.

    A file does not say whether a device is integrated: each has the memory that is written to itself.
    """
    return tuple(
        Node(
            name=name,
            devices=tuple(
                Device(
                    backend=spec.backend,
                    name=spec.name or spec.architecture or spec.backend,
                    architecture=spec.architecture,
                    memory_bytes=spec.memory,
                    index=index,
                )
                for index, spec in enumerate(node.devices)
            ),
            cores=0,
            engines=dict.fromkeys(sorted(engines), ""),
            assumed=True,
        )
        for name, node in fleet.nodes.items()
        if name not in known
    )


def has(node: Node, specs: Sequence[DeviceSpec]) -> bool:
    """Whether this may be the machine that is written down: it has every device of the file, none smaller."""
    problems: list[str] = []
    _held(node, specs, problems)
    return not problems


def hold(fleet: Fleet, nodes: Sequence[Node]) -> tuple[Node, ...]:
    """The nodes as the plan may use them: where the file gives a device less memory than was found, the file's holds.

    FleetError that lists every device of the file which its node does not have, or which is smaller than the file
    says. A node of the file that is not there is no error: what wishes for it is pending.
    """
    problems: list[str] = []
    held = [
        _held(node, fleet.nodes[node.name].devices, problems) if node.name in fleet.nodes else node for node in nodes
    ]
    if problems:
        raise FleetError(
            "nodes that have what the fleet file says of them",
            fix="argosy detect, on that node",
            problems=tuple(problems),
        )
    return tuple(held)


def _held(node: Node, specs: Sequence[DeviceSpec], problems: list[str]) -> Node:
    left = list(node.devices)
    kept: dict[int, Device] = {device.index: device for device in node.devices}
    for position, spec in enumerate(specs):
        device = next((one for one in left if _is(one, spec)), None)
        where = f"nodes.{node.name}.devices.{position}"
        if device is None:
            found = ", ".join(f"{one.backend} ({one.name}, {one.architecture})" for one in left) or "no other device"
            problems.append(
                f"{where}: wanted {spec.backend} {spec.name or spec.architecture}".rstrip() + f"; found {found}"
            )
            continue
        left.remove(device)
        if spec.memory is None:
            continue
        if device.memory_bytes is not None and spec.memory > device.memory_bytes:
            problems.append(f"{where}.memory: wanted {spec.memory} bytes; {device.name} has {device.memory_bytes}")
            continue
        kept[device.index] = dataclasses.replace(device, memory_bytes=spec.memory)
    return dataclasses.replace(node, devices=tuple(kept[index] for index in sorted(kept)))


def _is(device: Device, spec: DeviceSpec) -> bool:
    """Whether a device may be the one that is written down; an empty field of the file says nothing."""
    return (
        device.backend == spec.backend
        and spec.architecture in ("", device.architecture)
        and spec.name.lower() in device.name.lower()
    )
