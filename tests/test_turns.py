"""The order in which engines load on one device: one at a time, the largest first, and nobody waits without end."""

from __future__ import annotations

import dataclasses
import time

import pytest
from test_entry import ready, report

from argosy.serve import queues
from argosy.serve.entry import Entry
from argosy.serve.guard import Report
from argosy.serve.queues import Queues
from argosy.serve.turns import PATIENCE, Asker, Expected, Turns

CARD, OTHER = ("node", 0), ("node", 1)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def turns(clock: Clock) -> Turns:
    return Turns(clock=clock)


def asker(service: str, size: float = 1, replica: str = "", place: tuple[str, int] = CARD) -> Asker:
    return Asker(service=service, replica=replica or service, place=place, pid=1, size=size)


def expected(**sizes: float) -> dict[str, Expected]:
    return {service: Expected(size=size, replicas=1) for service, size in sizes.items()}


def test_the_first_who_asks_alone_loads_and_the_next_waits_for_it(turns: Turns) -> None:
    assert turns.ask(asker("a"), {})
    assert turns.ask(asker("a"), {}), "asking again is no harm"
    assert not turns.ask(asker("b"), {})
    assert turns.holder(CARD) == "a"
    turns.give_back("a")
    assert turns.ask(asker("b"), {})


def test_devices_do_not_wait_for_each_other(turns: Turns) -> None:
    assert turns.ask(asker("a"), {})
    assert turns.ask(asker("b", place=OTHER), {})


def test_the_largest_of_those_who_wait_is_next(turns: Turns) -> None:
    turns.ask(asker("first"), {})
    assert not turns.ask(asker("small", 1), {})
    assert not turns.ask(asker("large", 3), {})
    assert not turns.ask(asker("middle", 2), {})
    turns.give_back("first")
    order = []
    while len(order) < 3:
        (next_one,) = [
            name for name, size in (("small", 1), ("middle", 2), ("large", 3))
            if name not in order and turns.ask(asker(name, size), {})
        ]  # fmt: skip
        order.append(next_one)
        turns.give_back(next_one)
    assert order == ["large", "middle", "small"]


@pytest.mark.parametrize("order", [("a", "b", "c"), ("c", "b", "a"), ("b", "a", "c")])
def test_the_plan_s_order_holds_in_whatever_order_they_ask(turns: Turns, order: tuple[str, ...]) -> None:
    sizes = {"a": 3.0, "b": 2.0, "c": 1.0}
    left = dict(sizes)
    for name in order:  # the plan says who is still to come: the small ones do not start before the large one asked
        turns.ask(asker(name, sizes[name]), expected(**left))
    loaded = []
    while left:
        for name in list(left):
            if turns.ask(asker(name, sizes[name]), expected(**left)):
                loaded.append(name)
                turns.give_back(name)
                del left[name]
    assert loaded == ["a", "b", "c"]


def test_of_equals_who_asked_first_is_first(turns: Turns, clock: Clock) -> None:
    turns.ask(asker("holder"), {})
    for name in ("one", "two"):
        clock.now += 1
        turns.ask(asker(name), {})
    turns.give_back("holder")
    assert not turns.ask(asker("two"), {})
    assert turns.ask(asker("one"), {})


def test_a_larger_one_that_has_not_asked_is_waited_for_but_not_without_end(turns: Turns, clock: Clock) -> None:
    plan = expected(large=9, small=1)
    assert not turns.ask(asker("small", 1), plan)
    clock.now += PATIENCE - 1
    assert not turns.ask(asker("small", 1), plan)
    clock.now += 1
    assert turns.ask(asker("small", 1), plan)
    assert not turns.ask(asker("large", 9), plan), "it comes too late, and waits for who loads"


def test_one_that_is_not_expected_any_more_is_not_waited_for(turns: Turns) -> None:
    assert not turns.ask(asker("small", 1), expected(large=9))
    assert turns.ask(asker("small", 1), expected()), "the larger one is Ready, failed, or gone"


def test_a_smaller_one_that_is_still_to_come_holds_up_nobody(turns: Turns) -> None:
    assert turns.ask(asker("large", 9), expected(small=1, large=9))


def test_the_dead_lose_their_turn_and_their_place_in_the_line(turns: Turns) -> None:
    turns.ask(asker("dies", 1), {})
    turns.ask(asker("dies too", 9), {})
    turns.ask(asker("lives", 1), {})
    turns.bury(lambda one: one.service.startswith("dies"))
    assert turns.ask(asker("lives", 1), {})


