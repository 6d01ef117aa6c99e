"""Figures through Ray's own export: they stand beside Ray Serve's in Prometheus and in Ray's dashboard.

Ray puts `ray_` before each name. Counters are summed here and handed over once a second, for a call into Ray per
figure would cost more than a small model's answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping

from ray.util import metrics

from ..runtime.meter import METRICS, Meter

FLUSH_SECONDS = 1.0
AGAIN_SECONDS = 5.0

Tags = tuple[tuple[str, str], ...]


class RayMeter(Meter):
    """Made inside a Ray worker; `service` tags every figure."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._sums: dict[tuple[str, Tags], float] = {}
        self._seen: dict[tuple[str, Tags], list[float]] = {}
        self._last: dict[tuple[str, Tags], float] = {}
        self._told: dict[tuple[str, Tags], float] = {}
        self._again = 0.0  # when Ray is told every gauge again, changed or not
        kinds = {"counter": metrics.Counter, "gauge": metrics.Gauge}
        self._ray: Mapping[str, metrics.Metric] = {
            metric.name: metrics.Histogram(
                metric.name,
                description=metric.help,
                boundaries=list(metric.buckets),
                tag_keys=("service", *metric.tags),
            )
            if metric.kind == "histogram"
            else kinds[metric.kind](metric.name, description=metric.help, tag_keys=("service", *metric.tags))
            for metric in METRICS
        }

    def add(self, name: str, value: float = 1, **tags: str) -> None:
        key = name, tuple(tags.items())
        self._sums[key] = self._sums.get(key, 0) + value

    def set(self, name: str, value: float, **tags: str) -> None:
        self._last[name, tuple(tags.items())] = value

    def observe(self, name: str, value: float, **tags: str) -> None:
        self._seen.setdefault((name, tuple(tags.items())), []).append(value)

    def flush(self) -> None:
        """Hand everything over to Ray."""
        sums, self._sums = self._sums, {}
        seen, self._seen = self._seen, {}
        for (name, tags), value in sums.items():
            if value > 0:
                self._ray[name].inc(value, {"service": self._service, **dict(tags)})  # type: ignore[attr-defined]
        if time.monotonic() >= self._again:  # Ray forgets a gauge that nobody sets
            self._told, self._again = {}, time.monotonic() + AGAIN_SECONDS
        for (name, tags), value in self._last.items():
            if self._told.get((name, tags)) != value:
                self._ray[name].set(value, {"service": self._service, **dict(tags)})  # type: ignore[attr-defined]
        self._told = dict(self._last)
        for (name, tags), values in seen.items():
            mine = {"service": self._service, **dict(tags)}
            for value in values:
                self._ray[name].observe(value, mine)  # type: ignore[attr-defined]

    async def run(self) -> None:
        """Flush until cancelled, and once more then."""
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                await asyncio.sleep(FLUSH_SECONDS)
                self.flush()
        self.flush()
