"""Whisper on torch, openvino_genai and ctranslate2: real weights, put together again and converted here, and random
ones, against transformers on the same checkpoint."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
import openvino
import pytest
import torch
import whispers
from av import AudioFrame, AudioResampler
from plugin_bench import VOICE, Bench, ctx
from spoken import PARAGRAPH, STORY, word_errors
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

import argosy
import argosy_tts
import argosy_whisper
from argosy import tasks
from argosy.errors import WeightsError

pytestmark = pytest.mark.engines

RATE = tasks.TRANSCRIPTION_RATE
ENGINES = ("ctranslate2", "openvino_genai", "torch")
SECONDS_OF_SILENCE = 6
# Activations of size 1 to 10 in float32, that three libraries sum up in their own order.
TOLERANCE = 2e-4

Model = argosy_whisper.Whisper
Load = Callable[..., Model]

CONVERT = """
import sys
from argosy.cli import app
wish = ["--plugin", "whisper", "--engine", "openvino_genai", "--model", sys.argv[1], "--tools", sys.executable]
app(["weights", "convert", *wish], standalone_mode=False)
print(*sorted({"torch", "transformers", "openvino_tokenizers"} & set(sys.modules)), sep=",")
"""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whispers.tiny_en(tmp_path_factory.mktemp("tiny.en"))


@pytest.fixture(scope="module")
def random(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Multilingual, in float32."""
    return whispers.random(tmp_path_factory.mktemp("random"), multilingual=True)


