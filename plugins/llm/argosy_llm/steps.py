"""One thread steps OpenVINO GenAI's pipeline, and each running request reads its deltas on the event loop."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import argosy
from argosy import tasks
from argosy.errors import ModelFailed

log = logging.getLogger(__name__)

WINDOW = 24  # tokens that are decoded together; the cost of a step grows with it
CONTEXT = 6  # of them that stay when it is cut: a character has at most four tokens
PAUSE = 0.05  # seconds that a step waits at most for a busy event loop
BURST, QUIET = 0.04, 0.004  # seconds that a step waits for successors, altogether and for the next one
TURNS = 8  # of the event loop between two steps; one with nothing to do takes some 20 microseconds


class Stream:
    """One running request: tokens come in from the stepper's thread, deltas go out on the event loop."""

    def __init__(self, prompt: Any, config: Any, stop: Sequence[str]) -> None:
        self.prompt, self.config = prompt, config
        self.left = False
        self.handle: Any = None
        self.loop = asyncio.get_running_loop()
        self._deltas: asyncio.Queue[tasks.ChatDelta | argosy.RequestError] = asyncio.Queue()
        self._stop = [text for text in stop if text]
        self.window: list[int] = []  # tokens
        self._shown = 0  # characters of the window's text that were taken
        self._held = ""  # text that may be the start of a stop string
        self._count = self._told = 0  # tokens, generated and told

    def put(self, delta: tasks.ChatDelta | argosy.RequestError) -> None:
        self._deltas.put_nowait(delta)

    async def get(self) -> tasks.ChatDelta:
        delta = await self._deltas.get()
        if isinstance(delta, argosy.RequestError):
            raise delta
        return delta

    def read(self) -> tuple[bool, tasks.Finish | None]:
        """Move the engine's new tokens to the window: whether there were any, and whether they were the last."""
        import openvino_genai

        reasons = openvino_genai.GenerationFinishReason
        before = self._count
        finish: tasks.Finish | None = None
        while self.handle.can_read():
            for output in self.handle.read().values():
                self.window += output.generated_ids
                self._count += len(output.generated_ids)
                if output.finish_reason != reasons.NONE:
                    finish = "length" if output.finish_reason == reasons.LENGTH else "stop"
        return self._count > before, finish

    def take(
        self, text: str, finish: tasks.Finish | None, decode: Callable[[list[int]], str]
    ) -> tasks.ChatDelta | None:
        """The next delta, given the text of the whole window. None while a character or a stop string is half here."""
        if text.endswith("\ufffd") and not finish and len(self.window) < 2 * WINDOW:
            return None
        new, self._shown = self._held + text[self._shown :], len(text)
        if len(self.window) > WINDOW:
            del self.window[:-CONTEXT]
            self._shown = len(decode(self.window))
        if ends := [place for stop in self._stop if (place := new.find(stop)) >= 0]:
            new, finish = new[: min(ends)], "stop"
        keep = 0 if finish else max((_overlap(new, stop) for stop in self._stop), default=0)
        new, self._held = new[: len(new) - keep], new[len(new) - keep :]
        if not new and not finish:
            return None
        tokens, self._told = self._count - self._told, self._count
        usage = tasks.Usage(self.prompt.get_size(), self._count) if finish else None
        return tasks.ChatDelta(new, finish, usage, tokens)


