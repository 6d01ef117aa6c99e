"""A deadline over coroutines that may be waited for by one task after another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, TypeVar

from ..errors import DeadlineExceeded
from ..model import Context

T = TypeVar("T")


class Guard:
    """Interrupts whoever waits under it once the request's deadline has passed, with one timer for the whole request.

    `asyncio.timeout` holds on to the task that entered it; the steps of a stream may be driven by another.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, ctx: Context) -> None:
        self._ctx = ctx
        self._task: asyncio.Task[Any] | None = None
        self._expired = False
        self._timer: asyncio.TimerHandle | None = None
        if ctx.deadline is not None:
            self._timer = loop.call_later(ctx.deadline - time.monotonic(), self._expire)

    async def wait(self, what: Awaitable[T]) -> T:
        """What `what` comes to. DeadlineExceeded, `what` cancelled, where the deadline passes first."""
        if self._expired:
            if hasattr(what, "close"):
                what.close()  # never to be awaited
            raise self._late()
        task = self._task = asyncio.current_task()
        assert task is not None
        before = task.cancelling()
        try:
            found = await what
        except asyncio.CancelledError:
            if self._expired and task.uncancel() <= before:
                raise self._late() from None
            raise
        finally:
            self._task = None
        if self._expired:  # it was told to end and answered all the same
            task.uncancel()
            raise self._late()
        return found

    def end(self) -> None:
        """No more to guard."""
        if self._timer is not None:
            self._timer.cancel()

    @staticmethod
    def _late() -> DeadlineExceeded:
        return DeadlineExceeded("the deadline passed before the answer was complete")

    def _expire(self) -> None:
        self._expired = True
        self._ctx.cancel()
        if self._task is not None:
            self._task.cancel()
