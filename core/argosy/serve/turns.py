"""Whose turn it is to load: engines on one device start one at a time, the largest first. It knows nothing of Ray.

Engines measure a device's free memory while they load, so two that load at once spoil each other's figures, and a
large one that comes last may find what it was promised taken for the moment.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

PATIENCE = (
    60.0  # seconds that a smaller one waits for a larger one which has not asked yet: it may still be downloading
)

Place = tuple[str, int]
"""A device: Ray's id of its node, and its index there."""


@dataclass(frozen=True, kw_only=True)
class Asker:
    """A replica that wants to load. `size` is in bytes, and only compared."""

    service: str
    replica: str
    place: Place
    pid: int
    size: float


@dataclass(frozen=True, kw_only=True)
class Expected:
    """A service that still has to start `replicas` replicas on a device, those among them that wait or load."""

    size: float
    replicas: int


class Turns:
    """One turn for each device. It is given back by whoever got Ready or failed, and taken from the dead."""

    def __init__(self, patience: float = PATIENCE, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience, self._clock = patience, clock
        self._holders: dict[Place, Asker] = {}
        self._waiting: dict[str, tuple[Asker, float]] = {}  # replica -> itself, and when it asked first

    def ask(self, asker: Asker, expected: Mapping[str, Expected]) -> bool:
        """Whether it is the replica's turn now; one that is told no asks again.

        expected: by service, who is to start on that device according to the plan. A larger one among them that has
        not asked yet is waited for, but not longer than `patience`: without end, one that never asks would hold up
        everybody.
        """
        holder = self._holders.get(asker.place)
        if holder is not None:
            if holder.replica != asker.replica:
                self._waiting.setdefault(asker.replica, (asker, self._clock()))
            return holder.replica == asker.replica
        _, since = self._waiting.setdefault(asker.replica, (asker, self._clock()))
        rivals = [(one, at) for one, at in self._waiting.values() if one.place == asker.place]
        if any((one.size, -at) > (asker.size, -since) for one, at in rivals if one.replica != asker.replica):
            return False
        if self._clock() - since < self._patience and self._larger_to_come(asker, expected):
            return False
        self.take(asker)
        return True

    def take(self, asker: Asker) -> None:
        """It is this replica's turn, whatever stood here: one that loads says so when control comes back."""
        self._waiting.pop(asker.replica, None)
        self._holders[asker.place] = asker

    def give_back(self, replica: str) -> None:
        """The replica is Ready, has failed, or is gone. Nothing happens for one that neither holds nor waits."""
        self._waiting.pop(replica, None)
        for place, holder in list(self._holders.items()):
            if holder.replica == replica:
                del self._holders[place]

    def bury(self, dead: Callable[[Asker], bool]) -> None:
        """Take the turn from every replica that is dead, and its place in the line."""
        for asker in [*self._holders.values(), *(one for one, _ in self._waiting.values())]:
            if dead(asker):
                self.give_back(asker.replica)

    def holder(self, place: Place) -> str | None:
        """The service that loads on this device now."""
        holder = self._holders.get(place)
        return holder.service if holder else None

    def _larger_to_come(self, asker: Asker, expected: Mapping[str, Expected]) -> bool:
        here: dict[str, int] = {}
        for one, _ in self._waiting.values():
            if one.place == asker.place:
                here[one.service] = here.get(one.service, 0) + 1
        return any(
            one.size > asker.size and one.replicas > here.get(service, 0)
            for service, one in expected.items()
            if service != asker.service
        )
