"""What was decided and why, as data: every candidate of every replica with its verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ..backend import Device, Enforcement
from ..engines import Engine
from .estimate import Figure
from .ledger import Key
from .nodes import Node


class Verdict(StrEnum):
    CHOSEN = "chosen"
    REJECTED = "rejected"
    LATER = "later"  # nothing rules it out that was looked at; an earlier one was taken


class Cause(StrEnum):
    """What a candidate was rejected by."""

    WISH = "wish"  # the fleet file wants another node, device or engine
    NOTHING = "nothing"  # there is no device at all that the file's wish could mean
    DEVICE = "device"  # not usable
    BACKEND = "backend"  # its adapter is not installed where the plan is made
    REFUSED = "refused"  # the backend does not offer the engine for this device
    ENGINE = "engine"  # not installed on that node
    PLUGIN = "plugin"  # the model's own choose() dropped it
    WEIGHTS = "weights"  # neither read nor converted
    MEMORY = "memory"  # more than its budget, or than the device
    SHARE = "share"  # other replicas have too much of the device
    POOL = "pool"  # other replicas have too much of what integrated devices and processor share
    STRANGERS = "strangers"  # processes that are no replicas do


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way that one replica could run: a variant on a device with an engine. Where the device itself is ruled out
    `engine` is empty; where no device is meant `device` is None. `why` is the sentence of a rejection."""

    replica: int
    variant: int
    node: str = ""
    device: Device | None = None
    engine: str = ""
    verdict: Verdict = Verdict.REJECTED
    cause: Cause | None = None
    why: str = ""
    share: float | None = None
    budget: int | None = None
    figure: Figure = field(default_factory=Figure)

    def __str__(self) -> str:
        if self.device is None:
            return self.why
        return f"variant {self.variant} on {self.node}/{self.device.name}: {self.why}"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """All candidates of a service, in the order in which they were looked at; `replicas` are wanted."""

    service: str
    replicas: int
    candidates: tuple[Candidate, ...] = ()

    @property
    def pending(self) -> str:
        """Why not every replica has a place; empty where each has. What the file's own wishes rule out goes unsaid."""
        fit = sum(one.verdict is Verdict.CHOSEN for one in self.candidates)
        if fit == self.replicas:
            return ""
        said = [str(one) for one in self.candidates if one.replica == fit and one.cause is not Cause.WISH]
        missing = f"{fit} of {self.replicas} replicas fit; " if fit else ""
        return missing + "; ".join(dict.fromkeys(said))


@dataclass(frozen=True, kw_only=True)
class Placement:
    """One replica's place.

    budget: bytes of the device, None where its memory is unknown
    figure: what it is expected to hold
    before: bytes of the device that strangers held and replicas were promised before this one
    key: what a measurement of it is remembered by
    """

    service: str
    replica: int
    variant: int
    node: str
    device: Device
    engine: Engine
    share: float
    budget: int | None
    figure: Figure
    cores: int
    why: str
    enforcement: Enforcement = "counted"
    before: int = 0
    key: Key | None = None

    @property
    def after(self) -> int:
        return self.before + (self.budget or 0)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What runs where, on which nodes, and how that came about."""

    nodes: tuple[Node, ...] = ()
    placements: tuple[Placement, ...] = ()
    decisions: Mapping[str, Decision] = field(default_factory=dict)

    @property
    def pending(self) -> dict[str, str]:
        """Of each service that fits nowhere, or not as often as it is wanted: why."""
        return {name: said for name, decision in self.decisions.items() if (said := decision.pending)}

    def of(self, service: str) -> tuple[Placement, ...]:
        return tuple(placement for placement in self.placements if placement.service == service)

    def on(self, node: str, device: Device) -> tuple[Placement, ...]:
        return tuple(p for p in self.placements if p.node == node and p.device.index == device.index)

    def used(self, node: str, device: Device) -> float:
        """The sum of the shares placed on one device, 0 to 1."""
        return math.fsum(placement.share for placement in self.on(node, device))

    def scattered(self, service: str) -> str:
        """Why a service's replicas cannot be one application; empty where all run on one device with one engine."""
        mine = self.of(service)
        if len({(p.node, p.device.index, p.engine.name) for p in mine}) < 2:
            return ""
        where = ", ".join(f"{p.node}/{p.device.name}" for p in mine)
        return f"its replicas would run on different devices ({where}); name its `device`, or want fewer"
