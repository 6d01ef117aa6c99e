"""HTTP/1.1 for a client that shares its cores with the server: whole requests as bytes, one connection each in turn."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol, cast
from urllib.parse import urlsplit

import httptools


@dataclass(frozen=True)
class Target:
    """Where to send, and the whole requests to send there, in turn."""

    host: str
    port: int
    requests: tuple[bytes, ...]


def post(url: str, body: bytes, content_type: str = "application/json") -> bytes:
    """One keep-alive POST as it goes over the wire."""
    parts = urlsplit(url)
    head = (
        f"POST {parts.path or '/'} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("ascii") + body


def post_json(url: str, body: object) -> bytes:
    return post(url, json.dumps(body, ensure_ascii=False).encode())


def post_form(url: str, fields: Mapping[str, str], name: str, upload: bytes) -> bytes:
    """A multipart form with one file under `file`."""
    boundary = "argosy-benchmarks-3f9c1e"
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
        for key, value in fields.items()
    ]
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
    parts.append(head.encode() + b"Content-Type: audio/wav\r\n\r\n" + upload + b"\r\n")
    return post(url, b"".join(parts) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}")


def target(requests: list[bytes], url: str) -> Target:
    parts = urlsplit(url)
    return Target(parts.hostname or "127.0.0.1", parts.port or 80, tuple(requests))


# what is read out of an answer ---------------------------------------------------------------------------------------


class Reader(Protocol):
    """Reads one answer's body as it comes. `first` is when the first useful piece came; None before.

    `units` is called once, after the last byte, and raises ValueError where a 200 holds no real answer.
    """

    first: float | None

    def feed(self, chunk: bytes, now: float) -> None: ...

    def units(self) -> float: ...


class Whole:
    """An answer that counts as one, whatever it says, and that is of no use before it is whole."""

    def __init__(self) -> None:
        self.first: float | None = None

    def feed(self, chunk: bytes, now: float) -> None:
        """Nothing is read out of it."""

    def units(self) -> float:
        return 1.0


class ChatEvents:
    """A streamed chat. Units: generated tokens, by the usage in the last event. First: the first event that holds
    text, for an event that only names the role says nothing about the engine."""

    def __init__(self) -> None:
        self.first: float | None = None
        self.body = bytearray()
        self.seen = 0

    def feed(self, chunk: bytes, now: float) -> None:
        self.body += chunk
        if self.first is None:
            while (end := self.body.find(b"\n\n", self.seen)) >= 0:
                event, self.seen = bytes(self.body[self.seen : end]), end + 2
                if _has_text(event):
                    self.first = now
                    break

    def units(self) -> float:
        usage = None
        for line in self.body.splitlines():
            if line.startswith(b"data: {") and b'"usage"' in line:
                usage = json.loads(line[6:]).get("usage") or usage
        if usage is None or self.first is None:
            raise ValueError("a chat without text or usage")
        return float(usage["completion_tokens"])


def _has_text(event: bytes) -> bool:
    if not event.startswith(b"data: {"):
        return False
    choices = json.loads(event[6:]).get("choices") or [{}]
    return bool(choices[0].get("delta", {}).get("content"))


class Wav:
    """Streamed speech as 16-bit mono wav. Units: seconds of audio. First: the first sample, not the header."""

    HEADER = 44  # bytes

    def __init__(self) -> None:
        self.first: float | None = None
        self.body = bytearray()

    def feed(self, chunk: bytes, now: float) -> None:
        self.body += chunk
        if self.first is None and len(self.body) > self.HEADER:
            self.first = now

    def units(self) -> float:
        if self.body[:4] != b"RIFF" or self.first is None:
            raise ValueError("speech without samples")
        (rate,) = struct.unpack_from("<I", self.body, 24)
        return (len(self.body) - self.HEADER) / 2 / float(rate)


READERS: Mapping[str, Callable[[], Reader]] = {"whole": Whole, "chat": ChatEvents, "wav": Wav}


# one connection ------------------------------------------------------------------------------------------------------


class Owner(Protocol):
    def answered(self, connection: Connection, status: int, now: float) -> None: ...

    def failed(self, connection: Connection, reason: str) -> None: ...


class Connection(asyncio.Protocol):
    """One keep-alive connection, with at most one request on it.

    After `send`, the owner hears exactly one of `answered` and `failed`. A failed connection is gone, and so is an
    answered one that is not `open`. `since` is when the request on it was sent, None while it is idle.
    """

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.since: float | None = None
        self.intended = 0.0  # when it should have been sent
        self.reader: Reader = Whole()
        self.reason = "closed"
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)

    def send(self, request: bytes, reader: Reader, intended: float) -> None:
        assert self._transport is not None
        assert self.since is None
        self.reader, self.intended, self.since = reader, intended, perf_counter()
        self._transport.write(request)

    def abort(self, reason: str) -> None:
        self.reason = reason
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own type is no subclass of it

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.abort("not http")

    def on_body(self, chunk: bytes) -> None:
        self.reader.feed(chunk, perf_counter())

    def on_message_complete(self) -> None:
        self.since = None
        if not self._parser.should_keep_alive():
            self.abort("ended")
            self._transport = None
        self.owner.answered(self, self._parser.get_status_code(), perf_counter())

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self.since is not None:
            self.since = None
            self.owner.failed(self, self.reason)

    @property
    def open(self) -> bool:
        return self._transport is not None
