"""`python -m benchmarks`: measure a running endpoint, or start the benchmark fleet for it."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import yaml

from . import machine, report
from .bench import Bench
from .child import Child, ChildError
from .comparisons import ALL, Pace, Refused, Setting
from .drivers import Client

HERE = Path(__file__).parent
ARGOSY = Path(sys.executable).with_name("argosy")


def main(arguments: list[str]) -> int:
    """0 when everything was measured, whatever it is; 1 when something was not, or with --strict missed its bar."""
    asked = _parse(arguments)
    if unknown := set(asked.only) - set(ALL):
        print(f"benchmarks: --only {','.join(sorted(unknown))}: known are {', '.join(ALL)}", file=sys.stderr)
        return 2
    try:
        with _endpoint(asked.endpoint, asked.fleet) as endpoint:
            return _measure(asked, endpoint, shlex.join(["python", "-m", "benchmarks", *arguments]))
    except Refused as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1


def _measure(asked: argparse.Namespace, endpoint: str, command: str) -> int:
    started, start = datetime.now(UTC), perf_counter()
    services = _fleet(endpoint)
    roots = machine.fleet_roots(urlsplit(endpoint).port or 80, _pids(services))
    pace = Pace.quick() if asked.quick else Pace.full()
    changed = {name: value for name in ("rounds", "seconds") if (value := getattr(asked, name)) is not None}
    pace = replace(pace, **changed)
    bench = Bench(pace.rounds, roots, lambda line: print(line, flush=True))
    bench.say(command)
    idle = machine.rest(roots, seconds=1.0 if asked.quick else 5.0)
    with Child(Client) as client:
        setting = Setting(bench, client, endpoint, asked.threads, pace)
        for name in asked.only or ALL:
            try:
                ALL[name](setting)
            except (Refused, ChildError, KeyError) as error:
                bench.skip(name, f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else str(error))
    run = report.Run(
        command=command,
        started=f"{started:%Y-%m-%d %H:%M}",
        minutes=(perf_counter() - start) / 60,
        commit=_commit(),
        endpoint=endpoint,
        threads=asked.threads,
        rounds=pace.rounds,
        fleet=roots,
        machine=machine.describe(),
        idle=idle,
        services=services,
    )
    page, numbers = report.write(run, bench.outcomes, asked.out, asked.name or f"{started:%Y-%m-%d-%H%M}")
    print(f"\n{report.markdown(run, bench.outcomes)}\nwrote {page} and {numbers}")
    missed = asked.strict and any(not one.met(bar) for one in bench.outcomes for bar in one.bars)
    return int(missed or any(one.failed for one in bench.outcomes))


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--endpoint", help="a running fleet, http://host:port; without it --fleet is started and stopped"
    )
    parser.add_argument("--fleet", type=Path, default=HERE / "fleet.yaml", help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: under 4 minutes instead of 15")
    parser.add_argument("--rounds", type=int, help="instead of 5, or 3 with --quick")
    parser.add_argument(
        "--seconds", type=float, help="of a round that runs for a time, instead of 5, or 3 with --quick"
    )
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], help=f"some of {','.join(ALL)}")
    parser.add_argument(
        "--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each bare engine; default: the cores"
    )
    parser.add_argument("--out", type=Path, default=HERE / "out", help="folder of the report; default: %(default)s")
    parser.add_argument("--name", help="the report's file name, without .md and .json; default: the time")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a bar is missed")
    return parser.parse_args(arguments)


@contextmanager
def _endpoint(given: str | None, fleet: Path) -> Iterator[str]:
    """The address given, or that of the fleet file's fleet, which is started and stopped again."""
    if given:
        yield given.rstrip("/")
        return
    content = yaml.safe_load(fleet.read_text())
    port = (content.get("endpoint") or {}).get("port", 8000)
    down = [ARGOSY, "down", "--fleet", content.get("name", "default")]
    try:
        failed = subprocess.run([ARGOSY, "up", "--detach", fleet]).returncode
    except BaseException:  # interrupted while it started
        subprocess.run(down)
        raise
    if failed:
        raise Refused(f"`argosy up --detach {fleet}` failed; a fleet that runs is measured with --endpoint")
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        subprocess.run(down)


def _fleet(endpoint: str) -> dict[str, Any]:
    """What the endpoint says at /fleet; empty where it is no fleet's."""
    try:
        with urllib.request.urlopen(f"{endpoint}/fleet", timeout=30) as answer:
            found = json.loads(answer.read())
    except (urllib.error.HTTPError, ValueError):
        return {}
    except OSError as error:
        raise Refused(f"{endpoint} cannot be reached ({error}): start a fleet, or leave --endpoint out") from None
    return found if isinstance(found, dict) else {}


def _pids(value: Any) -> set[int]:
    """Every `pid` that stands anywhere in the fleet's answer."""
    if isinstance(value, dict):
        own = {value["pid"]} if isinstance(value.get("pid"), int) else set()
        return own.union(*(_pids(one) for one in value.values()))
    if isinstance(value, list):
        return set().union(*(_pids(one) for one in value))
    return set()


def _commit() -> str:
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def _end(signum: int, frame: object) -> None:
    sys.exit(128 + signum)  # through every `finally`: what was started is stopped


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    sys.exit(main(sys.argv[1:]))
