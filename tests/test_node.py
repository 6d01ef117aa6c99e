"""`argosy node`: what Ray is told of a machine, which switches it gets, and the server that enforces shares."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import typer
from conftest import ROOT
from typer.testing import CliRunner

import argosy_cuda
from argosy import machine
from argosy.backend import Device, ShareServer
from argosy.cli import node as command
from argosy.errors import ClusterError
from argosy.registry import Registry
from argosy.runtime import survey, watchdog
from argosy.serve import entry, flags, turns
from argosy.serve.node import Start, arguments
from argosy.testing import MockBackend
from argosy.testing.fleet import installed

CPU = Device(backend="cpu", name="A Processor", architecture="x86-64", index=3, cores=8)
NOVA = Device(backend="nova", name="Nova 1", architecture="nv_1", pci="0000:01:00.0", index=0)
ORION = Device(backend="orion", name="Orion 7", architecture="or7", pci="0000:02:00.0", index=1)
BROKEN = Device(backend="orion", name="Orion 8", architecture="or8", pci="0000:03:00.0", index=2, usable=False)


def told(name: str, devices: Sequence[Device]) -> dict[str, str]:
    return dict(one.removeprefix("--").split("=", 1) for one in arguments(name, devices))


def test_every_usable_device_is_a_resource_of_capacity_one_and_ray_sees_no_gpu() -> None:
    found = told("box", (NOVA, ORION, BROKEN, CPU))
    assert found["num-gpus"] == "0"
    assert json.loads(found["resources"]) == {"argosy-device-0": 1, "argosy-device-1": 1, "argosy-device-3": 1}
    assert found["labels"] == "argosy.io/node=box,argosy.io/backend=cpu.nova.orion"


def test_a_machine_without_a_usable_device_is_a_node_all_the_same() -> None:
    found = told("box", (BROKEN,))
    assert (json.loads(found["resources"]), found["labels"]) == ({}, "argosy.io/node=box,argosy.io/backend=none")


def test_a_head_and_a_further_machine_get_ray_s_own_words() -> None:
    head = Start(name="one", devices=(NOVA,), listen="10.0.0.5", port=6400).command()
    assert head[1:5] == ["start", "--head", "--port=6400", "--node-ip-address=10.0.0.5"]
    further = Start(name="two", devices=(NOVA,), address="10.0.0.5:6400", more=("--min-worker-port=20000",)).command()
    assert further[1:4] == ["start", "--address=10.0.0.5:6400", "--block"]
    assert further[-1] == "--min-worker-port=20000"


def test_ray_s_authentication_has_to_be_said(tmp_path: Path) -> None:
    start = Start(name="one", devices=(), address="10.0.0.5:6400")
    for environ in ({}, {"RAY_AUTH_MODE": "maybe"}):
        with pytest.raises(ClusterError) as refused:
            start.environment(environ, tmp_path, haproxy=False)
        assert "RAY_AUTH_TOKEN_PATH" in refused.value.fix
    found = start.environment({"RAY_AUTH_MODE": "token", "RAY_worker_niceness": "5"}, tmp_path, haproxy=False)
    assert (found["RAY_AUTH_MODE"], found["RAY_worker_niceness"]) == ("token", "5"), "what the operator says holds"
    assert found.items() >= {name: value for name, value in flags.common().items() if "niceness" not in name}.items()


@pytest.mark.parametrize(
    ("start", "loopback"),
    [
        (Start(name="one", devices=(), listen="127.0.0.1"), True),
        (Start(name="one", devices=(), address="127.0.0.1:6379"), False),
        (Start(name="one", devices=(), address="10.0.0.5:6379"), False),
        (Start(name="one", devices=()), False),
    ],
)
def test_a_head_on_loopback_listens_there_alone(start: Start, loopback: bool, tmp_path: Path) -> None:
    found = start.environment({"RAY_AUTH_MODE": "disabled"}, tmp_path, haproxy=False)
    assert (flags.LOOPBACK.items() <= found.items()) is loopback


@pytest.mark.parametrize("head", ["127.0.0.1:6379", "localhost:6379", "[::1]:6379"])
def test_a_head_that_listens_on_its_own_machine_alone_cannot_be_joined(head: str) -> None:
    with pytest.raises(ClusterError, match="argosy node --head --listen ADDRESS"):
        Start(name="two", devices=(), address=head).check()
    Start(name="two", devices=(), address="10.0.0.5:6379").check()


# What Ray would see on a machine whose owner installed other vendors' libraries, and set a mask.
STUBS = {
    "amdsmi": "class AmdSmiInitFlags: INIT_AMD_GPUS = 2\nclass AmdSmiMemoryType: VRAM = 0\n"
    "class AmdSmiLibraryException(Exception): pass\ndef amdsmi_init(*_): pass\ndef amdsmi_shut_down(*_): pass\n"
    "def amdsmi_get_processor_handles(): return [1, 2]\n"
    "def amdsmi_get_gpu_asic_info(_): return {'device_id': '0x74a1'}\n",
    "dpctl": "class SyclContext:\n    device_count = 1\n    def __init__(self, *_): pass\n",
}
RESOLVE = """
import os
from ray._private import accelerators
from ray._private.resource_and_label_spec import ResourceAndLabelSpec
manager = accelerators.get_accelerator_manager_for_resource("GPU")
print(manager.__name__, manager.get_current_node_num_accelerators())
spec = ResourceAndLabelSpec(1, 0, 2**30, 2**28, {"argosy-device-0": 1.0}, labels={"argosy.io/node": "box"})
spec = spec.resolve(is_head=False, node_ip_address="127.0.0.1") or spec
print(sorted(name for name in spec.to_resource_dict() if "GPU" in name or "accelerator" in name), flush=True)
print(sorted(name for name in spec.labels if "accelerator" in name))
before = dict(os.environ)
manager.get_current_process_visible_accelerator_ids()
manager.set_current_process_visible_accelerator_ids(["0"])
print(dict(os.environ) == before)
"""


def test_ray_s_own_detection_neither_contradicts_ours_nor_stops_a_worker(tmp_path: Path) -> None:
    for name, text in STUBS.items():
        (tmp_path / f"{name}.py").write_text(text)
    environ = {**os.environ, "PYTHONPATH": str(tmp_path), "ROCR_VISIBLE_DEVICES": "1", "RAY_SOMETHING": "else"}
    environment = {**flags.inherited(environ), **flags.common()}
    done = subprocess.run([sys.executable, "-c", RESOLVE], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:4] == ["AMDGPUAcceleratorManager 2", "[]", "[]", "True"]
    as_it_was = subprocess.run(
        [sys.executable, "-c", RESOLVE], env=environ, capture_output=True, text=True, check=False
    )
    assert "Please use HIP_VISIBLE_DEVICES instead of ROCR_VISIBLE_DEVICES" in as_it_was.stderr, "Ray's trap is gone"


# A share server as vendors write them: the command that starts it returns, and it runs on; another one ends it.
SERVER = """
import os, sys, pathlib, signal
folder = pathlib.Path(os.environ["NOVA_SHARE_FOLDER"])
if sys.argv[1] == "stop":
    os.kill(int((folder / "pid").read_text()), signal.SIGTERM)
    (folder.parent.parent / "stopped").write_text(sys.stdin.read())
