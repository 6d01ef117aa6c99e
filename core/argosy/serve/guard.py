"""The guard: one detached actor on each node that runs the watchdog there and tells control what it sees.

Control tells it whom to watch, in answer to each report. It goes on without control, and asks anew when it was killed
itself; Ray starts it again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from .. import registry as registries
from ..runtime import logs
from ..runtime.watchdog import Ended, Look, Watchdog, Watched, glance, pause
from .names import CONTROL, GUARD, NAMESPACE
from .terms import Settings

REPORT_SECONDS = 1.0  # between two reports while nothing happens
RETRY_SECONDS = 0.2  # while control is dead

log = logging.getLogger("argosy.guard")


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a guard tells control. `held`, `counted` and `gone` are as in `Look`; nothing of `gone` and `ended` is lost
    while control is dead."""

    held: Mapping[int, int] = field(default_factory=dict)
    counted: Mapping[int, str] = field(default_factory=dict)
    gone: tuple[int, ...] = ()
    ended: tuple[Ended, ...] = ()

    def lives(self, pid: int) -> bool:
        """Whether this replica was there at the last look."""
        return pid in self.held or pid in self.counted


class Guard:
    """`node` is Ray's id of the node that it runs on."""

    def __init__(self, node: str, settings: Settings) -> None:
        logs.setup(settings.log_format, service="guard", folder=settings.logs, console=False)
        self._node = node
        self._dog = Watchdog(registries.load().backends)
        self._last = Look()
        self._gone: list[int] = []
        self._ended: list[Ended] = []
        self._news = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._look()), loop.create_task(self._tell())]

    async def report(self) -> Report:
        """What it sees now; for tests and for whoever looks into a cluster."""
        return self._report()

    def _report(self) -> Report:
        seen = self._last
        return Report(held=seen.held, counted=seen.counted, gone=tuple(self._gone), ended=tuple(self._ended))

    async def _look(self) -> None:
        while True:
            seen, cost = await asyncio.to_thread(glance, self._dog)
            self._last = seen
            self._gone += seen.gone
            self._ended += seen.ended
            for ended in seen.ended:
                log.error("%s", ended)
            if seen.gone or seen.ended:
                self._news.set()
            await asyncio.sleep(pause(cost))

    async def _tell(self) -> None:
        control: Any = None
        while True:
            report = self._report()
            self._news.clear()
            try:
                if control is None:
                    control = ray.get_actor(CONTROL, namespace=NAMESPACE)
                replicas: Sequence[Watched] = await control.guarded.remote(self._node, report)
            except (RayError, ValueError):
                control = None
                await asyncio.sleep(RETRY_SECONDS)
                continue
            del self._gone[: len(report.gone)], self._ended[: len(report.ended)]
            self._dog.watch(replicas)
            try:
                async with asyncio.timeout(REPORT_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                continue


def post(nodes: Collection[str], settings: Settings) -> dict[str, ActorHandle[Any]]:
    """Make sure that each of these nodes (Ray's ids) has its guard; returns without waiting for it to start."""
    return {
        node: cast(Any, ray.remote(Guard))
        .options(
            name=f"{GUARD}-{node}",
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            num_cpus=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        )
        .remote(node, settings)
        for node in nodes
    }


def dismiss(nodes: Collection[str]) -> None:
    """End the guards of these nodes; nothing happens for one that has none."""
    for node in nodes:
        try:
            ray.kill(ray.get_actor(f"{GUARD}-{node}", namespace=NAMESPACE))
        except ValueError:
            continue
