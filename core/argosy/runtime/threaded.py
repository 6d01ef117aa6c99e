"""Models that are called in their worker thread: gathered into batches, or one request at a time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from ..errors import PluginError, RequestError
from ..model import Context, Model, runs
from ..tasks import Task
from . import logs
from .meter import Meter
from .outcome import broken_off, fail, fold, late, measure, refusal, stopping
from .streams import Channel
from .waiting import Line, Ticket
from .worker import Worker, tell


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
            fail(ticket, stopping())
        for ticket in running:
            ticket.ctx.cancel()
            if ticket.channel is not None:  # its thread may be waiting for a reader
                ticket.channel.end(stopping())

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
        fail(ticket, late(ticket.started))

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
        else:
            error = broken_off(ticket.ctx)
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
                fail(ticket, answer)
                continue
            ticket.answers[index] = answer
            ticket.left -= 1
            if not ticket.left and ticket.future is not None and not ticket.future.done():
                ticket.future.set_result(None)