def _overlap(text: str, stop: str) -> int:
    """How many of the last characters of `text` are the first of `stop`."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)


class Stepper:
    """The one thread that drives the pipeline: hands over what arrived, steps, and wakes the event loop once a step."""

    def __init__(self, pipeline: Any, tokenizer: Any) -> None:
        self._pipeline, self._tokenizer = pipeline, tokenizer
        self._arrived: queue.SimpleQueue[Stream | None] = queue.SimpleQueue()
        self._running: list[Stream] = []
        self._number = 0
        self._ended = 0  # requests that ended with the last step
        self._thread = threading.Thread(target=self._run, name="argosy-llm-steps", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        """Requests that hold a slot of the engine."""
        return len(self._running)

    def add(self, stream: Stream) -> None:
        self._arrived.put(stream)

    def close(self) -> None:
        self._arrived.put(None)
        self._thread.join()

    def _run(self) -> None:
        while self._admit(wait=not self._running and not self._pipeline.has_non_finished_requests()):
            self._gather()
            for stream in self._running:
                if stream.left:
                    stream.handle.cancel()
            self._running = [stream for stream in self._running if not stream.left]
            try:
                self._pipeline.step()  # with the interpreter locked: the event loop runs between steps
                news = self._read()
            except RuntimeError:
                log.exception("the engine failed; %d running requests end", len(self._running))
                news = [(stream, ModelFailed("the engine failed while it answered")) for stream in self._running]
            for stream, delta in news:
                if isinstance(delta, argosy.RequestError) or delta.finish:
                    stream.handle.cancel()  # a stop string is ours to see, so the engine may not know yet
                    self._running.remove(stream)
                    self._ended += 1
            self._deliver(news)
        for stream in self._running:
            stream.handle.cancel()

    def _admit(self, wait: bool) -> bool:
        """Hand over what arrived, first waiting for something where there is nothing to do. False: it is over."""
        while wait or not self._arrived.empty():
            stream = self._arrived.get()
            if stream is None:
                return False
            wait = False
            self._take(stream)
        return True

    def _gather(self) -> None:
        """Requests that ended together have successors that come together: with the first of them the others are
        waited for, moments, or each would wait for a whole step that it might have been part of."""
        until = time.monotonic() + BURST
        while self._ended > 1 and (left := until - time.monotonic()) > 0:
            try:
                stream = self._arrived.get(timeout=min(QUIET, left))
            except queue.Empty:
                break
            if stream is None:
                self._arrived.put(None)  # the end: `_admit` is to see it
                break
            self._take(stream)
            self._ended -= 1
        self._ended = 0

    def _take(self, stream: Stream) -> None:
        """Give a request to the engine."""
        if stream.left:
            return
        self._number += 1
        try:
            stream.handle = self._pipeline.add_request(self._number, stream.prompt, stream.config)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            self._deliver([(stream, argosy.BadRequest(f"the engine refuses this request: {reason}"))])
        else:
            self._running.append(stream)

    def _read(self) -> list[tuple[Stream, tasks.ChatDelta | argosy.RequestError]]:
        """What the step brought, decoded for all requests at once."""
        import openvino_genai

        found: list[tuple[Stream, tasks.Finish | None]] = []
        news: list[tuple[Stream, tasks.ChatDelta | argosy.RequestError]] = []
        for stream in self._running:
            fresh, finish = stream.read()
            if fresh or finish:
                found.append((stream, finish))
            elif stream.handle.get_status() != openvino_genai.GenerationStatus.RUNNING:
                news.append((stream, ModelFailed("the cache has no room for this request: cache_gib is too small")))
        if found:
            texts = self._tokenizer.decode([stream.window for stream, _ in found])
            for (stream, finish), text in zip(found, texts, strict=True):
                if delta := stream.take(text, finish, self._tokenizer.decode):
                    news.append((stream, delta))
        return news

    def _deliver(self, news: Sequence[tuple[Stream, tasks.ChatDelta | argosy.RequestError]]) -> None:
        """Wake the event loop once for all, and leave it the interpreter for some turns.

        A request that has just come in needs several turns of the loop until it is here; the next step would hold the
        interpreter between any two of them, and each would cost it a step.
        """

        def turn(left: int) -> None:
            if left == TURNS:
                for stream, delta in news:
                    stream.put(delta)
            if left:
                loop.call_soon(turn, left - 1)
            else:
                seen.set()

        streams = [stream for stream, _ in news] or self._running
        if not streams:
            return
        loop, seen = streams[0].loop, threading.Event()
        try:
            loop.call_soon_threadsafe(turn, TURNS)
        except RuntimeError:  # the loop is closed, and with it every client is gone
            for stream in streams:
                stream.left = True
        else:
            seen.wait(PAUSE)
