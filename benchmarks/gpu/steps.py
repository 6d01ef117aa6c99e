"""The steps of gpu-bench, in the order in which they are taken."""

from __future__ import annotations

import http.client
import json
import mmap
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from . import bare
from .alone import Alone, Neighbour, held
from .report import Report

MIB = 2**20
EXCESS = 256 * MIB  # beyond what is tolerated
IN_TIME = 2.0  # seconds from an overrun to its end
RATIO = 0.9  # of bare torch, at equal batch
GIVE_UP = 60.0  # seconds after which nobody ended it
CLIENTS = 3  # so that one request's texts are read while another's are computed
CPU_BUDGET = "1536MiB"  # of each replica in a dry run
ENGINE = """
import json, sys
from argosy import registry
from argosy.runtime.detect import devices
loaded = registry.load()
device = next(one for one in devices(loaded, probe=True) if one.backend == sys.argv[1])
engine = next(one for one in loaded.backend(device.backend).offers(device, None, 0) if one.name == "torch")
print(json.dumps({"device": engine.device, "dtype": engine.dtype}))
"""


def child(arguments: list[str], environ: dict[str, str], said: Any = None) -> Any:
    """What `bare` writes, from a process of its own: this one opens no device."""
    command = [sys.executable, "-m", "benchmarks.gpu.bare", *arguments]
    done = subprocess.run(
        command, env=environ, input=json.dumps(said), stdout=subprocess.PIPE, text=True, check=True
    )  # fmt: skip
    return json.loads(done.stdout) if done.stdout.strip() else None


