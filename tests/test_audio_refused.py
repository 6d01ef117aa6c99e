"""Uploads that are broken, cut off, hostile, or lie."""

from __future__ import annotations

import contextlib
import resource
import struct
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sounds import assert_is_the_tone, tone, upload, wav

from argosy.audio import ACCEPTED, Encoder, decode, encode
from argosy.errors import BadRequest, RequestError, TooLarge, UnsupportedMedia


def test_an_empty_upload_is_refused() -> None:
    with pytest.raises(BadRequest, match="empty") as refused:
        decode(b"")
    assert (refused.value.code, refused.value.param) == ("empty_audio", "file")


@pytest.mark.parametrize(
    "data",
    [
        b"x", b"hello world\n" * 1000, b'{"text": "hi"}', b"<!doctype html><html><body>", bytes(100_000),
        b"\xff" * 100_000, b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40, b"%PDF-1.7\n" + bytes(range(256)) * 400,
        b"PK\x03\x04" + bytes(range(256)) * 400, b"RIFF\x00\x10\x00\x00WEBPVP8 " + bytes(4000),
        numpy.random.default_rng(2).bytes(2_000_000),
    ],
    ids=["byte", "text", "json", "html", "zeros", "ones", "png", "pdf", "zip", "webp", "noise"],
)  # fmt: skip
def test_what_is_no_audio_is_refused_with_the_list_of_what_is_accepted(data: bytes) -> None:
    with pytest.raises(UnsupportedMedia) as refused:
        decode(data)
    assert ACCEPTED in refused.value.message


def test_a_playlist_reaches_no_file_and_no_address(tmp_path: Path) -> None:
    (tmp_path / "secret.wav").write_bytes(wav())
    for playlist in (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://{tmp_path}/secret.wav\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile '{tmp_path}/secret.wav'\n",
    ):
        with pytest.raises(UnsupportedMedia):
            decode(playlist.encode())