@pytest.fixture(scope="module")
def conversion(checkpoint: Path, bench: Bench) -> list[str]:
    """What a process said that had OpenVINO made of the real weights: its errors, then what it printed."""
    command = [sys.executable, "-c", CONVERT, f"file://{checkpoint}"]
    environment = {**os.environ, "ARGOSY_CACHE": str(bench.cache)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return [*done.stderr.splitlines(), *done.stdout.splitlines()]


@pytest.fixture(scope="module")
def folders(checkpoint: Path, conversion: list[str], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The real weights as each engine reads them."""
    made = tmp_path_factory.mktemp("ctranslate2")
    argosy_whisper.OnCtranslate2.convert(checkpoint, made, argosy_whisper.Options())
    return {"torch": checkpoint, "openvino_genai": Path(conversion[-2].rpartition(": ")[2]), "ctranslate2": made}


@pytest.fixture(scope="module")
def load(bench: Bench) -> Load:
    def loaded(engine: str, folder: Path, extra: Mapping[str, Any] | None = None, **options: Any) -> Model:
        kind = next(way.model for way in Model.implementations() if way.engine == engine)
        model = kind(argosy_whisper.Options(**options))
        planned = dataclasses.replace(bench.engine(engine, **(extra or {})), threads=1).prepare()
        model.load(bench.weights(f"file://{folder}"), planned, bench.device)
        return model

    return loaded


@pytest.fixture(scope="module")
def real(load: Load, folders: Mapping[str, Path]) -> Mapping[str, Model]:
    return {engine: load(engine, folders[engine]) for engine in ENGINES}


@pytest.fixture(scope="module")
def say(bench: Bench) -> Callable[[str], tasks.Audio]:
    """A text in a Piper voice, (samples,) at 16 kHz."""
    kind = next(way.model for way in argosy_tts.Speech.implementations() if way.engine == "onnxruntime")
    speech = bench.load(kind(), "onnxruntime", VOICE)

    def said(text: str) -> tasks.Audio:
        resampler = AudioResampler(format="flt", layout="mono", rate=RATE)
        pieces = []
        for sound in speech.generate(tasks.SpeechRequest(text), ctx()):
            frame = AudioFrame.from_ndarray(sound.samples[None], format="flt", layout="mono")
            frame.sample_rate = sound.rate
            pieces += [piece.to_ndarray()[0] for piece in resampler.resample(frame)]
        return np.concatenate([*pieces, *(piece.to_ndarray()[0] for piece in resampler.resample(None))])

    return said


@pytest.fixture(scope="module")
def paragraph(say: Callable[[str], tasks.Audio]) -> tasks.Audio:
    return say(PARAGRAPH)


@pytest.fixture(scope="module")
def story(say: Callable[[str], tasks.Audio]) -> tasks.Audio:
    return say(STORY)


def hear(model: Any, audio: tasks.Audio, context: argosy.Context | None = None, **wishes: Any) -> list[tasks.Segment]:
    return list(model.generate(tasks.TranscriptionRequest(audio, **wishes), context or ctx()))


def text(segments: list[tasks.Segment]) -> str:
    return "".join(segment.text for segment in segments)


# conversion -----------------------------------------------------------------------------------------------------------


def test_a_process_that_has_weights_converted_imports_none_of_the_tools(conversion: list[str]) -> None:
    assert "converting safetensors for openvino_genai" in conversion
    assert conversion[-2].startswith("openvino for whisper on openvino_genai: /")
    assert conversion[-1] == ""


def test_what_ctranslate2_gets_is_the_package_that_the_checkpoint_was_made_of(folders: Mapping[str, Path]) -> None:
    """There and back again: the real weights are in the checkpoint, every one in its place."""
    before, after = (whispers.tensors(folder / "model.bin") for folder in (whispers.package(), folders["ctranslate2"]))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    settings = [
        json.loads((folder / "config.json").read_bytes()) for folder in (whispers.package(), folders["ctranslate2"])
    ]
    assert settings[0]["alignment_heads"] == settings[1]["alignment_heads"]
    assert settings[0]["suppress_ids"] == settings[1]["suppress_ids"]


def test_openvino_s_graphs_give_transformers_numbers_step_by_step(random: Path, tmp_path: Path) -> None:
    argosy_whisper.OnOpenvino.convert(random, tmp_path, argosy_whisper.Options())
    model = WhisperForConditionalGeneration.from_pretrained(random).eval()
    exact = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "INFERENCE_NUM_THREADS": 1}
    encoder, decoder = (
        openvino.Core().compile_model(tmp_path / f"openvino_{name}_model.xml", "CPU", exact)
        for name in ("encoder", "decoder")
    )
    request = decoder.create_infer_request()
    tokens = [whispers.START, 50259, whispers.TRANSCRIBE, 700, 81]
    steps = (tokens[:3], tokens[3:4], tokens[4:])
    for seed in (1, 2):  # a new sound after a reset, and nothing of the one before
        sound = np.random.default_rng(seed).normal(size=(1, 80, 3000)).astype(np.float32)
        with torch.inference_mode():
            hidden = model.model.encoder(torch.from_numpy(sound)).last_hidden_state
            wanted = model(encoder_outputs=(hidden,), decoder_input_ids=torch.tensor([tokens])).logits[0].numpy()
        found = encoder(sound)[0]
        assert np.abs(found - hidden.numpy()).max() < TOLERANCE
        request.reset_state()
        place = 0
        for step in steps:
            given = {
                "input_ids": np.array([step]),
                "encoder_hidden_states": found,
                "cache_position": np.arange(place, place + len(step)),
                "beam_idx": np.zeros(1, np.int32),
            }
            logits = request.infer(given)["logits"][0]  # (tokens, words)
            assert np.abs(logits - wanted[place : place + len(step)]).max() < TOLERANCE
            place += len(step)


def test_ctranslate2_s_encoder_gives_transformers_numbers(random: Path, tmp_path: Path) -> None:
    argosy_whisper.OnCtranslate2.convert(random, tmp_path, argosy_whisper.Options())
    assert (tmp_path / "tokenizer.json").is_file()
    model = WhisperForConditionalGeneration.from_pretrained(random).eval()
    sound = np.random.default_rng(1).normal(size=(1, 80, 3000)).astype(np.float32)
    with torch.inference_mode():
        wanted = model.model.encoder(torch.from_numpy(sound)).last_hidden_state.numpy()
    engine = ctranslate2.models.Whisper(str(tmp_path), compute_type="float32", intra_threads=1)
    found = np.array(engine.encode(ctranslate2.StorageView.from_array(sound), to_cpu=True))
    assert np.abs(found - wanted).max() < TOLERANCE


# real weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_a_spoken_paragraph_is_understood(engine: str, real: Mapping[str, Model], paragraph: tasks.Audio) -> None:
    segments = hear(real[engine], paragraph)
    assert word_errors(text(segments), PARAGRAPH) <= 0.05
    assert {segment.language for segment in segments} == {"en"}
    assert len(segments) > 2
    times = [time for segment in segments for time in (segment.start, segment.end)]
    assert times == sorted(times)
    assert times[-1] <= len(paragraph) / RATE


def test_in_float32_the_engines_choose_the_same_words_as_transformers(
    load: Load, folders: Mapping[str, Path], real: Mapping[str, Model], paragraph: tasks.Audio
) -> None:
    audio = paragraph[: 12 * RATE]
    model = WhisperForConditionalGeneration.from_pretrained(folders["torch"], dtype=torch.float32).eval()
    features = WhisperFeatureExtractor.from_pretrained(folders["torch"])(audio, sampling_rate=RATE, return_tensors="pt")
    with torch.inference_mode():
        ids = model.generate(features.input_features, return_timestamps=True)[0].tolist()
    wanted = real["torch"].tokenizer.decode([token for token in ids if token < whispers.END])  # type: ignore[attr-defined]
    exact = load("openvino_genai", folders["openvino_genai"], {"INFERENCE_PRECISION_HINT": "f32"}, vad=False)
    assert len(wanted.split()) > 20
    for found in (exact, real["torch"]):
        # Without the look for speech the engine hears the same samples.
        object.__setattr__(found, "config", argosy_whisper.Options(vad=False))
        heard = text(hear(found, audio, temperature=1e-4))
        assert heard.split() == wanted.split()
    object.__setattr__(real["torch"], "config", argosy_whisper.Options())


@pytest.mark.parametrize("engine", ENGINES)
def test_words_have_times(engine: str, real: Mapping[str, Model], paragraph: tasks.Audio) -> None:
    audio = paragraph[: 12 * RATE]
    segments = hear(real[engine], audio, words=True)
    words = [word for segment in segments for word in segment.words]
    assert "".join(word.text for word in words).split() == text(segments).split()
    assert [word.start for word in words] == sorted(word.start for word in words)
    assert all(0 <= word.start <= word.end <= len(audio) / RATE for word in words)
    assert len(words) > 20
    assert not any(segment.words for segment in hear(real[engine], audio))


@pytest.mark.parametrize("engine", ["openvino_genai", "torch"])
def test_what_is_longer_than_a_window_loses_no_word_and_keeps_its_times(
    engine: str, real: Mapping[str, Model], story: tasks.Audio, paragraph: tasks.Audio
) -> None:
    silence = np.zeros(SECONDS_OF_SILENCE * RATE, np.float32)
    begins = (len(story) + len(silence)) / RATE
    audio = np.concatenate([story, silence, paragraph])
    assert len(audio) > 40 * RATE
    segments = hear(real[engine], audio)
    assert word_errors(text(segments), f"{STORY} {PARAGRAPH}") <= 0.06
    starts = [segment.start for segment in segments]
    assert starts == sorted(starts)
    second = next(segment for segment in segments if "quiet morning" in segment.text)
    assert abs(second.start - begins) < 0.7
    assert max(segment.end for segment in segments) <= len(audio) / RATE


@pytest.mark.parametrize("engine", ["openvino_genai", "torch"])
def test_segments_come_one_by_one_and_end_when_the_client_leaves(
    engine: str, real: Mapping[str, Model], paragraph: tasks.Audio
) -> None:
    context = ctx()
    segments = real[engine].generate(tasks.TranscriptionRequest(paragraph), context)  # type: ignore[attr-defined]
    assert next(segments).text
    context.cancel()
    assert list(segments) == []


@pytest.mark.parametrize("engine", ENGINES)
def test_silence_and_noise_give_no_text(engine: str, real: Mapping[str, Model]) -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, RATE * 5).astype(np.float32)
    for audio in (np.zeros(RATE * 40, np.float32), noise, np.zeros(1, np.float32), np.zeros(0, np.float32)):
        assert hear(real[engine], audio) == []


@pytest.mark.parametrize("engine", ENGINES)
def test_english_weights_refuse_other_languages(engine: str, real: Mapping[str, Model]) -> None:
    assert real[engine].about == {"languages": "English only"}
    for wish in ({"language": "de"}, {"translate": True}):
        with pytest.raises(argosy.BadRequest, match="English only"):
            hear(real[engine], np.zeros(RATE, np.float32), **wish)


@pytest.mark.parametrize("engine", ["openvino_genai", "torch"])
def test_a_prompt_and_a_temperature_are_taken(engine: str, real: Mapping[str, Model], paragraph: tasks.Audio) -> None:
    heard = text(hear(real[engine], paragraph[: 8 * RATE], prompt="A village by a river.", temperature=0.2))
    assert word_errors(heard, PARAGRAPH.partition(" There was")[0]) < 0.5


# many languages: random weights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["openvino_genai", "torch"])
def test_many_languages_are_found_named_and_translated(
    engine: str, load: Load, random: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine == "openvino_genai":
        argosy_whisper.OnOpenvino.convert(random, tmp_path, argosy_whisper.Options())
    model: Any = load(engine, random if engine == "torch" else tmp_path, vad=False)
    assert model.about == {"languages": "about a hundred"}
    assert {"en", "de", "zh", "yue"} - set(model.languages) <= {"yue"}
    audio = np.random.default_rng(3).normal(0, 0.1, 2 * RATE).astype(np.float32)
    asked: list[dict[str, Any]] = []
    watch(model, engine, asked, monkeypatch)
    found = {segment.language for segment in hear(model, audio, temperature=0.1)}
    assert len(found) <= 1
    assert found <= set(model.languages)
    hear(model, audio, language="de", translate=True, temperature=0.1)
    assert asked[-1] == {"language": "de", "task": "translate"}
    hear(model, audio, language="fr", temperature=0.1)
    assert asked[-1] == {"language": "fr", "task": "transcribe"}
    with pytest.raises(argosy.BadRequest, match="'xx' is unknown here; known: af, am"):
        hear(model, audio, language="xx")
    model.times_words = False
    with pytest.raises(argosy.BadRequest, match="when a word was said"):
        hear(model, audio, words=True)


def watch(model: Any, engine: str, asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the library itself is asked for, beside its answer."""
    if engine == "torch":
        generate = model.model.generate

        def watched(*given: Any, **wishes: Any) -> Any:
            asked.append({name: wishes[name] for name in ("language", "task")})
            return generate(*given, **wishes)

        monkeypatch.setattr(model.model, "generate", watched)
        return

    class Pipeline:
        def __init__(self, pipeline: Any) -> None:
            self.pipeline = pipeline

        def get_generation_config(self) -> Any:
            return self.pipeline.get_generation_config()

        def generate(self, audio: list[float], config: Any) -> Any:
            asked.append({"language": (config.language or "").strip("<|>"), "task": config.task})
            return self.pipeline.generate(audio, config)

    model.pipeline = Pipeline(model.pipeline)


# what cannot be -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["openvino_genai", "torch"])
def test_without_faster_whisper_silence_cannot_be_told_and_the_service_says_so(
    engine: str, load: Load, folders: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    with pytest.raises(argosy.ReplicaError, match=r"pip install faster-whisper; or `options: \{vad: false\}`"):
        load(engine, folders[engine])


def test_openvino_follows_one_hypothesis_alone(load: Load, folders: Mapping[str, Path]) -> None:
    with pytest.raises(argosy.ReplicaError, match="beam: 3"):
        load("openvino_genai", folders["openvino_genai"], beam=3)


def test_torch_follows_several(load: Load, folders: Mapping[str, Path], paragraph: tasks.Audio) -> None:
    heard = text(hear(load("torch", folders["torch"], beam=2), paragraph[: 8 * RATE]))
    assert word_errors(heard, PARAGRAPH.partition(" There was")[0]) < 0.3


def test_weights_that_lack_a_file_are_refused_by_its_name(
    load: Load, folders: Mapping[str, Path], tmp_path: Path
) -> None:
    for name in ("config.json", "model.safetensors", "generation_config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((folders["torch"] / name).read_bytes())
    with pytest.raises(WeightsError, match=r"tokenizer\.json among the weights"):
        load("torch", tmp_path)


def test_memory_is_estimated_by_what_the_weights_become(bench: Bench, folders: Mapping[str, Path]) -> None:
    for way in Model.implementations():
        weights = bench.weights(f"file://{folders[way.engine]}")
        offer = argosy.Offer(engine=bench.engine(way.engine), device=bench.device)
        needed = way.model.memory(weights, argosy_whisper.Options(), offer)
        more = way.model.memory(weights, argosy_whisper.Options(beam=5), offer)
        assert needed is not None
        assert more is not None
        assert weights.bytes < needed < more < 1.5 * 2**30
