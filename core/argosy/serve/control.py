"""Control: the one detached actor that owns the fleet and alone writes to Ray Serve.

It keeps what should run in the store, deploys each service as its own application, hears every replica once a second,
and tells whoever asks how things stand. Killed, it comes back from its store and touches no replica.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import platform
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from .. import __version__
from ..errors import ArgosyError, ClusterError
from ..plan.ledger import Record
from ..plan.place import Node
from ..runtime import logs
from ..runtime.watchdog import Watched
from . import deploy, flags, guard
from .entry import RECENT_SECONDS, Entry
from .known import Known, as_then, noted, processes, recalled, record, standing
from .names import GATEWAY
from .prepare import Prepared, Ready
from .queues import Queues
from .status import FleetStatus, Phase
from .store import Store
from .terms import Settings

LOOK_SECONDS = 0.5  # between two looks at the replicas' reports, and at Ray Serve while a service is not Ready
REST_SECONDS = 10.0  # between two looks at Ray Serve while all are: building its answer takes 50 ms of a core
OVERRUN = "over budget"  # what history calls it
RESTORE_SECONDS = 25.0  # for which a control that came back may keep whoever asks it waiting

log = logging.getLogger("argosy.control")
T = TypeVar("T")


class Control:
    """`home` is the fleet's folder on the head; `settings` are what every apply needs to know of this cluster."""

    def __init__(self, settings: Settings) -> None:
        logs.setup(settings.log_format, service="control", folder=settings.logs, console=False)
        # Whoever made this control may have been told otherwise by the shell it was called from.
        self._settings = dataclasses.replace(settings, haproxy=flags.haproxy_in(os.environ))
        self._store = Store(settings.store)
        self._entries: dict[str, Entry] = {}
        self._queues = Queues(self._entries)
        self._nodes: tuple[Node, ...] = ()
        self._version = 0
        self._changed = asyncio.Condition()
        # Ray Serve's client is not made for several threads (building two deployments at once fails): one line for all.
        self._line = ThreadPoolExecutor(1, "serve")
        self._applying = ""
        self._lock = asyncio.Lock()
        self._last: object = None
        self._document = self._store.get("fleet")
        self._restored = asyncio.Event()
        if self._document is None:
            self._restored.set()
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    # what clients call ------------------------------------------------------------------------------------------------

    async def alive(self) -> str:
        """The fleet's name."""
        return self._settings.fleet

    async def terms(self) -> Settings:
        """What this cluster was started with: whoever joins may have asked for another port."""
        return self._settings

    async def open(self) -> None:
        """Start Ray Serve's ingress and the gateway; nothing happens where they run."""
        await self._serve(deploy.start, self._settings)

    async def apply(self, text: str, path: str, py_modules: Sequence[str]) -> dict[str, list[str]]:
        """Make the fleet file true. Returns what changes: `added`, `changed`, `live`, `removed`, `kept`, `pending`.

        It returns once everything is under way; `watch` tells the rest. Raises FleetError, PluginError, ClusterError.
        """
        if self._applying:  # what holds the lock else is the restart, which is waited for
            raise ClusterError(
                "one apply at a time", f"apply {self._applying} is under way", "wait for it: argosy status"
            )
        async with self._lock:
            self._applying = uuid.uuid4().hex[:8]
            try:
                known = Known(ledger=self._store.ledger(), standing=standing(self._entries))
                self._nodes = await deploy.see_nodes(tuple(py_modules), processes(self._entries))
                prepared = await self._prepare(text, path, tuple(py_modules), known)
                changes = await self._enact(prepared)
                self._document = {"text": text, "path": path, "py_modules": list(py_modules)}
                self._document |= noted(standing(self._entries), self._nodes)
                self._store.put("fleet", self._document)
                self._store.happened("apply", f"{self._applying}: {changes}")
                return changes
            finally:
                self._applying = ""
                await self._touch()

    async def heard(self, service: str, report: dict[str, Any]) -> None:
        """A replica's report, once a second and at every turn."""
        entry = self._entries.get(service)
        if entry is None:
            return
        entry.hear(report)
        self._queues.heard(service, report)
        if report["state"] == "failed" and entry.gone is False:
            await self._give_up(service, entry, report["reason"])
        if status := report["status"]:
            self._remember(entry, status)
        await self._settle()

    async def guarded(self, node: str, report: guard.Report) -> list[Watched]:
        """What the guard of a node sees, once a second and when something happens. Returns whom to watch there."""
        self._queues.guarded(node, report)
        for entry in self._entries.values():
            entry.lose(node, report.gone)
            entry.unwatched[node] = report.counted
        for ended in report.ended:
            self._store.happened(OVERRUN, str(ended), ended.service)
            log.error("%s", ended)
            offender = self._entries.get(ended.service)
            if offender is None or offender.gone:
                continue
            if reason := offender.overran(ended.at, str(ended), ended.held):
                await self._give_up(ended.service, offender, reason)
        await self._settle()
        return [watched for entry in self._entries.values() for watched in entry.watched(node)]

    async def turn(self, service: str, replica: str, node: str, pid: int, seconds: float) -> bool:
        """Whether the replica may load now: as soon as it may, or after `seconds` of waiting."""
        end = time.monotonic() + seconds
        while not self._queues.ask(service, replica, node, pid):
            if time.monotonic() > end:
                return False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS), self._changed:
                    await self._changed.wait()
        return True

    async def watch(self, version: int, seconds: float) -> FleetStatus:
        """The status as soon as it is newer than `version`, or after `seconds` as it is."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RESTORE_SECONDS):
                await self._restored.wait()  # before, it knows of no service, and a gateway would believe that
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(lambda: self._version > version)
        return self.status()

    def status(self) -> FleetStatus:
        services = {name: entry.status() for name, entry in sorted(self._entries.items())}
        phases = [one.phase for one in services.values()]
        return FleetStatus(
            fleet=self._settings.fleet,
            version=self._version,
            ready=self._restored.is_set() and bool(phases) and all(phase is Phase.READY for phase in phases),
            haproxy=self._settings.haproxy,
            applying=self._applying,
            services=services,
            nodes={node.name: [dataclasses.asdict(device) for device in node.devices] for node in self._nodes},
            versions={"python": platform.python_version(), "ray": ray.__version__, "argosy": __version__},
        )

    async def document(self) -> dict[str, Any] | None:
        """The fleet as it was last applied: `text`, `path`, `py_modules`."""
        return self._document

    async def history(self, last: int = 100) -> list[dict[str, Any]]:
        return [dataclasses.asdict(event) for event in self._store.history(last)]

    async def known(self) -> Known:
        """What the next apply would plan with."""
        py_modules = tuple((self._document or {}).get("py_modules", ()))
        nodes = await deploy.see_nodes(py_modules, processes(self._entries))
        return Known(ledger=self._store.ledger(), standing=standing(self._entries), nodes=nodes)

    async def learn(self, records: Sequence[Record]) -> None:
        """Take in what was measured elsewhere."""
        for one in records:
            self._store.measure(one)
        self._store.happened("ledger", f"{len(records)} records imported")

    async def down(self) -> None:
        """Take every service and the gateway away; what others deployed stays."""
        self._watcher.cancel()
        self._store.drop("fleet")
        names = [*self._entries, GATEWAY]
        guard.dismiss(deploy.node_ids())
        self._entries.clear()
        await self._touch()
        for name in names:  # all are told before any is waited for: they leave side by side
            await self._serve(serve.delete, name, False)
        for name in names:
            await self._serve(serve.delete, name)
        self._store.happened("down", ", ".join(names))
        self._store.close()

    async def _serve(self, call: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._line, call, *arguments)

    # what it does -----------------------------------------------------------------------------------------------------

    async def _prepare(self, text: str, path: str, py_modules: tuple[str, ...], known: Known) -> Prepared:
        return await deploy.prepared(text, path, self._nodes, self._settings, py_modules, known)

    async def _enact(self, prepared: Prepared) -> dict[str, list[str]]:
        changes: dict[str, list[str]] = {
            name: [] for name in ("added", "changed", "live", "removed", "kept", "pending")
        }
        fresh: list[Ready] = []
        for name in [name for name in self._entries if name not in prepared.fleet.services]:
            changes["removed"].append(name)
            del self._entries[name]
            await self._serve(serve.delete, name)
        for name, reason in prepared.pending.items():
            changes["pending"].append(name)
            old = self._entries.get(name)
            if old is not None and old.ready is not None and not old.gone:
                await self._serve(serve.delete, name)
            self._entries[name] = Entry.pending(name, prepared.fleet.services[name], reason)
        for name, ready in prepared.services.items():
            old = self._entries.get(name)
            if old is None or old.ready is None or old.gone:
                changes["added"].append(name)
            elif (old.ready.digest, old.ready.replicas) != (ready.digest, ready.replicas):
                changes["changed"].append(name)
            elif old.ready.live != ready.live:
                changes["live"].append(name)
            else:
                changes["kept"].append(name)
                continue
            self._entries[name] = Entry.of(ready, self._entries.get(name))
            fresh.append(ready)
        await self._touch()
        guard.post(self._posts(), self._settings)
        await self._serve(deploy.run, fresh)
        return changes

    def _posts(self) -> set[str]:
        """Ray's ids of the nodes that services run on."""
        return {entry.ready.node.id for entry in self._entries.values() if entry.ready is not None}

    async def _give_up(self, service: str, entry: Entry, reason: str) -> None:
        """A replica that says why it cannot start would say so again: take the application away, and answer for it."""
        entry.give_up(reason)
        self._store.happened("failed", reason, service)
        log.error("%s failed: %s", service, reason)
        await self._serve(serve.delete, service, False)

    def _remember(self, entry: Entry, status: Mapping[str, Any]) -> None:
        """The ledger: what the replica holds, whenever its high-water mark moved."""
        if entry.ready is None or status["state"] not in ("ready", "degraded"):
            return
        if status["memory_peak"] > entry.peak:
            entry.peak = status["memory_peak"]
            if (found := record(entry, status)) is not None:
                self._store.measure(found)

    async def _watch(self) -> None:
        """Miss replicas that fell silent, and look at Ray Serve for what they cannot say of themselves."""
        looked = -REST_SECONDS
        while True:
            try:
                if not self._restored.is_set():
                    await self._restore()
                for entry in self._entries.values():
                    entry.forget(time.time())
                self._queues.bury()
                if not self.status().ready or time.monotonic() - looked > REST_SECONDS:
                    await self._look()
                    looked = time.monotonic()
            except (RayError, RayServeException, ArgosyError) as error:
                log.warning("looking again: %s", error)
            else:
                await self._settle()
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        statuses = (await self._serve(serve.status)).applications
        for name, entry in self._entries.items():
            entry.see(statuses.get(name), time.time())
            if entry.hopeless and not entry.gone:
                await self._give_up(name, entry, entry.hopeless)

    async def _restore(self) -> None:
        """After a restart: what should run is known from the store, what does run from Ray Serve and the replicas."""
        document = self._document or {}
        async with self._lock:
            py_modules = tuple(document["py_modules"])
            self._nodes = as_then(document, await deploy.see_nodes(py_modules, {}))
            known = Known(ledger=self._store.ledger(), standing=recalled(document))
            prepared = await self._prepare(document["text"], document["path"], py_modules, known)
            there = (await self._serve(serve.status)).applications
            for name, reason in prepared.pending.items():
                self._entries[name] = Entry.pending(name, prepared.fleet.services[name], reason)
            for name, ready in prepared.services.items():
                self._entries[name] = Entry.of(ready, None)
            self._queues.settle()
            for event in self._store.history(1000):
                if (
                    event.event == OVERRUN
                    and event.service in self._entries
                    and event.at > time.time() - RECENT_SECONDS
                ):
                    self._entries[event.service].overran(event.at, event.detail)
            guard.post(self._posts(), self._settings)
            missing = [ready for name, ready in prepared.services.items() if name not in there]
            await self._serve(deploy.run, missing)
            self._restored.set()
        self._store.happened("control restarted", f"{len(there)} applications found, {len(missing)} started")

    async def _settle(self) -> None:
        """Wake whoever watches when anything but a heartbeat's time changed."""
        now = [entry.fingerprint() for _, entry in sorted(self._entries.items())]
        if now != self._last:
            self._last = now
            await self._touch()

    async def _touch(self) -> None:
        async with self._changed:
            self._version += 1
            self._changed.notify_all()
