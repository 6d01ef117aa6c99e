"""What a fleet's replicas will hold, as far as weights and ledger tell: what the plan asks while it places."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..backend import Offer
from ..errors import PlanError, WeightsError
from ..fleet.schema import Service, Variant
from ..fleet.sources import ModelSource, parse_model
from ..fleet.weights import Allow, Listing, Weights, fetch, measure
from ..fleet.weights_cache import size_text
from ..model import Implementation, Model
from ..plan.estimate import Figure, from_size
from ..plan.ledger import Key, Ledger
from ..plan.nodes import Node
from ..registry import Registry
from .converted import as_they_are, lacking, readable, toolless


@dataclass(frozen=True)
class _Seen:
    """One model's files, and its weights where all of them are here; None of both, and why, where nobody can tell."""

    listing: Listing | None = None
    weights: Weights | None = None
    problem: str = ""


@dataclass
class Weighing:
    """`base` is the fleet file's folder, for relative sources; `cache` the folder of the weights cache. Each model is
    looked at once, however many candidates it has."""

    registry: Registry
    base: Path
    cache: Path
    offline: bool
    ledger: Ledger
    _seen: dict[tuple[ModelSource, tuple[str, ...]], _Seen] = field(default_factory=dict, init=False)

    def estimate(self, service: Service, way: Variant, how: Implementation, offer: Offer) -> Figure:
        """The model's own memory(), where its weights are here; else their size. PlanError where `how` can make nothing
        of them."""
        if way.model is None:
            if how.model.needs_weights:
                return Figure(detail="the service names no weights")
            return Figure(from_size(0), "size", "a process without weights")
        seen = self._see(way, service)
        if seen.listing is None:  # the replica says what is missing, with its own name on it
            return Figure(detail=f"its weights cannot be weighed: {seen.problem}")
        self._can_read(how, seen, way)
        if seen.weights is not None and (own := self._own(how, seen.weights, way, offer)) is not None:
            return Figure(own, "plugin", f"memory() of {service.plugin}")
        total = seen.listing.total
        return Figure(from_size(total), "size", f"weights of {size_text(total)}, room for activations, the process")

    def lookup(self, service: Service, way: Variant, offer: Offer, node: Node) -> tuple[Key | None, Figure | None]:
        """What it is remembered by, and what is remembered. On a node that only a file describes, whatever was
        measured on such a device."""
        model = self.registry.model(service.plugin)
        options = model.options.model_validate(way.options or {}).model_dump(mode="json")
        seen = self._see(way, service) if way.model is not None else _Seen()
        engine = dataclasses.replace(offer.engine, extra={**offer.engine.extra, **(way.engine_options or {})})
        key = Key.of(
            service.plugin,
            str(parse_model(way.model, self.base)) if way.model is not None else "",
            seen.weights.digest if seen.weights is not None else "",
            engine,
            node.engines.get(engine.name, ""),
            {name: value for name, value in options.items() if name not in model.options.live_names()},
            offer.device,
        )
        return key, self.ledger.figure(key, loosely=node.assumed)

    def _see(self, way: Variant, service: Service) -> _Seen:
        source, allow = parse_model(way.model, self.base), Allow.of(service.allow)
        known = (source, tuple(service.allow))
        if known not in self._seen:
            try:
                listing = measure(source, self.cache, allow=allow, offline=self.offline)
                here = None if listing.download else fetch(source, self.cache, allow=allow, offline=True)
                self._seen[known] = _Seen(listing, here)
            except WeightsError as error:
                self._seen[known] = _Seen(problem=str(error))
        return self._seen[known]

    def _can_read(self, how: Implementation, seen: _Seen, way: Variant) -> None:
        if seen.weights is not None and seen.weights.formats:
            if problem := lacking(how, seen.weights, self._options(how, way), self.cache):
                raise PlanError(problem.wanted, problem.found, problem.fix)
        elif seen.listing is not None and (formats := seen.listing.formats):  # to be downloaded
            if not readable(how, formats):
                raise PlanError(f"weights for {how.engine} in {' or '.join(how.formats)}", " and ".join(formats))
            if not as_they_are(how, formats) and (problem := toolless(how, formats, self.cache)):
                raise PlanError(problem.wanted, problem.found, problem.fix)

    def _own(self, how: Implementation, weights: Weights, way: Variant, offer: Offer) -> int | None:
        if how.model.memory.__func__ is Model.memory.__func__:  # type: ignore[attr-defined]
            return None
        try:
            return how.model.memory(weights, self._options(how, way), offer)
        except Exception as error:  # memory() is a plugin's
            found = f"{type(error).__name__}: {error}"
            raise PlanError(f"memory() of {how.model.__name__}", found, "argosy plugins") from error

    @staticmethod
    def _options(how: Implementation, way: Variant) -> Any:
        return how.model.options.model_validate(way.options or {})
