"""`python -m benchmarks.soak`: the default fleet under mixed load for a while, killed piece by piece, and the report.

Every service is asked all the time by one client each, the no-op by two. Half-way one piece after another is killed
with -9. What is reported: requests, failures by phase, what each process holds at the start and at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from argosy import __version__
from argosy.cli.processes import sizes
from argosy.serve import cluster as clusters
from argosy.serve.home import Cluster, Home

from .machine import describe

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
NAME = "soak"
QUIET, PAUSE = "undisturbed", 0.02  # the phase without kills; seconds between a client's requests
SETTLE = 20.0  # seconds given to each kill before the next


@dataclass
class Tally:
    """phase -> service -> what came back: `200`, another status, or the name of a transport error."""

    phase: str = QUIET
    seen: dict[str, dict[str, Counter[str]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(Counter)))

    def count(self, service: str, what: str) -> None:
        self.seen[self.phase][service][what] += 1


def main(arguments: list[str]) -> int:
    """0 when nothing failed while nothing was killed and everything came back; 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="of undisturbed load")
    parser.add_argument("--out", type=Path, default=RESULTS / "soak.md")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="argosy-soak-") as folder, _fleet(Path(folder)) as running:
        report, good = asyncio.run(_soak(running, asked.minutes, arguments))
    asked.out.parent.mkdir(exist_ok=True)
    asked.out.write_text(report)
    print(report)
    return 0 if good else 1


@contextlib.contextmanager
def _fleet(folder: Path) -> Iterator[Cluster]:
    document = yaml.safe_load((ROOT / "examples/default/fleet.yaml").read_text())
    document["name"], document["endpoint"] = NAME, {"port": 8199}
    document["services"]["echo"] = {"plugin": "echo", "share": 0.05}
    file = folder / "fleet.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    environment = {**os.environ, "ARGOSY_STATE": str(folder / "state")}
    command = [sys.executable, "-m", "argosy"]
    try:
        subprocess.run([*command, "up", "--detach", str(file)], env=environment, check=True)
        running = clusters.running(Home.of(folder / "state", NAME))
        assert running is not None
        yield running
    finally:
        subprocess.run([*command, "down", "--fleet", NAME], env=environment, check=False)


async def _soak(running: Cluster, minutes: float, arguments: list[str]) -> tuple[str, bool]:
    tally = Tally()
    started = datetime.now(UTC)
    async with httpx.AsyncClient(base_url=running.url, timeout=120, trust_env=False) as http:
        sound = (await http.post("/tts", json={"text": "The last boat came home in the rain."})).content
        asks = _asks(sound)
        await asyncio.sleep(5)
        before = _held(running)
        async with _load(http, asks, tally):
            await asyncio.sleep(minutes * 60)
            after = _held(running)
            returns = [await _kill(http, running, what, title, tally) for what, title in _VICTIMS]
            tally.phase = "after the kills"
            await asyncio.sleep(15)
    good = not _failed(tally, QUIET) and not _failed(tally, "after the kills") and all(s for _, s in returns)
    return _report(started, minutes, tally, before, after, returns, arguments), good


_VICTIMS = (
    ("a replica of /echo", "ray::ServeReplica:echo"),
    ("control", "ray::Control"),
    ("the gateway", "ray::ServeReplica:argosy-gateway"),
    ("Ray Serve's controller", "ray::ServeController"),
)


def _asks(sound: bytes) -> dict[str, dict[str, Any]]:
    """What each service is asked, as keywords of httpx's `post`."""
    return {
        "/echo": {"json": {"text": "hello"}},
        "/embeddings": {"json": {"text": "a man eats food while it rains"}},
        "/reranker": {"json": {"query": "food", "documents": ["a meal", "a stock", "a boat"]}},
        "/llm": {"json": {"prompt": "Tell me of the sea.", "max_tokens": 24}},
        "/tts": {"json": {"text": "The last boat came home."}},
        "/whisper": {"content": sound, "headers": {"content-type": "audio/wav"}},
        "/v1/embeddings": {"json": {"model": "embeddings", "input": "through the gateway"}},
    }


