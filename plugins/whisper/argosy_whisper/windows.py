"""Sound of any length through an engine that hears half a minute at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

import argosy
from argosy import tasks

RATE = tasks.TRANSCRIPTION_RATE
WINDOW = 30 * RATE  # samples: what every Whisper was trained on
SEAM = RATE // 2  # samples behind a silence that was taken out: its padding, and what Whisper's times are off by there
LEAST = RATE  # samples that a window moves on at least, or it would stand still where nothing can be made out
WARMER = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # temperatures at which a window that went wrong is tried again: OpenAI's own
REPEATED = 2.4  # times that a text may be compressed; one that says the same over and over is above: OpenAI's own


@dataclass(frozen=True)
class Heard:
    """What was made out in one window: pieces with times from its start. What follows the second `again` has to be
    heard again: the window's end cut it off, or nothing was made of it. None where all was heard."""

    pieces: Sequence[tasks.Segment]
    again: float | None = None


# At most half a minute of sound; whether it is the first; whether it is the last that there is.
Hear = Callable[[tasks.Audio, bool, bool], Heard]


@dataclass(frozen=True)
class Spoken:
    """Sound without its silences; `starts` and `ends` of what was kept are samples of the whole."""

    audio: tasks.Audio
    starts: Sequence[int]
    ends: Sequence[int]

    def whole(self, seconds: float, *, end: bool = False) -> float:
        """A time in `audio` as one in the whole. An end that lies a little behind a seam belongs to what was before."""
        sample = round(seconds * RATE)
        for first, last in zip(self.starts, self.ends, strict=True):
            if sample < last - first + end * SEAM:
                return min(first + sample, last) / RATE
            sample -= last - first
        return self.ends[-1] / RATE


def speech(audio: tasks.Audio) -> Spoken:
    """What is spoken, by the Silero model that faster-whisper brings: its padding, its patience with silence."""
    from faster_whisper.vad import get_speech_timestamps

    spans = get_speech_timestamps(audio)
    starts, ends = [span["start"] for span in spans], [span["end"] for span in spans]
    pieces = [audio[first:last] for first, last in zip(starts, ends, strict=True)]
    return Spoken(np.concatenate(pieces) if pieces else audio[:0], starts, ends)


def require_speech(engine: str) -> None:
    """ReplicaError where silence cannot be told from speech here."""
    try:
        import faster_whisper  # noqa: F401 - whether it is there
    except ImportError as error:
        raise argosy.ReplicaError(
            f"vad, the look for speech before it is transcribed on {engine}",
            f"{error}: it is faster-whisper's",
            "pip install faster-whisper; or `options: {vad: false}`, and silence may get a text",
        ) from error


def segments(
    request: tasks.TranscriptionRequest,
    hear: Hear,
    ctx: argosy.Context,
    *,
    vad: bool,
) -> Iterator[tasks.Segment]:
    """Each segment as soon as its window is decoded."""
    whole = Spoken(request.audio, [0], [len(request.audio)])
    spoken = speech(request.audio) if vad and len(request.audio) else whole
    audio, place = spoken.audio, 0
    while place < len(audio) and not ctx.cancelled:
        heard = hear(audio[place : place + WINDOW], place == 0, len(audio) <= place + WINDOW)
        for piece in heard.pieces:
            yield _moved(piece, place / RATE, spoken, request.seconds)
            if ctx.cancelled:
                return
        place += WINDOW if heard.again is None else min(max(round(heard.again * RATE), LEAST), WINDOW)


def _moved(piece: tasks.Segment, offset: float, spoken: Spoken, seconds: float) -> tasks.Segment:
    """With times from the start of the whole sound, none of which lies behind its end."""

    def begins(time: float) -> float:
        return min(spoken.whole(offset + time), seconds)

    def ends(time: float) -> float:
        return min(spoken.whole(offset + time, end=True), seconds)

    words = tuple(tasks.Word(begins(word.start), ends(word.end), word.text) for word in piece.words)
    return tasks.Segment(begins(piece.start), ends(piece.end), piece.text, words, piece.language)
