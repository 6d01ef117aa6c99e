"""How requests reach a model: gathered into batches or one by one in its thread, or as they come on the event loop."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

from ..errors import DeadlineExceeded, ModelFailed, Overloaded, PluginError, RequestError
from ..model import Context, Model, runs
from ..tasks import Task
from . import logs
from .guard import Guard
from .meter import Meter
from .streams import Channel
from .waiting import Line, Ticket
from .worker import Worker, tell

log = logging.getLogger("argosy.runtime")

_PARTING = 1.0  # seconds that an abandoned generator gets to end before its slot is given away


class Runner(Protocol):
    """One way to reach a loaded model. All methods are called on the event loop."""

    async def answer(self, request: Any, ctx: Context) -> Any:
        """The task's response. RequestError; cancelling it gives the request up."""

    def stream(self, request: Any, ctx: Context) -> AsyncIterator[Any]:
        """The task's deltas. RequestError; closing it gives the request up."""

    def stop(self) -> None:
        """Refuse what waits and what comes; tell what runs to end."""

    @property
    def waiting(self) -> int: ...

    @property
    def running(self) -> int: ...


def runner(model: Model, task: Task[Any, Any], bound: int, worker: Worker, meter: Meter) -> Runner:
    """The way that the model's batching names. PluginError where what it defines cannot run that way."""
    way, kind = runs(type(model)), type(model).batching.kind
    method = getattr(model, way)
    on_loop = inspect.isasyncgenfunction(method) if way == "generate" else inspect.iscoroutinefunction(method)
    if kind == "engine" and not on_loop:
        raise PluginError(
            f"{type(model).__name__}.{way} that runs on the event loop, for engine_batches",
            "a plain function",
            f"async def {way}, or batching = argosy.one_by_one",
        )
    if kind == "gather" and (on_loop or way == "generate"):
        raise PluginError(
            f"def predict(self, batch) in {type(model).__name__}, for gather",
            f"{'async ' if on_loop else ''}def {way}",
            "batching = argosy.engine_batches where the engine batches, else argosy.one_by_one",
        )
    return Looped(model, task, bound, meter) if on_loop else Threaded(model, task, bound, worker, meter)


