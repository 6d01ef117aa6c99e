"""This machine, as one node of a fleet, and a plan for it: what control does on a cluster, without a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..backend import Device, Offer
    from ..engines import Engine
    from ..fleet.schema import Fleet, Service, Variant
    from ..model import Implementation
    from ..plan.place import Node, Plan
    from ..registry import Registry
    from ..settings import Settings


def node(registry: Registry, name: str = "here") -> Node:
    """What the installed backends find on this machine."""
    import psutil

    from ..plan.place import Node
    from ..runtime.detect import devices

    cores = len(psutil.Process().cpu_affinity()) or psutil.cpu_count() or 1
    return Node(name=name, devices=devices(registry), cores=cores)


def offers(registry: Registry, device: Device, budget: int | None, cores: int) -> Sequence[Engine]:
    return registry.backend(device.backend).offers(device, budget, cores)


def plan(fleet: Fleet, registry: Registry, machine: Node, base: Path, settings: Settings) -> Plan:
    """Where each service of the fleet would run on this machine alone. `base` is the fleet file's folder."""
    from ..errors import WeightsError
    from ..fleet.sources import parse_model
    from ..fleet.weights import Allow, measure
    from ..plan.estimate import from_size
    from ..plan.place import place

    def estimate(service: Service, way: Variant, how: Implementation, offer: Offer) -> int | None:
        if way.model is None:
            return None if how.model.needs_weights else from_size(0)
        try:
            listing = measure(
                parse_model(way.model, base),
                cache(fleet, settings),
                allow=Allow.of(service.allow),
                offline=fleet.weights.offline or settings.offline,
            )
        except WeightsError:
            return None  # the replica says what is missing, with its own name on it
        return from_size(listing.total)

    def offered(machine: Node, device: Device, budget: int | None, cores: int) -> Sequence[Engine]:
        return offers(registry, device, budget, cores)

    return place(fleet, registry, [machine], offered, estimate)


def cache(fleet: Fleet, settings: Settings) -> Path:
    """The folder of the weights cache: the fleet file's, else the settings'."""
    return Path(fleet.weights.path).expanduser() if fleet.weights.path else settings.cache
