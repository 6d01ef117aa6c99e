"""Kokoro on onnxruntime and XTTS on torch, on weights that the tests make, against the libraries by themselves."""

from __future__ import annotations

import hashlib
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import speakers
import torch
from kokoro_onnx import Kokoro
from plugin_bench import Bench, ctx
from TTS.tts.configs.xtts_config import XttsConfig
from TTS.tts.models.xtts import Xtts

import argosy
import argosy_tts
from argosy import tasks
from argosy.errors import WeightsError

pytestmark = pytest.mark.engines

TEXT = "Good morning. The sun is up, and the water is cold!"
SENTENCES = ("Good morning. ", "The sun is up, and the water is cold!")
NAMES = ("af_heart", "bm_george", "ff_siwis")
CPML = {"accept_licence": "coqui-cpml-1.0"}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("weights"))


def say(model: Any, text: str = TEXT, context: argosy.Context | None = None, **wishes: Any) -> list[tasks.Sound]:
    return list(model.generate(tasks.SpeechRequest(text, **wishes), context or ctx()))


def samples(sounds: list[tasks.Sound]) -> tasks.Audio:
    return np.concatenate([sound.samples for sound in sounds])


# kokoro --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As kokoro-onnx publishes them: a graph, and one file of voices under a name that says nothing."""
    folder = tmp_path_factory.mktemp("archive")
    speakers.kokoro(folder / "kokoro-v1.0.onnx", tokens="tokens")
    with (folder / "voices-v1.0.bin").open("wb") as file:
        np.savez(file, **speakers.styles(*NAMES))
    return folder


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As a model hub has them: a raw file for each voice."""
    folder = tmp_path_factory.mktemp("raw")
    speakers.kokoro(folder / "onnx/model.onnx", tokens="input_ids")
    (folder / "voices").mkdir()
    for name, style in speakers.styles(*NAMES).items():
        style.tofile(folder / "voices" / f"{name}.bin")
    return folder


def kokoro(bench: Bench, folder: Path, **options: Any) -> Any:
    return bench.load(argosy_tts.OnOnnxruntime(argosy_tts.Options(**options)), "onnxruntime", f"file://{folder}")


@pytest.mark.parametrize("layout", ["archive", "raw"])
def test_kokoro_says_what_the_library_says(layout: str, bench: Bench, archive: Path, request: Any) -> None:
    bare = Kokoro(str(archive / "kokoro-v1.0.onnx"), str(archive / "voices-v1.0.bin"))
    model = kokoro(bench, request.getfixturevalue(layout), pause=0)
    assert list(model.voices) == list(NAMES)
    for voice, language, speed in (("af_heart", "en-us", 1.0), ("bm_george", "en-gb", 1.5), ("ff_siwis", "fr-fr", 0.5)):
        spoken = say(model, voice=voice, speed=speed)
        assert {sound.rate for sound in spoken} == {24_000}
        for sound, sentence in zip(spoken, SENTENCES, strict=True):
            wanted, _ = bare.create(sentence, voice, speed, language)
            assert sound.samples.dtype == np.float32
            np.testing.assert_array_equal(sound.samples, wanted)


def test_kokoro_s_voices_differ_and_pause_between_sentences(bench: Bench, archive: Path) -> None:
    model = kokoro(bench, archive, voice="bm_george", pause=0.5, speed=2.0)
    first, second = say(model)
    assert not second.samples[:6000].any()
    assert second.samples[6000:6100].any()
    assert not np.array_equal(first.samples, say(model, voice="af_heart")[0].samples)
    assert len(say(model, speed=0.5)[0].samples) == pytest.approx(2 * len(first.samples), rel=0.01)
    with pytest.raises(argosy.BadRequest, match=r"0\.5 to 2 times their pace, not 3"):
        say(model, speed=1.5)
    with pytest.raises(argosy.BadRequest, match="nothing in the text"):
        say(model, "... !")


def test_kokoro_takes_a_language_for_all_its_voices(bench: Bench, archive: Path) -> None:
    german = say(kokoro(bench, archive, language="de"), "Ich gehe.")[0].samples
    bare = Kokoro(str(archive / "kokoro-v1.0.onnx"), str(archive / "voices-v1.0.bin"))
    np.testing.assert_array_equal(german, bare.create("Ich gehe.", "af_heart", 1.0, "de")[0])
    with pytest.raises(WeightsError, match="phonemes of 'klingon'"):
        kokoro(bench, archive, language="klingon")


def test_kokoro_names_what_is_wrong_with_its_voices(bench: Bench, archive: Path, tmp_path: Path) -> None:
    shutil.copy(archive / "kokoro-v1.0.onnx", tmp_path)
    np.savez(tmp_path / "voices.npz", af_heart=np.zeros((510, 128), np.float32))
    with pytest.raises(WeightsError, match=r"af_heart of shape \(510, 128\)"):
        kokoro(bench, tmp_path)
    (tmp_path / "voices.npz").write_bytes(b"\x80\x04\x95nothing of numpy's")
    with pytest.raises(WeightsError, match=r"voices\.npz"):
        kokoro(bench, tmp_path)


def test_kokoro_without_its_library_says_what_to_install(
    bench: Bench, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kokoro_onnx", None)
    with pytest.raises(argosy.ReplicaError, match=r"pip install 'argosy-tts\[kokoro\]'"):
        kokoro(bench, archive)


# xtts ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("xtts")
    speakers.xtts(folder)
    speakers.clip(folder / "voices/anna.wav")
    return folder


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def load(bench: Bench, folder: Path, **options: Any) -> Any:
    return bench.load(argosy_tts.OnTorch(argosy_tts.Options(**CPML, **options)), "torch", f"file://{folder}")


@pytest.fixture(scope="module")
def xtts(bench: Bench, weights: Path) -> Any:
    return load(bench, weights, pause=0.1)


@pytest.fixture(scope="module")
def bare(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """coqui's own model on a copy of the files, for it writes the checkpoint anew."""
    folder = tmp_path_factory.mktemp("bare") / "xtts"
    shutil.copytree(weights, folder)
    settings = XttsConfig()
    settings.load_json(str(folder / "config.json"))
    model = Xtts(settings)
    model.load_checkpoint(settings, checkpoint_dir=str(folder), eval=True)
    return model


