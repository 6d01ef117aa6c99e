"""Metrics for a replica that runs alone: prometheus_client, with a registry of its own."""

from __future__ import annotations

from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from .meter import METRICS, Meter

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Prometheus(Meter):
    """Keeps METRICS for one service, which every figure carries as its label `service`."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._registry = CollectorRegistry()
        self._metrics: dict[str, Any] = {}
        for metric in METRICS:
            names = ("service", *metric.tags)
            if metric.kind == "histogram":
                made: Any = Histogram(metric.name, metric.help, names, buckets=metric.buckets, registry=self._registry)
            else:
                made = {"counter": Counter, "gauge": Gauge}[metric.kind](
                    metric.name, metric.help, names, registry=self._registry
                )
            self._metrics[metric.name] = made

    def add(self, name: str, value: float = 1, **tags: str) -> None:
        self._metrics[name].labels(service=self._service, **tags).inc(value)

    def set(self, name: str, value: float, **tags: str) -> None:
        self._metrics[name].labels(service=self._service, **tags).set(value)

    def observe(self, name: str, value: float, **tags: str) -> None:
        self._metrics[name].labels(service=self._service, **tags).observe(value)

    def text(self) -> bytes:
        """All figures in Prometheus' text format, for `/metrics`."""
        return generate_latest(self._registry)
