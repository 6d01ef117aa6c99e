"""The way from a command line or a job to control: join a cluster, find control or make it, ask it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..errors import ClusterError
from .home import Cluster
from .names import CONTROL, NAMESPACE
from .status import FleetStatus
from .terms import Settings

if TYPE_CHECKING:
    from ray.actor import ActorHandle

CONNECT_SECONDS = 5.0  # for a Ray head to take a connection


@contextmanager
def joined(
    address: str, environment: Mapping[str, str], wheels: Sequence[Path] = (), *, quiet: bool = True
) -> Iterator[tuple[str, ...]]:
    """Be a driver of the cluster at `address`; yields where the wheels lie in it. ClusterError when it does not answer.

    `environment` has to hold before Ray is imported in this process.
    """
    os.environ.update(environment)
    import ray

    answers(address)
    runtime = {"py_modules": [str(wheel) for wheel in wheels]} if wheels else None
    try:
        try:
            with _terminated_as_before():
                ray.init(
                    address=address,
                    namespace=NAMESPACE,
                    log_to_driver=not quiet,
                    logging_level=logging.ERROR,
                    runtime_env=cast(Any, runtime),
                    ignore_reinit_error=False,
                )
        except (ConnectionError, RuntimeError, ValueError) as error:
            found = str(error).strip()
            raise ClusterError(
                f"the Ray cluster at {address}", found, "its RAY_AUTH_MODE and token, as it has them"
            ) from None
        yield tuple(ray.get_runtime_context().runtime_env.get("py_modules") or ())
    finally:
        ray.shutdown()


def joining(environment: Mapping[str, str]) -> Mapping[str, str]:
    """What to be a driver with on a cluster that someone else started: its own switches, made explicit."""
    return {"RAY_AUTH_MODE": environment.get("RAY_AUTH_MODE", "disabled"), "RAY_DEDUP_LOGS": "0"}


def answers(address: str) -> None:
    """ClusterError where nobody listens: Ray would try for half a minute to reach such an address."""
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdigit():
        raise ClusterError(
            "the HOST:PORT of a Ray head, as `ray status` takes it", repr(address), "--address HOST:6379"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(f"a Ray cluster at {address}", str(error), "ray status --address HOST:PORT") from None


@contextmanager
def _terminated_as_before() -> Iterator[None]:
    """Ray's init takes SIGTERM for itself; whoever started us may have said what it means."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def find() -> ActorHandle[Any] | None:
    """Control of the joined cluster; None where none runs."""
    import ray

    try:
        return ray.get_actor(CONTROL, namespace=NAMESPACE)
    except ValueError:
        return None


def find_or_make(settings: Settings) -> ActorHandle[Any]:
    """Control, made on the head where there was none. ClusterError when another fleet runs on this cluster."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from .control import Control

    control: Any = find()
    if control is None:
        alive = [node for node in cast(Any, ray).nodes() if node["Alive"]]
        head = next((node["NodeID"] for node in alive if "node:__internal_head__" in node["Resources"]), None)
        control = (
            cast(Any, ray.remote(Control))
            .options(
                name=CONTROL,
                namespace=NAMESPACE,
                lifetime="detached",
                get_if_exists=True,
                max_restarts=-1,
                max_task_retries=3,
                max_concurrency=1000,
                num_cpus=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(head, soft=False) if head else "DEFAULT",
            )
            .remote(settings)
        )
    fleet = ask(control.alive.remote(), 120)
    if fleet != settings.fleet:
        raise ClusterError(
            f"a cluster for the fleet {settings.fleet}",
            f"it runs the fleet {fleet}",
            f"argosy down --fleet {fleet}, or another cluster",
        )
    return cast("ActorHandle[Any]", control)


def ask(call: Any, timeout: float | None = None) -> Any:
    """Wait for an answer of control. An ArgosyError of its comes out as itself, not in Ray's wrapping."""
    import ray
    from ray.exceptions import GetTimeoutError, RayError, RayTaskError

    from ..errors import ArgosyError

    try:
        return ray.get(cast(Any, call), timeout=timeout)
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, ArgosyError):
            raise cause from None
        raise ClusterError("an answer of control", str(cause or error), "argosy logs control") from None
    except (RayError, GetTimeoutError) as error:
        said = str(error).strip().splitlines()
        raise ClusterError("an answer of control", "\n".join(said[-12:]), "argosy status, and again") from None


def status_of(control: ActorHandle[Any], version: int = -1, timeout: float = 0.0) -> FleetStatus:
    return cast(FleetStatus, ask(control.watch.remote(version, timeout), timeout + 30))


def changed(control: ActorHandle[Any], version: int, alive: Callable[[], bool]) -> FleetStatus | None:
    """The status when it is newer than `version`, or after ten seconds as it is; None as soon as `alive` denies it:
    a call into a cluster that has died does not return."""
    import ray

    call: Any = control.watch.remote(version, 10.0)
    while not ray.wait([call], timeout=1.0)[0]:
        if not alive():
            return None
    return cast(FleetStatus, ask(call, 10))


def take_off(fleet: str = "") -> str | None:
    """Take the fleet off the joined cluster and leave Ray running; returns its name, None where none runs there.

    Ray Serve goes too where nobody else has deployed anything. ClusterError when another fleet than the named one runs.
    """
    import ray
    from ray import serve
    from ray.serve.exceptions import RayServeException

    control: Any = find()
    if control is None:
        return None
    name = str(ask(control.alive.remote(), 120))
    if fleet and fleet != name:
        raise ClusterError(
            f"the fleet {fleet} on this cluster", f"it runs the fleet {name}", f"argosy down --fleet {name}"
        )
    ask(control.down.remote(), 120)
    ray.kill(control)
    try:
        if not serve.status().applications:
            cast(Any, serve).shutdown()
    except RayServeException:  # it does not run
        pass
    return name


def local(cluster: Cluster) -> tuple[str, Mapping[str, str]]:
    """Address and environment of a cluster that was started here."""
    return cluster.address, cluster.environment