elif (child := os.fork()) == 0:
    os.close(1), os.close(2)  # whoever started it waits for the end of its output
    signal.pause()
else:
    (folder / "pid").write_text(str(child))
"""


class Nova(MockBackend):
    """A vendor with a server of its own."""

    script = SERVER

    def share_server(self, devices: Sequence[Device], folder: Path) -> ShareServer:
        call = (sys.executable, "-c", self.script)
        environment = {"NOVA_SHARE_FOLDER": str(folder)}
        return ShareServer(start=(*call, "start"), stop=(*call, "stop"), say="quit\n", environment=environment)


class Failing(Nova):
    script = "import sys; sys.exit('no permission for the device')"


def registry(*backends: MockBackend) -> Registry:
    base = installed()
    return Registry(base.plugins, base.models, {one.name: one for one in backends}, base.engines)


def lives(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_a_share_server_runs_while_the_node_does_and_not_longer(tmp_path: Path) -> None:
    nova, other = Nova("nova"), MockBackend("other")
    devices = [*nova.detect(), *other.detect()]
    with command.sharing(registry(nova, other), devices, tmp_path / "share", wanted=True) as environment:
        folder = Path(environment["NOVA_SHARE_FOLDER"])
        pid = int((folder / "pid").read_text())
        assert lives(pid)
    end = time.monotonic() + 5
    while lives(pid):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert (tmp_path / "stopped").read_text() == "quit\n"


def test_one_that_does_not_start_is_told_and_ends_those_before_it(tmp_path: Path) -> None:
    nova, zeta = Nova("nova"), Failing("zeta")
    with (
        pytest.raises(ClusterError, match="no permission for the device"),
        command.sharing(registry(nova, zeta), [*nova.detect(), *zeta.detect()], tmp_path / "share", wanted=True),
    ):
        raise AssertionError("it must not come this far")
    assert (tmp_path / "stopped").exists()


def test_mps_without_a_vendor_that_has_it_is_refused(tmp_path: Path) -> None:
    other = MockBackend("other")
    with (
        pytest.raises(ClusterError, match="a device whose vendor has a share server"),
        command.sharing(registry(other), other.detect(), tmp_path / "share", wanted=True),
    ):
        raise AssertionError("it must not come this far")


def test_nothing_is_started_unless_it_is_asked_for(tmp_path: Path) -> None:
    nova = Failing("nova")
    with command.sharing(registry(nova), nova.detect(), tmp_path / "share", wanted=False) as environment:
        assert environment == {}


MPS_CONTROL = f"""#!{sys.executable} -I
# Listens as the daemon does, in the background, and ends when it is told to quit.
import os, socket, sys
os.chdir(os.environ["CUDA_MPS_PIPE_DIRECTORY"])
line = socket.socket(socket.AF_UNIX)
if sys.argv[1:] == ["-d"]:
    line.bind("control")
    line.listen()
    if os.fork():
        os._exit(0)
    for number in range(3):
        os.dup2(os.open(os.devnull, os.O_RDWR), number)
    while (client := line.accept()[0]).recv(5) != b"quit\\n":
        pass
    line.close()
