"""Placement: each service's best feasible variant, on which device, with how much of it, and why.

Pure: what nodes report and what weights weigh come in as arguments; nothing is measured or started here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ..backend import Device, Offer
from ..engines import Engine
from ..errors import PlanError
from ..fleet.schema import Fleet, Service, Variant
from ..model import Implementation
from ..registry import Registry

Offers = Callable[["Node", Device, int | None, int], Sequence[Engine]]
# Bytes of the device that a replica will hold, None where nobody can tell; PlanError where the weights are in a format
# that the implementation neither reads nor converts.
Estimate = Callable[[Service, Variant, Implementation, Offer], int | None]

# A replica whose share is given by neither the owner nor an estimate gets this much of its device.
DEFAULT_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class Node:
    """One machine as it reported itself. `id` is what Ray calls it; devices are in the order of their index;
    `engines` is what is installed there, name -> version."""

    name: str
    id: str = ""
    devices: tuple[Device, ...] = ()
    cores: int = 1
    engines: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """One replica's place. `estimate` and `budget` are bytes of the device, None where unknown."""

    service: str
    replica: int
    variant: int
    node: str
    device: Device
    engine: Engine
    share: float
    budget: int | None
    estimate: int | None
    cores: int
    why: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What runs where; `pending` says of each service that fits nowhere why, and what would help."""

    placements: tuple[Placement, ...] = ()
    pending: Mapping[str, str] = field(default_factory=dict)

    def of(self, service: str) -> tuple[Placement, ...]:
        return tuple(placement for placement in self.placements if placement.service == service)

    def used(self, node: str, device: Device) -> float:
        """The sum of the shares placed on one device, 0 to 1."""
        mine = [p.share for p in self.placements if p.node == node and p.device.index == device.index]
        return math.fsum(mine)


def place(fleet: Fleet, registry: Registry, nodes: Sequence[Node], offers: Offers, estimate: Estimate) -> Plan:
    """Services in the file's order; for each its variants, wishes, engines in order; the first that fits.

    The shares of one device never sum above one. A service that fits nowhere is pending, with every rejection told.
    """
    free = {(node.name, device.index): 1.0 for node in nodes for device in node.devices}
    placements: list[Placement] = []
    pending: dict[str, str] = {}
    for name, service in fleet.services.items():
        mine: list[Placement] = []
        rejected: list[str] = []
        for replica in range(service.replicas):
            rejected = []
            found = _first(name, replica, service, registry, nodes, offers, estimate, free, rejected)
            if found is None:
                break
            free[found.node, found.device.index] -= found.share
            mine.append(found)
        placements += mine
        if len(mine) < service.replicas:
            missing = f"{len(mine)} of {service.replicas} replicas fit; " if mine else ""
            pending[name] = missing + "; ".join(dict.fromkeys(rejected))
    return Plan(placements=tuple(placements), pending=pending)


def _first(
    name: str,
    replica: int,
    service: Service,
    registry: Registry,
    nodes: Sequence[Node],
    offers: Offers,
    estimate: Estimate,
    free: Mapping[tuple[str, int], float],
    rejected: list[str],
) -> Placement | None:
    model = registry.model(service.plugin)
    implementations = {item.engine: item for item in model.implementations()}
    for index, way in enumerate(service.ways()):
        for node, device in _wished(way, nodes, rejected):
            total = device.memory_bytes
            where = f"variant {index} on {node.name}/{device.name}"
            if way.memory is not None and total and way.memory > total:
                rejected.append(f"{where}: wants {_gib(way.memory)}, the device has {_gib(total)}")
                continue
            given = _given(way, device)
            share = given if given is not None else DEFAULT_SHARE
            cores = min(way.cores or max(1, round(share * node.cores)), node.cores)
            budget = int(share * total) if total is not None else None
            there = [
                Offer(engine=engine, device=device, budget=budget) for engine in offers(node, device, budget, cores)
            ]
            usable = [offer for offer in there if offer.engine.name in implementations]
            wanted = [way.engine] if way.engine else list(implementations)
            ordered = sorted((o for o in usable if o.engine.name in wanted), key=lambda o: wanted.index(o.engine.name))
            if not ordered:
                names = ", ".join(offer.engine.name for offer in there) or "none"
                rejected.append(f"{where}: wants {' or '.join(wanted)}, the device offers {names}")
                continue
            chosen = model.choose(ordered)
            if not chosen:
                names = ", ".join(offer.engine.name for offer in ordered)
                rejected.append(f"{where}: {service.plugin} itself refuses {names} there")
            for offer in chosen:
                try:
                    guess = estimate(service, way, implementations[offer.engine.name], offer)
                except PlanError as error:  # these weights are not for this engine
                    rejected.append(f"{where}: {error}")
                    continue
                if given is None and guess is not None and total:
                    share = min(1.0, max(math.ceil(100 * guess / total) / 100, 0.01))
                elif given is None:
                    share = DEFAULT_SHARE
                budget = int(share * total) if total is not None else None
                left = free[node.name, device.index]
                if share > left + 1e-9:
                    rejected.append(f"{where}: wants a share of {share:g}, {max(left, 0):.2g} is left of it")
                elif guess is not None and budget is not None and guess > budget:
                    rejected.append(
                        f"{where}: {offer.engine.name} needs about {_gib(guess)}, a share of {share:g} of "
                        f"{_gib(total or 0)} is {_gib(budget)}"
                    )
                else:
                    why = f"{'only' if len(implementations) == 1 else 'first'} engine that fits: {offer.engine.name}"
                    if rejected:
                        why += f" (after {len(rejected)} rejected)"
                    return Placement(
                        service=name,
                        replica=replica,
                        variant=index,
                        node=node.name,
                        device=device,
                        engine=offer.engine,
                        share=share,
                        budget=budget,
                        estimate=guess,
                        cores=cores,
                        why=why,
                    )
    return None


def _wished(way: Variant, nodes: Sequence[Node], rejected: list[str]) -> list[tuple[Node, Device]]:
    """Devices in order of preference: as wished, or accelerators before the CPU."""
    here = [(node, device) for node in nodes if way.node in (None, node.name) for device in node.devices]
    if not here:
        wanted = f"node {way.node}" if way.node else "any node"
        rejected.append(f"no device on {wanted}; nodes: {', '.join(node.name for node in nodes) or 'none'}")
        return []
    for node, device in here:
        if not device.usable:
            rejected.append(f"{node.name}/{device.name} is not usable: {', '.join(device.problems)}")
    here = [(node, device) for node, device in here if device.usable]
    if way.device is None:
        return sorted(here, key=lambda pair: pair[1].cores > 0)
    wishes = [way.device] if isinstance(way.device, str) else way.device
    found = []
    for wish in wishes:
        backend, _, position = wish.partition(":")
        for name in dict.fromkeys(node.name for node, _ in here):
            mine = [pair for pair in here if pair[0].name == name and pair[1].backend == backend]
            found += mine[int(position) : int(position) + 1] if position else mine
    if not found:
        rejected.append(f"no usable device is {' or '.join(wishes)}")
    return found


def _given(way: Variant, device: Device) -> float | None:
    """The share of this device that the owner gave; None where he left it to the estimate."""
    if way.share is None and way.memory is not None and device.memory_bytes:
        return way.memory / device.memory_bytes
    return way.share


def require(plan: Plan, service: str) -> tuple[Placement, ...]:
    """The placements of a service. PlanError with the arithmetic when it is pending."""
    if service in plan.pending:
        raise PlanError(f"a place for {service}", plan.pending[service], "a smaller share, or another variant")
    return plan.of(service)


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
