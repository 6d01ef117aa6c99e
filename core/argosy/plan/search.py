"""One replica's way through its candidates: variants, devices, engines, the first that fits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from ..backend import Backend, Device, Offer
from ..engines import Engine
from ..errors import PlanError, PluginError
from ..fleet.schema import Service, Variant
from ..model import Implementation
from ..registry import Registry
from .decision import Candidate, Cause, Placement, Verdict
from .estimate import Figure, gib
from .ledger import Key
from .nodes import Node
from .room import Room
from .wishes import Wished, wished

# What a replica will hold; PlanError where the weights are in a format that the implementation neither reads nor
# converts.
Estimate = Callable[[Service, Variant, Implementation, Offer], Figure]
# What a replica on this node would be remembered by in the ledger, and what is remembered.
Lookup = Callable[[Service, Variant, Offer, Node], tuple[Key | None, Figure | None]]

# A candidate of one variant on one device, to be told the rest.
Made = Callable[..., Candidate]

# A share that is left to us is so much of what is needed: requests differ, and what exceeds a budget may be ended.
ROOM = 1.1

# A replica whose share is given by neither the owner nor an estimate gets this much of its device.
DEFAULT_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a service runs already. One that would be placed there with the same options keeps what it has: neither
    what was measured since nor strangers who came later restart it."""

    node: str
    index: int
    share: float
    key: Key


class _No(Exception):
    """A candidate is rejected, after it was found out what it needs and would get, or before."""

    def __init__(
        self,
        cause: Cause,
        why: str,
        share: float | None = None,
        budget: int | None = None,
        figure: Figure | None = None,
    ) -> None:
        super().__init__(why)
        self.cause, self.why, self.share, self.budget, self.figure = cause, why, share, budget, figure or Figure()


