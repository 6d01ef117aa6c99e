"""One service as one Ray Serve application: the runtime's replica behind the door, in Ray's own process."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import time
from collections.abc import Mapping
from typing import Any

import ray
from ray import serve
from ray.actor import ActorHandle
from ray.exceptions import RayError

from .. import registry as registries
from ..api.service import app
from ..errors import ArgosyError
from ..runtime import environment, logs
from ..runtime.assignment import Assignment
from ..runtime.replica import Replica, State
from .door import Door
from .meter import RayMeter
from .names import CONTROL, NAMESPACE

HEARTBEAT_SECONDS = 1.0
TURN_SECONDS = 10.0  # for which control may keep a replica waiting before it asks again
RETRY_SECONDS = 0.5  # while control is dead
# Admission is the door's and the replica's, which answer in the dialect; Serve's own bound must never be met first.
SERVE_BOUND = 1_000_000

log = logging.getLogger("argosy.replica")


class Application:
    """What Ray Serve runs: loads the planned model, answers, and tells control how it is."""

    def __init__(self, assignment: Assignment, digest: str) -> None:
        logs.setup(assignment.log_format, service=assignment.service, folder=assignment.logs, console=False)
        self._assignment, self._digest = assignment, digest
        self._meter = RayMeter(assignment.service)
        self._control: ActorHandle[Any] | None = None
        self._doing = "starting"
        self._failed = ""
        self._started = False
        self._turn = ""  # "waiting" and then "held", while engines on this device load one at a time
        self._tasks: list[asyncio.Task[None]] = []
        self._pending_live: Mapping[str, Any] = {}
        self._id = serve.get_replica_context().replica_id.unique_id

    async def start(self) -> None:
        """Load and prove. A failure is told to control, which takes the application away; then Ray hears of it."""
        self._tasks = [asyncio.create_task(self._beat()), asyncio.create_task(self._meter.run())]
        try:
            registry = registries.load()
            self._replica = Replica(self._assignment, registry, self._meter)
            backend = registry.backend(self._assignment.device.backend)
            await self._replica.start(self._progress, self._wait if backend.one_at_a_time else None)
        except ArgosyError as error:
            self._failed = str(error)
            log.error("%s", error)
            await self._tell()
            raise
        self._started = True
        if self._pending_live:
            self._replica.reconfigure(self._pending_live)
        await self._tell()

    def __serve_build_asgi_app__(self) -> Door:
        replica = self._replica
        return Door(
            app(replica),
            service=replica.service,
            bounds=replica.bounds,
            meter=self._meter,
            served_by=replica.served_by,
            degraded=lambda: replica.degraded,
            echo_id=False,  # Ray Serve does
        )

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Live options; Ray calls it before the first request too."""
        if self._started:
            self._replica.reconfigure(user_config)
        else:
            self._pending_live = user_config

    async def check_health(self) -> None:
        if self._started and self._replica.status().state is State.FAILED:
            raise RuntimeError(self._replica.status().reason)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._started:
            await self._replica.stop()

    def _progress(self, doing: str) -> None:
        self._doing = doing

    async def _wait(self) -> None:
        """Until control says that it is this replica's turn to load."""
        self._turn = "waiting"
        node = ray.get_runtime_context().get_node_id()
        while True:
            try:
                await self._tell()
                if self._control is not None and await self._control.turn.remote(
                    self._assignment.service, self._id, node, os.getpid(), TURN_SECONDS
                ):
                    break
            except RayError:
                self._control = None
                await asyncio.sleep(RETRY_SECONDS)
        self._turn = "held"
        await self._tell()

    async def _beat(self) -> None:
        while True:
            await self._tell()
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def _tell(self) -> None:
        """One report to control. Control may be dead for a moment; the next beat finds it again."""
        report: dict[str, Any] = {"replica": self._id, "at": time.time(), "pid": os.getpid(), "doing": self._doing}
        report |= {"digest": self._digest, "turn": "" if self._started or self._failed else self._turn}
        report["node"] = ray.get_runtime_context().get_node_id()
        if self._started:
            status = self._replica.status()
            report |= {"state": str(status.state), "reason": status.reason, "status": dataclasses.asdict(status)}
        else:
            report |= {"state": "failed" if self._failed else "loading", "reason": self._failed, "status": None}
        try:
            if self._control is None:
                self._control = ray.get_actor(CONTROL, namespace=NAMESPACE)
            await self._control.heard.remote(self._assignment.service, report)
        except (RayError, ValueError):
            self._control = None


class Ingress(Application):
    """The class that Ray Serve wraps: its constructor and destructor are coroutines there."""

    async def __init__(self, assignment: Assignment, digest: str) -> None:  # type: ignore[misc]
        super().__init__(assignment, digest)
        await self.start()

    async def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # the constructor may not have come that far
            await self.close()


def application(
    assignment: Assignment,
    *,
    digest: str,
    replicas: int,
    selector: Mapping[str, str],
    resources: Mapping[str, float],
    live: Mapping[str, Any],
    py_modules: tuple[str, ...],
) -> serve.Application:
    """The application of one service, to be given to `serve.run` under the service's name and prefix."""
    actor: dict[str, Any] = {"num_cpus": 0, "resources": dict(resources), "label_selector": dict(selector)}
    # Masks and thread limits stand before anything is imported; the replica sets them too, where there is no Ray.
    actor["runtime_env"] = {"env_vars": dict(environment.variables(assignment))}
    if py_modules:
        actor["runtime_env"]["py_modules"] = list(py_modules)
    deployment = serve.deployment(serve.ingress()(Ingress)).options(  # type: ignore[attr-defined]
        name=assignment.service,
        num_replicas=replicas,
        ray_actor_options=actor,
        max_ongoing_requests=SERVE_BOUND,
        user_config=dict(live),
        health_check_period_s=1,
        health_check_timeout_s=10,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=assignment.bounds.timeout,
        logging_config={"enable_access_log": False},
        # Without one of ours Ray Serve makes a version up, and replaces the replica whatever changed: live options too.
        version=digest,
        _internal=True,
    )
    return deployment.bind(assignment, digest)  # type: ignore[no-any-return]
