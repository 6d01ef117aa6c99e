"""The way from a command line or a job to control: join a cluster, find control or make it, ask it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
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


@contextmanager
def joined(
    address: str, environment: Mapping[str, str], wheels: Sequence[Path] = (), *, quiet: bool = True
) -> Iterator[tuple[str, ...]]:
    """Be a driver of the cluster at `address`; yields where the wheels lie in it. ClusterError when it does not answer.

    `environment` has to hold before Ray is imported in this process.
    """
    os.environ.update(environment)
    import ray

    runtime = {"py_modules": [str(wheel) for wheel in wheels]} if wheels else None
    try:
        ray.init(
            address=address,
            namespace=NAMESPACE,
            log_to_driver=not quiet,
            logging_level=logging.ERROR,
            runtime_env=cast(Any, runtime),
            ignore_reinit_error=False,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(f"the Ray cluster at {address}", str(error).strip(), "ray status, RAY_AUTH_MODE") from None
    try:
        yield tuple(ray.get_runtime_context().runtime_env.get("py_modules") or ())
    finally:
        ray.shutdown()


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


def local(cluster: Cluster) -> tuple[str, Mapping[str, str]]:
    """Address and environment of a cluster that was started here."""
    return cluster.address, cluster.environment
