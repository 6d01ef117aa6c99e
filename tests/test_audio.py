"""Audio in and out, against a known tone, and against files that are broken or lie."""

from __future__ import annotations

import contextlib
import io
import itertools
import resource
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import cache
from pathlib import Path
from types import MappingProxyType

import av
import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from argosy.audio import ACCEPTED, FORMATS, PCM_RATE, Encoder, decode, encode
from argosy.audio.samples import Samples
from argosy.errors import BadRequest, RequestError, TooLarge, UnsupportedMedia

TONE = 440.0  # Hz
LEVEL = 0.5  # amplitude
STREAMED = ("mp3", "flac", "opus", "aac", "wav")  # all but pcm, which has no header to decode by

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


# --- in ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "layout"),  # ffmpeg's own Vorbis coder, which only this test needs, makes stereo alone
    sorted({*itertools.product(UPLOADS, ["mono", "stereo"])} - {("ogg-vorbis", "mono")}),
)
def test_every_kind_of_file_decodes_to_the_tone_it_holds(name: str, layout: str, tmp_path: Path) -> None:
    folder = tmp_path if "index" in name else None  # ffmpeg moves an index to the front of real files only
    # ADTS and fragments without an edit list cannot say that the first frame is the coder's own delay
    slack = 0.025 if name in ("aac", "mp4-fragments") else 0.02
    assert_is_the_tone(decode(upload(name, layout, folder)), tolerance=slack)


@pytest.mark.parametrize("layout", ["2.1", "5.1", "7.1", "hexadecagonal"])
def test_any_number_of_channels_becomes_one_at_the_same_level(layout: str) -> None:
    assert_is_the_tone(decode(upload("wav", layout)))


@pytest.mark.parametrize("name", ["flac", "ogg-opus", "m4a"])
def test_eight_planar_channels_decode(name: str) -> None:
    """PyAV reads wild pointers when it is asked for the planes of such a frame. Its AAC has one channel for the bass
    alone, so the level says nothing here."""
    samples = decode(upload(name, "7.1"))
    assert len(samples) / 16_000 == pytest.approx(2, rel=0.02)
    assert frequency_of(samples, 16_000) == pytest.approx(TONE, rel=0.01)


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 192_000])
@pytest.mark.parametrize("target", [8_000, 16_000, 24_000, 48_000])
def test_any_rate_becomes_the_one_asked_for(rate: int, target: int) -> None:
    samples = decode(encode(tone(rate), "wav", rate), rate=target)
    assert_is_the_tone(samples, target)
    assert len(samples) == pytest.approx(2 * target, abs=2)


def test_a_file_joined_of_two_rates_is_heard_to_its_end() -> None:
    first, second = (encode(tone(rate, 1.0), "mp3", rate) for rate in (24_000, 48_000))
    assert_is_the_tone(decode(first + second), seconds=2.0, tolerance=0.06)  # mp3: silence around each part


def test_samples_may_be_written_to_and_are_the_callers_own() -> None:
    data = wav()
    first = decode(data)
    first += 1
    assert not decode(data).any()


def test_sound_at_the_wanted_rate_comes_back_bit_by_bit() -> None:
    numbers = numpy.random.default_rng(1).integers(-32768, 32768, 50_000, dtype=numpy.int16)
    samples = decode(wav(numbers.tobytes()))
    assert numpy.array_equal(samples * 32768, numbers)


def test_nan_and_overshoot_in_a_float_wav_become_silence_and_full_scale() -> None:
    numbers = numpy.array([numpy.nan, numpy.inf, -numpy.inf, 1e30, 0.5] * 4000, "<f4")
    samples = decode(wav(numbers.tobytes(), coding=3, bits=32))
    assert samples[:5].tolist() == [0.0, 1.0, -1.0, 1.0, 0.5]
    resampled = decode(wav(numbers.tobytes(), coding=3, bits=32, rate=48_000))
    assert numpy.abs(resampled).max() <= 1


