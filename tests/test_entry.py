"""How control makes one picture of a service out of what its replicas and Ray Serve say."""

from __future__ import annotations

import dataclasses
import io
import time
from typing import Any

import pytest
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview
from rich.console import Console

from argosy.cli.screen import show
from argosy.plan.place import Node
from argosy.serve.entry import RECENT_SECONDS, STALE_SECONDS, Entry
from argosy.serve.prepare import Ready
from argosy.serve.status import FleetStatus, Phase
from argosy.testing import assignment
from argosy.testing.models import Slow

RUNNING = ApplicationStatusOverview(
    status=ApplicationStatus.RUNNING, message="", last_deployed_time_s=0, deployments={}
)


def ready(replicas: int = 1, digest: str = "one") -> Ready:
    return Ready(
        assignment=assignment(Slow),
        node=Node(name="here"),
        replicas=replicas,
        task="json",
        start_timeout=60,
        digest=digest,
    )


def report(replica: str, state: str = "ready", *, at: float = 0.0, digest: str = "one") -> dict[str, Any]:
    found = {
        "replica": replica,
        "state": state,
        "reason": "",
        "doing": state,
        "digest": digest,
        "pid": 1,
        "status": None,
    }
    return {**found, "at": at or time.time()}


@pytest.fixture
def entry() -> Entry:
    found = Entry.of(ready(), None)
    found.see(RUNNING, time.time())
    return found


def test_a_service_is_ready_when_ray_serve_and_its_replica_say_so(entry: Entry) -> None:
    assert entry.phase() is Phase.STARTING
    entry.hear(report("a", "loading"))
    assert entry.phase() is Phase.STARTING
    entry.hear(report("a"))
    assert entry.phase() is Phase.READY
    entry.see(None, time.time())
    assert entry.phase() is Phase.STARTING


def test_a_degraded_replica_makes_the_service_degraded(entry: Entry) -> None:
    entry.hear(report("a", "degraded") | {"reason": "torch on cuda:0 was planned, and it holds no tensor there"})
    assert entry.phase() is Phase.DEGRADED
    status = entry.status()
    assert status.reason == "torch on cuda:0 was planned, and it holds no tensor there"
    shown = Console(file=io.StringIO(), width=200)
    show(shown, FleetStatus(fleet="one", version=1, ready=False, haproxy=True, services={"mock-slow": status}))
    assert f"mock-slow is degraded: {status.reason}" in shown.file.getvalue()  # type: ignore[attr-defined]


def test_a_replica_that_fell_silent_is_taken_for_dead(entry: Entry) -> None:
    entry.hear(report("a", at=time.time() - STALE_SECONDS - 1))
    entry.forget(time.time())
    assert entry.phase() is Phase.STARTING
    assert entry.status().running == []


def test_a_successor_replaces_the_replica_that_was_killed_at_once(entry: Entry) -> None:
    entry.hear(report("killed", at=time.time() - 2))
    entry.hear(report("next", "loading"))
    assert [one["replica"] for one in entry.status().running] == ["next"]
    assert entry.doing() == "loading"
    assert entry.phase() is Phase.STARTING


def test_replicas_of_what_was_planned_before_do_not_count(entry: Entry) -> None:
    entry.hear(report("old"))
    changed = Entry.of(ready(digest="two"), entry)
    assert changed.phase() is Phase.STARTING
    changed.hear(report("new", digest="two"))
    assert changed.phase() is Phase.READY


def test_a_service_that_gave_up_hears_nobody_any_more(entry: Entry) -> None:
    entry.hear(report("a"))
    entry.give_up("the dongle is missing")
    entry.hear(report("a"))
    assert entry.phase() is Phase.FAILED
    assert entry.status().running == []
    assert entry.status().reason == "the dongle is missing"


def test_a_replica_whose_process_is_gone_is_dropped_at_once_and_no_other(entry: Entry) -> None:
    entry.hear({**report("a"), "node": "one", "pid": 7})
    entry.lose("two", [7])
    entry.lose("one", [8])
    assert entry.phase() is Phase.READY
    entry.lose("one", [7])
    assert entry.phase() is Phase.STARTING
    assert entry.outstanding() == 1


