"""The status of a fleet from the JSON of its `/fleet`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..serve.status import FleetStatus, Phase, ServiceStatus


def status_from(found: Mapping[str, Any]) -> FleetStatus:
    services = {name: ServiceStatus(**{**one, "phase": Phase(one["phase"])}) for name, one in found["services"].items()}
    return FleetStatus(**{**found, "services": services})