def test_a_video_gives_its_sound_and_a_silent_one_is_refused() -> None:
    def video(sound: bool) -> bytes:
        file = io.BytesIO()
        with av.open(file, "w", format="mp4") as container:
            picture = container.add_stream("mpeg4", rate=10, width=64, height=64, pix_fmt="yuv420p")
            track = container.add_stream("aac", rate=16_000, layout="mono") if sound else None
            for index in range(20):
                image = av.VideoFrame.from_ndarray(numpy.zeros((64, 64, 3), numpy.uint8), format="rgb24")
                image.pts, image.time_base = index, Fraction(1, 10)
                container.mux(picture.encode(image))
            container.mux(picture.encode(None))
            if track is not None:
                frame = av.AudioFrame.from_ndarray(tone(16_000)[numpy.newaxis], format="flt", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = 16_000, 0, Fraction(1, 16_000)
                container.mux(track.encode(frame))
                container.mux(track.encode(None))
        return file.getvalue()

    assert_is_the_tone(decode(video(sound=True)), tolerance=0.04)
    with pytest.raises(UnsupportedMedia, match="no audio track; found: video"):
        decode(video(sound=False))


# --- in: what is refused ----------------------------------------------------------------------------------------------


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
        decode(wav(**header))  # type: ignore[arg-type]
    assert time.process_time() - started < 2


def test_a_wav_of_a_million_empty_chunks_takes_no_time() -> None:
    data = wav()[:12] + (b"junk" + bytes(4)) * 1_000_000
    started = time.process_time()
    with pytest.raises(RequestError):
        decode(data)
    assert time.process_time() - started < 2


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


def test_threads_decode_and_encode_side_by_side() -> None:
    files = [upload(name) for name in ("wav", "mp3", "flac", "m4a", "webm", "ogg-opus")]
    alone = [decode(file) for file in files]
    barrier = threading.Barrier(6)

    def work(index: int) -> bool:
        barrier.wait()
        same = [numpy.array_equal(decode(files[index]), alone[index]) for _ in range(5)]
        return all(same) and bool(encode(alone[index], STREAMED[index % 5], 16_000))

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(6)))


def test_broken_audio_makes_no_noise_on_the_console(capfd: pytest.CaptureFixture[str]) -> None:
    data = bytearray(upload("mp3"))
    data[5000:5400] = b"\xff" * 400
    decode(bytes(data))
    with pytest.raises(RequestError):
        decode(upload("m4a")[:3000])
    assert capfd.readouterr() == ("", "")


def test_importing_audio_does_not_import_ffmpeg() -> None:
    subprocess.run([sys.executable, "-c", "import argosy.audio, sys; assert 'av' not in sys.modules"], check=True)


# --- out --------------------------------------------------------------------------------------------------------------


def in_pieces(format: str, samples: Samples, rate: int, piece: int) -> Iterator[bytes]:
    encoder = Encoder(format, rate=rate)
    for start in range(0, len(samples), piece):
        yield encoder.write(samples[start : start + piece])
    yield encoder.close()


def heard(format: str, data: bytes) -> Samples:
    """At 24 kHz."""
    if format == "pcm":
        return numpy.frombuffer(data, "<i2").astype(numpy.float32) / 32768
    return decode(data, rate=24_000)


