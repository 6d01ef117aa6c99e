"""Half a minute at a time: what Whisper's engines share, without an engine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from plugin_bench import ctx

from argosy import tasks
from argosy_whisper.whisper import Options, Whisper, codes
from argosy_whisper.windows import RATE, WINDOW, Heard, Spoken, segments, speech
from argosy_whisper.words import words_of


def piece(start: float, end: float, text: str = "x") -> tasks.Segment:
    return tasks.Segment(start, end, text, (tasks.Word(start, end, text),), "en")


def sound(seconds: float) -> tasks.Audio:
    return np.arange(int(seconds * RATE), dtype=np.float32)  # each sample is its own place


class Ear:
    """Hears as it is told, and keeps which windows it got: first sample, length in seconds, first, last."""

    def __init__(self, *heard: Heard) -> None:
        self.heard = list(heard)
        self.windows: list[tuple[float, float, bool, bool]] = []

    def __call__(self, audio: tasks.Audio, first: bool, last: bool) -> Heard:
        self.windows.append((float(audio[0]) / RATE, len(audio) / RATE, first, last))
        return self.heard.pop(0)


def test_what_a_window_cut_off_is_heard_again_and_times_count_from_the_beginning() -> None:
    ear = Ear(Heard([piece(0, 12), piece(12, 26)], 26.0), Heard([piece(1, 30)]), Heard([piece(0, 9)]))
    found = list(segments(tasks.TranscriptionRequest(sound(65)), ear, ctx(), vad=False))
    assert ear.windows == [(0, 30, True, False), (26, 30, False, False), (56, 9, False, True)]
    assert [(one.start, one.end) for one in found] == [(0, 12), (12, 26), (27, 56), (56, 65)]
    assert [(word.start, word.end) for one in found for word in one.words] == [(0, 12), (12, 26), (27, 56), (56, 65)]


def test_a_window_of_which_nothing_can_be_made_does_not_stand_still() -> None:
    ear = Ear(*(Heard([piece(0, 0)], 0.0) for _ in range(3)))
    assert len(list(segments(tasks.TranscriptionRequest(sound(3)), ear, ctx(), vad=False))) == 3
    assert [window[0] for window in ear.windows] == [0, 1, 2]


def test_no_time_lies_behind_the_end_of_the_sound() -> None:
    (found,) = segments(tasks.TranscriptionRequest(sound(4)), Ear(Heard([piece(3, 30)])), ctx(), vad=False)
    assert (found.start, found.end) == (3, 4)


def test_nothing_is_heard_after_the_client_has_left_and_nothing_of_nothing() -> None:
    context, ear = ctx(), Ear(Heard([piece(0, 1), piece(1, 2)], 2.0))
    steps = segments(tasks.TranscriptionRequest(sound(40)), ear, context, vad=False)
    next(steps)
    context.cancel()
    assert list(steps) == []
    assert list(segments(tasks.TranscriptionRequest(sound(0)), ear, ctx(), vad=True)) == []
    assert len(ear.windows) == 1


def test_times_in_sound_without_its_silences_are_times_in_the_whole() -> None:
    spoken = Spoken(sound(5), [10 * RATE, 100 * RATE], [12 * RATE, 103 * RATE])
    assert [spoken.whole(time) for time in (0, 1.5, 2, 4)] == [10, 11.5, 100, 102]
    assert [spoken.whole(time, end=True) for time in (1.5, 2, 2.4, 2.6, 5)] == [11.5, 12, 12, 100.6, 103]
    assert spoken.whole(9) == 103


def test_silence_is_no_speech() -> None:
    spoken = speech(np.zeros(3 * RATE, np.float32))
    assert (len(spoken.audio), spoken.starts) == (0, [])


def decode(tokens: Sequence[int]) -> str:
    table = {
        0: b" How",
        1: b" far",
        2: b"ther",
        3: b".",
        10: "你".encode(),
        11: "好".encode()[:2],
        12: "好".encode()[2:],
    }
    return b"".join(table[token] for token in tokens).decode(errors="replace")


def test_words_are_put_together_of_tokens_with_their_punctuation() -> None:
    words = words_of([0, 1, 2, 3], [0.0, 1.0, 1.5, 2.0], 2.5, decode, "en")
    assert [(word.start, word.end, word.text) for word in words] == [(0.0, 1.0, " How"), (1.0, 2.5, " farther.")]


def test_where_words_are_not_parted_each_character_is_one_whole() -> None:
    words = words_of([10, 11, 12, 3], [0.0, 1.0, 1.2, 2.0], 1.5, decode, "zh")
    assert [(word.start, word.end, word.text) for word in words] == [(0.0, 1.0, "你"), (1.0, 2.0, "好.")]


def test_engines_are_tried_in_order_and_two_of_them_convert() -> None:
    ways = {way.engine: way for way in Whisper.implementations()}
    assert list(ways) == ["ctranslate2", "openvino_genai", "torch"]
    assert {name: way.formats for name, way in ways.items()} == {
        "ctranslate2": ("ctranslate2",),
        "openvino_genai": ("openvino",),
        "torch": ("safetensors",),
    }
    for name in ("ctranslate2", "openvino_genai"):
        assert ways[name].model.convert_from == ("safetensors",)
        assert all("==" in need for need in ways[name].model.convert_needs)
    assert Options.live_names() == {"beam", "vad"}  # so that neither makes a conversion anew


@pytest.mark.parametrize("seconds", [30, 30.01])
def test_half_a_minute_is_one_window(seconds: float) -> None:
    ear = Ear(Heard([piece(0, 1)]), Heard([]))
    list(segments(tasks.TranscriptionRequest(sound(seconds)), ear, ctx(), vad=False))
    assert len(ear.windows) == (1 if seconds * RATE <= WINDOW else 2)


def test_languages_are_named_by_their_codes() -> None:
    assert codes({"<|de|>": 2, "<|yue|>": 3, "<|af|>": 1}) == ("af", "de", "yue")
