"""Weights in another format than the engine reads: made once by the plugin, or refused with what was found."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from argosy import Options, tasks
from argosy.errors import WeightsError
from argosy.fleet.sources import parse_model
from argosy.fleet.weights import Allow, Weights, fetch
from argosy.model import Implementation, Model
from argosy.runtime.converted import converted, readable


class Plain(Model):
    """Reads ONNX alone."""

    name = "plain"
    task = tasks.embedding

    def predict(self, batch: Any) -> Any:
        return batch


class Converting(Plain):
    """Makes ONNX of GGUF, and counts how often."""

    name = "converting"
    made: list[Path] = []  # noqa: RUF012 - counted across threads

    @staticmethod
    def convert(source: Path, target: Path, options: Any) -> None:
        Converting.made.append(target)
        (target / "model.onnx").write_bytes((source / "model.gguf").read_bytes()[::-1])


class Breaking(Plain):
    name = "breaking"

    @staticmethod
    def convert(source: Path, target: Path, options: Any) -> None:
        (target / "half").write_text("made")
        raise OSError("the tool is missing")


@pytest.fixture
def gguf(tmp_path: Path) -> Weights:
    Converting.made.clear()
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(60))
    source = parse_model("file://model.gguf", tmp_path)
    return fetch(source, tmp_path / "cache", allow=Allow(), offline=True)


def way(model: type[Model], *formats: str) -> Implementation:
    return Implementation("openvino", formats, model)


def test_weights_that_are_read_as_they_are_stay_as_they_are(gguf: Weights, tmp_path: Path) -> None:
    assert converted(gguf, way(Converting, "onnx", "gguf"), Options(), tmp_path / "cache", print) is gguf
    assert converted(gguf, way(Plain), Options(), tmp_path / "cache", print) is gguf
    assert Converting.made == []


def test_weights_in_another_format_are_made_once_for_all_that_want_them(gguf: Weights, tmp_path: Path) -> None:
    told: list[str] = []
    found: list[Weights] = []

    def want() -> None:
        found.append(converted(gguf, way(Converting, "onnx"), Options(), tmp_path / "cache", told.append))

    threads = [threading.Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Converting.made) == 1
    assert told == ["converting gguf for openvino"]
    assert len({weights.digest for weights in found}) == 1
    assert found[0].format == "onnx"
    assert (found[0] / "model.onnx").read_bytes() == bytes(60) + b"FUGG"


def test_without_convert_the_refusal_names_both_formats(gguf: Weights, tmp_path: Path) -> None:
    assert not readable(way(Plain, "onnx"), gguf.formats)
    with pytest.raises(WeightsError, match="openvino in onnx; found: gguf"):
        converted(gguf, way(Plain, "onnx"), Options(), tmp_path / "cache", print)


def test_a_conversion_that_fails_is_told_and_leaves_nothing_behind(gguf: Weights, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="the tool is missing"):
        converted(gguf, way(Breaking, "onnx"), Options(), tmp_path / "cache", print)
    with pytest.raises(WeightsError, match="the tool is missing"):
        converted(gguf, way(Breaking, "onnx"), Options(), tmp_path / "cache", print)
