"""Placement: shares, wishes, variants in order, and a sentence for everything that was rejected."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import argosy
from argosy.backend import Device
from argosy.engines import Engine, Onnxruntime, Python, Torch
from argosy.errors import PlanError
from argosy.fleet.schema import Fleet
from argosy.plan.estimate import Figure
from argosy.plan.place import DEFAULT_SHARE, Node, Plan, place, require
from argosy.registry import Registry
from argosy.testing import MockBackend, installed

GIB = 2**30


class Two(argosy.Model):
    """A model that prefers onnxruntime and can do with Python."""

    name, task, engines = "two", argosy.tasks.embedding, ("onnxruntime", "python")


class Picky(argosy.Model):
    """A model that refuses whatever it is offered with less than 2 GiB, and prefers the engine named last."""

    name, task, engines = "picky", argosy.tasks.embedding, ("onnxruntime", "python")

    @classmethod
    def choose(cls, offers: Sequence[argosy.Offer]) -> Sequence[argosy.Offer]:
        return [offer for offer in offers if (offer.budget or 0) >= 2 * GIB][::-1]


class Refusing(MockBackend):
    """A backend that says why it offers no torch."""

    def refuses(self, device: Device) -> dict[str, str]:
        return {"torch": "no build of torch knows these devices"}


def registry(engines: Sequence[type[Engine]]) -> Registry:
    """The two models above, and backends of every name below whose devices offer these engines."""
    backends = {name: Refusing(name, engines=engines) for name in ("fast", "other", "cpu")}
    return dataclasses.replace(installed(Two, Picky), backends=backends)


def device(index: int, backend: str = "fast", gib: float | None = 8, **fields: Any) -> Device:
    size = None if gib is None else int(gib * GIB)
    name = f"{backend} {index}"
    return Device(backend=backend, name=name, architecture="mock", index=index, memory_bytes=size, **fields)


CPU = device(9, "cpu", 16, cores=4)


def node(name: str, *devices: Device, cores: int = 4, **fields: Any) -> Node:
    engines = {"python": "3", "onnxruntime": "1", "torch": "2"}
    return Node(name=name, devices=devices, cores=cores, **{"engines": engines, **fields})


def planned(
    services: dict[str, dict[str, Any]],
    *nodes: Node,
    estimate: int | None = None,
    engines: Sequence[type[Engine]] = (Python, Onnxruntime),
) -> Plan:
    fleet = Fleet.model_validate(
        {"version": 1, "services": {name: {"plugin": "two", **said} for name, said in services.items()}}
    )

    figure = Figure(estimate, "size") if estimate is not None else Figure()
    return place(fleet, registry(engines), nodes, lambda *_: figure)


def one(plan: Plan) -> Any:
    assert not plan.pending, plan.pending
    (placement,) = plan.placements
    return placement


def test_a_service_without_any_wish_takes_an_accelerator_before_the_processor():
    placement = one(planned({"a": {}}, node("n", CPU, device(0))))
    assert placement.device.backend == "fast"
    assert (placement.share, placement.budget) == (DEFAULT_SHARE, int(0.1 * 8 * GIB))
    assert placement.engine.name == "onnxruntime"
    assert placement.why == "first engine that fits: onnxruntime"


def test_wishes_are_taken_in_their_order_and_one_device_of_a_backend_can_be_named():
    nodes = (node("n", device(0), device(1), device(2, "other"), CPU),)
    assert one(planned({"a": {"device": ["cpu", "fast"]}}, *nodes)).device.index == 9
    assert one(planned({"a": {"device": "fast:1"}}, *nodes)).device.index == 1
    assert one(planned({"a": {"device": ["other:5", "other"]}}, *nodes)).device.index == 2


def test_a_wish_that_no_device_fulfils_is_told():
    plan = planned({"a": {"device": ["slow", "fast:3"]}}, node("n", device(0)))
    assert plan.pending == {"a": "no device is slow or fast:3; there are fast"}


def test_a_node_without_devices_or_of_another_name_is_told():
    assert planned({"a": {"node": "m"}}, node("n", device(0))).pending == {"a": "no device on node m; nodes: n"}
    assert planned({"a": {}}, node("n")).pending == {"a": "no device on any node; nodes: n"}
    assert planned({"a": {}}).pending == {"a": "no device on any node; nodes: none"}


def test_a_service_goes_to_the_node_that_it_names():
    assert one(planned({"a": {"node": "m"}}, node("n", device(0)), node("m", device(0)))).node == "m"


def test_a_device_with_problems_is_left_out_and_its_problems_are_told():
    broken = device(0, problems=("no driver", "no permission"), usable=False)
    assert one(planned({"a": {}}, node("n", broken, CPU))).device is CPU
    plan = planned({"a": {}}, node("n", broken))
    assert plan.pending["a"] == "variant 0 on n/fast 0: not usable: no driver, no permission"


def test_memory_is_a_share_of_the_device_in_bytes():
    placement = one(planned({"a": {"memory": "2GiB"}}, node("n", device(0))))
    assert (placement.share, placement.budget) == (0.25, 2 * GIB)


def test_more_memory_than_the_device_has_is_rejected_with_both_sizes():
    plan = planned({"a": {"memory": "9GiB"}}, node("n", device(0)))
    assert plan.pending["a"] == "variant 0 on n/fast 0: wants 9.00 GiB, the device has 8.00 GiB"


def test_without_a_share_the_estimate_and_a_tenth_give_it_rounded_up_to_whole_hundredths():
    placement = one(planned({"a": {}}, node("n", device(0)), estimate=2 * GIB + 1))
    assert placement.share == 0.28
    assert placement.budget == int(0.28 * 8 * GIB) >= 1.1 * 2 * GIB
    assert placement.figure == Figure(2 * GIB + 1, "size")


def test_an_estimate_above_the_given_share_is_rejected_with_the_arithmetic():
    plan = planned({"a": {"share": 0.25, "engine": "python"}}, node("n", device(0)), estimate=3 * GIB)
    assert plan.pending["a"] == (
        "variant 0 on n/fast 0: python needs about 3.00 GiB, a share of 0.25 of 8.00 GiB is 2.00 GiB"
    )


def test_an_estimate_above_the_whole_device_is_rejected_with_the_arithmetic():
    plan = planned({"a": {"engine": "python"}}, node("n", device(0)), estimate=9 * GIB)
    assert plan.pending["a"] == (
        "variant 0 on n/fast 0: python needs about 9.00 GiB, a share of 1 of 8.00 GiB is 8.00 GiB"
    )


def test_a_device_of_unknown_memory_counts_shares_and_has_no_budget():
    placement = one(planned({"a": {"share": 0.5}}, node("n", device(0, gib=None)), estimate=3 * GIB))
    assert (placement.share, placement.budget) == (0.5, None)


def test_memory_that_the_owner_gives_is_the_budget_of_a_device_of_unknown_memory_too():
    nodes = (node("n", device(0, gib=None)),)
    placement = one(planned({"a": {"memory": "4GiB"}}, *nodes, estimate=3 * GIB))
    assert (placement.share, placement.budget) == (DEFAULT_SHARE, 4 * GIB)
    plan = planned({"a": {"memory": "2GiB", "engine": "python"}}, *nodes, estimate=3 * GIB)
    assert plan.pending["a"] == "variant 0 on n/fast 0: python needs about 3.00 GiB, its `memory:` is 2.00 GiB"


def test_what_is_left_of_a_device_is_told():
    plan = planned({"a": {"share": 0.75}, "b": {"share": 0.5, "engine": "python"}}, node("n", device(0)))
    assert [placement.service for placement in plan.placements] == ["a"]
    assert (
        plan.pending["b"]
        == "variant 0 on n/fast 0: wants a share of 0.5 (4.00 GiB), 0.25 (2.00 GiB) is left of it beside a (0.75)"
    )


def test_variants_are_taken_in_order_and_the_rejected_ones_are_counted():
    ways = [{"device": "slow"}, {"engine": "torch"}, {"share": 0.5, "engine": "python"}]
    placement = one(planned({"a": {"variants": ways}}, node("n", device(0))))
    assert (placement.variant, placement.engine.name) == (2, "python")
    assert placement.why == "first engine that fits: python (after 2 rejected)"


def test_an_engine_that_nobody_offers_is_told_with_those_that_are_offered():
    plan = planned({"a": {"engine": "onnxruntime"}}, node("n", device(0)), engines=(Python, Torch))
    assert plan.pending["a"] == "variant 0 on n/fast 0: fast does not offer onnxruntime for mock"
    plan = planned({"a": {}}, node("n", device(0)), engines=())
    assert plan.pending["a"] == (
        "variant 0 on n/fast 0: fast does not offer onnxruntime for mock; "
        "variant 0 on n/fast 0: fast does not offer python for mock"
    )


def test_a_model_may_reorder_and_drop_what_is_offered():
    rich = {"plugin": "picky", "share": 0.5}
    assert one(planned({"a": rich}, node("n", device(0)))).engine.name == "python"
    plan = planned({"a": {**rich, "share": 0.1}}, node("n", device(0)))
    assert plan.pending["a"] == (
        "variant 0 on n/fast 0: picky itself refuses onnxruntime there; "
        "variant 0 on n/fast 0: picky itself refuses python there"
    )


def test_replicas_spread_over_devices_and_what_does_not_fit_is_counted():
    nodes = (node("n", device(0), device(1)),)
    plan = planned({"a": {"share": 0.6, "replicas": 2}}, *nodes)
    assert [(p.replica, p.device.index) for p in plan.of("a")] == [(0, 0), (1, 1)]
    plan = planned({"a": {"share": 0.6, "replicas": 3, "engine": "python"}}, *nodes)
    assert len(plan.of("a")) == 2
    assert plan.pending["a"].startswith(
        "2 of 3 replicas fit; variant 0 on n/fast 0: wants a share of 0.6 (4.80 GiB), 0.4 (3.20 GiB) is left of it"
    )


def test_cores_follow_the_share_unless_they_are_given_and_never_exceed_the_node():
    nodes = (node("n", device(0), cores=8),)
    assert one(planned({"a": {"share": 0.5}}, *nodes)).cores == 4
    assert one(planned({"a": {"share": 0.01}}, *nodes)).cores == 1
    assert one(planned({"a": {"cores": 3}}, *nodes)).cores == 3
    placement = one(planned({"a": {"cores": 64}}, *nodes))
    assert (placement.cores, placement.engine.threads) == (8, 8)


def test_a_pending_service_can_be_asked_for_and_says_why():
    plan = planned({"a": {"device": "slow"}, "b": {}}, node("n", device(0)))
    assert require(plan, "b")[0].service == "b"
    with pytest.raises(
        PlanError, match="a place for a; found: no device is slow; there are fast; try: a smaller share"
    ) as caught:
        require(plan, "a")
    assert caught.value.exit_code == 5


shares = st.floats(0.01, 1).map(lambda share: round(share, 3))
measures = st.one_of(
    st.builds(lambda share: {"share": share}, shares),
    st.builds(lambda gib: {"memory": f"{gib}GiB"}, st.integers(1, 12)),
    st.just({}),
)
wishes = st.one_of(st.just({}), st.sampled_from(["fast", "fast:1", "cpu"]).map(lambda wish: {"device": wish}))
fleets = st.lists(
    st.builds(lambda measure, wish, count: {**measure, **wish, "replicas": count}, measures, wishes, st.integers(1, 3)),
    min_size=1,
    max_size=8,
)
machines = st.lists(st.lists(st.one_of(st.none(), st.integers(1, 24)), max_size=3), max_size=3)


@settings(deadline=None, max_examples=150)
@given(fleets, machines, st.one_of(st.none(), st.integers(1, 20 * GIB)))
def test_whatever_the_fleet_no_device_is_given_away_twice(services, sizes, estimate):
    nodes = [
        node(f"n{number}", *(device(index, gib=gib) for index, gib in enumerate(memory)), CPU)
        for number, memory in enumerate(sizes)
    ]
    said = {f"s{index}": service for index, service in enumerate(services)}
    plan = planned(said, *nodes, estimate=estimate)
    for machine in nodes:
        for each in machine.devices:
            assert plan.used(machine.name, each) <= 1 + 1e-6
    for placement in plan.placements:
        wanted = said[placement.service]
        total = placement.device.memory_bytes
        assert 0 < placement.share <= 1
        assert (placement.budget is None) == (total is None and "memory" not in wanted)
        if estimate is not None and total is not None:
            assert placement.budget >= estimate
        if "share" in wanted:
            assert placement.share == wanted["share"]
        if "memory" in wanted and total is not None:
            assert placement.budget == pytest.approx(int(wanted["memory"][:-3]) * GIB, abs=1)
        assert placement.device.backend == wanted.get("device", placement.device.backend).partition(":")[0]
    for name, service in said.items():
        assert (name in plan.pending) == (len(plan.of(name)) < service["replicas"])
        assert plan.pending.get(name, "said") != ""
    assert plan == planned(said, *nodes, estimate=estimate)  # the same once more
