"""What is here, and what of a fleet fits on it: one way for a cluster's control and for `argosy run-one`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import psutil

from ..backend import Device, Offer
from ..engines import Engine
from ..errors import PlanError, WeightsError
from ..fleet.schema import Fleet, Service, Variant
from ..fleet.sources import parse_model
from ..fleet.weights import Allow, fetch, measure
from ..model import Implementation, Model
from ..plan.estimate import from_size
from ..plan.nodes import hold
from ..plan.place import Node, Plan, place
from ..registry import Registry
from .converted import readable
from .detect import devices


def node(registry: Registry, name: str = "here", identity: str = "") -> Node:
    """This machine with what the installed backends find on it. `identity` is what Ray calls it."""
    cores = len(psutil.Process().cpu_affinity() or ()) or psutil.cpu_count() or 1
    engines = {kind: version for kind, engine in registry.engines.items() if (version := engine.version()) is not None}
    return Node(name=name, id=identity, devices=devices(registry), cores=cores, engines=engines)


def offers(registry: Registry, node: Node, device: Device, budget: int | None, cores: int) -> Sequence[Engine]:
    """The engines that work on this device and that its node reported."""
    every = registry.backend(device.backend).offers(device, budget, cores)
    return tuple(engine for engine in every if engine.name in node.engines)


def cache(fleet: Fleet, default: Path) -> Path:
    """The folder of the weights cache: the fleet file's, else the default."""
    return Path(fleet.weights.path).expanduser() if fleet.weights.path else default


def survey(
    fleet: Fleet, registry: Registry, nodes: Sequence[Node], base: Path, *, store: Path, offline: bool = False
) -> Plan:
    """Where each service of the fleet would run on these nodes.

    base: the fleet file's folder, for relative sources; store: the default weights cache. Sizes of weights that are
    not here are asked of their hub, unless `offline`; nothing is downloaded.
    """
    offline = offline or fleet.weights.offline
    where = cache(fleet, store)

    def estimate(service: Service, way: Variant, how: Implementation, offer: Offer) -> int | None:
        if way.model is None:
            return None if how.model.needs_weights else from_size(0)
        source, allow = parse_model(way.model, base), Allow.of(service.allow)
        try:
            listing = measure(source, where, allow=allow, offline=offline)
            if listing.formats and not readable(how, listing.formats):
                raise PlanError(
                    f"weights for {how.engine} in {' or '.join(how.formats)}", " and ".join(listing.formats)
                )
            if how.model.memory.__func__ is not Model.memory.__func__ and not listing.download:  # type: ignore[attr-defined]
                weights = fetch(source, where, allow=allow, offline=True)
                known = how.model.memory(weights, how.model.options.model_validate(way.options or {}), offer)
                if known is not None:
                    return known
        except WeightsError:
            return None  # the replica says what is missing, with its own name on it
        return from_size(listing.total)

    def offered(machine: Node, device: Device, budget: int | None, cores: int) -> Sequence[Engine]:
        return offers(registry, machine, device, budget, cores)

    return place(fleet, registry, hold(fleet, nodes), offered, estimate)
