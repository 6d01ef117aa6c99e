"""Logs as text or JSON lines, with the id of the request (or of every request of a batch) from door to engine."""

from __future__ import annotations

import contextlib
import json
import logging
import logging.handlers
import os
import sys
import threading
from collections.abc import Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal, TextIO

requests: ContextVar[tuple[str, ...]] = ContextVar("argosy_requests", default=())
"""The requests that are being answered here: set by the door in a request's task, and by the runtime in its thread."""

LONGEST = 16 * 2**20  # bytes of a log file; the one before it is kept as `.1`
LINGER = 0.2  # seconds that a line waits for others to be written with
BATCH = 512  # lines


class _Ids(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.request = ",".join(requests.get())
        return True


class _Text(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s%(of)s %(message)s")
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        named = " ".join(part for part in (self._service, getattr(record, "request", "")) if part)
        record.of = f" [{named}]" if named else ""
        return super().format(record)


class _Json(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "service": self._service,
            "request": getattr(record, "request", ""),
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps({key: value for key, value in line.items() if value}, ensure_ascii=False)


class _Stream(logging.StreamHandler[TextIO]):
    """Ours, so that a second `setup` finds and replaces it."""


class _File(logging.handlers.WatchedFileHandler):
    """A file that several processes append to. Whoever finds it too long renames it; the others notice and follow."""

    def write(self, records: Sequence[logging.LogRecord]) -> None:
        """All records by one write, so that lines of other processes stand between them and not within."""
        self.reopenIfNeeded()
        stream = self.stream or self._open()
        if stream.tell() > LONGEST:
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                os.replace(self.baseFilename, f"{self.baseFilename}.1")
            self.reopenIfNeeded()
            stream = self.stream or self._open()
        stream.write("".join(f"{self.format(record)}\n" for record in records))
        stream.flush()


class _Batch(logging.handlers.MemoryHandler):
    """Keeps lines for LINGER seconds at most, and none from WARNING on: a line a request, each written by itself,
    costs a quick model a third of its requests."""

    def __init__(self, file: _File) -> None:
        super().__init__(BATCH, logging.WARNING, file)
        self._file = file
        self._timer: threading.Timer | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if self._timer is None:
            self._timer = threading.Timer(LINGER, self.flush)
            self._timer.daemon = True
            self._timer.start()
        super().emit(record)

    def flush(self) -> None:
        with self.lock or contextlib.nullcontext():
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self.buffer:
                self._file.write(self.buffer)
                self.buffer.clear()

    def close(self) -> None:
        super().close()
        self._file.close()


def setup(
    form: Literal["text", "json"] = "text",
    *,
    service: str = "",
    level: int = logging.INFO,
    stream: TextIO | None = None,
    folder: str = "",
    console: bool = True,
) -> None:
    """Write what is logged in this process to `stream` (standard error) unless `console` is off, and to
    `<service>.log` in `folder` where one is given: `argosy` and `argosy.*` from `level` on, everything else from
    WARNING on. Calling it again replaces what it did before."""
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, _Stream | _Batch)]:
        root.removeHandler(old)
        old.close()
    formatter = _Json(service) if form == "json" else _Text(service)
    handlers: list[logging.Handler] = []
    if console or not folder:
        handlers.append(_Stream(stream or sys.stderr))
        handlers[0].setFormatter(formatter)
    if folder:
        os.makedirs(folder, exist_ok=True)
        file = _File(os.path.join(folder, f"{service or 'argosy'}.log"), encoding="utf-8")
        file.setFormatter(formatter)
        handlers.append(_Batch(file))
    for handler in handlers:
        handler.addFilter(_Ids())
        root.addHandler(handler)
    logging.getLogger("argosy").setLevel(level)