def test_a_failure_gives_the_turn_back(turns: Turns) -> None:
    turns.ask(asker("fails"), {})
    turns.ask(asker("next"), {})
    turns.give_back("fails")
    assert turns.ask(asker("next"), {})
    turns.give_back("nobody")
    assert turns.holder(CARD) == "next"


def test_replicas_of_one_service_take_turns_too(turns: Turns) -> None:
    plan = {"twins": Expected(size=5, replicas=2), "small": Expected(size=1, replicas=1)}
    assert turns.ask(asker("twins", 5, "one"), plan)
    assert not turns.ask(asker("twins", 5, "two"), plan)
    assert not turns.ask(asker("small", 1), plan)
    turns.give_back("one")
    plan["twins"] = Expected(size=5, replicas=1)
    assert not turns.ask(asker("small", 1), plan)
    assert turns.ask(asker("twins", 5, "two"), plan)


def test_a_turn_that_was_taken_before_control_died_is_known_again(turns: Turns) -> None:
    turns.take(asker("loads"))
    assert not turns.ask(asker("waits"), {})
    turns.give_back("loads")
    assert turns.ask(asker("waits"), {})


@pytest.fixture
def entries() -> dict[str, Entry]:
    """Two services that start on one device, as control keeps them."""
    found = {}
    for name, budget in (("large", 9), ("small", 1)):
        wanted = ready()
        assignment = dataclasses.replace(wanted.assignment, service=name, budget=budget)
        node = dataclasses.replace(wanted.node, id="node")
        found[name] = Entry(name, "slow", dataclasses.replace(wanted, assignment=assignment, node=node))
    return found


def says(entries: dict[str, Entry], queue: Queues, name: str, state: str = "loading", turn: str = "") -> None:
    found = {**report(name, state), "node": "node", "pid": len(name), "turn": turn}
    entries[name].hear(found)
    queue.heard(name, found)


def test_the_plan_is_read_from_the_services_as_they_are(entries: dict[str, Entry]) -> None:
    queue = Queues(entries)
    for name in entries:
        says(entries, queue, name)
    assert not queue.ask("small", "small", "node", 5), "the larger one is still to load"
    assert queue.ask("large", "large", "node", 5)
    says(entries, queue, "large", turn="held")
    assert not queue.ask("small", "small", "node", 5)
    says(entries, queue, "large", "ready")
    assert queue.ask("small", "small", "node", 5)


def test_a_larger_one_that_failed_is_not_waited_for(entries: dict[str, Entry]) -> None:
    queue = Queues(entries)
    entries["large"].give_up("the dongle is missing")
    assert queue.ask("small", "small", "node", 5)
    assert not queue.ask("large", "large", "node", 5)
    assert not queue.ask("removed", "removed", "node", 5)


def test_a_holder_that_a_guard_says_is_gone_gives_way_and_a_silent_one_that_lives_does_not(
    entries: dict[str, Entry],
) -> None:
    queue = Queues(entries)
    says(entries, queue, "large")
    assert queue.ask("large", "large", "node", 5)
    entries["large"].forget(time.time() + 60)  # its event loop is stuck in the load
    queue.guarded("node", Report(held={5: 1}))
    queue.bury()
    assert queue.holder(("node", 0)) == "large"
    queue.guarded("node", Report(gone=(5,)))
    assert queue.holder(("node", 0)) is None


def test_without_a_guard_a_holder_that_fell_silent_gives_way(entries: dict[str, Entry]) -> None:
    queue = Queues(entries)
    says(entries, queue, "large")
    assert queue.ask("large", "large", "node", 5)
    queue.bury()
    assert queue.holder(("node", 0)) == "large"
    entries["large"].forget(time.time() + 60)
    queue.bury()
    assert queue.holder(("node", 0)) is None


def test_a_control_that_came_back_waits_for_whoever_loads_to_say_so(
    entries: dict[str, Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = Queues(entries)
    queue.settle()
    assert not queue.ask("large", "large", "node", 5)
    says(entries, queue, "small", turn="held")
    monkeypatch.setattr(queues.time, "monotonic", lambda: 1e9)
    assert not queue.ask("large", "large", "node", 5)
    says(entries, queue, "small", "ready")
    assert queue.ask("large", "large", "node", 5)