@pytest.mark.parametrize("rate", [8_000, 11_000, 16_000, 22_050, 24_000, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("format", FORMATS)
def test_the_tone_survives_every_format_at_every_rate(format: str, rate: int) -> None:
    samples = heard(format, encode(tone(rate), format, rate))
    # ADTS has no field for the coder's delay and padding: up to two frames of 1,024 samples, long at low rates
    assert_is_the_tone(samples, 24_000, tolerance=0.02 + (2048 / rate / 2 if format == "aac" else 0))


@pytest.mark.parametrize("piece", [1, 0.02, 0.5])
@pytest.mark.parametrize("format", FORMATS)
def test_a_stream_holds_the_same_sound_as_a_file(format: str, piece: float) -> None:
    rate = 22_050
    samples = tone(rate, 2.0 if piece < 1 else 0.5)
    streamed = heard(format, b"".join(in_pieces(format, samples, rate, max(1, int(piece * rate)))))
    whole = heard(format, encode(samples, format, rate))
    # an mp3 stream cannot say how much of it is the coder's own delay (1,105 samples) and padding (at most 1,152 more)
    lead = round(1105 * 24_000 / rate) if format == "mp3" else 0
    assert len(streamed) - len(whole) in (range(2500) if format == "mp3" else range(1))
    if format in ("wav", "flac", "pcm"):
        assert numpy.abs(streamed - whole).max() < 1e-3
    shared = streamed[lead : lead + len(whole)]
    assert numpy.sqrt(numpy.mean((shared - whole) ** 2)) < LEVEL / 20


@pytest.mark.parametrize("format", FORMATS)
def test_half_a_second_in_gives_sound_out_at_once(format: str) -> None:
    first = next(in_pieces(format, tone(22_050), 22_050, 11_025))
    # what a coder keeps back: a filter's tail, a frame of at most 4,608 samples (flac), a page of 0.1 s (opus)
    assert len(heard(format, first)) / 24_000 > 0.25


def test_a_wav_file_says_its_length_and_a_wav_stream_that_it_knows_none() -> None:
    file, stream = encode(tone(16_000), "wav", 16_000), b"".join(in_pieces("wav", tone(16_000), 16_000, 1000))
    assert struct.unpack("<I", file[4:8])[0] == len(file) - 8
    assert struct.unpack("<I", file[40:44])[0] == len(file) - 44
    assert file[44:] == stream[44:]
    assert stream[4:8] == stream[40:44] == b"\xff\xff\xff\xff"


def test_pcm_is_bare_16_bit_at_24_kilohertz() -> None:
    data = encode(numpy.array([0, 0.5, -0.5, 1, -1, 2, numpy.nan], numpy.float32), "pcm", PCM_RATE)
    assert numpy.frombuffer(data, "<i2").tolist() == [0, 16384, -16384, 32767, -32767, 32767, 0]
    assert len(encode(tone(22_050), "pcm", 22_050)) == pytest.approx(2 * 2 * 24_000, abs=4)


@pytest.mark.parametrize(
    ("format", "magic"),
    [("wav", b"RIFF"), ("mp3", b"\xff"), ("flac", b"fLaC"), ("opus", b"OggS"), ("aac", b"\xff\xf1")],
)
def test_a_stream_begins_as_players_expect(format: str, magic: bytes) -> None:
    assert next(in_pieces(format, tone(24_000), 24_000, 12_000)).startswith(magic)


@pytest.mark.parametrize("format", FORMATS)
def test_no_sound_at_all_still_makes_an_end(format: str) -> None:
    encode(numpy.zeros(0, numpy.float32), format, 22_050)
    encoder = Encoder(format, rate=22_050)
    encoder.write(numpy.zeros(0, numpy.float32))
    encoder.close()


@pytest.mark.parametrize("format", FORMATS)
def test_an_abandoned_stream_leaves_nothing_behind(format: str) -> None:
    """A client that leaves: the encoder is dropped without `close`."""
    Encoder(format, rate=24_000)
    next(in_pieces(format, tone(24_000), 24_000, 12_000))


def test_a_closed_encoder_takes_nothing_more_and_closes_twice() -> None:
    encoder = Encoder("mp3", rate=24_000)
    encoder.write(tone(24_000))
    assert encoder.close()
    assert encoder.close() == b""
    with pytest.raises(ValueError, match="closed"):
        encoder.write(tone(24_000))


def test_whole_numbers_of_16_bits_are_scaled_and_other_arrays_refused() -> None:
    numbers = numpy.array([0, 16384, -32768], numpy.int16)
    assert numpy.frombuffer(encode(numbers, "wav", 24_000)[44:], "<i2").tolist() == [0, 16384, -32767]
    for wrong in (numpy.zeros((2, 8), numpy.float32), numpy.zeros(8, numpy.int32)):
        with pytest.raises(ValueError, match=r"shape \(samples,\)"):
            encode(wrong, "wav", 24_000)


def test_an_unknown_format_is_refused_with_the_list() -> None:
    for call in (lambda: Encoder("midi", rate=24_000), lambda: encode(tone(24_000), "midi", 24_000)):
        with pytest.raises(BadRequest, match="'midi'; allowed: wav, mp3, flac, opus, aac, pcm") as refused:
            call()
        assert refused.value.param == "response_format"


def test_the_formats_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        FORMATS["midi"] = "audio/midi"  # type: ignore[index]
