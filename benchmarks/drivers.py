"""The two ways to load a server, and what each one's latency means.

Closed loop: so many clients, each of which sends its next request when it has its answer. It finds the highest rate,
and its latency is that of a server which is never behind, for a slow answer delays the next request.

Open loop: requests are due at random times of a given mean rate, whether the server keeps up or not. A latency is
counted from when the request was due, not from when the client got round to sending it, so that a stall is felt by
every request that fell into it; a request that was never answered counts with the time it had waited.
"""

from __future__ import annotations

import asyncio
import random
import resource
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import uvloop

from .wire import READERS, Connection, Reader, Target

WATCH = 0.25  # seconds between looks for requests past their time
RETRY = 0.05  # seconds before a refused connection is tried again


@dataclass(frozen=True)
class Load:
    """What one round did. Latencies in seconds, of answered requests (open loop: and of those never answered)."""

    seconds: float
    answered: int
    units: float  # tokens, sentences, seconds of audio…: what the rate counts
    latencies: list[float] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)  # until the first useful piece, where the answer streams
    errors: dict[str, int] = field(default_factory=dict)
    late: list[float] = field(default_factory=list)  # open loop: what of the latency is the client's own fault
    cpu: float = 0.0  # seconds of processor that the client used

    @property
    def rate(self) -> float:
        return self.units / self.seconds if self.seconds else 0.0


class Loop(ABC):
    """What both drivers share: connections, errors, the watch for requests past their time."""

    def __init__(self, target: Target, reader: str, timeout: float) -> None:
        self.target, self.timeout = target, timeout
        self.make: Callable[[], Reader] = READERS[reader]
        self.connections: set[Connection] = set()
        self.errors: Counter[str] = Counter()
        self.latencies: list[float] = []
        self.firsts: list[float] = []
        self.units = 0.0
        self.sent = 0
        self.ended = asyncio.Event()

    async def connect(self) -> Connection | None:
        """None, and an error counted, when nothing accepts the connection."""
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(lambda: Connection(self), self.target.host, self.target.port)
        except OSError as error:
            self.errors[type(error).__name__] += 1
            return None
        self.connections.add(connection)
        return connection

    @abstractmethod
    def answered(self, connection: Connection, status: int, now: float) -> None: ...

    @abstractmethod
    def failed(self, connection: Connection, reason: str) -> None: ...

    def next_request(self) -> bytes:
        request = self.target.requests[self.sent % len(self.target.requests)]
        self.sent += 1
        return request

    def record(self, connection: Connection, status: int, now: float) -> bool:
        """Whether it was an answer; an error is counted otherwise."""
        if not 200 <= status < 300:
            self.errors[str(status)] += 1
            return False
        reader = connection.reader
        try:
            self.units += reader.units()
        except ValueError as error:
            self.errors[str(error)] += 1
            return False
        self.latencies.append(now - connection.intended)
        if reader.first is not None:
            self.firsts.append(reader.first - connection.intended)
        return True

    async def watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH)
            now = perf_counter()
            for connection in tuple(self.connections):
                if connection.since is not None and now - connection.since > self.timeout:
                    connection.abort("timeout")

    def close(self) -> None:
        for connection in tuple(self.connections):
            connection.abort("ended")


class ClosedLoop(Loop):
    """`clients` at once, for `seconds`, or until `count` requests were sent; one of the two."""

    def __init__(
        self, target: Target, reader: str, timeout: float, clients: int, seconds: float | None, count: int | None
    ) -> None:
        super().__init__(target, reader, timeout)
        assert (seconds is None) != (count is None)
        self.clients, self.seconds, self.count = clients, seconds, count
        self.start = self.last = self.end = 0.0
        self.active = 0
        self.reopening: set[asyncio.Task[None]] = set()

    async def run(self) -> Load:
        ready = [connection for connection in [await self.connect() for _ in range(self.clients)] if connection]
        self.start = perf_counter()
        self.end = self.start + self.seconds if self.seconds is not None else float("inf")
        self.active = self.clients
        watch = asyncio.create_task(self.watch())
        for connection in ready:
            self.proceed(connection)
        for _ in range(self.clients - len(ready)):
            self.reopen()
        await self.ended.wait()
        watch.cancel()
        self.close()
        seconds = self.seconds if self.seconds is not None else self.last - self.start
        return Load(seconds, len(self.latencies), self.units, self.latencies, self.firsts, dict(self.errors))

    def proceed(self, connection: Connection) -> None:
        """The connection's next request, or the end of its client."""
        now = perf_counter()
        if now < self.end and (self.count is None or self.sent < self.count):
            connection.send(self.next_request(), self.make(), now)
        else:
            self.leave()

    def leave(self) -> None:
        self.active -= 1
        if not self.active:
            self.ended.set()

    def answered(self, connection: Connection, status: int, now: float) -> None:
        if now <= self.end:  # what is answered after the window counts nowhere
            self.record(connection, status, now)
            self.last = now
        if connection.open:
            self.proceed(connection)
        else:
            self.connections.discard(connection)
            self.reopen()

    def failed(self, connection: Connection, reason: str) -> None:
        self.errors[reason] += 1
        self.connections.discard(connection)
        self.last = perf_counter()
        self.reopen()

    def reopen(self) -> None:
        task = asyncio.create_task(self._reopen())
        self.reopening.add(task)
        task.add_done_callback(self.reopening.discard)

    async def _reopen(self) -> None:
        while perf_counter() < self.end and (self.count is None or self.sent < self.count):
            if connection := await self.connect():
                self.proceed(connection)
                return
            self.sent += self.count is not None  # a refused connection is a request that failed
            await asyncio.sleep(RETRY)
        self.leave()


