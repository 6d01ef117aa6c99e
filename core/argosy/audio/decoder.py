"""An uploaded file to mono samples, whoever made the file and whatever it claims about itself.

An upload is a stranger's: ffmpeg may open no other file or address, uses only the containers and codecs listed here (no
playlist, no video decoder), and never works further than the seconds that are allowed.

A file that is shorter than it says is refused where it states its length for certain (wav, flac, m4a): half a
transcript that looks whole is worse than an error. A wav whose length says "unknown", as recorders and pipes write it,
gives what is there; so do mp3, ogg, webm and aac, which state no length or one that is often stale.
"""

from __future__ import annotations

import ctypes
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy
from numpy.typing import NDArray

from ..errors import BadRequest, TooLarge, UnsupportedMedia
from . import refusal
from .samples import Resampler, Samples, clean
from .wav import is_wav, rewritten

if TYPE_CHECKING:
    from av import AudioFrame, CodecContext
    from av.audio.stream import AudioStream
    from av.container import InputContainer

MAX_SECONDS = 7200.0  # 461 MB of samples at 16 kHz
PIECE = 16_384  # samples
BLOCK = 32 << 20  # bytes: the index of an eight hour m4a

_CONTAINERS = "mp3,flac,ogg,mov,matroska,aac"  # ffmpeg's names: mov is m4a and mp4, matroska is webm; wav is apart
_CODECS = (
    "aac,alac,flac,mp2,mp2float,mp3,mp3float,opus,libopus,vorbis,amrnb,amrwb,gsm_ms,adpcm_ms,adpcm_ima_wav,"
    "pcm_alaw,pcm_mulaw,pcm_u8,pcm_s8,pcm_s16le,pcm_s16be,pcm_s24le,pcm_s24be,pcm_s32le,pcm_s32be,"
    "pcm_f32le,pcm_f32be,pcm_f64le,pcm_f64be"
)


def decode(data: bytes, *, rate: int = 16_000, max_seconds: float = MAX_SECONDS) -> Samples:
    """The sound in `data`, channels averaged, at `rate` Hz: shape (samples,), at least one sample, writable.

    Raises UnsupportedMedia for what is no audio in an accepted format, BadRequest for audio that is empty, broken, cut
    off, or contradicts itself, TooLarge for more than `max_seconds`. Takes four bytes a sample, and a wav's size again.
    May run in several threads at once.
    """
    if not data:
        raise refusal.empty()
    import av

    wav = is_wav(data)
    file, allowed = io.BytesIO(rewritten(data) if wav else data), "wav" if wav else _CONTAINERS
    options = {
        "format_whitelist": allowed,
        "codec_whitelist": _CODECS,
        "protocol_whitelist": "none",
        "max_streams": "16",
    }
    _bound_memory()
    try:
        container = av.open(file, "r", options=options, metadata_errors="replace")
    except av.FFmpegError as error:
        raise _unreadable(data) from error
    with container:
        stream = next(iter(container.streams.audio), None)
        if stream is None:
            found = ", ".join(sorted({other.type for other in container.streams})) or "no track at all"
            raise refusal.unsupported(f"the file has no audio track; found: {found}")
        _check_codec(stream)
        return _samples(container, stream, rate, max_seconds)


def _bound_memory() -> None:
    """ffmpeg takes a file's word for how many frames to index, so that 35 kB of m4a could take gigabytes. The bound
    is for one block of memory, wherever in this process ffmpeg takes it; setting it again changes nothing."""
    import av._core

    ctypes.CDLL(av._core.__file__).av_max_alloc(ctypes.c_size_t(BLOCK))


def _samples(container: InputContainer, stream: AudioStream, rate: int, max_seconds: float) -> Samples:
    declared = _declared(container, stream)  # before decoding: some demuxers correct it on the way
    sound, limit = bytearray(), int(max_seconds * rate) * 4  # grows in place; a list of arrays would exist twice
    resampler: Resampler | None = None

    too_large = TooLarge(
        f"the audio is longer than {max_seconds:g} s; cut it and send the parts one by one", param=refusal.PARAM
    )
    if declared is not None and declared > max_seconds:
        raise too_large

    def keep(samples: Samples) -> None:
        sound.extend(samples.tobytes())
        if len(sound) > limit:
            raise too_large

    for source, samples in _pieces(container, stream):
        if resampler is None or resampler.source != source:  # joined ogg files change their rate in the middle
            if resampler is not None:
                keep(resampler.flush())
            resampler = Resampler(source, rate)
        keep(resampler.push(samples))
    if resampler is None:
        raise refusal.broken("nothing in it could be decoded")
    keep(resampler.flush())
    if not sound:
        raise refusal.too_short()
    seconds = len(sound) / 4 / rate
    if declared is not None and declared > seconds + refusal.SLACK:
        raise refusal.cut_off(declared, seconds)
    return numpy.frombuffer(sound, numpy.float32)  # (samples,) float32


