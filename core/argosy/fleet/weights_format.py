"""Which formats a set of weights holds, by its files' names and, where they are here, by what they say."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .weights_policy import data_bin, is_ctranslate2

_STYLES = re.compile(r"(.*/)?(voices[^/]*\.(npz|bin)|voices/[^/]+\.bin)")  # Kokoro's: one archive, or a file each
_XTTS = {"config.json", "model.pth", "vocab.json"}


def formats(files: Mapping[str, Path | None]) -> tuple[str, ...]:
    """Every format found, the one to prefer first: a quantised checkpoint is `awq` or `gptq` and not `safetensors`,
    a Piper voice is `piper` and then `onnx`, Kokoro's graph with its voices `kokoro` and then `onnx`. A file that is
    not here yet (None) is judged by its name alone. Empty where there is none."""
    found = []
    quantised = _quantised(files)
    if any(name.endswith(".safetensors") for name in files):
        found.append(quantised or "safetensors")
    if any(name.endswith(".gguf") for name in files):
        found.append("gguf")
    if any(_is_ctranslate2(name, files) for name in files):
        found.append("ctranslate2")
    if any(data_bin(name, files) == "openvino" for name in files):
        found.append("openvino")
    if any(_is_piper(name, files) for name in files):
        found.append("piper")
    elif any(name.endswith(".onnx") for name in files) and any(map(_STYLES.fullmatch, files)):
        found.append("kokoro")
    if any(name.endswith(".onnx") for name in files):
        found.append("onnx")
    if _is_xtts(files):
        found.append("xtts")
    return tuple(found)


def _is_ctranslate2(name: str, files: Mapping[str, Path | None]) -> bool:
    path = files[name]
    if path is None:
        return data_bin(name, files) == "ctranslate2"
    return name.rpartition("/")[2] == "model.bin" and is_ctranslate2(path)


def _is_piper(name: str, files: Mapping[str, Path | None]) -> bool:
    """A voice is an .onnx with a .onnx.json that tells its phonemes."""
    config = f"{name}.json"
    if not name.endswith(".onnx") or config not in files:
        return False
    path = files[config]
    return path is None or not {"piper_version", "espeak", "phoneme_id_map"}.isdisjoint(_json(path))


def _is_xtts(files: Mapping[str, Path | None]) -> bool:
    if not files.keys() >= _XTTS:
        return False
    path = files["config.json"]
    return path is None or _json(path).get("model") == "xtts"


def _quantised(files: Mapping[str, Path | None]) -> str:
    path = files.get("config.json")
    settings = _json(path).get("quantization_config") if path else None
    method = settings.get("quant_method") if isinstance(settings, dict) else None
    return method if method in ("awq", "gptq") else ""


def _json(path: Path) -> dict[str, Any]:
    """The file's object; empty where it is none, for a stranger's file need not be what its name says."""
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, OSError):
        return {}
    return value if isinstance(value, dict) else {}
