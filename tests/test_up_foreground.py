"""`argosy up` in the foreground: it says what happens; Ctrl-C or SIGTERM leave nothing behind, whenever they come."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import yaml
from conftest import Running, free_port, stop

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(600)]

# Makes the pseudo-terminal the controlling one, so that a typed Ctrl-C is a SIGINT; then becomes the command.
TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


class Foreground:
    """`argosy up` of a fleet with the no-op alone, in a terminal of its own; `said` is what it wrote so far."""

    def __init__(self, folder: Path, *options: str) -> None:
        port = free_port()
        file = folder / "fleet.yaml"
        fleet = {"version": 1, "name": "front", "endpoint": {"port": port}}
        file.write_text(yaml.safe_dump({**fleet, "services": {"echo": {"plugin": "echo", "share": 0.1}}}))
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "ARGOSY_"))}
        state = {"ARGOSY_STATE": str(folder / "state"), "ARGOSY_CACHE": str(folder / "cache")}
        self.port = port
        self.fleet = Running(f"http://127.0.0.1:{port}", file, "front", {**clean, **state})
        self.said = ""
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", TERMINAL, "-m", "argosy", "up", "--no-dashboard", *options, str(file)],
            env={**self.fleet.environment, "TERM": "xterm", "COLUMNS": "120"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # a terminal that nobody holds any more
            while data := os.read(self._master, 4096):
                self.said += data.decode(errors="replace")

    def press(self, key: bytes) -> None:
        os.write(self._master, key)

    def until(self, true: Callable[[], bool], what: str, seconds: float = 240) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            assert self.process.poll() is None, (
                f"it ended with {self.process.returncode} before {what}:\n{self.said[-2000:]}"
            )
            assert time.monotonic() < deadline, f"no {what} within {seconds} s:\n{self.said[-2000:]}"
            time.sleep(0.02)

    def says(self, text: str) -> None:
        self.until(lambda: text in self.said, repr(text))

    def ends(self, seconds: float = 60) -> int:
        code = self.process.wait(seconds)
        self._reader.join(5)
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        stop(self.fleet)
        os.close(self._master)


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Foreground]:
    running = Foreground(tmp_path)
    try:
        yield running
    finally:
        running.close()


def temporary(front: Foreground) -> Path:
    from argosy.serve.home import Home

    return Home.of(Path(front.fleet.environment["ARGOSY_STATE"]), "front").temp


def nothing_is_left(front: Foreground) -> None:
    temp, state = str(temporary(front)), front.fleet.environment["ARGOSY_STATE"]
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            found = " ".join(process.cmdline()), process.environ().get("ARGOSY_STATE")
            assert temp not in found[0], f"{process.pid} is left: {found[0]}"
            assert state != found[1], f"{process.pid} is left: {found[0]}"
    assert not temporary(front).exists()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", front.port))


def test_it_tells_what_changes_and_ctrl_c_stops_everything(front: Foreground) -> None:
    front.says("starting Ray")
    front.says("Ctrl-C stops the fleet")
    assert "local/cpu:0" in front.said
    assert f"curl http://127.0.0.1:{front.port}/echo" in front.said
    (victim,) = front.fleet.pids("echo")
    before = len(front.said)
    os.kill(victim, signal.SIGKILL)
    front.until(lambda: "echo: starting" in front.said[before:], "word of the dead replica", 60)
    front.until(lambda: "echo: ready" in front.said[before:], "word of the new replica", 120)
    assert front.fleet.pids("echo") != [victim]
    front.press(b"\x03")
    assert front.ends() == 0, front.said[-2000:]
    assert "stopped" in front.said
    assert "Traceback" not in front.said
    nothing_is_left(front)


@pytest.mark.parametrize(
    ("moment", "number"),
    [("starting Ray", signal.SIGINT), ("placing services", signal.SIGTERM)],
    ids=["ray", "services"],
)
def test_ended_while_it_starts_it_leaves_nothing_behind(front: Foreground, moment: str, number: signal.Signals) -> None:
    front.says(moment)
    front.process.send_signal(number)
    assert front.ends() == 0, front.said[-2000:]
    assert "interrupted: stopping what was started" in front.said
    assert "Traceback" not in front.said
    nothing_is_left(front)


def test_stopped_by_another_command_it_ends_by_itself(front: Foreground) -> None:
    front.says("Ctrl-C stops the fleet")
    assert httpx.get(f"{front.fleet.url}/health/ready", trust_env=False).status_code == 200
    done = front.fleet.argosy("down")
    assert "stopped front" in done.stdout
    assert front.ends() == 0, front.said[-2000:]
    assert "another command stopped the fleet" in front.said
    assert "Traceback" not in front.said
    nothing_is_left(front)