def stream(bare: Any, sentence: str, latents: Any, speaker: Any, speed: float = 1.0) -> tasks.Audio:
    names = ("temperature", "length_penalty", "repetition_penalty", "top_k", "top_p")
    wishes = {name: getattr(bare.config, name) for name in names}
    chunks = bare.inference_stream(sentence, "en", latents, speaker, speed=speed, **wishes)
    return np.concatenate([chunk.numpy() for chunk in chunks])


def test_xtts_clones_a_clip_as_coqui_does(xtts: Any, bare: Any, weights: Path, tmp_path: Path, alone: None) -> None:
    heard = torch.from_numpy(speakers.clip(tmp_path / "same.wav"))[None]
    latents = bare.get_gpt_cond_latents(heard, 22_050, length=12, chunk_length=4)
    speaker = bare.get_speaker_embedding(heard, 22_050)
    torch.manual_seed(1)
    spoken = say(xtts, "Good morning.", voice="anna")
    torch.manual_seed(1)
    np.testing.assert_allclose(samples(spoken), stream(bare, "Good morning.", latents, speaker), atol=1e-6)
    assert len(spoken) > 1  # it is heard before it is said
    assert {sound.rate for sound in spoken} == {24_000}


def test_xtts_speaks_with_the_voices_that_it_came_with(xtts: Any, bare: Any) -> None:
    assert list(xtts.voices) == ["anna", "Ana Florence"]
    assert "commercially; accepted in the fleet file" in xtts.about["licence"]
    torch.manual_seed(2)
    spoken = samples(say(xtts, TEXT, voice="Ana Florence", speed=2.0))
    torch.manual_seed(2)
    parts = [stream(bare, text, *bare.speaker_manager.speakers["Ana Florence"].values(), 2.0) for text in SENTENCES]
    pause = np.zeros(int(0.1 * 24_000 / 2), np.float32)
    np.testing.assert_allclose(spoken, np.concatenate([parts[0], pause, parts[1]]), atol=1e-6)


def test_xtts_leaves_its_weights_as_they_are(bench: Bench, weights: Path) -> None:
    before = hashlib.sha256((weights / "model.pth").read_bytes()).hexdigest()
    load(bench, weights)
    assert hashlib.sha256((weights / "model.pth").read_bytes()).hexdigest() == before


def test_xtts_halves_a_sentence_of_too_many_tokens(xtts: Any) -> None:
    text = "a word and another, " * 6  # under the limit of characters, over this model's of tokens
    parts = list(xtts._fitting(text))
    assert "".join(parts) == text
    assert len(parts) > 1
    assert max(map(xtts._tokens, parts)) < 60


def test_xtts_stops_when_its_client_leaves(xtts: Any) -> None:
    context = ctx()
    sounds = xtts.generate(tasks.SpeechRequest(TEXT), context)
    next(sounds)
    context.cancel()
    assert list(sounds) == []


@pytest.mark.parametrize(
    ("options", "wanted"),
    [({"language": "nl"}, "in the language 'nl'; found: en, de"), ({"voice": "bob"}, "the voice 'bob'; found: anna")],
)
def test_xtts_refuses_options_that_its_weights_have_not(
    bench: Bench, weights: Path, options: dict[str, str], wanted: str
) -> None:
    with pytest.raises(WeightsError, match=wanted):
        load(bench, weights, **options)


def test_xtts_refuses_a_clip_that_is_none(bench: Bench, weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "xtts"
    shutil.copytree(weights, folder)
    speakers.clip(folder / "voices/short.wav", seconds=0.5)
    with pytest.raises(WeightsError, match=r"short\.wav, 0\.50 s long"):
        load(bench, folder)
    (folder / "voices/short.wav").write_bytes(b"no sound at all")
    with pytest.raises(WeightsError, match=r"voices/short\.wav"):
        load(bench, folder)


def test_xtts_without_a_voice_says_how_to_add_one(bench: Bench, weights: Path, tmp_path: Path) -> None:
    for name in ("config.json", "vocab.json", "model.pth"):
        shutil.copy(weights / name, tmp_path)
    with pytest.raises(WeightsError, match=r"voices/NAME\.wav"):
        load(bench, tmp_path)


def test_xtts_without_its_library_says_what_to_install(
    bench: Bench, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TTS.tts.configs.xtts_config", "TTS.tts.models.xtts"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(argosy.ReplicaError, match=r"pip install 'argosy-tts\[xtts\]'"):
        load(bench, weights)
