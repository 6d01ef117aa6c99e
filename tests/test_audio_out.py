"""Samples to files and streams, heard again."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy
import pytest
from sounds import LEVEL, assert_is_the_tone, tone

from argosy.audio import FORMATS, PCM_RATE, Encoder, decode, encode
from argosy.audio.samples import Samples
from argosy.errors import BadRequest


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
        FORMATS["midi"] = "audio/midi"