class Threaded:
    """gather and one: the worker thread takes from the line whatever waits as soon as it is free."""

    def __init__(self, model: Model, task: Task[Any, Any], bound: int, worker: Worker, meter: Meter) -> None:
        self._model, self._task, self._worker, self._meter = model, task, worker, meter
        self._predicts = runs(type(model)) == "predict"
        self._gathers, self._size = type(model).batching.kind == "gather", max(type(model).batching.size, 1)
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()  # guards what follows
        self._line = Line(bound)
        self._awake = self._stopping = False
        self._batch: list[tuple[Ticket, int]] = []

    @property
    def waiting(self) -> int:
        return self._line.waiting

    @property
    def running(self) -> int:
        return len({id(ticket) for ticket, _ in self._batch})

    async def answer(self, request: Any, ctx: Context) -> Any:
        items = self._task.split(request) if self._predicts else (request,)
        if not items:
            return self._task.join(request, [])
        ticket = Ticket(request, items, ctx, self._loop.create_future())
        timer = self._submit(ticket)
        try:
            await ticket.future  # type: ignore[misc]
        finally:
            if timer is not None:
                timer.cancel()
            if ticket.left:
                self._drop(ticket)
        answers = ticket.answers
        return self._task.join(request, answers) if self._predicts else fold(self._task, request, answers[0])

    async def stream(self, request: Any, ctx: Context) -> AsyncIterator[Any]:
        channel = Channel(self._loop)
        ticket = Ticket(request, (request,), ctx, channel=channel)
        timer = self._submit(ticket)
        finished = False
        try:
            async for delta in channel:
                yield delta
            finished = True
        finally:
            if timer is not None:
                timer.cancel()
            if not finished:
                channel.leave()
                self._drop(ticket)

    def stop(self) -> None:
        with self._lock:
            self._stopping = True
            waiting = self._line.clear()
            running = [ticket for ticket, _ in self._batch]
        for ticket in waiting:
            _fail(ticket, stopping())
        for ticket in running:
            ticket.ctx.cancel()

    def _submit(self, ticket: Ticket) -> asyncio.TimerHandle | None:
        with self._lock:
            if self._stopping:
                raise stopping()
            self._line.admit(ticket, free=0 if self._batch else self._size)
            wake, self._awake = not self._awake, True
        if wake:
            self._worker.post(self._drain)
        if ticket.ctx.deadline is None:
            return None
        return self._loop.call_later(ticket.ctx.deadline - time.monotonic(), self._expire, ticket)

    def _expire(self, ticket: Ticket) -> None:
        self._drop(ticket)
        _fail(ticket, late(ticket.started))

    def _drop(self, ticket: Ticket) -> None:
        ticket.ctx.cancel()
        with self._lock:
            self._line.remove(ticket)

    # in the worker thread ------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        while batch := self._take():
            began = time.monotonic()
            tickets = list(dict.fromkeys(ticket for ticket, _ in batch))
            logs.requests.set(tuple(ticket.ctx.id for ticket in tickets))
            answers = self._predict(batch, tickets) if self._predicts else [self._generate(batch[0][0])]
            logs.requests.set(())
            seconds = time.monotonic() - began
            if not tell(self._loop, self._deliver, batch, answers, seconds):
                return

    def _take(self) -> list[tuple[Ticket, int]]:
        with self._lock:
            self._batch = self._line.take(self._size, mixed=self._gathers)
            self._awake = bool(self._batch)
            return self._batch

    def _predict(self, batch: list[tuple[Ticket, int]], tickets: list[Ticket]) -> list[Any]:
        """One answer or RequestError per item. Where a batch of many requests fails, each request's items go by
        themselves, so that only the culprit is answered with an error."""
        try:
            return self._call([ticket.items[index] for ticket, index in batch])
        except BaseException as error:  # noqa: BLE001 - a model may raise anything, a native library's panic is no Exception
            if len(tickets) == 1:
                return [refusal(error, tickets[0].ctx)] * len(batch)
        answers: dict[tuple[int, int], Any] = {}
        for ticket in tickets:
            mine = [index for other, index in batch if other is ticket]
            logs.requests.set((ticket.ctx.id,))
            try:
                found = self._call([ticket.items[index] for index in mine])
            except BaseException as error:  # noqa: BLE001 - as above
                found = [refusal(error, ticket.ctx)] * len(mine)
            answers.update(zip(((id(ticket), index) for index in mine), found, strict=True))
        return [answers[id(ticket), index] for ticket, index in batch]

    def _call(self, items: list[Any]) -> list[Any]:
        answers = list(self._model.predict(items))  # type: ignore[attr-defined]
        if len(answers) != len(items):
            raise PluginError(f"{len(items)} answers of {type(self._model).__name__}.predict", str(len(answers)))
        return answers

    def _generate(self, ticket: Ticket) -> Any:
        """All deltas, or those that no channel took; a RequestError where the model failed. The generator is opened,
        driven and closed in this thread."""
        deltas: list[Any] = []
        error: RequestError | None = None
        try:
            steps = self._model.generate(ticket.request, ticket.ctx)  # type: ignore[attr-defined]
            try:
                for delta in steps:
                    ticket.first = ticket.first or time.monotonic()
                    if ticket.ctx.cancelled:
                        break
                    if ticket.channel is None:
                        deltas.append(delta)
                    elif not ticket.channel.put(delta):
                        break
            finally:
                if close := getattr(steps, "close", None):
                    close()
        except BaseException as problem:  # noqa: BLE001 - as in _predict
            error = refusal(problem, ticket.ctx)
        if ticket.channel is not None:
            ticket.channel.end(error)
        return error or deltas

    # on the event loop ---------------------------------------------------------------------------------------------

    def _deliver(self, batch: list[tuple[Ticket, int]], answers: Sequence[Any], seconds: float) -> None:
        with self._lock:
            self._line.learn(seconds, len(batch))
        if self._predicts:
            self._meter.observe("argosy_batch_items", len(batch))
        for (ticket, index), answer in zip(batch, answers, strict=True):
            if not ticket.observed:
                ticket.observed = True
                measure(self._meter, ticket)
            if isinstance(answer, RequestError):
                _fail(ticket, answer)
                continue
            ticket.answers[index] = answer
            ticket.left -= 1
            if not ticket.left and ticket.future is not None and not ticket.future.done():
                ticket.future.set_result(None)


