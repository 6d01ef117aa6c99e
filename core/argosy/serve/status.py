"""What a fleet says of itself: control makes it, the gateway serves it as `/fleet`, the command line draws it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Phase(StrEnum):
    """How a service stands. Ready and Degraded answer; the others have no replica that does."""

    PENDING = "pending"  # fits nowhere; `reason` says why
    STARTING = "starting"  # an application is there, no replica is Ready yet
    READY = "ready"
    DEGRADED = "degraded"  # answers, but not on what was planned
    FAILED = "failed"  # gave up; `reason` says why

    @property
    def answers(self) -> bool:
        return self in (Phase.READY, Phase.DEGRADED)


@dataclass(frozen=True, kw_only=True)
class ServiceStatus:
    name: str
    phase: Phase
    reason: str = ""
    event: str = ""  # what befell it in the last minutes
    doing: str = ""  # what the replica that is furthest says it does
    plugin: str = ""
    task: str = ""
    variant: int = 0
    engine: str = ""
    backend: str = ""
    device: str = ""
    index: int = 0  # the device's, on its node
    node: str = ""
    share: float = 0.0
    budget: int | None = None
    estimate: int | None = None
    enforcement: str = ""
    body: int = 0  # bytes of one request that it takes
    why: str = ""
    replicas: int = 0  # wanted
    about: dict[str, str] = field(default_factory=dict)
    running: list[dict[str, Any]] = field(default_factory=list)  # the reports of the replicas that live


@dataclass(frozen=True, kw_only=True)
class FleetStatus:
    """`version` grows with every change, for whoever waits for the next one; `versions` are the head's, which a node
    that joins has to have too: of `python`, `ray` and `argosy`."""

    fleet: str
    version: int
    ready: bool  # every service that should run is Ready
    haproxy: bool
    applying: str = ""  # the id of the apply that is under way
    services: dict[str, ServiceStatus] = field(default_factory=dict)
    nodes: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
