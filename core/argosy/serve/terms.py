"""What control, the gateway and every deployment know of their cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What control knows of its cluster. `cache` and `logs` are folders on the nodes."""

    fleet: str
    store: str
    host: str
    port: int
    haproxy: bool
    cache: str
    logs: str
    log_format: Literal["text", "json"] = "text"