class Bench:
    def __init__(
        self, device: str, out: Path, environ: dict[str, str], report: Report, *,
        seconds: float, rounds: int, batch: int, length: int, size: str,
    ) -> None:  # fmt: skip
        self.device, self.out, self.environ, self.report = device, out, environ, report
        self.seconds, self.rounds = seconds, rounds
        self.batch, self.length, self.size = batch, length, size

    def run(self) -> None:
        self.detect()
        child(["make", str(self.out / "work/weights"), self.size], self.environ)
        texts, hog = (Alone(name, self._fleet(), self.environ, self.out / f"{name}.log") for name in ("texts", "hog"))
        try:
            for one in (texts, hog):
                one.wait()
            self.proof(texts, hog)
            self.speed(texts)
            with Neighbour(texts) as neighbour:
                self.refused(hog)
                self.ended(hog)
            found = f"{neighbour.answered} answered, {len(neighbour.failed)} failed, longest {neighbour.longest:.3f} s"
            self.report.bar(
                "the neighbour answers throughout", "no failed request", "; ".join([found, *neighbour.failed[:3]]),
                neighbour.answered > 0 and not neighbour.failed,
            )  # fmt: skip
        finally:
            for one in (texts, hog):
                one.stop()

    def detect(self) -> None:
        found = json.loads(self._argosy("detect", "--json"))
        mine = [one for one in found if one["backend"] == self.device]
        self.report.notes["devices"] = found
        named = ", ".join(f"{one['name']} ({one['architecture']})" for one in mine) or "none"
        self.report.bar(f"a usable {self.device} device is detected", "at least one", named,
                        any(one["usable"] for one in mine))  # fmt: skip
        tree = self.out / "tree.tar.gz"
        done = subprocess.run(
            [sys.executable, "-m", "argosy", "doctor", "--record", str(tree)],
            env=self.environ, capture_output=True, text=True, check=False,
        )  # fmt: skip
        (self.out / "doctor.log").write_text(done.stdout + done.stderr)
        size = tree.stat().st_size if tree.exists() else 0
        self.report.bar("the machine's tree is recorded", "tree.tar.gz", f"{size} bytes", size > 0)

    def proof(self, *services: Alone) -> None:
        """Ready by proof, and the backend names these very processes as holders of the device's memory."""
        sizes = held(self.device, [one.process.pid for one in services], self.environ)
        for one in services:
            mine = sizes.get(one.process.pid, 0)
            self.report.bar(
                f"{one.service} proves its device", "ready, holding memory there",
                f"{one.proof()}; {mine / MIB:.0f} MiB by the backend's word",
                one.proof().startswith("ready: ") and mine > 0,
            )  # fmt: skip

    def speed(self, texts: Alone) -> None:
        engine = json.loads(self._python(ENGINE, self.device))
        threads = int(self.report.notes.setdefault("threads", _cores(texts)))
        wanted = {
            "weights": str(self.out / "work/weights"), **engine, "batch": self.batch, "length": self.length,
            "seconds": self.seconds, "threads": threads,
        }  # fmt: skip
        pairs = [(child(["rate"], self.environ, wanted), self._served(texts)) for _ in range(self.rounds)]
        ratio = statistics.median(served / alone for alone, served in pairs)
        self.report.notes["texts_per_second"] = [{"bare": alone, "served": served} for alone, served in pairs]
        self.report.notes["engine"] = {**engine, "batch": self.batch, "words": self.length, "weights": self.size}
        self.report.bar(
            "embeddings beside bare torch, at equal batch", f"at least {RATIO} of its rate",
            f"{ratio:.3f} (median of {self.rounds} rounds; bare {pairs[-1][0]:.0f}, served {pairs[-1][1]:.0f} texts/s)",
            ratio >= RATIO if self.device != "cpu" else None,
        )  # fmt: skip

    def _served(self, texts: Alone) -> float:
        """Texts a second through HTTP, by a few clients that send one batch a request."""
        body = {"input": bare.texts(self.batch, self.length), "encoding_format": "base64"}
        counts = [0] * CLIENTS
        start = time.monotonic() + bare.SECONDS  # what is answered before does not count

        def ask(mine: int) -> None:
            connection = texts.connect()
            while (now := time.monotonic()) < start + self.seconds:
                texts.ask(body, "/v1/embeddings", connection)
                counts[mine] += self.batch if now >= start else 0
            connection.close()

        clients = [threading.Thread(target=ask, args=(mine,)) for mine in range(CLIENTS)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        return sum(counts) / (time.monotonic() - start)

    def refused(self, hog: Alone) -> None:
        """Through torch, over-allocation is refused inside the process, which lives on."""
        wanted = "torch refuses, the process lives"
        if self.device == "cpu":
            self.report.bar("over-allocation through torch", wanted, "torch caps nothing on a processor", None)
            return
        answer = hog.ask({"how": "torch", "bytes": int(self._budget(hog) * 1.25)})
        alive = hog.ask({"how": "none"})["pid"] == hog.process.pid
        self.report.bar("over-allocation through torch", wanted, answer["refused"] or "it was given",
                        bool(answer["refused"]) and alive)  # fmt: skip

    def ended(self, hog: Alone) -> None:
        """Past torch, the watchdog ends the process in time."""
        budget = self._budget(hog)
        over: list[float] = []

        def ask() -> None:
            try:
                answer = hog.ask({"how": "raw", "bytes": allowed(budget) + EXCESS})
            except (OSError, http.client.HTTPException):
                return  # ended before it could answer
            self.report.notes["raw_allocation"] = answer["refused"] or "given"

        asking = threading.Thread(target=ask)
        began = time.monotonic()
        asking.start()
        while (code := hog.process.poll()) is None and time.monotonic() - began < GIVE_UP:
            # The driver gives memory of a GPU in an instant: there the overrun begins with the request.
            if not over and (self.device != "cpu" or resident(hog.process.pid) > allowed(budget)):
                over.append(time.monotonic() if self.device == "cpu" else began)
            time.sleep(0.01)
        took = time.monotonic() - (over[0] if over else began)
        if code is None:
            hog.process.kill()
        asking.join()
        said = next((line for line in hog.words().splitlines() if ": ended" in line), "no word of the watchdog")
        self.report.bar(
            "over-allocation past torch", f"ended within {IN_TIME:g} s", f"exit {code} after {took:.2f} s; {said}",
            code == -9 and bool(over) and took <= IN_TIME and ": ended" in said,
        )  # fmt: skip

    def _budget(self, hog: Alone) -> int:
        """Bytes, as the replica's own metrics say."""
        way = hog.connect()
        way.request("GET", "/metrics")
        for line in way.getresponse().read().decode().splitlines():
            if line.startswith("argosy_replica_budget_bytes"):
                way.close()
                return int(float(line.rsplit(" ", 1)[1]))
        raise SystemExit("gpu-bench: the hog has no budget in /metrics")

    def _fleet(self) -> Path:
        """Two services with half of the device each; of a processor, where a half is too much to overrun, little."""
        part: dict[str, Any] = {"memory": CPU_BUDGET} if self.device == "cpu" else {"share": 0.5}
        common = {"device": self.device, "engine": "torch", **part}
        services = {
            "texts": {"plugin": "embeddings", "model": f"file://{self.out / 'work/weights'}", **common},
            "hog": {"plugin": "hog", **common},
        }
        file = self.out / "work/fleet.yaml"
        file.write_text(json.dumps({"version": 1, "services": services}))  # JSON is YAML
        return file

    def _argosy(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "argosy", *arguments]
        return subprocess.run(command, env=self.environ, capture_output=True, text=True, check=True).stdout

    def _python(self, script: str, *arguments: str) -> str:
        command = [sys.executable, "-c", script, *arguments]
        return subprocess.run(command, env=self.environ, capture_output=True, text=True, check=True).stdout


def allowed(budget: int) -> int:
    """Bytes that the watchdog lets a replica hold, as docs/nodes.md says."""
    return budget + max(64 * MIB, budget // 50)


def resident(pid: int) -> int:
    """Bytes; 0 for a process that is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * mmap.PAGESIZE
    except (OSError, IndexError):
        return 0


def _cores(service: Alone) -> int:
    """As its first line says: `…, share 0.5, 2 cores; …`."""
    return int(service.words().split(" cores;")[0].rsplit(" ", 1)[1])