@contextlib.asynccontextmanager
async def _load(http: httpx.AsyncClient, asks: dict[str, dict[str, Any]], tally: Tally) -> AsyncIterator[None]:
    async def client(path: str, how: dict[str, Any]) -> None:
        while True:
            try:
                answer = await http.post(path, **how)
                tally.count(path, str(answer.status_code))
            except httpx.HTTPError as error:
                tally.count(path, type(error).__name__)
            await asyncio.sleep(PAUSE)

    clients = [asyncio.create_task(client(path, how)) for path, how in asks.items()]
    try:
        yield
    finally:
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)


async def _kill(
    http: httpx.AsyncClient, running: Cluster, what: str, title: str, tally: Tally
) -> tuple[str, float | None]:
    """Seconds until every service is Ready again in control's eyes; None when it took longer than a minute."""
    tally.phase = f"{what} killed"
    victim = next(p for p in clusters.processes(running) if p.cmdline() and p.cmdline()[0].startswith(title))
    os.kill(victim.pid, signal.SIGKILL)
    began = time.monotonic()
    back: float | None = None
    while time.monotonic() - began < 60:
        await asyncio.sleep(0.2)
        with contextlib.suppress(httpx.HTTPError, ValueError):
            answer = await http.get("/health/ready")
            there = any(_is(p, title) for p in clusters.processes(running) if p.pid != victim.pid)
            if answer.status_code == 200 and there:
                back = time.monotonic() - began
                break
    await asyncio.sleep(SETTLE)
    return what, back


def _is(process: psutil.Process, title: str) -> bool:
    try:
        return bool(process.cmdline()) and process.cmdline()[0].startswith(title)
    except psutil.Error:
        return False


def _held(running: Cluster) -> dict[str, int]:
    """Bytes (PSS) by what the process is; Ray's own together."""
    held: Counter[str] = Counter()
    for name, _, size in sizes(running):
        held["Ray and its dashboard" if name.startswith("Ray") else name] += size
    return dict(held)


def _failed(tally: Tally, phase: str) -> int:
    return sum(count for counts in tally.seen[phase].values() for what, count in counts.items() if what != "200")


def _report(
    started: datetime,
    minutes: float,
    tally: Tally,
    before: dict[str, int],
    after: dict[str, int],
    returns: list[tuple[str, float | None]],
    arguments: list[str],
) -> str:
    machine = describe()
    lines = [
        f"# Soak of argosy {__version__}",
        "",
        f"{started:%Y-%m-%d %H:%M} UTC, `python -m benchmarks.soak {' '.join(arguments)}`".rstrip() + ".",
        f"{machine.cpu}, {machine.cores} cores, {machine.memory_gib} GiB, Python {machine.python}.",
        "",
        f"The default fleet and the no-op; one client for each path, {PAUSE:g} s between its requests, for"
        f" {minutes:g} minutes undisturbed, then under the kills. No client tries again.",
        "",
        "| phase | path | answered | failed |",
        "| --- | --- | ---: | --- |",
    ]
    for phase, services in tally.seen.items():
        for service, counts in sorted(services.items()):
            failed = ", ".join(f"{count} × {what}" for what, count in sorted(counts.items()) if what != "200") or "0"
            lines.append(f"| {phase} | {service} | {counts['200']} | {failed} |")
    lines += ["", "| killed with -9 | seconds until all is Ready again |", "| --- | ---: |"]
    lines += [f"| {what} | {'more than 60' if s is None else f'{s:.1f}'} |" for what, s in returns]
    lines += ["", "| process | MiB (PSS) at the start | after the load |", "| --- | ---: | ---: |"]
    for name in sorted(before, key=lambda name: -after.get(name, 0)):
        lines.append(f"| {name} | {before[name] / 2**20:.0f} | {after.get(name, 0) / 2**20:.0f} |")
    lines.append(f"| all | {sum(before.values()) / 2**20:.0f} | {sum(after.values()) / 2**20:.0f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