def _pieces(container: InputContainer, stream: AudioStream) -> Iterator[tuple[int, Samples]]:
    """The sound in order as (rate in Hz, mono samples), gathered from frames: what follows costs as much for 20 ms."""
    gathered: list[AudioFrame] = []
    kind, samples = None, 0
    for frame in _frames(container, stream):
        found = (frame.sample_rate, frame.layout.nb_channels, frame.format.name)
        if gathered and (found != kind or samples >= PIECE):
            yield gathered[0].sample_rate, _mono(gathered)
            gathered, samples = [], 0
        if found != kind:
            refusal.check(*found[:2])
            kind = found
        gathered.append(frame)
        samples += frame.samples
    if gathered:
        yield gathered[0].sample_rate, _mono(gathered)


def _frames(container: InputContainer, stream: AudioStream) -> Iterator[AudioFrame]:
    """Broken packets are passed over, unless most are broken."""
    import av

    good = bad = 0
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                break
            frames = packet.decode()
        except av.FFmpegError:  # raised by the demuxer, it also ends `packets`
            bad += 1
            continue
        good += bool(frames)
        for frame in frames:
            yield from _safe(frame)
    if bad > good:
        raise refusal.broken(f"{bad} of its {bad + good} packets make no sense")


def _safe(frame: AudioFrame) -> list[AudioFrame]:
    """PyAV counts planes until a null pointer, and behind the eighth channel's none comes: pack such frames first."""
    import av

    if not frame.samples:
        return []
    if frame.format.is_planar and frame.layout.nb_channels >= 8:
        return av.AudioResampler(format=frame.format.packed).resample(frame)
    return [frame]


def _mono(frames: list[AudioFrame]) -> Samples:
    """`frames`, all of one kind, one after the other."""
    parts: list[NDArray[Any]] = [frame.to_ndarray() for frame in frames]
    if frames[0].format.is_planar:
        sound = numpy.concatenate(parts, axis=1)  # (channels, samples)
    else:
        sound = numpy.concatenate(parts, axis=1).reshape(-1, frames[0].layout.nb_channels).T  # (channels, samples)
    if sound.dtype.kind == "f":
        sound = clean(sound)
    else:
        full = numpy.float32(2 ** (8 * sound.dtype.itemsize - 1))
        sound = sound / full - (1 if sound.dtype.kind == "u" else 0)
    mono: Samples = sound.mean(axis=0, dtype=numpy.float32)  # (samples,)
    return mono


def _declared(container: InputContainer, stream: AudioStream) -> float | None:
    """Seconds, where this kind of file says for certain how long it is (wav is checked before: ffmpeg mends it)."""
    certain = {"flac", "mov"} & set(container.format.name.split(","))
    if not certain or not stream.duration or stream.time_base is None:
        return None
    return float(stream.duration * stream.time_base)


def _check_codec(stream: AudioStream) -> None:
    """ffmpeg's own list binds what looks into the file, but not the decoder that PyAV opens."""
    context: CodecContext | None = stream.codec_context  # None, against its type, where ffmpeg has no decoder
    name = "an unknown codec" if context is None else context.name
    if name not in _CODECS.split(","):
        raise refusal.unsupported(f"the audio is coded as {name}")


def _unreadable(data: bytes) -> BadRequest | UnsupportedMedia:
    known = data.startswith((b"RIFF", b"ID3", b"fLaC", b"OggS", b"\x1a\x45\xdf\xa3")) or data[4:8] == b"ftyp"
    if known and (data[:4] != b"RIFF" or data[8:12] in (b"", b"WAVE")):  # avi and webp are RIFF too
        return refusal.broken("its beginning is right, and the rest is missing or unreadable")
    return refusal.unsupported("the file is no audio in an accepted format")
