"""The plugin `tts` beside its engines: which weights it takes, what it asks its owner, how texts are cut."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import speakers
from plugin_bench import PARAGRAPH, VOICE, Bench, ctx
from pydantic import ValidationError

import argosy
import argosy_tts
from argosy import tasks
from argosy.backend import Device, Offer
from argosy.errors import WeightsError
from argosy.fleet.weights_format import formats
from argosy_tts.text import sentences
from argosy_tts.xtts import clips

SIZES = {
    "gpt_layers": 30,
    "gpt_n_model_channels": 1024,
    "gpt_max_audio_tokens": 605,
    "gpt_max_text_tokens": 402,
    "gpt_max_prompt_tokens": 70,
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def cloner(tmp_path: Path) -> Path:
    """The files of XTTS v2 without anything in them but settings and a licence."""
    folder = tmp_path / "xtts"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model": "xtts", "model_args": SIZES}))
    for name, size in (("vocab.json", 2), ("model.pth", 1000), ("LICENSE.txt", 10)):
        (folder / name).write_bytes(b"{" * size)
    return folder


def test_a_clip_is_added_to_weights_by_the_fleet_file(bench: Bench, cloner: Path, tmp_path: Path) -> None:
    speakers.clip(tmp_path / "somebody.wav")
    model = {".": f"file://{cloner}", "voices/anna.wav": f"file://{tmp_path}/somebody.wav"}
    weights = bench.weights(model)
    assert weights.formats == ("xtts",)
    ((name, sound),) = clips(weights)
    assert name == "anna"
    assert len(sound) == 3 * 22_050


def names(*files: str) -> dict[str, Path | None]:
    return dict.fromkeys(files)


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (("kokoro-v1.0.onnx", "voices-v1.0.bin"), ("kokoro", "onnx")),
        (("model.onnx", "voices.npz"), ("kokoro", "onnx")),
        (("onnx/model.onnx", "voices/af_heart.bin", "config.json"), ("kokoro", "onnx")),
        (("joe.onnx", "joe.onnx.json", "voices/anna.bin"), ("piper", "onnx")),
        (("model.onnx", "voices.txt"), ("onnx",)),
        (("voices.npz",), ()),
        (("config.json", "model.pth", "vocab.json", "speakers_xtts.pth"), ("xtts",)),
        (("config.json", "model.pth"), ()),
    ],
)
def test_weights_are_told_by_their_files(files: tuple[str, ...], found: tuple[str, ...]) -> None:
    assert formats(names(*files)) == found


def test_only_a_checkpoint_that_says_so_is_xtts(cloner: Path) -> None:
    here = {path.name: path for path in cloner.iterdir()}
    assert formats(here) == ("xtts",)
    (cloner / "config.json").write_text('{"model": "vits"}')
    assert formats(here) == ()


@pytest.mark.parametrize("engine", ["onnxruntime", "torch"])
def test_each_engine_takes_its_own_voices(engine: str) -> None:
    ways = {way.engine: way.formats for way in argosy_tts.Speech.implementations()}
    assert ways == {"onnxruntime": ("piper", "kokoro"), "torch": ("xtts",)}


def test_a_licence_is_accepted_in_the_fleet_file_or_nothing_is_loaded(bench: Bench, cloner: Path) -> None:
    with pytest.raises(WeightsError) as refused:
        bench.load(argosy_tts.OnTorch(), "torch", f"file://{cloner}")
    said = str(refused.value)
    assert "Coqui Public Model License" in said
    assert "LICENSE.txt" in said
    assert said.endswith("try: options: {accept_licence: coqui-cpml-1.0}")
    assert {"TTS", "torch"}.isdisjoint(sys.modules)
    with pytest.raises(ValidationError, match="coqui-cpml-1"):
        argosy_tts.Options.model_validate({"accept_licence": "yes"})


def test_xtts_wants_a_voice_before_it_reads_gigabytes(bench: Bench, cloner: Path) -> None:
    model = argosy_tts.OnTorch(argosy_tts.Options(accept_licence="coqui-cpml-1.0"))
    with pytest.raises(WeightsError, match=r"voices/NAME\.wav: file://CLIP\.wav"):
        bench.load(model, "torch", f"file://{cloner}")
    speakers.clip(cloner / "voices/short.wav", seconds=0.5)
    with pytest.raises(WeightsError, match=r"voices/short\.wav, 0\.50 s long; try: a longer recording"):
        bench.load(model, "torch", f"file://{cloner}")


def test_the_memory_of_xtts_is_weights_and_the_longest_sentence(bench: Bench, cloner: Path) -> None:
    weights = bench.weights(f"file://{cloner}")
    keys = 30 * 2 * 1024 * 4 * (605 + 402 + 70)
    gpu = Device(backend="x", index=0, name="x", architecture="x", memory_bytes=8 * 2**30)
    for device, process in ((bench.device, 650 * 2**20), (gpu, 500 * 2**20)):
        offer = Offer(engine=bench.engine("onnxruntime"), device=device)
        estimate = argosy_tts.OnTorch.memory(weights, argosy_tts.Options(), offer)
        assert estimate == weights.bytes + keys + 512 * 2**20 + process


def test_only_kokoro_s_memory_is_the_plugin_s_own_on_onnxruntime(bench: Bench, tmp_path: Path) -> None:
    offer = Offer(engine=bench.engine("onnxruntime"), device=bench.device)
    memory = argosy_tts.OnOnnxruntime.memory
    assert memory(bench.weights(VOICE), argosy_tts.Options(), offer) is None
    (tmp_path / "model.onnx").write_bytes(b"1" * 1000)
    (tmp_path / "voices.npz").write_bytes(b"1" * 10)
    assert memory(bench.weights(f"file://{tmp_path}"), argosy_tts.Options(), offer) == 1010 + 600 * 2**20


def say(model: Any, text: str, **wishes: Any) -> list[tasks.Sound]:
    return list(model.generate(tasks.SpeechRequest(text, **wishes), ctx()))


def test_an_owner_sets_voice_and_pace(bench: Bench) -> None:
    options = argosy_tts.Options(voice="en_US-joe-medium", speed=2.0, language="en", pause=0)
    fast = bench.load(argosy_tts.OnOnnxruntime(options), "onnxruntime", VOICE)
    (sound,) = say(fast, PARAGRAPH[:73])
    (own,) = say(fast, PARAGRAPH[:73], speed=0.5)
    assert 1.4 < len(own.samples) / len(sound.samples) < 2.2
    fast.config = argosy_tts.Options(voice="nobody")
    with pytest.raises(argosy.BadRequest, match="voice 'nobody' is unknown"):
        say(fast, "Hi.")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"voice": "alloy"}, r"the voice 'alloy'; found: en_US-joe-medium; try: options: \{voice: en_US-joe-medium\}"),
        ({"language": "de"}, "voices that speak de; found: en_US-joe-medium.onnx, which speaks en-us"),
    ],
)
def test_options_that_the_voices_cannot_keep_are_refused(bench: Bench, options: dict[str, str], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        bench.load(argosy_tts.OnOnnxruntime(argosy_tts.Options(**options)), "onnxruntime", VOICE)


def test_sentences_come_one_by_one_and_what_says_nothing_is_left_out() -> None:
    assert list(sentences("One. Two?\n- - -\nThree!")) == ["One. ", "Two?\n", "Three!"]
    assert list(sentences("... !")) == []
    long = "word " * 200
    assert "".join(sentences(long)) == long
    assert max(map(len, sentences(long, 90))) <= 90
    assert np.shape(list(sentences(""))) == (0,)
