"""The decision as data: every candidate with its verdict, pools, strangers, the ledger, and what runs already."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import argosy
from argosy.backend import Device, Offer
from argosy.engines import Ctranslate2, Engine, Onnxruntime, Python, Torch
from argosy.errors import PlanError
from argosy.fleet.schema import Fleet, Service, Variant
from argosy.model import Implementation
from argosy.plan.decision import Candidate, Cause, Plan, Verdict
from argosy.plan.estimate import Figure, from_size
from argosy.plan.ledger import Key
from argosy.plan.nodes import Node, written
from argosy.plan.place import Standing, place
from argosy.registry import Registry
from argosy.testing import MockBackend, installed

GIB = 2**30


class Four(argosy.Model):
    """A model with four engines, which will not have the third."""

    name, task = "four", argosy.tasks.embedding
    engines = ("ctranslate2", "onnxruntime", "torch", "python")

    @classmethod
    def choose(cls, offers: Sequence[Offer]) -> Sequence[Offer]:
        return [offer for offer in offers if offer.engine.name != "torch"]


class Careless(argosy.Model):
    """A model whose choose() breaks."""

    name, task, engines = "careless", argosy.tasks.embedding, ("python",)

    @classmethod
    def choose(cls, offers: Sequence[Offer]) -> Sequence[Offer]:
        raise LookupError("no such engine")


class Capped(MockBackend):
    """Engines that know their budget; ctranslate2 is not for these devices, and it is said why."""

    def refuses(self, device: Device) -> Mapping[str, str]:
        return {"ctranslate2": "its build has no kernels for mock"}

    def offers(self, device: Device, budget: int | None, cores: int) -> Sequence[Engine]:
        cap = {"memory_fraction": round((budget or 0) / (device.memory_bytes or 1), 2)}
        return [Torch(threads=cores, **cap), Onnxruntime(threads=cores, extra=cap), Python(threads=cores)]


def registry(**backends: MockBackend) -> Registry:
    return dataclasses.replace(installed(Four, Careless), backends=backends or {"fast": Capped("fast")})


def device(index: int = 0, backend: str = "fast", gib: float = 8, **fields: Any) -> Device:
    return Device(
        backend=backend,
        name=f"{backend} {index}",
        architecture="mock",
        index=index,
        memory_bytes=int(gib * GIB),
        **fields,
    )


def node(*devices: Device, name: str = "n", **fields: Any) -> Node:
    every = {"cores": 4, "engines": dict.fromkeys(("python", "onnxruntime", "torch", "ctranslate2"), "1")}
    return Node(name=name, devices=devices, **{**every, **fields})


def fleet(**services: dict[str, Any]) -> Fleet:
    return Fleet.model_validate(
        {"version": 1, "services": {name: {"plugin": "four", **said} for name, said in services.items()}}
    )


def planned(*nodes: Node, figure: Figure | None = None, known: Registry | None = None, **services: Any) -> Plan:
    return place(fleet(**services), known or registry(), nodes, lambda *_: figure or Figure())


def verdicts(plan: Plan, service: str = "a") -> list[tuple[str, str, str]]:
    """(engine, verdict, cause) of each candidate."""
    return [(one.engine, str(one.verdict), str(one.cause or "")) for one in plan.decisions[service].candidates]


def test_every_engine_on_every_device_has_its_verdict_in_the_order_of_preference() -> None:
    engines = {"ctranslate2": "4", "onnxruntime": "1", "python": "3"}
    found = planned(node(device(0), device(1, "other"), engines=engines), a={"device": "fast"})
    assert verdicts(found) == [
        ("ctranslate2", "rejected", "refused"),
        ("onnxruntime", "chosen", ""),
        ("torch", "rejected", "engine"),
        ("python", "later", ""),
        ("", "rejected", "wish"),
    ]
    refused, taken, absent, later, elsewhere = found.decisions["a"].candidates
    assert refused.why == "its build has no kernels for mock"
    assert absent.why == "torch is not installed on n: pip install torch"
    assert later.why == "onnxruntime was taken before it"
    assert elsewhere.why == "the fleet file wants fast"
    assert (taken.share, taken.budget) == (found.of("a")[0].share, found.of("a")[0].budget)
    assert found.of("a")[0].why == "first engine that fits: onnxruntime (after 1 rejected)"


def test_what_the_plugin_drops_and_what_breaks_in_it_is_told() -> None:
    found = planned(node(device()), a={"engine": "torch"}, b={"plugin": "careless"})
    assert ("torch", "rejected", "plugin") in verdicts(found)
    assert found.pending["a"] == "variant 0 on n/fast 0: four itself refuses torch there"
    assert found.pending["b"] == "variant 0 on n/fast 0: choose() of careless: LookupError: no such engine"


def test_a_backend_that_is_not_installed_where_the_plan_is_made_is_named() -> None:
    found = planned(node(device(backend="absent")), a={})
    (one,) = found.decisions["a"].candidates
    assert one.cause is Cause.BACKEND
    assert "pip install argosy-absent" in found.pending["a"]


def test_an_engine_that_the_model_does_not_run_on_is_no_silent_absence() -> None:
    found = planned(node(device()), a={"engine": "vllm"})
    assert found.pending["a"].endswith(
        "the fleet file wants vllm, four runs on ctranslate2 or onnxruntime or torch or python"
    )


def test_weights_that_an_engine_can_make_nothing_of_are_told_and_the_next_engine_is_taken() -> None:
    def estimate(service: Service, way: Variant, how: Implementation, offer: Offer) -> Figure:
        if how.engine == "onnxruntime":
            raise PlanError("weights for onnxruntime in onnx", "gguf")
        return Figure(GIB, "size")

    found = place(fleet(a={}), registry(), [node(device())], estimate)
    first = found.decisions["a"].candidates[1]
    assert (first.cause, first.why) == (Cause.WEIGHTS, "weights for onnxruntime in onnx; found: gguf")
    assert found.of("a")[0].engine.name == "python"


def test_a_candidate_that_needs_too_much_keeps_the_figures_that_it_was_rejected_by() -> None:
    figure = Figure(6 * GIB, "measured", "measured 2026-11-23 on fast 0 with python 3")
    found = planned(node(device()), figure=figure, a={"share": 0.5, "engine": "python"})
    one = next(one for one in found.decisions["a"].candidates if one.engine == "python")
    assert (one.cause, one.share, one.budget, one.figure) == (Cause.MEMORY, 0.5, 4 * GIB, figure)
    assert one.why == "python needs 6.00 GiB, a share of 0.5 of 8.00 GiB is 4.00 GiB"


def test_half_and_half_fit_and_a_tenth_more_does_not_in_whatever_order() -> None:
    halves = {"a": {"share": 0.5}, "b": {"share": 0.5}, "c": {"share": 0.1}}
    for order in (("a", "b", "c"), ("c", "a", "b"), ("b", "c", "a")):
        found = planned(node(device()), **{name: halves[name] for name in order})
        assert list(found.pending) == [order[-1]]
        assert "0.5" in found.pending[order[-1]] or "0.1" in found.pending[order[-1]]
    found = planned(node(device()), **halves)
    assert "wants a share of 0.1 (0.80 GiB), 0 (0.00 GiB) is left of it beside a (0.5), b (0.5)" in found.pending["c"]


def test_what_strangers_hold_is_subtracted_and_named() -> None:
    there = node(device(), taken={0: 3 * GIB})
    found = planned(there, a={"memory": "3GiB"}, b={"memory": "2GiB"}, c={"memory": "2GiB"})
    assert [(one.service, one.before, one.after) for one in found.placements] == [
        ("a", 3 * GIB, 6 * GIB),
        ("b", 6 * GIB, 8 * GIB),
    ]
    said = "wants 2.00 GiB, 0.00 GiB is left: 8.00 GiB - 3.00 GiB held by others - 3.00 GiB for a - 2.00 GiB for b"
    assert said in found.pending["c"]


UNIFIED = (
    device(0, gib=12, integrated=True),
    device(1, "other", gib=16, integrated=True, cores=4),
    device(2, gib=8),
)
BOTH = {"fast": MockBackend("fast", engines=(Python,)), "other": MockBackend("other", engines=(Python,))}


def test_integrated_devices_and_the_processor_draw_from_one_pool() -> None:
    known = registry(**BOTH)
    services = {
        "a": {"device": "fast:0", "share": 1},
        "b": {"device": "other", "share": 0.25},
        "c": {"device": "other", "share": 0.25},
        "d": {"device": "fast:1", "share": 1},
    }
    found = planned(node(*UNIFIED), known=known, **services)
    assert [one.service for one in found.placements] == ["a", "b", "d"]
    (reason,) = [one for one in found.decisions["c"].candidates if one.cause is Cause.POOL]
    assert reason.why == (
        "wants 4.00 GiB of the memory that fast 0 and other 1 share, 0.00 GiB is left: "
        "16.00 GiB - 12.00 GiB for a - 4.00 GiB for b"
    )


def test_strangers_on_an_integrated_device_take_from_the_processor_s_memory_too() -> None:
    there = node(*UNIFIED, taken={0: 6 * GIB})
    found = planned(there, known=registry(**BOTH), a={"device": "other", "share": 0.7})
    assert "16.00 GiB - 6.00 GiB held by others" in found.pending["a"]


sizes = st.integers(1, 16)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.sampled_from(["fast:0", "other", "fast:1"]), st.floats(0.05, 1)), min_size=1, max_size=8),
    st.tuples(sizes, sizes, sizes),
    st.dictionaries(st.integers(0, 2), st.integers(0, 4 * GIB), max_size=3),
)
def test_no_pool_and_no_device_is_given_away_twice(
    wishes: list[tuple[str, float]], gib: tuple[int, int, int], taken: dict[int, int]
) -> None:
    devices = [dataclasses.replace(one, memory_bytes=size * GIB) for one, size in zip(UNIFIED, gib, strict=True)]
    services = {f"s{at}": {"device": wish, "share": round(share, 3)} for at, (wish, share) in enumerate(wishes)}
    found = planned(node(*devices, taken=taken), known=registry(**BOTH), **services)
    promised = [sum(one.budget or 0 for one in found.on("n", device)) for device in devices]
    for index, one in enumerate(devices):
        assert found.used("n", one) <= 1 + 1e-6
        assert not promised[index] or promised[index] + taken.get(index, 0) <= (one.memory_bytes or 0)
    if promised[0] + promised[1]:
        pool = max(devices[0].memory_bytes or 0, devices[1].memory_bytes or 0)
        assert promised[0] + promised[1] + taken.get(0, 0) + taken.get(1, 0) <= pool
    assert set(found.pending) == {name for name in services if not found.of(name)}


def key(engine: Engine, there: Device, weights: str = "w") -> Key:
    return Key.of("four", "file://w", weights, engine, "1", {}, there)


class Ledger:
    """What is remembered of engines by their caps; every question is written down."""

    def __init__(self, known: Mapping[float, int]) -> None:
        self.known, self.asked = known, []

    def __call__(self, service: Service, way: Variant, offer: Offer, node: Node) -> tuple[Key, Figure | None]:
        fraction = offer.engine.extra.get("memory_fraction", 0.0)
        self.asked.append(fraction)
        figure = Figure(self.known[fraction], "measured") if fraction in self.known else None
        return key(offer.engine, offer.device), figure


def test_what_was_measured_goes_before_every_estimate() -> None:
    ledger = Ledger({0.5: 3 * GIB})
    found = place(
        fleet(a={"share": 0.5}), registry(), [node(device())], lambda *_: pytest.fail("it was estimated"), ledger
    )
    assert found.of("a")[0].figure == Figure(3 * GIB, "measured")
    assert found.of("a")[0].key == key(found.of("a")[0].engine, device())


def test_a_share_that_is_left_to_us_is_what_was_measured_and_the_engine_s_caps_follow_it() -> None:
    found = place(fleet(a={}), registry(), [node(device())], lambda *_: Figure(2 * GIB, "size"), Ledger({}))
    assert found.of("a")[0].share == 0.28
    assert found.of("a")[0].engine.extra == {"memory_fraction": 0.28}
    found = place(
        fleet(a={}), registry(), [node(device())], lambda *_: Figure(2 * GIB, "size"), Ledger({0.28: 3 * GIB})
    )
    assert (found.of("a")[0].share, found.of("a")[0].figure.source) == (0.42, "measured")


def test_what_runs_keeps_its_share_whatever_was_measured_since() -> None:
    there = device()
    (engine,) = [one for one in Capped("fast").offers(there, 2 * GIB, 1) if one.name == "onnxruntime"]
    kept = {"a": Standing(node="n", index=0, share=0.25, key=key(engine, there, weights=""))}
    ledger = Ledger({0.1: 3 * GIB, 0.25: 3 * GIB})
    for nodes in ([node(there)], [node(there, taken={0: 7 * GIB})]):
        found = place(fleet(a={"cores": 1}), registry(), nodes, lambda *_: Figure(), ledger, kept)
        (one,) = found.placements
        assert (one.share, one.engine, one.figure.bytes) == (0.25, engine, 3 * GIB)
        assert one.why.endswith("; it held 3.00 GiB, more than its budget, and would not be placed so again")
    moved = {"a": dataclasses.replace(kept["a"], index=1)}
    assert (
        place(fleet(a={"cores": 1}), registry(), [node(there)], lambda *_: Figure(), ledger, moved).of("a")[0].share
        == 0.42
    )
    other = {"a": dataclasses.replace(kept["a"], key=dataclasses.replace(kept["a"].key, options="others"))}
    assert (
        place(fleet(a={"cores": 1}), registry(), [node(there)], lambda *_: Figure(), ledger, other).of("a")[0].share
        == 0.42
    )


def test_what_runs_does_not_keep_more_than_the_device_has_shares() -> None:
    there = device()
    kept = {"b": Standing(node="n", index=0, share=0.6, key=key(Python(threads=1), there))}
    services = {"a": {"share": 0.5}, "b": {"share": 0.6, "engine": "python", "cores": 1}}
    found = place(fleet(**services), registry(), [node(there)], lambda *_: Figure(), Ledger({}), kept)
    assert "wants a share of 0.6 (4.80 GiB), 0.5 (4.00 GiB) is left of it beside a (0.5)" in found.pending["b"]


def test_a_device_is_counted_among_its_backend_s_usable_or_not() -> None:
    broken = device(0, usable=False, problems=("no driver",))
    found = planned(node(broken, device(1)), a={"device": "fast:0"}, b={"device": "fast:1"})
    assert found.pending["a"] == "variant 0 on n/fast 0: not usable: no driver"
    assert found.of("b")[0].device.index == 1


def test_replicas_that_would_run_apart_are_told() -> None:
    found = planned(node(device(0), device(1)), a={"share": 0.6, "replicas": 2}, b={"share": 0.1, "replicas": 2})
    assert found.scattered("a").startswith("its replicas would run on different devices (n/fast 0, n/fast 1)")
    assert found.scattered("b") == ""


def test_nodes_that_only_the_file_knows_have_its_devices_and_every_engine() -> None:
    said = Fleet.model_validate(
        {
            "version": 1,
            "nodes": {"here": {}, "far": {"devices": [{"backend": "fast", "name": "Card", "memory": "8GiB"}]}},
            "services": {"a": {"plugin": "four", "node": "far", "share": 0.5}},
        }
    )
    (far,) = written(said, ["here"], ["python", "onnxruntime"])
    assert (far.name, far.assumed, far.cores) == ("far", True, 0)
    assert far.engines == {"python": "", "onnxruntime": ""}
    found = place(said, registry(), [node(name="here"), far], lambda *_: Figure())
    assert (found.of("a")[0].budget, found.of("a")[0].cores) == (4 * GIB, 1)


def test_an_estimate_from_size_grows_with_small_weights_and_not_with_large_ones() -> None:
    assert from_size(100 * 2**20) == 450 * 2**20
    assert from_size(40 * GIB) == 42 * GIB + 300 * 2**20


def test_fifty_services_on_twenty_nodes_are_placed_within_a_second() -> None:
    known = registry(
        fast=Capped("fast"),
        other=MockBackend("other", engines=(Python, Onnxruntime, Torch, Ctranslate2)),
    )
    nodes = [
        node(device(0), device(1), device(2), device(3, "other", gib=64, cores=32), name=f"n{number}")
        for number in range(20)
    ]
    ways = [{"device": "fast:2", "share": 0.9}, {"device": "fast"}, {"device": "other"}]
    services = {f"s{number}": {"variants": ways, "replicas": 1 + number % 2} for number in range(50)}
    seconds = []
    for _ in range(3):
        began = time.process_time()
        found = planned(*nodes, figure=Figure(GIB, "size"), known=known, **services)
        seconds.append(time.process_time() - began)
    assert not found.pending
    assert sum(len(decision.candidates) for decision in found.decisions.values()) > 50 * 20 * 3
    assert min(seconds) < 1


def test_a_candidate_says_where_it_stands() -> None:
    assert str(Candidate(replica=0, variant=1, node="n", device=device(), why="no")) == "variant 1 on n/fast 0: no"
    assert str(Candidate(replica=0, variant=0, verdict=Verdict.REJECTED, why="no device")) == "no device"
