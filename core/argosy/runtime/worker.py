"""The thread that a model lives in: what was loaded there is used and closed there."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Worker:
    """One daemon thread that makes calls, one after the other. A model that hangs does not keep the process alive."""

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def post(self, call: Callable[[], None]) -> None:
        """Have `call` made; it must not raise."""
        self._calls.put(call)

    async def run(self, call: Callable[[], T]) -> T:
        """Have `call` made and wait for what it returns or raises. Cancelling waits no longer, but stops nothing."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]

        def work() -> None:
            result: T | None = None
            error: BaseException | None = None
            try:
                result = call()
            except StopIteration as problem:  # a future refuses it
                error = RuntimeError("StopIteration was raised")
                error.__cause__ = problem
            except BaseException as problem:  # noqa: BLE001 - a native library's panic is no Exception; it goes to whoever waits
                error = problem
            tell(loop, settle, result, error)

        self.post(work)
        return await future

    def stop(self) -> None:
        """End the thread after the calls that were posted before."""
        self._calls.put(None)

    def join(self, timeout: float) -> bool:
        """Wait for the thread's end, at most `timeout` seconds; whether it came."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()


def tell(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *arguments: Any) -> bool:
    """Have a call made on the event loop. False where the loop is gone, and with it everybody who waits."""
    try:
        loop.call_soon_threadsafe(call, *arguments)
    except RuntimeError:
        if loop.is_closed():
            return False
        raise
    return True
