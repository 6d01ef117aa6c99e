"""Looking at a running replica: what it holds, and whether its library is still where it was planned."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from ..backend import Backend, Device
from ..engines import Engine
from . import memory

log = logging.getLogger("argosy.runtime")

SECONDS = 1.0  # between two looks
COST = 0.003  # of one core that looking may take


@dataclass(frozen=True)
class Look:
    """`left` says why the library is not on its device any more, a sentence each; `cost` is the processor seconds that
    looking took."""

    taken: memory.Taken
    left: Sequence[str]
    cost: float


async def looks(backend: Backend, device: Device, engine: Engine | None) -> AsyncIterator[Look]:
    """One look a second, or more seldom where looking is expensive; without end. A look that fails is logged, the first
    in a row with its traceback, and left out."""
    failed = False
    while True:
        try:
            seen = await asyncio.to_thread(look, backend, device, engine)
        except Exception as error:  # a backend's and a library's own code; the next look may do
            log.error("no look at %s: %s", device.name, error or type(error).__name__, exc_info=not failed)
            failed = True
            await asyncio.sleep(SECONDS)
            continue
        failed = False
        yield seen
        await asyncio.sleep(max(SECONDS, seen.cost / COST))


def look(backend: Backend, device: Device, engine: Engine | None) -> Look:
    """How it is now. Some vendors tell through processes of their own: what those took that have ended, counts too."""
    began, others = time.thread_time(), _others()
    taken = memory.measure(backend, device)
    # A strict engine cannot go elsewhere: it fails, and so does the request.
    left = engine.report().elsewhere if engine is not None and not engine.strict else ()
    return Look(taken, left, time.thread_time() - began + _others() - others)


def _others() -> float:
    """Processor seconds of children that have ended."""
    found = os.times()
    return found.children_user + found.children_system
