"""One service as control sees it: what was planned, what its replicas report, what Ray Serve says."""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from typing import Any

from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview

from ..fleet.schema import Service
from ..runtime.watchdog import Watched
from .prepare import Ready
from .status import Phase, ServiceStatus

STALE_SECONDS = 5.0  # a replica that has been silent so long is taken for dead
RECENT_SECONDS = 600.0  # for which status shows what befell a service
OVERRUNS = 3  # so often within RECENT_SECONDS, and it would go on without end


class Entry:
    def __init__(self, name: str, plugin: str, ready: Ready | None, reason: str = "") -> None:
        self.name, self.plugin, self.ready = name, plugin, ready
        self.reason = reason
        self.gone = ready is None  # has no application
        self.peak = 0
        self.since = time.time()
        self.serving = False  # Ray Serve says that the application runs
        self.hopeless = ""  # why Ray Serve gave up
        self.reports: dict[str, dict[str, Any]] = {}
        self.overruns: list[float] = []  # when a replica was ended for what it held, seconds since the epoch
        self.event, self.event_at = "", 0.0
        self.unwatched: dict[str, Collection[int]] = {}  # node -> processes that its guard can only count

    @classmethod
    def pending(cls, name: str, service: Service, reason: str) -> Entry:
        return cls(name, service.plugin, None, reason)

    @classmethod
    def of(cls, ready: Ready, old: Entry | None) -> Entry:
        entry = cls(ready.assignment.service, ready.assignment.plugin, ready)
        if old is not None and not old.gone:
            entry.reports, entry.serving = old.reports, old.serving
        if old is not None and old.ready is not None and old.ready.digest == ready.digest and not old.gone:
            entry.overruns, entry.event, entry.event_at = old.overruns, old.event, old.event_at
        return entry

    def hear(self, report: dict[str, Any]) -> None:
        if self.gone or self.ready is None:
            return
        before = self.reports.get(report["replica"], {}).get("turn")
        self.reports[report["replica"]] = report
        # Its time to start begins when it may load; those before it have theirs, its own service's too.
        loads = any(one.get("turn") == "held" for one in self.current())
        if (report.get("turn") == "waiting" and not loads) or (before, report.get("turn")) == ("waiting", "held"):
            self.since = report["at"]
        # Where more report than are wanted, the one that was silent longest has a successor.
        while len(current := self.current()) > self.ready.replicas:
            del self.reports[min(current, key=lambda one: one["at"])["replica"]]

    def give_up(self, reason: str) -> None:
        self.gone, self.reason, self.serving = True, reason, False
        self.reports.clear()

    def lose(self, node: str, pids: Collection[int]) -> None:
        """Drop the reports of replicas whose processes are gone."""
        self.reports = {
            name: report for name, report in self.reports.items() if report["node"] != node or report["pid"] not in pids
        }

    def overran(self, at: float, event: str, held: int = 0) -> str:
        """A replica was ended for the bytes that it held. Returns why the service should be given up; empty where it
        need not."""
        self.event, self.event_at = event, at
        self.overruns = [before for before in self.overruns if at - before < RECENT_SECONDS] + [at]
        if len(self.overruns) < OVERRUNS:
            return ""
        return (
            f"ended {len(self.overruns)} times in {RECENT_SECONDS / 60:.0f} minutes for what it held; last: {event}; "
            f"try: `memory: {math.ceil(held * 1.1 / 2**20)}MiB` or more for it, or smaller weights or options"
        )

    def watched(self, node: str) -> list[Watched]:
        """The replicas on this node, for its guard."""
        if self.ready is None or self.gone:
            return []
        assignment = self.ready.assignment
        return [
            Watched(service=self.name, pid=report["pid"], device=assignment.device, budget=assignment.budget)
            for report in self.current()
            if report["node"] == node
        ]

    def current(self) -> list[dict[str, Any]]:
        """The reports of replicas that run what is planned now; others are on their way out."""
        wanted = self.ready.digest if self.ready else ""
        return [report for report in self.reports.values() if report["digest"] == wanted]

    def forget(self, now: float) -> None:
        """Drop the reports of replicas that fell silent."""
        self.reports = {name: r for name, r in self.reports.items() if now - r["at"] < STALE_SECONDS}

    def see(self, overview: ApplicationStatusOverview | None, now: float) -> None:
        """Take in Ray Serve's word."""
        self.serving = overview is not None and overview.status == ApplicationStatus.RUNNING
        if overview is not None and overview.status == ApplicationStatus.DEPLOY_FAILED:
            messages = [deployment.message for deployment in overview.deployments.values() if deployment.message]
            said = " ".join([overview.message, *messages]).strip() or "Ray Serve could not deploy it"
            self.hopeless = self.event if self.overruns else said
        elif self.ready and not self.serving and not self.gone and now - self.since > self.ready.start_timeout:
            self.hopeless = f"not Ready within {self.ready.start_timeout:g} s; last: {self.doing()}"

    def outstanding(self) -> int:
        """How many replicas have still to get Ready."""
        if self.ready is None or self.gone:
            return 0
        done = [report for report in self.current() if report["state"] in ("ready", "degraded")]
        return max(self.ready.replicas - len(done), 0)

    def doing(self) -> str:
        said = sorted(self.current(), key=lambda report: report["at"])
        return said[-1]["doing"] if said else "waiting for a process"

    def phase(self) -> Phase:
        if self.ready is None:
            return Phase.PENDING
        if self.gone:
            return Phase.FAILED
        states = [report["state"] for report in self.current()]
        working = [state for state in states if state in ("ready", "degraded")]
        if not self.serving or len(working) < self.ready.replicas:
            return Phase.READY if self.serving and working and "degraded" not in working else Phase.STARTING
        return Phase.DEGRADED if "degraded" in working else Phase.READY

    def status(self) -> ServiceStatus:
        phase = self.phase()
        event = self.event if time.time() - self.event_at < RECENT_SECONDS else ""
        if self.ready is None:
            return ServiceStatus(name=self.name, phase=phase, reason=self.reason, plugin=self.plugin)
        assignment = self.ready.assignment
        reports = self.current()
        counted = any(report["pid"] in self.unwatched.get(report.get("node", ""), ()) for report in reports)
        degraded = [report["reason"] for report in reports if report["state"] == "degraded"]
        about: dict[str, str] = next((report["status"]["about"] for report in reports if report["status"]), {})
        return ServiceStatus(
            name=self.name,
            phase=phase,
            reason=self.reason or (degraded[0] if degraded else ""),
            event=event,
            doing="" if phase.answers or self.gone else self.doing(),
            plugin=self.plugin,
            task=self.ready.task,
            variant=assignment.variant,
            engine=assignment.engine.name,
            backend=assignment.device.backend,
            device=assignment.device.name,
            index=assignment.device.index,
            node=self.ready.node.name,
            share=assignment.share,
            budget=assignment.budget,
            estimate=self.ready.estimate,
            enforcement="counted" if counted and assignment.enforcement == "watched" else assignment.enforcement,
            body=assignment.bounds.body,
            why=self.ready.why,
            replicas=self.ready.replicas,
            about=dict(about),
            running=reports,
        )

    def fingerprint(self) -> tuple[object, ...]:
        """What a watcher wants to be woken for."""
        states = tuple(sorted((name, report["state"]) for name, report in self.reports.items()))
        return self.name, self.phase(), self.reason, self.event_at, self.doing(), states
