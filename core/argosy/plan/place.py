"""Placement: each service's best feasible variant, on which device, with how much of it, and why.

Pure: what nodes report, what weights weigh and what was measured come in as arguments; nothing is measured or started
here, and nothing is asked of a backend but what it offers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..backend import Offer
from ..errors import PlanError
from ..fleet.schema import Fleet, Service, Variant
from ..registry import Registry
from .decision import Candidate, Decision, Placement, Plan
from .nodes import Node
from .room import Room
from .search import DEFAULT_SHARE, Estimate, Lookup, Search, Standing

__all__ = ["DEFAULT_SHARE", "Estimate", "Lookup", "Node", "Placement", "Plan", "Standing", "place", "require"]


def unknown(service: Service, way: Variant, offer: Offer, node: Node) -> tuple[None, None]:
    """The lookup of an empty ledger."""
    return None, None


def place(
    fleet: Fleet,
    registry: Registry,
    nodes: Sequence[Node],
    estimate: Estimate,
    lookup: Lookup = unknown,
    standing: Mapping[str, Standing] | None = None,
) -> Plan:
    """Services in the file's order; for each its variants, wishes, engines in order; the first that fits.

    A figure from the ledger goes before an estimate. A service that fits nowhere is pending.
    """
    room = Room(nodes)
    placements: list[Placement] = []
    decisions: dict[str, Decision] = {}
    for name, service in fleet.services.items():
        candidates: list[Candidate] = []
        for replica in range(service.replicas):
            search = Search(
                name=name,
                replica=replica,
                service=service,
                registry=registry,
                nodes=nodes,
                room=room,
                estimate=estimate,
                lookup=lookup,
                standing=(standing or {}).get(name),
            )
            candidates += search.candidates()
            if search.found is None:
                break
            room.take(search.found)
            placements.append(search.found)
        decisions[name] = Decision(service=name, replicas=service.replicas, candidates=tuple(candidates))
    return Plan(nodes=tuple(nodes), placements=tuple(placements), decisions=decisions)


def require(plan: Plan, service: str) -> tuple[Placement, ...]:
    """The placements of a service. PlanError with the arithmetic when it is pending."""
    if said := plan.pending.get(service):
        raise PlanError(f"a place for {service}", said, "a smaller share, or another variant; argosy explain says all")
    return plan.of(service)
