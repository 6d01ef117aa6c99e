"""The start lock as control keeps it: `turns` over what replicas, their guards and the plan say."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from .entry import Entry
from .guard import Report
from .turns import Asker, Expected, Place, Turns

GUARD_SECONDS = 5.0  # a guard that has been silent so long knows nothing
SETTLE_SECONDS = 3.0  # after a restart of control, for those that load to say so


class Queues:
    """Whose turn it is on each device. `entries` are control's own, and looked at anew each time."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self._entries = entries
        self._turns = Turns()
        self._reports: dict[str, tuple[Report, float]] = {}
        self._from = 0.0

    def settle(self) -> None:
        """Give nobody a turn for a moment: control has come back, and whoever loads has yet to say so."""
        self._from = time.monotonic() + SETTLE_SECONDS

    def ask(self, service: str, replica: str, node: str, pid: int) -> bool:
        """Whether the replica may load now; one that is told no asks again."""
        entry = self._entries.get(service)
        if entry is None or entry.gone or time.monotonic() < self._from:
            return False
        asker = _asker(entry, replica, node, pid)
        return self._turns.ask(asker, self._expected(asker.place))

    def heard(self, service: str, report: Mapping[str, Any]) -> None:
        """A replica's report: one that loads has the turn, whatever a control before this one knew; one that is done
        has none."""
        entry = self._entries.get(service)
        if report["state"] != "loading":
            self._turns.give_back(report["replica"])
        elif entry is not None and not entry.gone and report.get("turn") == "held":
            self._turns.take(_asker(entry, report["replica"], report["node"], report["pid"]))

    def guarded(self, node: str, report: Report) -> None:
        """A guard's report: who it says is gone has no turn any more."""
        self._reports[node] = report, time.monotonic()
        self._turns.bury(lambda asker: asker.place[0] == node and asker.pid in report.gone)

    def bury(self) -> None:
        """Take the turn from replicas that nobody knows of any more. A guard's word that the process lives counts more
        than the replica's silence: a load may keep it from saying anything."""
        known = {name for entry in self._entries.values() for name in entry.reports}
        self._turns.bury(lambda asker: asker.replica not in known and not self._lives(asker))

    def holder(self, place: Place) -> str | None:
        return self._turns.holder(place)

    def _lives(self, asker: Asker) -> bool:
        report, at = self._reports.get(asker.place[0], (Report(), -GUARD_SECONDS))
        return time.monotonic() - at < GUARD_SECONDS and report.lives(asker.pid)

    def _expected(self, place: Place) -> dict[str, Expected]:
        return {
            name: Expected(size=size(entry), replicas=left)
            for name, entry in self._entries.items()
            if entry.ready is not None
            and (entry.ready.node.id, entry.ready.assignment.device.index) == place
            and (left := entry.outstanding())
        }


def size(entry: Entry) -> float:
    """What a service's engine takes of its device, for the order: bytes, or its share where nobody knows them."""
    assert entry.ready is not None
    return float(entry.ready.assignment.budget or entry.ready.estimate or entry.ready.assignment.share)


def _asker(entry: Entry, replica: str, node: str, pid: int) -> Asker:
    assert entry.ready is not None
    place = (node, entry.ready.assignment.device.index)
    return Asker(service=entry.name, replica=replica, place=place, pid=pid, size=size(entry))