class OpenLoop(Loop):
    """Poisson arrivals at `rate` a second for `seconds`, on up to `limit` connections."""

    def __init__(
        self, target: Target, reader: str, timeout: float, rate: float, seconds: float, limit: int, seed: int
    ) -> None:
        super().__init__(target, reader, timeout)
        self.limit = limit
        self.seconds = seconds
        draw = random.Random(seed)
        self.due: list[float] = []
        at = draw.expovariate(rate)
        while at < seconds:
            self.due.append(at)
            at += draw.expovariate(rate)
        self.idle: list[Connection] = []
        self.waiting: deque[float] = deque()
        self.late: list[float] = []
        self.open = 0  # missing answers
        self.opening: set[asyncio.Task[None]] = set()

    async def run(self) -> Load:
        for _ in range(min(self.limit, 16)):
            if connection := await self.connect():
                self.idle.append(connection)
        watch = asyncio.create_task(self.watch())
        start = perf_counter()
        for due in self.due:
            if (wait := start + due - perf_counter()) > 0:
                await asyncio.sleep(wait)
            self.open += 1
            self.waiting.append(min(start + due, perf_counter()))  # a timer may be half a millisecond early
            self.dispatch()
        self.due.clear()
        if self.open:
            try:
                await asyncio.wait_for(self.ended.wait(), self.timeout + 2 * WATCH)
            except TimeoutError:
                self._give_up()
        watch.cancel()
        answered = len(self.latencies) - self.errors["unanswered"]
        errors = {name: count for name, count in self.errors.items() if count}
        self.close()
        return Load(self.seconds, answered, self.units, self.latencies, self.firsts, errors, self.late)

    def dispatch(self) -> None:
        while self.waiting and self.idle:
            connection = self.idle.pop()
            if not connection.open:
                self.connections.discard(connection)
                continue
            intended = self.waiting.popleft()
            self.late.append(perf_counter() - intended)
            connection.send(self.next_request(), self.make(), intended)
        if len(self.waiting) > len(self.opening) and len(self.connections) + len(self.opening) < self.limit:
            task = asyncio.create_task(self._open())
            self.opening.add(task)
            task.add_done_callback(self.opening.discard)

    async def _open(self) -> None:
        connection = await self.connect()
        if connection:
            self.idle.append(connection)
        elif self.waiting:
            self.waiting.popleft()  # counted by connect()
            self.finished()
        self.dispatch()

    def answered(self, connection: Connection, status: int, now: float) -> None:
        self.record(connection, status, now)
        if connection.open:
            self.idle.append(connection)
        else:
            self.connections.discard(connection)
        self.finished()
        self.dispatch()

    def failed(self, connection: Connection, reason: str) -> None:
        self.errors["unanswered" if reason == "timeout" else reason] += 1
        if reason == "timeout":
            self.latencies.append(perf_counter() - connection.intended)
        self.connections.discard(connection)
        self.finished()
        self.dispatch()

    def finished(self) -> None:
        self.open -= 1
        if not self.open and not self.due:
            self.ended.set()

    def _give_up(self) -> None:
        now = perf_counter()
        waiting = [connection.intended for connection in self.connections if connection.since is not None]
        for intended in [*waiting, *self.waiting]:
            self.errors["unanswered"] += 1
            self.latencies.append(now - intended)
        for connection in self.connections:
            connection.since = None  # accounted for


class Client:
    """The drivers as a child process offers them: each call is one round, with the processor time it took."""

    def closed(
        self,
        target: Target,
        *,
        clients: int,
        seconds: float | None = None,
        count: int | None = None,
        reader: str = "whole",
        timeout: float = 120.0,
    ) -> Load:
        return _timed(lambda: ClosedLoop(target, reader, timeout, clients, seconds, count).run())

    def opened(
        self,
        target: Target,
        *,
        rate: float,
        seconds: float,
        reader: str = "whole",
        timeout: float = 10.0,
        limit: int = 512,
        seed: int = 1,
    ) -> Load:
        return _timed(lambda: OpenLoop(target, reader, timeout, rate, seconds, limit, seed).run())


def _timed(work: Callable[[], Coroutine[Any, Any, Load]]) -> Load:
    async def run() -> Load:
        return await work()  # made inside the loop, where asyncio's own objects belong

    before = _processor()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        load = runner.run(run())
    return Load(**{**vars(load), "cpu": _processor() - before})


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
