"""Mono samples to a file or a stream in the formats that the speech route offers.

A stream's first bytes leave with its first sound: nothing here waits for a whole second or for the end. What a format
wants to know about its own length is written where that is known (`encode`), and marked as unknown where it is not.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, cast

import numpy
from numpy.typing import NDArray

from ..errors import BadRequest
from .samples import Resampler, Samples, clean, frames

FORMATS: Mapping[str, str] = MappingProxyType(
    {
        "wav": "audio/wav",
        "mp3": "audio/mpeg",
        "flac": "audio/flac",
        "opus": "audio/ogg",  # Opus in Ogg; this is the type that players know
        "aac": "audio/aac",  # in ADTS
        "pcm": "audio/pcm",  # 16 bit, signed, little-endian, mono, PCM_RATE; no header
    }
)
PCM_RATE = 24_000  # Hz: what OpenAI's clients expect of `pcm`


class Encoder:
    """One stream of sound at `rate` Hz in one of FORMATS, written piece by piece. For one thread at a time.

    What a format's coder cannot do at `rate` is resampled. Raises BadRequest for an unknown format.
    """

    def __init__(self, format: str, *, rate: int) -> None:
        self._outlet = _Outlet()
        self._coder: _Coder | None = _coder(format, rate, self._outlet, length=None)

    def write(self, samples: NDArray[Any]) -> bytes:
        """What can be sent now, possibly nothing. `samples`: shape (samples,), floats in [-1, 1] or int16."""
        if self._coder is None:
            raise ValueError("this encoder is closed; make a new one for the next stream")
        self._coder.write(_mono(samples))
        return self._outlet.take()

    def close(self) -> bytes:
        """The last bytes; nothing when called again."""
        if self._coder is not None:
            self._coder.close()
            self._coder = None
        return self._outlet.take()


def encode(samples: NDArray[Any], format: str, rate: int) -> bytes:
    """A whole file, which also says how long it is. Arguments and errors as in Encoder."""
    file = io.BytesIO()
    mono = _mono(samples)
    coder = _coder(format, rate, file, length=len(mono))
    coder.write(mono)
    coder.close()
    return file.getvalue()


class _Outlet:
    """A file that can only be written: without `seek`, ffmpeg makes a stream."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def write(self, data: bytes) -> int:
        self._bytes += data
        return len(data)

    def take(self) -> bytes:
        taken, self._bytes = bytes(self._bytes), bytearray()
        return taken


class _Coder(Protocol):
    def write(self, samples: Samples) -> None: ...
    def close(self) -> None: ...


class _Recipe(NamedTuple):
    """How ffmpeg makes a format."""

    container: str
    codec: str
    bit_rate: int  # bits a second; 0: the codec loses nothing
    options: dict[str, str]


def _recipe(format: str, whole: bool) -> _Recipe:
    match format:
        case "mp3":  # a stream has no Xing header: it would say that there is no sound
            return _Recipe("mp3", "libmp3lame", 96_000, {} if whole else {"write_xing": "0", "id3v2_version": "0"})
        case "flac":
            return _Recipe("flac", "flac", 0, {})
        case "opus":  # pages of 0.1 s: a page leaves when it is full, and ffmpeg's hold one second
            return _Recipe("ogg", "libopus", 48_000, {"page_duration": "100000"})
        case _:
            return _Recipe("adts", "aac", 96_000, {})


def _coder(format: str, rate: int, sink: io.BytesIO | _Outlet, length: int | None) -> _Coder:
    if format not in FORMATS:
        raise BadRequest(
            f"unknown audio format {format!r}; allowed: {', '.join(FORMATS)}",
            param="response_format", code="invalid_value",
        )  # fmt: skip
    if format == "pcm":
        return _Plain(rate, PCM_RATE, sink)
    if format == "wav":
        sink.write(_wav_header(rate, length))
        return _Plain(rate, rate, sink)
    return _Muxed(_recipe(format, whole=length is not None), rate, sink)


class _Plain:
    """16 bit samples one after the other."""

    def __init__(self, rate: int, target: int, sink: io.BytesIO | _Outlet) -> None:
        self._resampler, self._sink = Resampler(rate, target), sink

    def write(self, samples: Samples) -> None:
        self._put(self._resampler.push(samples))

    def close(self) -> None:
        self._put(self._resampler.flush())

    def _put(self, samples: Samples) -> None:
        self._sink.write(numpy.rint(samples * 32767).astype("<i2").tobytes())


class _Muxed:
    """A codec in a container, both ffmpeg's."""

    def __init__(self, recipe: _Recipe, rate: int, sink: io.BytesIO | _Outlet) -> None:
        import av
        from av.audio.stream import AudioStream

        self._rate, self._written = rate, 0
        options = {**recipe.options, "flush_packets": "1"}
        self._container = av.open(sink, "w", format=recipe.container, options=options)
        target = _nearest(rate, av.Codec(recipe.codec, "w").audio_rates)
        self._stream = cast(AudioStream, self._container.add_stream(recipe.codec, rate=target, layout="mono"))
        if recipe.bit_rate:
            self._stream.bit_rate = recipe.bit_rate

    def write(self, samples: Samples) -> None:
        for frame in frames(samples, self._rate, self._written):
            for packet in self._stream.encode(frame):
                self._container.mux(packet)
        self._written += len(samples)

    def close(self) -> None:
        self._container.start_encoding()  # without any sound, a file of none
        for packet in self._stream.encode(None):
            self._container.mux(packet)
        self._container.close()


def _nearest(rate: int, allowed: list[int] | None) -> int:
    """The lowest rate that the codec has and that loses nothing, else its highest. None allows every rate."""
    if not allowed or rate in allowed:
        return rate
    return min((one for one in allowed if one > rate), default=max(allowed))


def _wav_header(rate: int, length: int | None) -> bytes:
    """44 bytes for mono, 16 bit. A length of None writes the sizes that players take for "until the end"."""
    size = 0xFFFF_FFFF if length is None or length * 2 + 36 > 0xFFFF_FFFF else length * 2
    riff = min(size + 36, 0xFFFF_FFFF)
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", riff, b"WAVE", b"fmt ", 16, 1, 1, rate, rate * 2, 2, 16, b"data", size
    )


def _mono(samples: NDArray[Any]) -> Samples:
    if samples.ndim != 1 or (samples.dtype.kind != "f" and samples.dtype != numpy.int16):
        raise ValueError(
            "an encoder takes samples of shape (samples,) as floats in [-1, 1] or int16; "
            f"found: shape {samples.shape}, {samples.dtype}"
        )
    if samples.dtype == numpy.int16:
        samples = samples.astype(numpy.float32) / numpy.float32(32768)
    return clean(samples)
