"""The fleet's status, kept at hand in a process that is not control: waits at control for every change."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import ray
from ray.exceptions import RayError

from .names import CONTROL, NAMESPACE
from .status import FleetStatus

WAIT_SECONDS = 10.0  # one question stays at control so long
RETRY_SECONDS = 0.2  # while control is dead


class Watcher:
    """`status` is control's last word: while control is dead it stays what it was."""

    def __init__(self) -> None:
        self.status = FleetStatus(fleet="", version=-1, ready=False, haproxy=False)
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def change(self, seconds: float) -> None:
        """Return at the next change, or after `seconds`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait()

    async def _run(self) -> None:
        control: Any = None
        version = -1
        while True:
            try:
                if control is None:
                    control = ray.get_actor(CONTROL, namespace=NAMESPACE)
                status = await control.watch.remote(version, WAIT_SECONDS)
            except (RayError, ValueError):
                control, version = None, -1  # a control that came back counts from the start
                await asyncio.sleep(RETRY_SECONDS)
                continue
            version = status.version
            async with self._changed:
                self.status = status
                self._changed.notify_all()
