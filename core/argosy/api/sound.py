"""Sound in and out for the dialects: decoding and encoding happen in a few threads of their own, never on the event
loop, and what waits for a thread is bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import TypeVar

from .. import audio
from ..errors import BadRequest, NotAcceptable, Overloaded
from ..tasks import TRANSCRIPTION_RATE, Audio, Sound
from .wire import batches

T = TypeVar("T")

THREADS = 2


class Studio:
    """One per service's application. `waiting` bounds the calls that wait for a thread."""

    def __init__(self, waiting: int) -> None:
        self._limit, self._inside = waiting + THREADS, 0
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="argosy-sound")  # starts none before it is used

    async def decode(self, data: bytes) -> Audio:
        """An upload as the transcription task wants it. Raises what `argosy.audio.decode` does, and Overloaded."""
        return await self._run(lambda: audio.decode(data, rate=TRANSCRIPTION_RATE))

    async def encode(self, sound: Sound, name: str) -> bytes:
        """A whole sound as a file."""
        return await self._run(lambda: audio.encode(sound.samples, name, sound.rate))

    async def encoded(self, sounds: AsyncIterator[Sound], name: str) -> AsyncGenerator[bytes, None]:
        """A file's bytes while the sound is made."""
        encoder: audio.Encoder | None = None
        async with aclosing(batches(sounds)) as ready:
            async for made in ready:
                for sound in made:
                    if encoder is None:
                        encoder = audio.Encoder(name, rate=sound.rate)
                    write, samples = encoder.write, sound.samples
                    if data := await self._run(lambda write=write, samples=samples: write(samples)):  # type: ignore[misc]
                        yield data
        if encoder is not None and (data := await self._run(encoder.close)):
            yield data

    async def _run(self, work: Callable[[], T]) -> T:
        if self._inside >= self._limit:
            raise Overloaded("too many sounds wait to be decoded or encoded", retry_after=1.0)
        self._inside += 1
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        future.add_done_callback(self._left)
        return await future

    def _left(self, _: object) -> None:
        self._inside -= 1


def format_of(name: str | None, accept: bytes, default: str) -> str:
    """The format a client asks for by `name`, else by its Accept header.

    Raises BadRequest for an unknown name, NotAcceptable where the header allows none of the formats.
    """
    known = ", ".join(audio.FORMATS)
    if name is not None:
        if name not in audio.FORMATS:
            raise BadRequest(f"format: unknown format {name!r}; known: {known}", param="format", code="unknown_format")
        return name
    wanted = [
        media.partition(b";")[0].strip().lower().decode("latin-1") for media in accept.split(b",") if media.strip()
    ]
    # application/json is what `curl --json` sends for whatever it asks; errors are of that type indeed.
    if not wanted or {"*/*", "audio/*", "application/json", audio.FORMATS[default]} & set(wanted):
        return default
    aliases = {
        "audio/x-wav": "wav",
        "audio/wave": "wav",
        "audio/mp3": "mp3",
        "audio/opus": "opus",
        "audio/x-flac": "flac",
    }
    names = {media: name for name, media in audio.FORMATS.items()} | aliases
    for media in wanted:
        if media in names:
            return names[media]
    raise NotAcceptable(f"accept: no format in {accept.decode('latin-1')!r}; known: {known} ({', '.join(names)})")