else:
    line.connect("control")
    line.sendall(sys.stdin.readline().encode())
    line.recv(1)  # until it has ended
"""


def test_mps_runs_with_its_pipe_where_replicas_look_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "bin/nvidia-cuda-mps-control"
    tool.parent.mkdir()
    tool.write_text(MPS_CONTROL)
    tool.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(machine, "HOST_PIDS", os.readlink("/proc/self/ns/pid"))  # wherever this runs
    cuda = argosy_cuda.Cuda()
    card = Device(backend="cuda", name="A card", architecture="sm_90", memory_bytes=80 * 2**30, identity="GPU-1")
    assert cuda.enforcement(card) == "watched"
    base = registry()
    known = Registry(base.plugins, base.models, {"cuda": cuda}, base.engines)
    with command.sharing(known, [card], tmp_path / "share", wanted=True) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert cuda.enforcement(card) == "enforced"
        found = cuda.environment(card, share=0.25, budget=20 * 2**30)
        assert found["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=20480M"
        assert found["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "25"
    assert cuda.enforcement(card) == "watched"


def run(*arguments: str, environ: dict[str, str] | None = None) -> tuple[int, str]:
    app = typer.Typer()
    app.callback()(lambda: None)
    command.register(app)
    done = CliRunner().invoke(app, ["node", *arguments], env={"RAY_AUTH_MODE": None, **(environ or {})})
    return done.exit_code, done.output if done.exit_code == 0 else str(done.exception)


def test_print_gives_what_this_machine_alone_decides_or_the_whole_command() -> None:
    code, shown = run("--print", "--name", "box")
    assert code == 0
    assert shown.startswith("--num-gpus=0 '--resources={")
    assert "--labels=argosy.io/node=box,argosy.io/backend=" in shown
    code, shown = run("--print", "--address", "10.0.0.5:6379", "--", "--min-worker-port=20000")
    assert code == 0
    assert shown.startswith("--address=10.0.0.5:6379 --block --num-gpus=0 ")
    assert shown.endswith("--min-worker-port=20000\n")


class Sliced(MockBackend):
    """One card by files; its library tells that it is two slices."""

    def probe(self, devices: Sequence[Device]) -> Sequence[Device]:
        return [dataclasses.replace(one, identity=f"slice {part}") for one in devices for part in range(2)]


def test_devices_are_counted_as_control_counts_them_with_what_libraries_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    base = installed()
    known = Registry(base.plugins, base.models, {"mock": Sliced()}, base.engines)
    monkeypatch.setattr("argosy.registry.load", lambda: known)
    code, shown = run("--print", "--name", "box")
    assert code == 0
    resources = next(word for word in shlex.split(shown) if word.startswith("--resources="))
    control = survey.node(known).devices
    assert json.loads(resources.partition("=")[2]) == {f"argosy-device-{one.index}": 1 for one in control}
    assert len(control) == 2


def test_the_environment_can_be_printed_for_a_service_manager() -> None:
    code, shown = run("--environment", environ={"RAY_AUTH_MODE": "disabled"})
    assert code == 0
    assert "RAY_AUTH_MODE=disabled\n" in shown
    assert "HAPROXY" not in shown


@pytest.mark.parametrize("wrong", [(), ("--head", "--address", "10.0.0.5:6379")])
def test_a_node_either_joins_or_begins(wrong: tuple[str, ...]) -> None:
    assert "either --address HOST:PORT or --head" in run(*wrong)[1]


def test_a_head_that_does_not_answer_is_told_at_once() -> None:
    assert "a Ray cluster at 127.0.0.2:1;" in run("--address", "127.0.0.2:1")[1]


def test_the_page_on_nodes_says_what_the_code_does() -> None:
    page = (ROOT / "docs/nodes.md").read_text("utf-8")
    app = typer.Typer()
    app.callback()(lambda: None)
    command.register(app)
    options = typer.main.get_command(app).commands["node"].params  # type: ignore[attr-defined]
    known = {name for option in options for name in (*option.opts, *option.secondary_opts)}
    shown = {word for line in re.findall(r"argosy node( --[^\n`#]*)", page) for word in re.findall(r"--[a-z]+", line)}
    assert shown == {"--head", "--listen", "--address", "--name", "--print", "--environment", "--mps"}
    assert shown | {"--no-haproxy", "--port"} <= known
    text = " ".join(page.split())
    for said in ("The tolerance is 2 % of the budget, and at least 64 MiB", "ended three times in ten minutes"):
        assert said in text
    assert (watchdog.TOLERANCE, watchdog.LEAST_TOLERANCE) == (0.02, 64 * 2**20)
    assert (watchdog.LOOK_SECONDS, watchdog.SLOWEST_SECONDS) == (0.5, 1.0)
    assert (entry.OVERRUNS, entry.RECENT_SECONDS, turns.PATIENCE) == (3, 600, 60)
