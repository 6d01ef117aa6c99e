"""What control hands a replica: the plan's decision for it, whole. The replica verifies it and chooses nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..backend import Device, Enforcement
from ..engines import Engine
from ..fleet.sources import ModelSource


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a service lets in. Seconds, bytes, requests."""

    queue: int = 256  # requests that may wait for one replica, beyond those being answered
    timeout: float = 300.0  # from the door to the last byte
    body: int = 32 * 1024 * 1024  # bytes of one request
    depth: int = 64  # levels of nested JSON


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """One replica's share of one device.

    options: the plugin's options as the fleet file gives them, already validated
    environment: the device's mask and thread limits, to be set before anything heavy is imported
    budget: bytes of the device; None where its memory is unknown
    """

    service: str
    plugin: str
    variant: int
    engine: Engine
    device: Device
    share: float
    budget: int | None
    cores: int
    enforcement: Enforcement = "counted"
    model: ModelSource | None = None
    allow: tuple[str, ...] = ()  # pickle files, or "remote_code", that the fleet file allows by name
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    bounds: Bounds = Bounds()
    fallback: Literal["refuse", "degrade"] = "refuse"
    cache: str = ""  # folder of the weights cache on the node
    offline: bool = False
    log_format: Literal["text", "json"] = "text"
    logs: str = ""  # folder for `<service>.log`; empty: standard error alone

    @property
    def served_by(self) -> str:
        """`service;variant;backend;device`: the response header `argosy-served-by`."""
        return f"{self.service};{self.variant};{self.device.backend};{self.device.name}"
