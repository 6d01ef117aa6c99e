"""Metrics: what is measured, named once, and where the figures go.

`METRICS` is the whole list; `docs/metrics.md` is made from it. A `Meter` is a sink: Ray's own export in a fleet,
prometheus_client in `argosy run-one`, `Recorder` in tests.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Metric:
    """`tags` are the names of its labels; every metric also carries `service`."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    tags: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


METRICS: tuple[Metric, ...] = (
    Metric("argosy_requests_total", "counter", "Requests answered, by HTTP status", ("status",)),
    Metric("argosy_errors_total", "counter", "Requests refused or failed, by the error's code", ("code",)),
    Metric("argosy_request_seconds", "histogram", "From the door to the last byte", (), _SECONDS),
    Metric("argosy_first_seconds", "histogram", "From the door to the first token, segment or sound", (), _SECONDS),
    Metric("argosy_queue_seconds", "histogram", "Waiting for the model", (), _SECONDS),
    Metric("argosy_queue", "gauge", "Requests that wait for the model now"),
    Metric("argosy_running", "gauge", "Requests that the model works on now"),
    Metric("argosy_batch_items", "histogram", "Items that went to the model at once", (), _COUNTS),
    Metric("argosy_tokens_total", "counter", "Tokens read and written", ("direction",)),
    Metric("argosy_audio_seconds_total", "counter", "Seconds of sound heard and spoken", ("direction",)),
    Metric("argosy_replica_state", "gauge", "1 for the state the replica is in", ("state",)),
    Metric("argosy_replica_degraded", "gauge", "1 for each cause why it does not run on what was planned", ("cause",)),
    Metric("argosy_replica_memory_bytes", "gauge", "What the replica holds on its device", ("device", "backend")),
    Metric("argosy_replica_budget_bytes", "gauge", "The replica's share of its device", ("device", "backend")),
)


class Meter(ABC):
    """Where figures go. `name` is one of METRICS; tags are given as keywords."""

    @abstractmethod
    def add(self, name: str, value: float = 1, **tags: str) -> None: ...

    @abstractmethod
    def set(self, name: str, value: float, **tags: str) -> None: ...

    @abstractmethod
    def observe(self, name: str, value: float, **tags: str) -> None: ...


class Silent(Meter):
    """Nobody listens."""

    def add(self, name: str, value: float = 1, **tags: str) -> None: ...

    def set(self, name: str, value: float, **tags: str) -> None: ...

    def observe(self, name: str, value: float, **tags: str) -> None: ...


@dataclass(frozen=True)
class Sample:
    name: str
    value: float
    tags: tuple[tuple[str, str], ...]


class Recorder(Meter):
    """Keeps every figure, for tests."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []

    def _keep(self, name: str, value: float, tags: dict[str, str]) -> None:
        self.samples.append(Sample(name, value, tuple(sorted(tags.items()))))

    def add(self, name: str, value: float = 1, **tags: str) -> None:
        self._keep(name, value, tags)

    def set(self, name: str, value: float, **tags: str) -> None:
        self._keep(name, value, tags)

    def observe(self, name: str, value: float, **tags: str) -> None:
        self._keep(name, value, tags)

    def named(self, name: str) -> Iterator[Sample]:
        return (sample for sample in self.samples if sample.name == name)
