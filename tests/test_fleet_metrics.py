"""Figures in Ray's own export, beside Ray Serve's; the list of them is docs/metrics.md."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest
from conftest import ROOT, Running, body

from argosy.runtime.meter import METRICS

pytestmark = pytest.mark.fleet


def exported(fleet: Running) -> str:
    """What Prometheus would scrape of this node."""
    from argosy.serve import cluster
    from argosy.serve.home import Home

    found = cluster.running(Home.of(Path(fleet.environment["ARGOSY_STATE"]), fleet.name))
    assert found is not None
    return httpx.get(f"http://127.0.0.1:{found.metrics_port}/metrics", timeout=30, trust_env=False).text


def test_every_metric_of_the_page_is_exported_and_every_exported_one_is_on_the_page(
    fleet: Running, client: httpx.Client
) -> None:
    body(client.post("/echo", json={"text": "counted"}))
    body(client.post("/embeddings", json={"text": "counted"}))
    body(client.post("/llm", json={"prompt": "Say hello.", "max_tokens": 4}))
    sound = client.post("/tts", json={"text": "Counted."})
    assert sound.status_code == 200
    body(client.post("/whisper", content=sound.content, headers={"content-type": "audio/wav"}))
    assert client.post("/echo", json={}).status_code == 400
    page = (ROOT / "docs/metrics.md").read_text()
    deadline = time.monotonic() + 40  # Ray exports every few seconds
    wanted = {f"ray_{metric.name}" for metric in METRICS}
    while True:
        text = exported(fleet)
        missing = {name for name in wanted if f"\n{name}" not in text}
        if not missing or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    assert not missing
    assert "ray_serve_" in text
    names = {line.split(" ")[2] for line in text.splitlines() if line.startswith("# TYPE ray_argosy_")}
    assert {name.removeprefix("ray_") for name in names} <= {metric.name for metric in METRICS}
    assert all(f"`{metric.name}`" in page for metric in METRICS)
    assert "ray_argosy_requests_total{" in text
    assert 'service="echo"' in text
