"""Any file to samples, against a known tone."""

from __future__ import annotations

import io
import itertools
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
import numpy
import pytest
from sounds import TONE, UPLOADS, assert_is_the_tone, frequency_of, tone, upload, wav

from argosy.audio import FORMATS, decode, encode
from argosy.errors import RequestError, UnsupportedMedia


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


def test_threads_decode_and_encode_side_by_side() -> None:
    files = [upload(name) for name in ("wav", "mp3", "flac", "m4a", "webm", "ogg-opus")]
    alone = [decode(file) for file in files]
    barrier = threading.Barrier(6)

    def work(index: int) -> bool:
        barrier.wait()
        same = [numpy.array_equal(decode(files[index]), alone[index]) for _ in range(5)]
        return all(same) and bool(encode(alone[index], tuple(FORMATS)[index], 16_000))

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
