"""`argosy run-one` as a process: its address, its words, how it is asked, and what its device says of it."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

START_SECONDS = 300.0
HELD = """
import json, sys
from argosy import registry
from argosy.runtime.detect import devices
wanted, *pids = sys.argv[1:]
loaded = registry.load()
device = next(one for one in devices(loaded, probe=True) if one.backend == wanted)
held = loaded.backend(wanted).held(device, {int(pid) for pid in pids})
print(json.dumps({one.pid: one.bytes for one in held}))
"""


class Alone:
    """One service of a fleet file. What it says on standard error is kept in a file."""

    def __init__(self, service: str, file: Path, environ: dict[str, str], log: Path) -> None:
        self.service, self.log = service, log
        command = [sys.executable, "-m", "argosy", "run-one", service, "-f", str(file), "--port", "0"]
        with log.open("wb") as out:
            self.process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=out)

    def words(self) -> str:
        return self.log.read_text(errors="replace")

    def wait(self) -> None:
        """Until it answers. SystemExit with its words when it ends before, or takes too long."""
        end = time.monotonic() + START_SECONDS
        while "answering on " not in self.words():
            if self.process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"gpu-bench: {self.service} did not start:\n{self.words()[-3000:]}")
            time.sleep(0.1)
        self.port = int(self.words().split("answering on http://127.0.0.1:")[1].split(",")[0])

    def proof(self) -> str:
        """The sentence with which it got Ready."""
        said = [line for line in self.words().splitlines() if line.startswith(("ready: ", "degraded: "))]
        return said[-1] if said else ""

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)

    def ask(self, body: Any, path: str = "/", connection: http.client.HTTPConnection | None = None) -> Any:
        """The JSON of its answer. OSError or HTTPException where it gives none, ValueError for an error's status."""
        way = connection or self.connect()
        try:
            way.request("POST", path, json.dumps(body), {"content-type": "application/json"})
            answer = way.getresponse()
            said = answer.read()
        finally:
            if connection is None:
                way.close()
        if answer.status != 200:
            raise ValueError(f"{answer.status} {said[:300]!r}")
        return json.loads(said)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass
class Neighbour:
    """Asks a service one text after another, and notes what was not answered and the longest wait."""

    service: Alone
    answered: int = 0
    failed: list[str] = field(default_factory=list)
    longest: float = 0.0
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Neighbour:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            try:
                self.service.ask({"input": "w1 w2 w3"}, "/v1/embeddings")
                self.answered += 1
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.failed.append(f"{type(error).__name__}: {error}")
            self.longest = max(self.longest, time.monotonic() - began)


def held(backend: str, pids: list[int], environ: dict[str, str]) -> dict[int, int]:
    """Bytes that processes hold on the backend's first device, as the backend tells."""
    command = [sys.executable, "-c", HELD, backend, *map(str, pids)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    return {int(pid): size for pid, size in json.loads(done.stdout).items()}
