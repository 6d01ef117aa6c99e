"""Weights of voices that tests make themselves: random XTTS, graphs with Kokoro's signature, clips of nobody."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

RATE = 22_050


def clip(path: Path, seconds: float = 3.0, pitch: float = 140.0) -> NDArray[np.float32]:
    """A wav of one vowel; its samples."""
    time = np.arange(int(RATE * seconds)) / RATE
    sound = sum(np.sin(2 * np.pi * pitch * n * time) / n for n in range(1, 12)) * (0.6 + 0.4 * np.sin(9 * time))
    samples = np.int16(sound / np.abs(sound).max() * 20_000)
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.tobytes())
    return np.float32(samples / 32_768)


def styles(*names: str) -> dict[str, NDArray[np.float32]]:
    """A style for each name, as Kokoro has them: a row for each number of phonemes up to 510."""
    random = np.random.default_rng(0)
    return {name: random.uniform(0.1, 0.9, (510, 1, 256)).astype(np.float32) for name in names}


def kokoro(path: Path, tokens: str = "input_ids") -> None:
    """A graph with the inputs and the output of Kokoro's: a tone whose length follows the phonemes and the speed, and
    whose pitch follows the phonemes and the style."""
    import onnx
    from onnx import TensorProto, helper

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> Any:
        return helper.make_node(kind, inputs, [output], **attributes)

    def number(name: str, value: Any, kind: int = TensorProto.FLOAT) -> Any:
        return helper.make_tensor(name, kind, np.shape(value), np.ravel(value))

    graph = helper.make_graph(
        [
            node("Cast", [tokens], "ids", to=TensorProto.FLOAT),
            node("ReduceMean", ["ids"], "phoneme", keepdims=0),
            node("ReduceMean", ["style"], "colour", keepdims=0),
            node("Size", [tokens], "count"),
            node("Cast", ["count"], "length", to=TensorProto.FLOAT),
            node("Mul", ["length", "frame"], "slow"),
            node("Squeeze", ["speed"], "pace"),
            node("Div", ["slow", "pace"], "samples"),
            node("Range", ["zero", "samples", "one"], "time"),
            node("Mul", ["phoneme", "colour"], "pitch"),
            node("Mul", ["pitch", "step"], "angle"),
            node("Mul", ["time", "angle"], "phase"),
            node("Sin", ["phase"], "audio"),
        ],
        "kokoro",
        [
            helper.make_tensor_value_info(tokens, TensorProto.INT64, [1, "tokens"]),
            helper.make_tensor_value_info("style", TensorProto.FLOAT, [1, 256]),
            helper.make_tensor_value_info("speed", TensorProto.FLOAT, [1]),
        ],
        [helper.make_tensor_value_info("audio", TensorProto.FLOAT, ["samples"])],
        [number("frame", 600.0), number("zero", 0.0), number("one", 1.0), number("step", 0.002)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))


def xtts(folder: Path) -> None:
    """A random XTTS v2 with a small language model, in the files of the published one: the settings are an object in
    the checkpoint. It never ends by itself, so that every sentence has its most tokens."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from TTS.tts.configs.xtts_config import XttsArgs, XttsAudioConfig, XttsConfig
    from TTS.tts.models.xtts import Xtts

    special = ["[STOP]", "[UNK]", "[SPACE]", "[START]", "[en]", "[de]"]
    every = [*special, *"abcdefghijklmnopqrstuvwxyz.,!?'"]
    tokenizer = Tokenizer(models.BPE(vocab={token: n for n, token in enumerate(every)}, merges=[], unk_token="[UNK]"))
    tokenizer.add_special_tokens(special)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "vocab.json"))
    sizes = XttsArgs(
        gpt_layers=2,
        gpt_n_model_channels=64,
        gpt_n_heads=2,
        gpt_max_audio_tokens=27,
        gpt_max_text_tokens=60,
        gpt_max_prompt_tokens=40,
        gpt_number_text_tokens=len(every),
        gpt_start_text_token=3,
        gpt_stop_text_token=0,
        gpt_num_audio_tokens=66,
        gpt_start_audio_token=64,
        gpt_stop_audio_token=65,
        gpt_code_stride_len=256,  # a quarter of the sound, and of the time that it takes
        gpt_use_perceiver_resampler=True,
        decoder_input_dim=64,
    )
    settings = XttsConfig(model_args=sizes, languages=["en", "de"])
    settings.save_json(str(folder / "config.json"))
    torch.manual_seed(0)
    model = Xtts(settings)
    tensors = model.state_dict()
    tensors["gpt.mel_head.bias"][65] = -1e9
    with pytest.MonkeyPatch.context() as patch:  # the published one is older than these classes' place
        for kind in (XttsArgs, XttsAudioConfig):
            patch.setattr(kind, "__module__", Xtts.__module__)
        torch.save({"model": tensors, "config": settings}, folder / "model.pth")
    voice = {"gpt_cond_latent": torch.randn(1, 32, 64), "speaker_embedding": torch.randn(1, 512, 1)}
    torch.save({"Ana Florence": voice}, folder / "speakers_xtts.pth")
