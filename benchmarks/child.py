"""Work in a process of its own: the client, and each bare engine."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

START_SECONDS = 120  # loading an engine on a busy machine


class ChildError(Exception):
    """What the child raised, with its traceback; or how it ended."""


class Child:
    """Makes `factory(*arguments)` in a fresh interpreter, and calls its methods there."""

    def __init__(self, factory: Callable[..., Any], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, factory, arguments), daemon=True)
        self._process.start()
        theirs.close()
        try:
            self._receive(START_SECONDS)
        except BaseException:
            self.close()
            raise

    def call(self, method: str, *arguments: Any, timeout: float = 600.0, **named: Any) -> Any:
        """Raises ChildError when the method raised, the child ended, or nothing came within `timeout` seconds."""
        self._pipe.send((method, arguments, named))
        return self._receive(timeout)

    def close(self) -> None:
        self._pipe.close()  # the child's next read ends it
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _receive(self, timeout: float) -> Any:
        if not self._pipe.poll(timeout):
            raise ChildError(f"no answer within {timeout:.0f} s")
        try:
            fine, value = self._pipe.recv()
        except EOFError:
            self._process.join(5)
            raise ChildError(f"the child ended with exit code {self._process.exitcode}") from None
        if not fine:
            raise ChildError(value)
        return value

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _serve(pipe: Connection, factory: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    # Linux shares busy cores between sessions: an engine gets the part that a fleet, a session too, would get.
    os.setsid()
    try:
        subject = factory(*arguments)
        pipe.send((True, None))
        while True:
            method, positional, named = pipe.recv()
            pipe.send((True, getattr(subject, method)(*positional, **named)))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return
    except Exception:  # noqa: BLE001 - whatever an engine raises is the parent's to show
        pipe.send((False, traceback.format_exc()))
