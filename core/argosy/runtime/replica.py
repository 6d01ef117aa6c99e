"""A replica: one model on one share of one device, from its assignment to its answers. It knows nothing of Ray."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import logging
import os
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, NoReturn

from ..engines import Engine
from ..errors import BadRequest, Overloaded, ReplicaError, RequestError
from ..model import Context, Model, runs
from ..registry import Registry
from . import environment, loading, logs, memory
from .assignment import Assignment
from .batching import Runner, runner
from .meter import Meter, Silent
from .outcome import late
from .proof import Canary, Cause, Doubt, Evidence, Proof, accelerated, prove
from .sampling import looks
from .state import State, Status
from .tally import Tally
from .worker import Worker

__all__ = ["Replica", "State", "Status"]

log = logging.getLogger("argosy.runtime")

CANARY_SECONDS = 120.0  # the first answer may compile kernels
_CLOSE_SECONDS = 10.0  # that a model gets to end what it does and close


class Replica:
    """Lives in one process, on one event loop. PluginError where the plugin has no such model or engine."""

    def __init__(
        self,
        assignment: Assignment,
        registry: Registry,
        meter: Meter | None = None,
        *,
        canary_seconds: float = CANARY_SECONDS,
    ) -> None:
        self.assignment, self._meter = assignment, meter or Silent()
        self._backend = registry.backend(assignment.device.backend)
        self._how = loading.implementation(registry, assignment)
        self.model = self._how.model
        self._engine_version = type(assignment.engine).version() or ""  # looked up once: it reads package metadata
        self.service, self.served_by, self.bounds = assignment.service, assignment.served_by, assignment.bounds
        self.task, self.features = self.model.task, self.model.features
        self.about: Mapping[str, str] = self.model.about
        self._plugin = next(
            (f"{plugin.name} ({plugin.distribution} {plugin.version})" for plugin in registry.plugins
             if assignment.plugin in plugin.models), assignment.plugin,
        )  # fmt: skip
        self._canary_limit = canary_seconds
        self._tally = Tally(self._meter)
        self._state, self._reason = State.STARTING, ""
        self._memory = self._peak = self._settled = self._after_load = 0
        self._told = False
        self._loaded_seconds = self._canary_seconds = 0.0
        self._proof = ""
        self._worker: Worker | None = None
        self._engine: Engine | None = None
        self._instance: Model | None = None
        self._runner: Runner | None = None
        self._watch: asyncio.Task[None] | None = None

    # starting and stopping -----------------------------------------------------------------------------------------

    async def start(
        self, progress: Callable[[str], None] | None = None, turn: Callable[[], Awaitable[None]] | None = None
    ) -> Status:
        """Mask, fetch, load, ask the canary, prove; READY, or DEGRADED where the fleet file allows it.

        `progress` gets sentences for people, from this loop or from another thread. `turn` returns when this replica
        may load; it is waited for once the weights are here. Raises ReplicaError, WeightsError or PluginError; the
        replica is FAILED then, and its thread and model are gone.
        """
        tell = progress or (lambda sentence: None)
        try:
            changed = environment.apply(self.assignment, masks=self._backend.masks)
            log.info("environment: %s", " ".join(f"{name}={value}" for name, value in changed.items()) or "as it was")
            before = await self._held()
            began = time.monotonic()
            weights = await loading.fetch(self._how, self.assignment, tell)
            if turn is not None:
                tell(f"waiting for its turn on {self.assignment.device.name}")
                fetched = time.monotonic()
                await turn()
                began += time.monotonic() - fetched
            self._turn(State.LOADING)
            tell(f"loading on {self.assignment.engine.name}, {self.assignment.device.name}")
            if (lost := await self._lost()) and self.assignment.fallback == "refuse":
                self._refuse(Proof("", (Doubt(Cause.DEVICE, lost),)))
            self._worker = Worker(f"argosy-{self.service}")
            self._engine = await loading.prepare(self.assignment, self._worker)
            prepared = await self._held()
            await self._load(weights)
            self._loaded_seconds = time.monotonic() - began
            self._after_load = (await self._held()).bytes
            self._turn(State.PROVING)
            tell("asking the canary")
            proof = await self._prove(before, prepared, lost)
        except BaseException as error:
            self._turn(State.FAILED, str(error) or type(error).__name__)
            await self._end()
            raise
        self._proof = proof.evidence
        self._tell(proof.doubts)
        if proof.ok:
            self._turn(State.READY)
        else:
            self._turn(State.DEGRADED, proof.sentence)
        tell(f"{self._state}: {proof.sentence}")
        self._watch = asyncio.create_task(self._sample())
        return self.status()

    async def stop(self) -> None:
        """Refuse what waits, end what runs, close the model. Calling it again does nothing."""
        if self._state is State.STOPPED:
            return
        self._turn(State.STOPPED)
        await self._end()

    async def _end(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            try:
                await self._watch
            except asyncio.CancelledError:
                pass
            except Exception as error:  # the model is closed all the same
                log.error("%s was not sampled to its end", self.service, exc_info=error)
            self._watch = None
        if self._runner is not None:
            self._runner.stop()
        worker, instance = self._worker, self._instance
        self._worker = self._instance = None
        if worker is None:
            return
        if instance is not None:
            try:
                async with asyncio.timeout(_CLOSE_SECONDS):
                    if inspect.iscoroutinefunction(instance.close):
                        await instance.close()
                    else:
                        await worker.run(instance.close)
            except Exception as error:  # noqa: BLE001 - close() is a plugin's; the replica ends all the same
                log.warning("%s did not close: %s", self._plugin, error or type(error).__name__)
        worker.stop()
        del instance
        # A native library that is still at work when the interpreter ends takes the process down with it.
        await asyncio.to_thread(worker.join, _CLOSE_SECONDS)

    async def _held(self) -> memory.Taken:
        return await asyncio.to_thread(memory.measure, self._backend, self.assignment.device)

    async def _lost(self) -> str:
        """Why the device is not there as planned; empty where it is."""
        return await asyncio.to_thread(loading.lost, self._backend, self.assignment.device)

    async def _load(self, weights: Any) -> None:
        assert self._worker is not None
        assert self._engine is not None
        self._instance = await loading.load(
            self.model, weights, self._engine, self.assignment, self._worker, self._plugin
        )
        self.about = self._instance.about
        self._runner = runner(self._instance, self.task, self.bounds.queue, self._worker, self._meter)

    async def _prove(self, before: memory.Taken, prepared: memory.Taken, lost: str) -> Proof:
        assert self._engine is not None
        canary = await self._canary()
        self._canary_seconds = canary.seconds
        after = await self._held()
        self._memory = self._peak = self._settled = after.bytes
        self._told = after.told
        proof = prove(
            self.assignment,
            self.model,
            Evidence(
                before=before,
                prepared=prepared,
                after=after,
                canary=canary,
                engine=await asyncio.to_thread(self._engine.report),
                lost=lost or await self._lost(),
            ),
        )
        if not proof.ok and self.assignment.fallback == "refuse":
            self._refuse(proof)
        return proof

    def _refuse(self, proof: Proof) -> NoReturn:
        self._tell(proof.doubts)
        raise ReplicaError(
            f"{self.service} on {self.assignment.engine.name}, {self.assignment.device.name}",
            proof.sentence,
            "argosy doctor; or `fallback: degrade` in the fleet file to serve all the same",
        )

    async def _canary(self) -> Canary:
        """The canary's answer; asked again where the model says how slow it may be, for the first may compile."""
        canary = await self._ask_canary()
        if canary.asked and self.model.slowest is not None and accelerated(self.assignment):
            canary = dataclasses.replace(canary, warm=(await self._ask_canary()).seconds)
        return canary

    async def _ask_canary(self) -> Canary:
        assert self._instance is not None
        assert self._runner is not None
        began = time.monotonic()
        try:
            request = self._instance.canary()
            if request is None:
                return Canary(False)
            ctx = Context("canary", deadline=began + self._canary_limit)
            logs.requests.set((ctx.id,))
            answer = await self._runner.answer(request, ctx)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # canary() is a plugin's
            cause = error.__cause__ or error
            raise ReplicaError(
                f"an answer of {self._plugin} to its canary within {self._canary_limit:g} s",
                traceback.format_exception_only(cause)[-1].strip(),
                f"argosy logs {self.service}, or argosy run-one {self.service} to see it alone",
            ) from error
        finally:
            logs.requests.set(())
        return Canary(True, answer, time.monotonic() - began)

    # answering -----------------------------------------------------------------------------------------------------

    async def answer(self, request: Any, ctx: Context) -> Any:
        """The task's response; what a streaming model yields is folded into one. Raises RequestError alone."""
        try:
            response = await self._enter(ctx).answer(request, ctx)
        except RequestError as error:
            ctx.error = ctx.error or error.code
            raise
        self._tally.answered(request, response)
        return response

    async def stream(self, request: Any, ctx: Context) -> AsyncIterator[Any]:
        """The task's deltas; those of a model that does not stream are one. Raises RequestError alone, the first
        time before the first delta. Close it, or cancel who reads it, to give the request up."""
        try:
            serving = self._enter(ctx)
            if runs(self.model) == "predict":
                yield self._whole(await serving.answer(request, ctx), request)
                return
            tally = self._tally.stream(request)
            steps = serving.stream(request, ctx)
            try:
                async for delta in steps:
                    tally.see(delta)
                    yield delta
            finally:
                tally.end()
                await steps.aclose()  # type: ignore[attr-defined]
        except RequestError as error:
            ctx.error = ctx.error or error.code
            raise

    def _enter(self, ctx: Context) -> Runner:
        if self._runner is None or self._state not in (State.READY, State.DEGRADED):
            raise Overloaded(f"{self.service} is {self._state}", code="not_ready")
        if ctx.deadline is None:
            ctx.deadline = time.monotonic() + self.bounds.timeout
        elif ctx.deadline <= time.monotonic():
            ctx.cancel()
            raise late(0.0)
        logs.requests.set((ctx.id,))
        return self._runner

    def _whole(self, response: Any, request: Any) -> Any:
        if self.task.delta is None or not isinstance(response, self.task.delta):
            raise BadRequest(f"{self.service} answers whole, it does not stream", param="stream")
        self._tally.answered(request, response)
        return response

    def canary(self) -> Any:
        """The running model's canary request; None where it brings none, or is not loaded."""
        return self._instance.canary() if self._instance is not None else None

    # state ---------------------------------------------------------------------------------------------------------

    @property
    def degraded(self) -> str:
        """Why it answers, but not on what was planned; empty where it is not Degraded."""
        return self._reason if self._state is State.DEGRADED else ""

    def status(self) -> Status:
        engine, device = self.assignment.engine, self.assignment.device
        return Status(
            service=self.service,
            state=self._state,
            reason=self._reason,
            variant=self.assignment.variant,
            plugin=self.assignment.plugin,
            engine=engine.name,
            engine_version=self._engine_version,
            backend=device.backend,
            device=device.name,
            share=self.assignment.share,
            budget=self.assignment.budget,
            enforcement=self.assignment.enforcement,
            memory=self._memory,
            memory_peak=self._peak,
            pid=os.getpid(),
            loaded_seconds=self._loaded_seconds,
            running=self._runner.running if self._runner else 0,
            waiting=self._runner.waiting if self._runner else 0,
            about=dict(self.about),
            canary_seconds=self._canary_seconds,
            proof=self._proof,
            memory_loaded=self._after_load,
            memory_canary=self._settled,
            memory_told=self._told,
        )

    def reconfigure(self, options: Mapping[str, Any]) -> None:
        """Change live options; those that are not named keep their value. ReplicaError where an option's change would
        need a restart or its value is refused, and nothing is changed then."""
        given = self.assignment
        current = self._instance.config if self._instance else loading.options(self.model, given, given.options)
        new = loading.options(self.model, given, {**current.model_dump(), **options})
        live = self.model.options.live_names()
        fixed = sorted(name for name in new.model_fields_set - live if getattr(new, name) != getattr(current, name))
        if fixed:
            raise ReplicaError(
                f"a change of live options ({', '.join(sorted(live)) or 'this model has none'})",
                f"{', '.join(fixed)} would change, which needs a restart",
                "argosy up, which restarts this service alone",
            )
        if self._instance is not None:
            self._instance.config = new

    def _turn(self, state: State, reason: str = "") -> None:
        self._state, self._reason = state, reason
        log.info("%s is %s%s", self.service, state, f": {reason}" if reason else "")
        for each in State:
            self._meter.set("argosy_replica_state", float(each is state), state=each)

    def _tell(self, doubts: Sequence[Doubt]) -> None:
        found = {doubt.cause for doubt in doubts}
        for cause in Cause:
            self._meter.set("argosy_replica_degraded", float(cause in found), cause=cause)

    async def _sample(self) -> None:
        """Tell memory and queue, and turn Degraded where the library leaves its device."""
        device = self.assignment.device
        tags = {"device": device.name, "backend": device.backend}
        if self.assignment.budget is not None:
            self._meter.set("argosy_replica_budget_bytes", self.assignment.budget, **tags)
        async for look in looks(self._backend, device, self._engine):
            if look.left and self._state is State.READY:
                self._tell([Doubt(Cause.ENGINE, sentence) for sentence in look.left])
                self._turn(State.DEGRADED, "; ".join(look.left))
            status = self.status()
            self._memory, self._peak = look.taken.bytes, max(self._peak, look.taken.bytes)
            self._meter.set("argosy_replica_memory_bytes", self._memory, **tags)
            self._meter.set("argosy_queue", status.waiting)
            self._meter.set("argosy_running", status.running)
