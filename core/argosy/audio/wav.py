"""A wav of whatever origin to one that ffmpeg may be shown: a format, the sound, and nothing else.

ffmpeg believes a wav's chunks: one that claims two gigabytes of comment costs two gigabytes of memory, and a header
that contradicts itself is decoded to noise. So the chunks are read here, and what is not needed does not get through.
"""

from __future__ import annotations

import struct

from ..errors import BadRequest
from . import refusal

CHUNKS = 1000  # no recorder writes as many; a hostile file could hold millions of empty ones
UNKNOWN = 0x7FFF_0000  # a size of 0, or from here on, says "unknown": arecord, sox, ffmpeg and others, into a pipe
PLAIN = (0x0001, 0x0003, 0xFFFE)  # PCM, float, and either with a longer header


def is_wav(data: bytes) -> bool:
    """RF64 and BW64 are wav with sizes beyond 4 GiB, which some recorders write at any size."""
    return data[:4] in (b"RIFF", b"RF64", b"BW64") and data[8:12] == b"WAVE"


def rewritten(data: bytes) -> bytes:
    """The same sound behind a header that is true. Raises BadRequest for one that contradicts itself, promises more
    than there is, or leads to no sound."""
    at, form, second, long_size = 12, b"", 0, 0
    for _ in range(CHUNKS):
        if at + 8 > len(data):
            break
        kind, size = struct.unpack_from("<4sI", data, at)
        at += 8
        there = len(data) - at
        if kind == b"data" and form:
            stated = long_size if long_size and size == 0xFFFF_FFFF else size if 0 < size < UNKNOWN else there
            if second and stated - there > refusal.SLACK * second:
                raise refusal.cut_off(stated / second, there / second)
            sound = memoryview(data)[at : at + stated]
            form += bytes(len(form) % 2)
            head = struct.pack("<4sI4s4sI", b"RIFF", 20 + len(form) + len(sound), b"WAVE", b"fmt ", len(form))
            return b"".join((head, form, struct.pack("<4sI", b"data", len(sound)), sound))
        if size > there:
            break
        if kind == b"fmt " and size >= 16:
            form = data[at : at + size]
            second = _second(form)
        elif kind == b"ds64" and size >= 16:
            (long_size,) = struct.unpack_from("<Q", data, at + 8)
        at += size + size % 2
    raise refusal.broken("its wav header leads to no sound")


def _second(form: bytes) -> int:
    """How many bytes a second of sound takes; 0 where only the codec knows."""
    coding, channels, rate, _, block, bits = struct.unpack_from("<HHIIHH", form)
    refusal.check(rate, channels)
    if coding not in PLAIN:
        return 0
    if block == 0 or block != channels * ((bits + 7) // 8):
        raise BadRequest(
            f"the wav header contradicts itself: {channels} channel(s) of {bits} bits cannot take {block} bytes "
            "a sample; write the file anew", param=refusal.PARAM, code="invalid_audio",
        )  # fmt: skip
    return int(rate * block)
