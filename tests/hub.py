"""A small model hub on loopback, which the real huggingface_hub client talks to.

It serves what that client and Argosy use: the listing of a repository, files by commit, large ones through a redirect
to another origin as the real hub does, and ranges. It can be told to fail, and remembers every request.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from safetensors.numpy import save

from argosy.fleet.sources import parse_model
from argosy.fleet.weights import Allow, Listing, Weights, fetch, measure

REPO = "sailor/compass"
HUB_MODEL = f"hf://{REPO}"
CHUNK = 10 * 1024 * 1024  # bytes that the client writes at a time, and so loses when a connection is cut
LARGE = 100_000  # bytes from which a file is stored as a large one, known by its sha256


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    method: str
    host: str
    path: str
    range: str
    authorization: str


@dataclass
class Fault:
    """What happens to the next answers that carry one file's bytes."""

    cut: list[int] = field(default_factory=list)  # bytes after which the connection closes, one entry per answer
    status: list[int] = field(default_factory=list)  # instead of an answer, once the cuts are used up
    corrupt: bool = False  # one wrong byte, every time
    ignore_range: bool = False
    hold: threading.Event | None = None  # after half of the bytes, wait for this


class Hub:
    """Use as a context manager; `url` is the endpoint."""

    def __init__(self) -> None:
        self.requests: list[Seen] = []
        self.faults: dict[str, Fault] = {}  # by file name
        self.gated: set[str] = set()
        self._trees: dict[tuple[str, str], dict[str, bytes]] = {}  # (repository, commit) -> files
        self._refs: dict[tuple[str, str], str] = {}
        self.plain: dict[str, bytes] = {}  # path -> content of files served by plain HTTP
        hub = self

        class Handler(_Handler):
            owner = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> Hub:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for fault in self.faults.values():
            if fault.hold:
                fault.hold.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def add(self, repo: str, files: Mapping[str, bytes], revision: str = "main") -> str:
        """Commit files as the whole content of a branch, and return the commit."""
        text = "".join(f"{name}{hashlib.sha1(data).hexdigest()}" for name, data in sorted(files.items()))
        commit = hashlib.sha1(f"{repo}{text}".encode()).hexdigest()
        self._trees[repo, commit] = dict(files)
        self._refs[repo, revision] = commit
        return commit

    def fault(self, name: str) -> Fault:
        return self.faults.setdefault(name, Fault())

    def bodies(self, name: str) -> list[Seen]:
        """The requests for one file's bytes."""
        return [seen for seen in self.requests if seen.method == "GET" and seen.path.endswith(f"/{name}")]

    def tree(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commit = self._refs.get((repo, revision), revision)
        files = self._trees.get((repo, commit))
        return None if files is None else (commit, files)

    def knows(self, repo: str) -> bool:
        return any(name == repo for name, _ in self._trees)


class _Handler(BaseHTTPRequestHandler):
    owner: Hub

    def log_message(self, *args: Any) -> None:
        """Tests read `requests` instead."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        hub, path = self.owner, unquote(urlsplit(self.path).path)
        headers = self.headers
        hub.requests.append(
            Seen(self.command, headers["Host"], path, headers.get("Range", ""), headers.get("Authorization", ""))
        )
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self._listing("/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main")
        elif parts[0] == "large":
            self._file(parts[-1], hub.plain[f"/{'/'.join(parts)}"], body)
        elif path in hub.plain:
            self._file(parts[-1], hub.plain[path], body)
        elif parts[2:3] == ["resolve"]:
            self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]), body)
        else:
            self._error(404, "EntryNotFound")

    def _listing(self, repo: str, revision: str) -> None:
        hub = self.owner
        if repo in hub.gated:
            return self._error(403, "GatedRepo")
        found = hub.tree(repo, revision)
        if found is None:
            return self._error(404, "RevisionNotFound" if hub.knows(repo) else "RepoNotFound")
        commit, files = found
        siblings = []
        for name, data in sorted(files.items()):
            one: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": git_id(data)}
            if len(data) >= LARGE:
                one["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            siblings.append(one)
        self._send(200, json.dumps({"id": repo, "sha": commit, "siblings": siblings}).encode())

    def _resolve(self, repo: str, revision: str, name: str, body: bool) -> None:
        found = self.owner.tree(repo, revision)
        if found is None or name not in found[1]:
            return self._error(404, "EntryNotFound")
        data = found[1][name]
        if len(data) < LARGE:
            return self._file(name, data, body)
        place = f"/large/{hashlib.sha256(data).hexdigest()}/{name.rpartition('/')[2]}"
        self.owner.plain[place] = data
        self.send_response(302)  # to another origin, which must not see the token
        self.send_header("Location", f"http://localhost:{self.server.server_address[1]}{place}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _file(self, name: str, data: bytes, body: bool) -> None:
        fault = self.owner.faults.get(name.rpartition("/")[2], Fault())
        if fault.corrupt:
            data = bytes([data[0] ^ 1]) + data[1:]
        start, wanted = 0, self.headers.get("Range")
        if body and not fault.cut and fault.status:
            return self._error(fault.status.pop(0), "")
        if wanted and not fault.ignore_range:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        rest = data[start:]
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if not body:
            return
        try:
            if fault.cut:
                self.wfile.write(rest[: fault.cut.pop(0)])
            elif fault.hold and not fault.hold.is_set():
                self.wfile.write(rest[: len(rest) // 2])
                self.wfile.flush()
                fault.hold.wait(60)
                self.wfile.write(rest[len(rest) // 2 :])
            else:
                self.wfile.write(rest)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # a client that was killed

    def _error(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def git_id(data: bytes) -> str:
    """The id that git gives a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Client:
    """measure and fetch against one hub and one cache, whose parent is the fleet file's folder."""

    def __init__(self, hub: Hub, cache: Path) -> None:
        self.hub, self.cache = hub, cache

    def measure(self, model: Any = HUB_MODEL, *, allow: tuple[str, ...] = (), offline: bool = False) -> Listing:
        parsed = parse_model(model, self.cache.parent)
        return measure(parsed, self.cache, allow=Allow.of(allow), offline=offline, endpoint=self.hub.url)

    def fetch(
        self, model: Any = HUB_MODEL, *, allow: tuple[str, ...] = (), offline: bool = False, **more: Any
    ) -> Weights:
        parsed = parse_model(model, self.cache.parent)
        return fetch(parsed, self.cache, allow=Allow.of(allow), offline=offline, endpoint=self.hub.url, **more)


def random_bytes(count: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(count)


def tensors(count: int = 60_000, seed: int = 0) -> bytes:
    return save({"embedding": np.random.default_rng(seed).random(count, dtype=np.float32)})


def model_files(**more: bytes) -> dict[str, bytes]:
    files = {
        "model.safetensors": tensors(),
        "config.json": b'{"hidden_size": 8}',
        "tokenizer.json": b'{"version": "1"}',
    }
    return files | {"README.md": b"# Compass"} | more
