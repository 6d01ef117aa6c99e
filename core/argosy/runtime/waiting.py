"""The waiting line of one replica: bounded, interactive before batch, and fair between requests of any size."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from ..errors import Overloaded
from ..model import Context
from .streams import Channel

_SMOOTHING = 0.2  # weight of the newest measurement in `Line.pace`
_LONGEST = 300.0  # seconds; nobody is told to come back later than this


class Ticket:
    """One request on its way through a replica. Times are on `time.monotonic()`'s clock, 0.0 until they come.

    taken: items handed to the model so far
    left: items not yet answered
    """

    # fmt: off
    __slots__ = (
        "answers", "arrived", "channel", "ctx", "first", "future",
        "items", "left", "observed", "request", "started", "taken",
    )
    # fmt: on

    def __init__(
        self,
        request: Any,
        items: Sequence[Any],
        ctx: Context,
        future: asyncio.Future[Any] | None = None,
        channel: Channel | None = None,
    ) -> None:
        self.request, self.items, self.ctx, self.future, self.channel = request, items, ctx, future, channel
        self.answers: list[Any] = [None] * len(items)
        self.taken, self.left = 0, len(items)
        self.arrived, self.started, self.first = time.monotonic(), 0.0, 0.0
        self.observed = False


class Line:
    """Requests that wait. Not thread-safe: whoever shares one holds a lock.

    waiting: requests of which no item was handed out; at most `bound` of them
    items: items of waiting and half-answered requests that were not handed out
    pace: seconds per item, smoothed over recent work; 0.0 before any
    """

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._interactive: deque[Ticket] = deque()
        self._batch: deque[Ticket] = deque()
        self.waiting = self.items = 0
        self.pace = 0.0

    def admit(self, ticket: Ticket, free: int = 0) -> None:
        """Let a request in. `free` requests more than the bound may wait, because the model is about to take them.
        Overloaded, with an estimate of when to try again, where there is no room."""
        if self.waiting >= self._bound + free:
            raise Overloaded(
                f"{self.waiting} requests wait for this service, which is its bound; try again later",
                retry_after=self.estimate(),
            )
        self._lane(ticket).append(ticket)
        self.waiting += 1
        self.items += ticket.left

    def estimate(self) -> float:
        """Seconds until what waits now will have been worked off; 1.0 at least."""
        return round(min(max(1.0, self.pace * self.items), _LONGEST), 1)

    def learn(self, seconds: float, items: float) -> None:
        """Note that `items` items took `seconds`."""
        pace = seconds / max(items, 1)
        self.pace = pace if self.pace == 0.0 else self.pace + _SMOOTHING * (pace - self.pace)

    def remove(self, ticket: Ticket) -> None:
        """Forget what a request has not yet had handed out; nothing where that is nothing."""
        try:
            self._lane(ticket).remove(ticket)
        except ValueError:
            return
        self.waiting -= not ticket.taken
        self.items -= len(ticket.items) - ticket.taken

    def take(self, size: int, *, mixed: bool) -> list[tuple[Ticket, int]]:
        """The next batch, as (request, index of the item); empty where nobody waits.

        mixed: at most `size` items, one from each request in turn, so that a request of a thousand items holds up
        nobody; else the oldest request, whole.
        """
        found: list[tuple[Ticket, int]] = []
        now = time.monotonic()
        for lane in (self._interactive, self._batch):
            while lane and len(found) < size:
                ticket = lane.popleft()
                if not ticket.taken:
                    ticket.started = now
                    self.waiting -= 1
                count = 1 if mixed and lane else len(ticket.items) - ticket.taken
                count = min(count, size - len(found)) if mixed else count
                found += [(ticket, index) for index in range(ticket.taken, ticket.taken + count)]
                ticket.taken += count
                self.items -= count
                if ticket.taken < len(ticket.items):
                    lane.append(ticket)
                if not mixed:
                    return found
        return found

    def clear(self) -> list[Ticket]:
        """Empty the line: everybody who stood in it."""
        found = [*self._interactive, *self._batch]
        self._interactive.clear()
        self._batch.clear()
        self.waiting = self.items = 0
        return found

    def _lane(self, ticket: Ticket) -> deque[Ticket]:
        return self._batch if ticket.ctx.priority == "batch" else self._interactive