@dataclass(kw_only=True)
class Search:
    """One replica's way through its candidates. `found` is where it ended, once `candidates` has been read."""

    name: str
    replica: int
    service: Service
    registry: Registry
    nodes: Sequence[Node]
    room: Room
    estimate: Estimate
    lookup: Lookup
    standing: Standing | None
    found: Placement | None = field(default=None, init=False)
    _rejected: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.model = self.registry.model(self.service.plugin)
        self.implementations = {item.engine: item for item in self.model.implementations()}

    def candidates(self) -> Iterator[Candidate]:
        for index, way in enumerate(self.service.ways()):
            for there in wished(way, self.nodes):
                here = partial(
                    Candidate, replica=self.replica, variant=index, node=there.node_name, device=there.device
                )
                try:
                    yield from self._on(there, way, index, here)
                except _No as no:
                    yield self._no(here, no)

    def _on(self, there: Wished, way: Variant, variant: int, here: Made) -> Iterator[Candidate]:
        """The candidates of one device, an engine each. _No where the device itself is ruled out."""
        if there.node is None or there.device is None or there.cause is not None:
            raise _No(there.cause or Cause.NOTHING, there.why)
        node, device = there.node, there.device
        if way.engine is not None and way.engine not in self.implementations:
            knows = " or ".join(self.implementations)
            raise _No(Cause.PLUGIN, f"the fleet file wants {way.engine}, {self.service.plugin} runs on {knows}")
        try:
            backend = self.registry.backend(device.backend)
        except PluginError as error:
            raise _No(Cause.BACKEND, str(error)) from None
        if way.memory is not None and device.memory_bytes and way.memory > device.memory_bytes:
            raise _No(Cause.MEMORY, f"wants {gib(way.memory)}, the device has {gib(device.memory_bytes)}")
        share = _given(way, device)
        offered = self._offers(backend, node, device, way, DEFAULT_SHARE if share is None else share)
        refused = backend.refuses(device)
        looked = {name: self._there(way, node, device, name, offered, refused) for name in self.implementations}
        offers = [one for one in looked.values() if isinstance(one, Offer)]
        chosen = list(offers if self.found is not None or not offers else self._choose(offers))
        names = [offer.engine.name for offer in chosen]
        for name, one in looked.items():  # in the plugin's order, or, of what is there, in that of its choose()
            if isinstance(one, _No):
                yield self._no(here, one, name)
            elif chosen:
                yield self._tried(way, backend, node, chosen.pop(0), share, variant, here)
        for offer in offers:
            if offer.engine.name not in names:
                dropped = _No(Cause.PLUGIN, f"{self.service.plugin} itself refuses {offer.engine.name} there")
                yield self._no(here, dropped, offer.engine.name)

    def _tried(
        self, way: Variant, backend: Backend, node: Node, offer: Offer, share: float | None, variant: int, here: Made
    ) -> Candidate:
        name = offer.engine.name
        if (first := self.found) is not None:
            same = (first.node, first.device.index) == (node.name, offer.device.index)
            where = "" if same else f" on {first.node}/{first.device.name}"
            return here(engine=name, verdict=Verdict.LATER, why=f"{first.engine.name}{where} was taken before it")
        try:
            found = self._fit(way, backend, node, offer, share, variant)
        except _No as no:
            return self._no(here, no, name)
        self.found = found
        return here(
            engine=name,
            verdict=Verdict.CHOSEN,
            why=found.why,
            share=found.share,
            budget=found.budget,
            figure=found.figure,
        )

    def _no(self, here: Made, no: _No, engine: str = "") -> Candidate:
        self._rejected += no.cause is not Cause.WISH
        return here(engine=engine, cause=no.cause, why=no.why, share=no.share, budget=no.budget, figure=no.figure)

    def _why(self, engine: str, note: str) -> str:
        said = f"{'only' if len(self.implementations) == 1 else 'first'} engine that fits: {engine}"
        return said + (f" (after {self._rejected} rejected)" if self._rejected else "") + note

    def _offers(self, backend: Backend, node: Node, device: Device, way: Variant, share: float) -> dict[str, Offer]:
        budget = _budget(way, device, share)
        every = backend.offers(device, budget, self._cores(way, node, device))
        return {engine.name: Offer(engine=engine, device=device, budget=budget) for engine in every}

    def _cores(self, way: Variant, node: Node, device: Device) -> int:
        """As many as the owner says, else the share's part of the node's; never more than it has."""
        share = _given(way, device)
        cores = way.cores or max(1, round((DEFAULT_SHARE if share is None else share) * node.cores))
        return min(cores, node.cores) if node.cores else cores

    def _there(
        self,
        way: Variant,
        node: Node,
        device: Device,
        engine: str,
        offered: Mapping[str, Offer],
        refused: Mapping[str, str],
    ) -> Offer | _No:
        if way.engine is not None and way.engine != engine:
            return _No(Cause.WISH, f"the fleet file wants {way.engine}")
        if engine not in offered:
            what = device.architecture or device.name
            return _No(Cause.REFUSED, refused.get(engine, f"{device.backend} does not offer {engine} for {what}"))
        if engine not in node.engines:
            wanted = " or ".join(f"pip install {name}" for name in self._distributions(engine)[:1])
            return _No(Cause.ENGINE, f"{engine} is not installed on {node.name}{f': {wanted}' if wanted else ''}")
        return offered[engine]

    def _distributions(self, engine: str) -> Sequence[str]:
        kind: type[Engine] | None = self.registry.engines.get(engine)
        return kind.distributions if kind is not None else ()

    def _choose(self, offers: Sequence[Offer]) -> Sequence[Offer]:
        try:
            return self.model.choose(offers)
        except Exception as error:  # choose() is a plugin's
            raise _No(Cause.PLUGIN, f"choose() of {self.service.plugin}: {type(error).__name__}: {error}") from error

    def _fit(
        self, way: Variant, backend: Backend, node: Node, offer: Offer, given: float | None, variant: int
    ) -> Placement:
        """The placement of this offer. _No with the arithmetic where it does not fit."""
        device, total = offer.device, offer.device.memory_bytes
        key, figure = self.lookup(self.service, way, offer, node)
        if figure is None:
            try:
                figure = self.estimate(self.service, way, self.implementations[offer.engine.name], offer)
            except PlanError as error:  # these weights are not for this engine
                raise _No(Cause.WEIGHTS, str(error)) from None
        share = given
        if share is None:
            share, offer, key, figure = self._own(way, backend, node, offer, key, figure)
        budget = _budget(way, device, share)
        mine = self._stands(node, device, share, key)
        note = ""
        if figure.bytes is not None and budget is not None and figure.bytes > budget:
            if not mine:
                needs = (
                    f"{offer.engine.name} needs {'' if figure.source == 'measured' else 'about '}{gib(figure.bytes)}"
                )
                whole = f"a share of {share:.3g} of {gib(total)}" if total is not None else "its `memory:`"
                said = f"{needs}, {whole} is {gib(budget)}"
                raise _No(Cause.MEMORY, said, share, budget, figure)
            note = f"; it held {gib(figure.bytes)}, more than its budget, and would not be placed so again"
        if refusal := self.room.refusal(node.name, device, share, budget, mine=mine):
            raise _No(*refusal, share, budget, figure)
        return Placement(
            service=self.name,
            replica=self.replica,
            variant=variant,
            node=node.name,
            device=device,
            engine=offer.engine,
            share=share,
            budget=budget,
            figure=figure,
            cores=self._cores(way, node, device),
            why=self._why(offer.engine.name, note),
            enforcement=backend.enforcement(device),
            before=self.room.before(node.name, device),
            key=key,
        )

    def _own(
        self, way: Variant, backend: Backend, node: Node, offer: Offer, key: Key | None, figure: Figure
    ) -> tuple[float, Offer, Key | None, Figure]:
        """The share that the owner left to us, and the engine with the caps that go with it. A service that runs keeps
        its share; what was measured under those caps goes before what was reckoned without them."""
        total, name = offer.device.memory_bytes, offer.engine.name
        kept = self.standing
        if kept is not None and (kept.node, kept.index) == (node.name, offer.device.index):
            same = self._offers(backend, node, offer.device, way, kept.share).get(name, offer)
            its, known = self.lookup(self.service, way, same, node)
            if its is not None and kept.key.matches(its):
                return kept.share, same, its, known or figure
        if figure.bytes is None or not total:
            return DEFAULT_SHARE, offer, key, figure
        share = _share(figure.bytes, total)
        again = self._offers(backend, node, offer.device, way, share).get(name, offer)
        key, known = self.lookup(self.service, way, again, node)
        if known is not None and known.bytes is not None:
            share, figure = max(share, _share(known.bytes, total)), known
        return share, again, key, figure

    def _stands(self, node: Node, device: Device, share: float, key: Key | None) -> bool:
        kept = self.standing
        where = (node.name, device.index, share)
        return (
            kept is not None
            and key is not None
            and where == (kept.node, kept.index, kept.share)
            and kept.key.matches(key)
        )


def _share(size: int, total: int) -> float:
    """What is needed and some room, in whole hundredths, rounded up."""
    return min(1.0, max(math.ceil(100 * ROOM * size / total) / 100, 0.01))


def _budget(way: Variant, device: Device, share: float) -> int | None:
    """Bytes; where the device's memory is unknown, those that the owner gave."""
    return int(share * device.memory_bytes) if device.memory_bytes is not None else way.memory


def _given(way: Variant, device: Device) -> float | None:
    """The share of this device that the owner gave; None where he left it to the estimate."""
    if way.share is None and way.memory is not None and device.memory_bytes:
        return way.memory / device.memory_bytes
    return way.share
