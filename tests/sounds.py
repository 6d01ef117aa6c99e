"""A known tone, and the files that other programs would make of it."""

from __future__ import annotations

import io
import itertools
import struct
from fractions import Fraction
from functools import cache
from pathlib import Path
from types import MappingProxyType

import av
import numpy
import pytest

from argosy.audio.samples import Samples

TONE = 440.0  # Hz
LEVEL = 0.5  # amplitude

# name: (container, codec, rate, options of the container); the names say what a user would call the file
UPLOADS = MappingProxyType(
    {
        "wav": ("wav", "pcm_s16le", 44_100, {}),
        "wav-u8": ("wav", "pcm_u8", 8_000, {}),
        "wav-s24": ("wav", "pcm_s24le", 96_000, {}),
        "wav-s32": ("wav", "pcm_s32le", 48_000, {}),
        "wav-f32": ("wav", "pcm_f32le", 22_050, {}),
        "wav-f64": ("wav", "pcm_f64le", 16_000, {}),
        "wav-alaw": ("wav", "pcm_alaw", 8_000, {}),
        "wav-mulaw": ("wav", "pcm_mulaw", 8_000, {}),
        "wav-adpcm": ("wav", "adpcm_ms", 44_100, {}),
        "mp3": ("mp3", "libmp3lame", 44_100, {}),
        "flac": ("flac", "flac", 48_000, {}),
        "ogg-opus": ("ogg", "libopus", 48_000, {}),
        "ogg-vorbis": ("ogg", "vorbis", 44_100, {}),
        "m4a": ("ipod", "aac", 44_100, {}),
        "m4a-alac": ("ipod", "alac", 44_100, {}),
        "mp4-index-first": ("mp4", "aac", 44_100, {"movflags": "faststart"}),
        "mp4-fragments": ("mp4", "aac", 44_100, {"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
        "webm": ("webm", "libopus", 48_000, {}),
        "aac": ("adts", "aac", 44_100, {}),
    }
)


def tone(rate: int, seconds: float = 2.0, frequency: float = TONE) -> Samples:
    times = numpy.arange(int(rate * seconds)) / rate
    return (LEVEL * numpy.sin(2 * numpy.pi * frequency * times)).astype(numpy.float32)


def frequency_of(samples: Samples, rate: int) -> float:
    return float(numpy.argmax(numpy.abs(numpy.fft.rfft(samples))) * rate / len(samples))


def decibels(samples: Samples) -> float:
    """Level against the tone's, of the middle half: coders pad both ends with silence."""
    middle = samples[len(samples) // 4 : -len(samples) // 4]
    return float(20 * numpy.log10(numpy.sqrt(numpy.mean(middle**2)) * numpy.sqrt(2) / LEVEL))


@cache
def upload(name: str, layout: str = "stereo", folder: Path | None = None) -> bytes:
    """A file as another program would make it: the tone, two seconds, the same in every channel."""
    container, codec, rate, options = UPLOADS[name]
    target: io.BytesIO | str = str(folder / "made") if folder else io.BytesIO()
    with av.open(target, "w", format=container, options=options) as file:
        stream = file.add_stream(codec, rate=rate, layout=layout)
        if codec == "vorbis":
            stream.codec_context.options = {"strict": "experimental"}
        channels = stream.codec_context.layout.nb_channels
        packed = numpy.repeat(tone(rate), channels)[numpy.newaxis]
        frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        for packet in itertools.chain(stream.encode(frame), stream.encode(None)):
            file.mux(packet)
    return Path(target).read_bytes() if isinstance(target, str) else target.getvalue()


def wav(
    body: bytes = bytes(32_000), *, coding: int = 1, channels: int = 1, rate: int = 16_000, bits: int = 16,
    block: int | None = None, size: int | None = None,
) -> bytes:  # fmt: skip
    """A wav whose header says whatever it is told to."""
    block = channels * bits // 8 & 0xFFFF if block is None else block
    sizes = (36 + len(body), len(body) if size is None else size)
    parts = (16, coding, channels, rate, rate * block & 0xFFFF_FFFF, block, bits)
    return struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", sizes[0], b"WAVE", b"fmt ", *parts, b"data", sizes[1]) + body


def assert_is_the_tone(samples: Samples, rate: int = 16_000, seconds: float = 2.0, tolerance: float = 0.02) -> None:
    assert samples.dtype == numpy.float32
    assert samples.ndim == 1
    assert len(samples) / rate == pytest.approx(seconds, rel=tolerance)
    assert frequency_of(samples, rate) == pytest.approx(TONE, rel=0.01)
    assert decibels(samples) == pytest.approx(0, abs=1)