class Looped:
    """Coroutines on the event loop, at most `batching.size` at once: the engine batches by itself."""

    def __init__(self, model: Model, task: Task[Any, Any], bound: int, meter: Meter) -> None:
        self._model, self._task, self._meter = model, task, meter
        self._predicts = runs(type(model)) == "predict"
        self._size = max(type(model).batching.size, 1)
        self._loop = asyncio.get_running_loop()
        self._line = Line(bound)
        self._tickets: set[Ticket] = set()
        self._stopping = False

    @property
    def waiting(self) -> int:
        return self._line.waiting

    @property
    def running(self) -> int:
        return len(self._tickets)

    async def answer(self, request: Any, ctx: Context) -> Any:
        if not self._predicts:
            deltas = [delta async for delta in self.stream(request, ctx)]
            return fold(self._task, request, deltas)
        items = list(self._task.split(request))
        if not items:
            return self._task.join(request, [])
        guard, ticket = Guard(self._loop, ctx), Ticket(request, (request,), ctx)
        try:
            await self._enter(ticket, guard)
            self._meter.observe("argosy_batch_items", len(items))
            try:
                answers = list(await guard.wait(self._model.predict(items)))  # type: ignore[attr-defined]
                if len(answers) != len(items):
                    raise PluginError(
                        f"{len(items)} answers of {type(self._model).__name__}.predict", str(len(answers))
                    )
            except asyncio.CancelledError:
                raise
            except Exception as error:  # a model may raise anything
                raise refusal(error, ctx) from error
            finally:
                self._leave(ticket)
        except asyncio.CancelledError:
            ctx.cancel()
            raise
        finally:
            guard.end()
        return self._task.join(request, answers)

    async def stream(self, request: Any, ctx: Context) -> AsyncIterator[Any]:
        guard, ticket = Guard(self._loop, ctx), Ticket(request, (request,), ctx)
        finished = False
        try:
            await self._enter(ticket, guard)
            steps: Any = None
            try:
                while not finished:
                    try:
                        steps = self._model.generate(request, ctx) if steps is None else steps  # type: ignore[attr-defined]
                        delta = await guard.wait(steps.__anext__())
                    except StopAsyncIteration:
                        finished = True
                        break
                    except asyncio.CancelledError:
                        raise
                    except Exception as error:  # a model may raise anything
                        finished = True
                        raise refusal(error, ctx) from error
                    if not ticket.first:
                        ticket.first = time.monotonic()
                        measure(self._meter, ticket)
                    yield delta
            finally:
                if not finished:
                    ctx.cancel()
                try:
                    await _part(steps)
                finally:
                    self._leave(ticket)
        finally:
            if not finished:
                ctx.cancel()
            guard.end()

    def stop(self) -> None:
        self._stopping = True
        for ticket in self._line.clear():
            _fail(ticket, stopping())
        for ticket in self._tickets:
            ticket.ctx.cancel()

    async def _enter(self, ticket: Ticket, guard: Guard) -> None:
        """Wait for a slot."""
        if self._stopping:
            raise stopping()
        if len(self._tickets) < self._size and not self._line.waiting:
            ticket.started = time.monotonic()
            self._tickets.add(ticket)
            return
        ticket.future = self._loop.create_future()
        self._line.admit(ticket)
        try:
            await guard.wait(ticket.future)
        except BaseException:
            self._line.remove(ticket)
            if ticket in self._tickets:  # the slot came together with the end
                self._leave(ticket)
            raise

    def _leave(self, ticket: Ticket) -> None:
        self._tickets.discard(ticket)
        self._line.learn((time.monotonic() - ticket.started) / self._size, 1)
        if not ticket.first:
            measure(self._meter, ticket)
        while len(self._tickets) < self._size and (batch := self._line.take(1, mixed=False)):
            (other, _), *_ = batch
            if other.future is not None and not other.future.done():
                self._tickets.add(other)
                other.future.set_result(None)


async def _part(steps: Any) -> None:
    """Close an asynchronous generator; one that does not end in time is left to itself, and said so."""
    if steps is None or not hasattr(steps, "aclose"):
        return
    closing = asyncio.ensure_future(steps.aclose())
    done, _ = await asyncio.wait({closing}, timeout=_PARTING)
    if not done:
        log.warning("generate() has not ended %g s after it was closed", _PARTING)
        closing.add_done_callback(lambda task: task.cancelled() or task.exception())
    elif not closing.cancelled() and (error := closing.exception()) is not None:
        log.warning("generate() raised while it was closed", exc_info=error)


def fold(task: Task[Any, Any], request: Any, deltas: Sequence[Any]) -> Any:
    """The response that deltas add up to: for a task that does not stream, the one that came."""
    if task.fold is not None:
        return task.fold(request, deltas)
    if len(deltas) != 1:
        log.error("generate() of the task %s yielded %d answers, not one", task.name, len(deltas))
        raise ModelFailed(f"the model gave {len(deltas)} answers to one request")
    return deltas[0]


def measure(meter: Meter, ticket: Ticket) -> None:
    """Tell how long a request waited, and for its first delta where there was one."""
    meter.observe("argosy_queue_seconds", ticket.started - ticket.arrived)
    if ticket.first:
        meter.observe("argosy_first_seconds", ticket.first - ticket.arrived)


def refusal(error: BaseException, ctx: Context) -> RequestError:
    """What the client is told of what the model raised. The cause goes to the log, with the request's id."""
    if isinstance(error, RequestError):
        return error
    log.error("the model failed on request %s", ctx.id, exc_info=error)
    return ModelFailed(f"the model failed on request {ctx.id}; the service's log says why")


def late(started: float) -> DeadlineExceeded:
    return DeadlineExceeded(f"the deadline passed while the request {'was answered' if started else 'waited'}")


def stopping() -> Overloaded:
    return Overloaded("this replica is stopping; try again", code="stopping")


def _fail(ticket: Ticket, error: RequestError) -> None:
    if ticket.channel is not None:
        ticket.channel.end(error)
    elif ticket.future is not None and not ticket.future.done():
        ticket.future.set_exception(error)
