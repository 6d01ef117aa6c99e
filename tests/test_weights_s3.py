"""Weights from an object store: the real boto3 against a small store on loopback."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest

from argosy.errors import WeightsError
from argosy.fleet.sources import parse_model
from argosy.fleet.weights import Allow, Weights, fetch, measure

pytest.importorskip("boto3", reason="boto3 is not installed: pip install 'argosy[s3]'")


class Store:
    """Objects of the bucket `models`, by key; `cut` closes the connection after so many bytes, once each."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        self.sha256 = True  # the store states it
        self.checksums: dict[str, bytes] = {}  # states that of other bytes
        self.cut: list[int] = []
        self.ranges: list[str] = []


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Store]:
    store = Store()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self._object(body=False)

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            if "list-type" in parse_qs(url.query):
                self._list(parse_qs(url.query).get("prefix", [""])[0])
            else:
                self._object(body=True)

        def _list(self, prefix: str) -> None:
            rows = "".join(
                f"<Contents><Key>{escape(key)}</Key><Size>{len(data)}</Size><ETag>{self._etag(key)}</ETag></Contents>"
                for key, data in sorted(store.objects.items())
                if key.startswith(prefix)
            )
            text = f"<?xml version='1.0'?><ListBucketResult><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>"
            self._send(200, {"Content-Type": "application/xml"}, text.encode())

        def _object(self, body: bool) -> None:
            key = unquote(urlsplit(self.path).path).removeprefix("/models/")
            data = store.objects[key]
            wanted = self.headers.get("Range")
            headers = {"ETag": self._etag(key), "Last-Modified": formatdate(usegmt=True)}
            if store.sha256 and not wanted:
                headers["x-amz-checksum-sha256"] = base64.b64encode(
                    hashlib.sha256(store.checksums.get(key, data)).digest()
                ).decode()
                headers["x-amz-checksum-type"] = "FULL_OBJECT"
            if not wanted:
                return self._send(200, headers, data, body)
            store.ranges.append(wanted)
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self._send(206, headers, data[start:], body, store.cut.pop(0) if store.cut else None)

        def _etag(self, key: str) -> str:
            return store.etags.get(key) or f'"{hashlib.md5(store.objects[key]).hexdigest()}"'

        def _send(
            self, status: int, headers: dict[str, str], data: bytes, body: bool = True, cut: int | None = None
        ) -> None:
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(data))}).items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(data[:cut])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    yield store
    server.shutdown()
    server.server_close()
    thread.join()


def get(tmp_path: Path, text: str, *allow: str, offline: bool = False) -> Weights:
    return fetch(parse_model(text, tmp_path), tmp_path / "cache", allow=Allow.of(allow), offline=offline)


def test_everything_below_a_prefix_comes_and_is_there_offline(store: Store, tmp_path: Path) -> None:
    store.objects = {"tiny/model.safetensors": b"w" * 1000, "tiny/config.json": b"{}", "tiny2/other.json": b"{}"}
    listing = measure(parse_model("s3://models/tiny", tmp_path), tmp_path / "cache", allow=Allow(), offline=False)
    assert (listing.total, listing.download) == (1002, 1002)
    assert store.ranges == []
    weights = get(tmp_path, "s3://models/tiny")
    assert [file.name for file in weights.files] == ["config.json", "model.safetensors"]
    assert weights.format == "safetensors"
    store.ranges.clear()
    assert get(tmp_path, "s3://models/tiny").digest == weights.digest
    assert get(tmp_path, "s3://models/tiny", offline=True).digest == weights.digest
    assert store.ranges == []


def test_an_object_goes_on_where_the_connection_was_cut(store: Store, tmp_path: Path) -> None:
    data = store.objects["big.gguf"] = bytes(range(256)) * 50_000
    store.cut = [9_000_000]
    assert get(tmp_path, "s3://models/big.gguf").one(".gguf").read_bytes() == data
    assert store.ranges[0] == "bytes=0-"
    assert 0 < int(store.ranges[1].removeprefix("bytes=").rstrip("-")) <= 9_000_000


def test_an_object_that_is_not_what_its_etag_says_is_refused(store: Store, tmp_path: Path) -> None:
    store.objects["a.gguf"], store.sha256 = b"damaged", False
    store.etags["a.gguf"] = f'"{hashlib.md5(b"as it was sent").hexdigest()}"'
    with pytest.raises(WeightsError, match="with md5"):
        get(tmp_path, "s3://models/a.gguf")


def test_an_object_that_is_not_what_its_checksum_says_is_refused(store: Store, tmp_path: Path) -> None:
    store.objects["a.gguf"] = b"damaged"
    store.checksums["a.gguf"] = b"as it was sent"
    with pytest.raises(WeightsError, match="with sha256"):
        get(tmp_path, "s3://models/a.gguf")


def test_pickles_are_refused_and_absent_prefixes_named(store: Store, tmp_path: Path) -> None:
    store.objects = {"p/model.pt": b"x"}
    with pytest.raises(WeightsError, match=r"allow: \[model\.pt\]"):
        get(tmp_path, "s3://models/p")
    assert [file.name for file in get(tmp_path, "s3://models/p", "model.pt").files] == ["model.pt"]
    with pytest.raises(WeightsError, match="no object of that name or below it"):
        get(tmp_path, "s3://models/gone")
