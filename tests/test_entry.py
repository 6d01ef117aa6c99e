"""How control makes one picture of a service out of what its replicas and Ray Serve say."""

from __future__ import annotations

import time
from typing import Any

import pytest
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview

from argosy.plan.place import Node
from argosy.serve.entry import STALE_SECONDS, Entry
from argosy.serve.prepare import Ready
from argosy.serve.status import Phase
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
    entry.hear(report("a", "degraded"))
    assert entry.phase() is Phase.DEGRADED


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
