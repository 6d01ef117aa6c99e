"""What a replica itself costs, without HTTP and without Ray: `python benchmarks/replica.py [uvloop]`.

idle:    one request after the other to a model that does nothing
busy:    so many clients at once, each asking again as soon as it is answered
batches: how much of the time a model that takes 20 ms for up to 32 items is kept at work by 64 clients
streams: pieces a second through one stream, from a thread and from a coroutine
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from argosy import Context, gather
from argosy.runtime.replica import Replica
from argosy.tasks import ChatRequest, Message
from argosy.testing import running
from argosy.testing.models import EngineBatched, Slow, Streaming, Text

REQUESTS = 20_000
WORDS = 20_000


async def idle(replica: Replica) -> None:
    took = []
    for number in range(2000):
        began = time.perf_counter()
        await replica.answer(Text(text="x"), Context("x"))
        took.append(time.perf_counter() - began)
        if number % 10 == 0:
            await asyncio.sleep(0.001)  # so that both threads are asleep when the next one comes
    took.sort()
    print(f"idle: median {took[1000] * 1e6:.0f} µs, 99 % under {took[1980] * 1e6:.0f} µs")


async def clients(count: int, requests: int, ask: Callable[[], Awaitable[Any]]) -> float:
    """Seconds for so many requests of so many clients."""
    left = requests

    async def client() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await ask()

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(count)))
    return time.perf_counter() - began


async def busy(replica: Replica) -> None:
    for count in (1, 8, 32, 128):
        spent = time.process_time()
        seconds = await clients(count, REQUESTS, lambda: replica.answer(Text(text="x"), Context("x")))
        spent = time.process_time() - spent
        rate, cost = REQUESTS / seconds, spent / REQUESTS * 1e6
        print(f"busy, {count:3} clients: {rate:6.0f} requests/s, {cost:.0f} µs of processor each")


async def batches() -> None:
    class Batches(Slow):
        """Up to 32 items in 20 ms."""

        batching = gather(32)

    async with running(Batches, options={"seconds": 0.02}) as replica:
        seconds = await clients(64, 3200, lambda: replica.answer(Text(text="x"), Context("x")))
    print(f"batches: {3200 / 32 * 0.02 / seconds:.2f} of what the model can do")


async def streams() -> None:
    request = ChatRequest((Message(role="user", content=" ".join(["word"] * WORDS)),))
    for model in (Streaming, EngineBatched):
        async with running(model) as replica:
            began = time.perf_counter()
            async for _ in replica.stream(request, Context("x")):
                pass
            print(f"streams, {model.__name__}: {WORDS / (time.perf_counter() - began):.0f} pieces/s")


async def main() -> None:
    async with running(Slow) as replica:
        await idle(replica)
        await busy(replica)
    await batches()
    await streams()


if __name__ == "__main__":
    if sys.argv[1:] == ["uvloop"]:
        import uvloop

        uvloop.run(main())
    else:
        asyncio.run(main())