@pytest.mark.parametrize("name", ["wav", "wav-f32", "flac", "mp4-index-first"])
def test_a_file_cut_in_half_is_refused_where_it_says_how_long_it_was(name: str, tmp_path: Path) -> None:
    data = upload(name, "stereo", tmp_path if "index" in name else None)
    with pytest.raises(BadRequest, match=r"says 2\.0 s") as refused:
        decode(data[: len(data) * 6 // 10])
    assert refused.value.code == "truncated_audio"


@pytest.mark.parametrize("name", ["mp3", "webm", "aac", "ogg-opus"])
def test_a_stream_cut_in_half_gives_its_first_half(name: str) -> None:
    data = upload(name)
    assert_is_the_tone(decode(data[: len(data) // 2]), seconds=1.0, tolerance=0.05)


def test_an_m4a_without_its_index_is_refused_as_broken() -> None:
    data = upload("m4a")
    with pytest.raises(BadRequest, match="broken or cut off"):
        decode(data[: len(data) // 2])


@pytest.mark.parametrize("length", [4, 12, 20, 36, 43, 44])
def test_a_wav_cut_inside_its_header_is_refused(length: int) -> None:
    with pytest.raises((BadRequest, UnsupportedMedia)):
        decode(wav()[:length])


@pytest.mark.parametrize("size", [0, 0x7FFF_0000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFE, 0xFFFF_FFFF])
def test_a_wav_written_to_a_pipe_gives_what_is_there(size: int) -> None:
    body = (tone(16_000) * 32767).astype("<i2").tobytes()
    assert_is_the_tone(decode(wav(body, size=size)))


def test_a_wav_that_counts_its_header_as_sound_is_accepted() -> None:
    assert len(decode(wav(size=32_044))) == 16_000


def test_a_wav_that_holds_more_than_it_says_ends_where_it_says() -> None:
    assert len(decode(wav(size=16_000))) == 8_000


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ({"size": 64_000}, "cut off: it says 2.0 s, 1.0 s are there"),
        ({"size": 1 << 30}, "cut off: it says 33554.4 s"),
        ({"rate": 0}, "sample rate is 0"), ({"rate": 1}, "sample rate is 1"),
        ({"rate": 0xFFFF_FFFF}, "sample rate is 4294967295"),
        ({"channels": 0}, "channels is 0"), ({"channels": 65}, "channels is 65"),
        ({"channels": 65_535}, "channels is 65535"),
        ({"block": 0}, "contradicts"), ({"block": 1}, "contradicts"), ({"block": 65_535}, "contradicts"),
        ({"bits": 65_535}, "contradicts"), ({"bits": 0, "block": 2}, "contradicts"), ({"bits": 64}, "pcm_s64le"),
        ({"coding": 0}, "unknown codec"), ({"coding": 0x55}, "broken"), ({"coding": 0x161}, "wmav2"),
        ({"body": b""}, "broken"), ({"body": b"x"}, "broken"), ({"bits": 0}, "contradicts"),
    ],
    ids=str,
)  # fmt: skip
def test_a_wav_header_that_lies_is_refused_with_what_it_says(header: dict[str, int], says: str) -> None:
    started = time.process_time()
    with pytest.raises((BadRequest, UnsupportedMedia), match=says):
        decode(wav(**header))
    assert time.process_time() - started < 2


def test_a_wav_of_a_million_empty_chunks_takes_no_time() -> None:
    data = wav()[:12] + (b"junk" + bytes(4)) * 1_000_000
    started = time.process_time()
    with pytest.raises(RequestError):
        decode(data)
    assert time.process_time() - started < 2


def peak_memory_to_decode(data: bytes) -> int:
    """Bytes, in a process of its own, whose peak is nobody else's."""
    program = (
        "import contextlib, sys; from argosy.audio import decode; from argosy.errors import RequestError\n"
        "with contextlib.suppress(RequestError): decode(sys.stdin.buffer.read())\n"
        # not getrusage: its peak is the parent's where that is higher
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    ran = subprocess.run([sys.executable, "-c", program], input=data, capture_output=True, check=True)
    return int(ran.stdout) << 10


def test_a_wav_with_two_gigabytes_of_comment_that_are_not_there_takes_no_memory() -> None:
    data = wav()
    comment = b"LIST" + struct.pack("<I", 0x7F00_0000) + b"INFOISFT" + struct.pack("<I", 0x7E00_0000)
    for broken in (data[:36] + comment + data[36:], data + comment):
        assert peak_memory_to_decode(broken) < 300 << 20


def test_an_m4a_that_claims_millions_of_frames_takes_little_memory() -> None:
    data, frames = bytearray(upload("m4a")), 0x0500_0000
    sizes, times, chunks = (data.index(box) for box in (b"stsz", b"stts", b"stsc"))
    struct.pack_into(">II", data, sizes + 8, 100, frames)  # all of one size: the file needs no table to claim them
    struct.pack_into(">I", data, times + 12, frames)
    struct.pack_into(">I", data, chunks + 16, frames)
    assert peak_memory_to_decode(bytes(data)) < 300 << 20


def test_a_wav_with_other_chunks_around_its_sound_is_read() -> None:
    data, note = wav((tone(16_000) * 32767).astype("<i2").tobytes()), b"note" + struct.pack("<I", 3) + b"abc\0"
    assert_is_the_tone(decode(data[:12] + note + data[12:36] + note + data[36:] + note))
    longer = b"RF64" + data[4:12] + b"ds64" + struct.pack("<IQQQI", 28, len(data) + 28, 64_000, 32_000, 0)
    assert_is_the_tone(decode(longer + data[12:40] + b"\xff\xff\xff\xff" + data[44:] + note * 10_000))


def test_audio_over_the_limit_is_refused_and_at_the_limit_accepted() -> None:
    assert len(decode(wav(), max_seconds=1.0)) == 16_000
    for name in ("mp3", "flac", "wav", "m4a", "ogg-opus"):
        with pytest.raises(TooLarge, match=r"longer than 1\.5 s"):
            decode(upload(name), max_seconds=1.5)


def test_a_small_file_of_much_sound_is_stopped_at_the_limit_in_bounded_memory() -> None:
    silence = numpy.zeros(1200 * 16_000, numpy.int16)  # 0.2 MB as flac, 77 MB as samples
    stream = Encoder("flac", rate=16_000)
    streamed = stream.write(silence) + stream.close()  # says no length
    for data in (encode(silence, "flac", 16_000), streamed):
        tracemalloc.start()
        with pytest.raises(TooLarge):
            decode(data, max_seconds=60)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 3 * 60 * 16_000 * 4


@pytest.mark.parametrize(
    "name", ["wav", "wav-adpcm", "mp3", "flac", "ogg-opus", "ogg-vorbis", "m4a", "mp4-fragments", "webm", "aac"]
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_corrupted_file_is_decoded_or_refused_and_nothing_else(name: str, data: st.DataObject) -> None:
    whole = upload(name)
    broken = bytearray(whole[: data.draw(st.integers(1, len(whole)), label="kept")])
    anywhere = st.integers(0, len(broken) - 1) | st.integers(0, min(200, len(broken) - 1))
    for at in data.draw(st.lists(anywhere, max_size=20), label="corrupted"):
        extreme = st.sampled_from([b"\x00", b"\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"])
        piece = data.draw(extreme | st.binary(max_size=8), label="to")
        broken[at : at + len(piece)] = piece
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    with contextlib.suppress(BadRequest, TooLarge, UnsupportedMedia):
        samples = decode(bytes(broken), max_seconds=60)
        assert samples.dtype == numpy.float32
        assert 0 < len(samples) <= 60 * 16_000
        assert numpy.abs(samples).max() <= 1
    assert time.process_time() - started < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB
