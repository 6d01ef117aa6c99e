"""One service as control sees it: what was planned, what its replicas report, what Ray Serve says."""

from __future__ import annotations

import time
from typing import Any

from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview

from ..fleet.schema import Service
from .prepare import Ready
from .status import Phase, ServiceStatus

STALE_SECONDS = 5.0  # a replica that has been silent so long is taken for dead


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

    @classmethod
    def pending(cls, name: str, service: Service, reason: str) -> Entry:
        return cls(name, service.plugin, None, reason)

    @classmethod
    def of(cls, ready: Ready, old: Entry | None) -> Entry:
        entry = cls(ready.assignment.service, ready.assignment.plugin, ready)
        if old is not None and not old.gone:
            entry.reports, entry.serving = old.reports, old.serving
        return entry

    def hear(self, report: dict[str, Any]) -> None:
        if self.gone or self.ready is None:
            return
        self.reports[report["replica"]] = report
        # Where more report than are wanted, the one that was silent longest has a successor.
        while len(current := self.current()) > self.ready.replicas:
            del self.reports[min(current, key=lambda one: one["at"])["replica"]]

    def give_up(self, reason: str) -> None:
        self.gone, self.reason, self.serving = True, reason, False
        self.reports.clear()

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
            self.hopeless = " ".join([overview.message, *messages]).strip() or "Ray Serve could not deploy it"
        elif self.ready and not self.serving and not self.gone and now - self.since > self.ready.start_timeout:
            self.hopeless = f"not Ready within {self.ready.start_timeout:g} s; last: {self.doing()}"

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
        if self.ready is None:
            return ServiceStatus(name=self.name, phase=phase, reason=self.reason, plugin=self.plugin)
        assignment = self.ready.assignment
        reports = self.current()
        degraded = [report["reason"] for report in reports if report["state"] == "degraded"]
        about: dict[str, str] = next((report["status"]["about"] for report in reports if report["status"]), {})
        return ServiceStatus(
            name=self.name,
            phase=phase,
            reason=self.reason or (degraded[0] if degraded else ""),
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
            enforcement=assignment.enforcement,
            body=assignment.bounds.body,
            why=self.ready.why,
            replicas=self.ready.replicas,
            about=dict(about),
            running=reports,
        )

    def fingerprint(self) -> tuple[object, ...]:
        """What a watcher wants to be woken for."""
        states = tuple(sorted((name, report["state"]) for name, report in self.reports.items()))
        return self.name, self.phase(), self.reason, self.doing(), states
