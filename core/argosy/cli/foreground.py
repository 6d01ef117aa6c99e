"""`argosy up` once the fleet stands: it tells every change, and ends as Ctrl-C, SIGTERM or `argosy down` say."""

from __future__ import annotations

import dataclasses
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import ClusterError

if TYPE_CHECKING:
    from rich.console import Console

    from ..serve.home import Home
    from ..serve.status import FleetStatus

GONE_SECONDS = 10  # for another command that ends the fleet to be done with it


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """A service manager ends a fleet as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def stop(home: Home) -> None:
    """End the cluster, whoever presses Ctrl-C again meanwhile: it takes seconds, and half of it is worth nothing."""
    from ..serve import cluster as clusters

    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        clusters.stop(home)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stay(console: Console, control: Any, status: FleetStatus, home: Home) -> None:
    """Tell every change, until Ctrl-C or `argosy down` elsewhere. ClusterError when the cluster died."""
    from ..serve import client
    from ..serve import cluster as clusters
    from . import screen

    def alive() -> bool:
        return clusters.running(home) is not None

    try:
        while True:
            try:
                fresh = client.changed(control, status.version, alive)
            except ClusterError as error:
                fresh = None
                if alive():
                    console.print(f"{_now()} {error}", markup=False, highlight=False, soft_wrap=True)
                    time.sleep(1)
                    continue
            if fresh is None:
                break
            for line in screen.changes(status, fresh):
                console.print(f"{_now()} {line}", markup=False, highlight=False, soft_wrap=True)
            # A control that has just come back knows of no service yet; what was said last still stands.
            status = dataclasses.replace(fresh, services=fresh.services or status.services)
    except KeyboardInterrupt:
        try:
            with screen.doing(console, "stopping"):
                client.ask(control.down.remote(), 120)
        except (ClusterError, KeyboardInterrupt):
            console.print("control did not answer in time; ending its processes", highlight=False)
        return
    deadline = time.monotonic() + GONE_SECONDS
    while home.cluster() is not None:
        if time.monotonic() > deadline:
            stop(home)
            raise ClusterError(
                f"the fleet {home.fleet} to run", "its Ray head died", "argosy up, and see argosy logs ray"
            )
        time.sleep(0.1)
    console.print("another command stopped the fleet", highlight=False)


def _now() -> str:
    return time.strftime("%H:%M:%S")
