"""From a plan's placement to what its replica is handed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..fleet.schema import Fleet
from ..fleet.sources import parse_model
from ..plan.place import Placement
from ..registry import Registry
from .assignment import Assignment, Bounds


def assign(
    fleet: Fleet, placement: Placement, registry: Registry, *, base: Path, cache: str, logs: str = ""
) -> Assignment:
    """`base` is the fleet file's folder, for relative sources; `cache` the weights cache on the node."""
    service = fleet.services[placement.service]
    way = service.ways()[placement.variant]
    backend = registry.backend(placement.device.backend)
    engine = dataclasses.replace(
        placement.engine,
        extra={**placement.engine.extra, **(way.engine_options or {})},
        strict=service.fallback == "refuse",
    )
    return Assignment(
        service=placement.service,
        plugin=service.plugin,
        variant=placement.variant,
        engine=engine,
        device=placement.device,
        share=placement.share,
        budget=placement.budget,
        cores=placement.cores,
        enforcement=backend.enforcement(placement.device),
        model=parse_model(way.model, base) if way.model is not None else None,
        allow=tuple(service.allow),
        options=dict(way.options or {}),
        environment=dict(backend.environment(placement.device, share=placement.share, budget=placement.budget)),
        bounds=Bounds(queue=service.queue, timeout=service.timeout, body=service.body, depth=service.depth),
        fallback=service.fallback,
        cache=fleet.weights.path or cache,
        offline=fleet.weights.offline,
        log_format=fleet.logs,
        logs=logs,
    )


def digest(assignment: Assignment, live: frozenset[str], code: str = "") -> str:
    """What makes a replica restart when it changes: everything but the live options. `code` stands for the plugin's."""
    fixed = {name: value for name, value in assignment.options.items() if name not in live}
    plain: Mapping[str, Any] = {**dataclasses.asdict(dataclasses.replace(assignment, options=fixed)), "code": code}
    plain = {**plain, "engine": [assignment.engine.name, dataclasses.asdict(assignment.engine)]}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()[:16]
