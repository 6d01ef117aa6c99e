"""What is here, and what of a fleet fits on it: one way for a cluster's control and for `argosy run-one`."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import psutil

from .. import machine
from ..backend import Device
from ..engines import Engine
from ..fleet.schema import Fleet
from ..plan.ledger import Ledger
from ..plan.nodes import hold
from ..plan.place import Node, Plan, Standing, place
from ..registry import Registry
from .detect import devices
from .record import opened
from .weighing import Weighing


def node(registry: Registry, name: str = "here", identity: str = "", ours: Collection[int] = ()) -> Node:
    """This machine with what the installed backends find on it. `identity` is what Ray calls it; `ours` are processes
    of this fleet's replicas, whose memory is no stranger's."""
    cores = len(psutil.Process().cpu_affinity() or ()) or psutil.cpu_count() or 1
    engines = {kind: version for kind, engine in registry.engines.items() if (version := engine.version()) is not None}
    found = devices(registry, probe=True)
    taken = strangers(registry, found, ours)
    return Node(name=name, id=identity, devices=found, cores=cores, engines=engines, taken=taken)


def recorded(registry: Registry, root: Path, name: str = "here") -> Node:
    """The machine whose files lie below `root`, or in the recording there: every engine is taken to be there, and
    nobody to run."""
    with opened(root) as tree:
        found = devices(registry, tree)
    cores = max((device.cores for device in found), default=0)
    engines = dict.fromkeys(sorted(registry.engines), "")
    return Node(name=name, devices=found, cores=cores, engines=engines, assumed=True)


def strangers(registry: Registry, devices: Sequence[Device], ours: Collection[int] = ()) -> Mapping[int, int]:
    """Bytes that processes hold on each device which are neither this one's nor descend from `ours`; a device of which
    its backend does not tell, or where nobody else is, is left out."""
    mine = machine.family(os.getpid()).union(*(machine.family(pid) for pid in ours))
    held = {
        device.index: sum(one.bytes for one in registry.backend(device.backend).held(device) if one.pid not in mine)
        for device in devices
        if device.usable
    }
    return {index: size for index, size in held.items() if size}


def offers(registry: Registry, node: Node, device: Device, budget: int | None, cores: int) -> Sequence[Engine]:
    """The engines that work on this device and that its node reported."""
    every = registry.backend(device.backend).offers(device, budget, cores)
    return tuple(engine for engine in every if engine.name in node.engines)


def cache(fleet: Fleet, default: Path) -> Path:
    """The folder of the weights cache: the fleet file's, else the default."""
    return Path(fleet.weights.path).expanduser() if fleet.weights.path else default


def survey(
    fleet: Fleet,
    registry: Registry,
    nodes: Sequence[Node],
    base: Path,
    *,
    store: Path,
    offline: bool = False,
    ledger: Ledger | None = None,
    standing: Mapping[str, Standing] | None = None,
) -> Plan:
    """Where each service of the fleet would run on these nodes.

    base: the fleet file's folder, for relative sources; store: the default weights cache; standing: where services run
    already. Sizes of weights that are not here are asked of their hub, unless `offline`; nothing is downloaded.
    """
    asked = Weighing(registry, base, cache(fleet, store), offline or fleet.weights.offline, ledger or Ledger())
    return place(fleet, registry, hold(fleet, nodes), asked.estimate, asked.lookup, standing)
