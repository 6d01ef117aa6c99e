"""Deltas on their way from the worker thread to the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from ..errors import DeadlineExceeded

ROOM = 64  # deltas that may lie between a model and a slow reader
PATIENCE = 30.0  # seconds that a model waits for a reader who takes nothing, while nobody else is answered


class Channel(AsyncIterator[Any]):
    """A bounded pipe: one thread puts, one task reads. A full one holds the thread, which is the back-pressure."""

    def __init__(self, loop: asyncio.AbstractEventLoop, room: int = ROOM, patience: float = PATIENCE) -> None:
        self._loop, self._room, self._patience = loop, room, patience
        self._changed = threading.Condition(threading.Lock())
        self._deltas: deque[Any] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._called = False  # the reader will look without being called again
        self._ended = self._left = False
        self._error: BaseException | None = None

    def put(self, delta: Any) -> bool:
        """In the thread: hand over a delta. False once the reader has left, or has read nothing for `patience`."""
        with self._changed:
            if len(self._deltas) >= self._room and not self._left:
                self._changed.wait_for(self._goes_on, self._patience)
                if not self._goes_on():
                    self._deltas.clear()
                    self._finish(DeadlineExceeded(f"the client has read nothing for {self._patience:g} s"))
            if self._left or self._ended:
                return False
            self._deltas.append(delta)
            self._call()
        return True

    def end(self, error: BaseException | None = None) -> None:
        """From either side: no more deltas come. `error` is raised once what lies here has been read."""
        with self._changed:
            self._finish(error)

    def leave(self) -> None:
        """The reader reads no more; a thread that waits in `put` goes on."""
        with self._changed:
            self._left = True
            self._deltas.clear()
            self._changed.notify_all()

    async def __anext__(self) -> Any:
        while True:
            with self._changed:
                if self._deltas:
                    delta = self._deltas.popleft()
                    if len(self._deltas) == self._room // 2:
                        self._changed.notify_all()
                    return delta
                if self._ended:
                    raise self._error or StopAsyncIteration
                reader = self._reader = self._loop.create_future()
                self._called = False
            await reader

    def _goes_on(self) -> bool:
        return self._left or self._ended or len(self._deltas) <= self._room // 2

    def _finish(self, error: BaseException | None) -> None:
        if not self._ended:
            self._ended, self._error = True, error
            self._changed.notify_all()
            self._call()

    def _call(self) -> None:
        if not self._called:  # one wake-up for all that is put before the reader looks
            self._called = True
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