def test_a_service_that_overran_its_budget_says_so_for_a_while(entry: Entry) -> None:
    now = time.time()
    assert entry.overran(now, "it held 2 GiB") == ""
    assert entry.status().event == "it held 2 GiB"
    before = entry.fingerprint()
    entry.overran(now + 1, "it held 3 GiB")
    assert entry.fingerprint() != before, "whoever watches is told"
    entry.event_at = now - RECENT_SECONDS - 1
    assert entry.status().event == ""


def test_a_service_that_is_ended_again_and_again_is_given_up_with_the_arithmetic(entry: Entry) -> None:
    now = time.time()
    assert entry.overran(now - RECENT_SECONDS - 1, "long ago") == ""
    assert entry.overran(now, "once") == ""
    assert entry.overran(now + 1, "twice") == ""
    reason = entry.overran(now + 2, "slow held 3.00 GiB; its budget is 1.00 GiB", 3 * 2**30)
    assert "ended 3 times in 10 minutes" in reason
    assert "its budget is 1.00 GiB" in reason
    assert "memory: 3380MiB" in reason


def test_what_befell_a_service_is_forgotten_when_it_is_changed_and_kept_when_it_is_not(entry: Entry) -> None:
    entry.overran(time.time(), "it held 2 GiB")
    assert Entry.of(ready(), entry).status().event == "it held 2 GiB"
    assert Entry.of(ready(digest="two"), entry).status().event == ""


def test_ray_serve_s_giving_up_on_an_offender_has_the_offence_as_its_reason(entry: Entry) -> None:
    failed = dataclasses.replace(RUNNING, status=ApplicationStatus.DEPLOY_FAILED, message="died 3 times")
    entry.see(failed, time.time())
    assert entry.hopeless == "died 3 times"
    entry.overran(time.time(), "it held 2 GiB")
    entry.see(failed, time.time())
    assert entry.hopeless == "it held 2 GiB"


def test_a_guard_is_told_the_replicas_of_its_own_node(entry: Entry) -> None:
    entry.hear({**report("a"), "node": "one", "pid": 7})
    (watched,) = entry.watched("one")
    assert entry.ready
    assert (watched.pid, watched.service, watched.budget) == (7, "mock-slow", entry.ready.assignment.budget)
    assert entry.watched("two") == []


def test_a_share_that_a_guard_can_only_count_is_not_said_to_be_watched(entry: Entry) -> None:
    assert entry.ready
    assignment = dataclasses.replace(entry.ready.assignment, enforcement="watched")
    entry.ready = dataclasses.replace(entry.ready, assignment=assignment)
    entry.hear({**report("a"), "node": "one", "pid": 7})
    assert entry.status().enforcement == "watched"
    entry.unwatched["two"] = {7: "it names other processes"}
    assert entry.status().enforcement == "watched"
    entry.unwatched["one"] = {7: "it names other processes"}
    assert entry.status().enforcement == "counted"


def test_waiting_for_a_turn_to_load_is_not_counted_as_starting(entry: Entry) -> None:
    assert entry.ready
    begun = time.time() - 2 * entry.ready.start_timeout
    entry.since = begun
    now = time.time()
    entry.hear({**report("a", "loading"), "node": "one", "turn": "waiting", "at": now})
    entry.see(None, now + entry.ready.start_timeout - 1)
    assert entry.hopeless == ""
    entry.hear({**report("a", "loading"), "node": "one", "turn": "held", "at": now})
    entry.see(None, now + entry.ready.start_timeout + 1)
    assert "not Ready within" in entry.hopeless


def test_who_waits_for_a_replica_of_its_own_service_that_hangs_does_not_keep_it_from_being_given_up() -> None:
    entry = Entry.of(ready(replicas=2), None)
    assert entry.ready
    now = time.time()
    entry.since = now
    for seconds in range(0, 70, 10):
        entry.hear({**report("a", "loading"), "node": "one", "turn": "held", "at": now + seconds})
        entry.hear({**report("b", "starting"), "node": "one", "turn": "waiting", "at": now + seconds})
    entry.see(None, now + entry.ready.start_timeout + 1)
    assert "not Ready within 60 s" in entry.hopeless
    entry.hear({**report("a"), "node": "one", "turn": "", "at": now + 50})
    entry.hear({**report("b", "loading"), "node": "one", "turn": "held", "at": now + 50})
    assert entry.since == now + 50, "its own time begins with its turn"
