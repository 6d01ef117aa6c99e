"""What NVML adds to the files, and the process in which it is asked."""

from __future__ import annotations

import inspect
import json
import os
import signal
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from nvml_stub import GIB, H100, MIB, RTX_2070, SLICES, STUB, UUID, Driver

from argosy import machine
from argosy.engines import Vllm
from argosy.testing.machines import MACHINES, trees
from argosy_cuda import Cuda, nvml, probed


@pytest.fixture(autouse=True)
def on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever these tests run."""
    monkeypatch.setattr(machine, "HOST_PIDS", os.readlink("/proc/self/ns/pid"))


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    return Driver.installed(tmp_path, monkeypatch)


def test_the_stub_takes_what_the_binding_takes() -> None:
    import pynvml

    space: dict[str, Any] = {}
    exec(STUB, space)
    ours = {name: function for name, function in space.items() if name.startswith("nvml") and callable(function)}
    assert len(ours) == 17
    for name, function in ours.items():
        real = inspect.signature(getattr(pynvml, name)).parameters
        given = inspect.signature(function).parameters
        assert [p.default for p in given.values()] == [p.default for p in list(real.values())[: len(given)]], name
        assert all(p.default is not p.empty for p in list(real.values())[len(given) :]), name
    constants = ("nvmlMemory_v2", "NVML_DEVICE_MIG_ENABLE")
    assert [getattr(pynvml, name) for name in constants] == [space[name] for name in constants]


def test_nvml_tells_the_memory_that_files_do_not(driver: Driver, tmp_path: Path) -> None:
    MACHINES["rtx-2070"].build(tmp_path)
    driver.say(RTX_2070, driver="581.10")
    cuda = Cuda()
    (found,) = cuda.detect(tmp_path)
    (known,) = cuda.probe([found])
    assert (found.memory_bytes, known.memory_bytes) == (None, 8 * GIB - 225 * MIB)
    assert (known.architecture, known.identity, known.driver) == ("sm_75", UUID, "nvidia 581.10")
    assert known.usable


def test_a_described_reply_of_nvml_is_understood(tmp_path: Path) -> None:
    MACHINES["h100"].build(tmp_path)
    (found,) = Cuda().detect(tmp_path)
    reply = json.loads(
        '{"uuid": "GPU-00000009-0000-0000-0000-000000000000", "name": "NVIDIA H100 80GB HBM3", "memory": 84942979072,'
        ' "pci": "0000:19:00.0", "capability": "90", "driver": "580.95.05", "cut": false, "slices": []}'
    )
    (known,) = probed(found, reply, ["build-torch: torch 2.14.0+cpu is not built for CUDA"])
    assert (known.memory_bytes, known.architecture, known.identity) == (84942979072, "sm_90", reply["uuid"])
    assert known.usable
    assert "torch" not in {offer.name for offer in Cuda().offers(known, GIB, 1)}
    assert Cuda().refuses(known)["torch"] == "build-torch: torch 2.14.0+cpu is not built for CUDA"


def test_a_gpu_that_is_cut_becomes_its_slices(driver: Driver, tmp_path: Path) -> None:
    trees.nvidia(tmp_path, "0000:19:00.0", "10de:2330", "NVIDIA H100 80GB HBM3", kind=0x030200, render=0, slices=2)
    driver.say(H100 | {"slices": SLICES})
    cuda = Cuda()
    (whole,) = cuda.detect(tmp_path)
    assert whole.problems == ("nv-mig: cut into 2 slices, whose names and sizes NVML alone tells",)
    assert not whole.usable
    slices = cuda.probe([whole])
    assert [one.identity for one in slices] == [one["uuid"] for one in SLICES]
    assert [one.index for one in slices] == [0, 1]
    assert all(one.usable and one.memory_bytes == 40 * GIB and one.architecture == "sm_90" for one in slices)
    assert all(one.name.endswith("MIG 3g.40gb") and one.pci == whole.pci for one in slices)
    assert cuda.environment(slices[1])["CUDA_VISIBLE_DEVICES"] == SLICES[1]["uuid"]
    driver.say(H100 | {"slices": [SLICES[0], SLICES[1] | {"compute": [[os.getpid(), GIB]]}]})
    assert [one.bytes for one in cuda.held(slices[1])] == [GIB]
    assert list(cuda.held(slices[0])) == []


def test_a_gpu_that_is_to_be_cut_and_is_not_yet_cannot_be_used(driver: Driver, tmp_path: Path) -> None:
    MACHINES["h100"].build(tmp_path)
    driver.say(H100 | {"slices": []})
    (whole,) = Cuda().probe(Cuda().detect(tmp_path))
    assert not whole.usable
    assert any(problem.startswith("nv-mig: ") for problem in whole.problems)


def test_a_chip_that_no_list_has_is_unknown_until_nvml_was_asked(driver: Driver, tmp_path: Path) -> None:
    trees.nvidia(tmp_path, "0000:01:00.0", "10de:3fff", "NVIDIA GeForce RTX 9070")
    driver.say(RTX_2070 | {"capability": [13, 0]})
    cuda = Cuda()
    (found,) = cuda.detect(tmp_path)
    assert (found.architecture, found.usable) == ("", True)
    assert cuda.offers(found, None, 1)[0] == Vllm(
        threads=1, device="cuda", dtype="half", attention="TRITON_ATTN", eager=True
    )
    assert cuda.probe([found])[0].architecture == "sm_130"


def test_what_nvml_does_not_list_is_left_as_it_was(driver: Driver, tmp_path: Path) -> None:
    MACHINES["rtx-2070"].build(tmp_path)
    driver.say(RTX_2070 | {"closed": True})
    cuda = Cuda()
    (found,) = cuda.detect(tmp_path)
    (known,) = cuda.probe([found])
    assert (known.memory_bytes, known.usable) == (None, True)
    driver.say(broken="Driver/library version mismatch")
    other = Cuda()
    assert other.probe([found])[0].memory_bytes is None
    assert other._nvml.why == "NVMLError: Driver/library version mismatch"


def test_a_device_that_cannot_be_used_is_not_asked_for(tmp_path: Path) -> None:
    trees.nvidia(tmp_path, "0000:01:00.0", "10de:1f02", "NVIDIA GeForce RTX 2070", driver="nouveau")
    found = Cuda().detect(tmp_path)
    assert Cuda().probe(found) == found


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="there is an NVIDIA driver here")
def test_without_a_driver_nvml_says_so_and_nothing_is_raised(tmp_path: Path) -> None:
    MACHINES["rtx-2070"].build(tmp_path)
    cuda = Cuda()
    (known,) = cuda.probe(cuda.detect(tmp_path))
    assert known.memory_bytes is None
    assert "NVMLError_LibraryNotFound" in cuda._nvml.why
    assert list(cuda.held(known, [os.getpid()])) == []
    assert "pynvml" not in sys.modules or "pynvml" in str(sys.modules["pynvml"].__file__)


# NVML's process ------------------------------------------------------------------------------------------------------


def test_the_second_question_is_answered_within_100_ms(driver: Driver) -> None:
    driver.say(RTX_2070)
    client = nvml.Nvml()
    assert client.ask("held", UUID) == []
    seconds = []
    for _ in range(9):
        began = time.perf_counter()
        assert client.ask("held", UUID) == []
        seconds.append(time.perf_counter() - began)
    assert statistics.median(seconds) < 0.1


def test_a_driver_that_hangs_is_not_waited_for_and_the_next_question_is_answered(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.say(RTX_2070)
    client = nvml.Nvml()
    assert client.ask("held", UUID) == []
    monkeypatch.setattr(nvml, "ANSWER_SECONDS", 0.2)
    driver.say(RTX_2070, hangs=30)
    began = time.monotonic()
    assert client.ask("held", UUID) is None
    assert time.monotonic() - began < 5
    assert "NVML gave no answer" in client.why
    driver.say(RTX_2070)
    assert client.ask("held", UUID) == []


def test_a_process_that_was_killed_is_started_again_and_ends_with_its_client(driver: Driver) -> None:
    driver.say(RTX_2070)
    client = nvml.Nvml()
    assert client.ask("held", UUID) == []
    first = client._process
    assert first is not None
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert client.ask("held", UUID) == []
    second = client._process
    assert second is not None
    assert second.pid != first.pid
    del client
    assert second.returncode == 0


def test_a_process_that_nobody_asks_ends(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.say(RTX_2070)
    client = nvml.Nvml()
    source = Path(nvml.__file__).read_text()
    impatient = driver.file.with_name("impatient.py")
    impatient.write_text(source.replace("IDLE_SECONDS = 60.0", "IDLE_SECONDS = 0.2"))
    assert "IDLE_SECONDS = 0.2" in impatient.read_text()
    monkeypatch.setattr(nvml, "__file__", str(impatient))
    assert client.ask("held", UUID) == []
    process = client._process
    assert process is not None
    assert process.wait(5) == 0
    assert client.ask("held", UUID) == []


def test_who_holds_memory_is_told_for_all_and_nothing_is_a_figure_too(driver: Driver, tmp_path: Path) -> None:
    MACHINES["rtx-2070"].build(tmp_path)
    me, parent = os.getpid(), os.getppid()
    driver.say(
        RTX_2070
        | {"compute": [[me, 3 * GIB], [parent, None]], "graphics": [[me, 2 * GIB], [1, MIB]], "mps": [[2, GIB]]}
    )
    cuda = Cuda()
    (device,) = cuda.detect(tmp_path)
    assert {one.pid: one.bytes for one in cuda.held(device)} == {me: 3 * GIB, 1: MIB, 2: GIB}
    assert {one.pid: one.bytes for one in cuda.held(device, [me, 7])} == {me: 3 * GIB, 1: MIB, 2: GIB, 7: 0}
    # One that has ended meanwhile, or is hidden from us: that ours are not among them says nothing.
    driver.say(RTX_2070 | {"compute": [[4_000_000, GIB]]})
    assert {one.pid: one.bytes for one in cuda.held(device, [me])} == {4_000_000: GIB}


def test_in_a_container_a_stranger_with_the_number_of_a_replica_is_not_taken_for_it(
    driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    MACHINES["rtx-2070"].build(tmp_path)
    driver.say(RTX_2070 | {"compute": [[os.getpid(), 7 * GIB]]})
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    cuda = Cuda()
    (device,) = cuda.detect(tmp_path)
    assert [one.bytes for one in cuda.held(device, [os.getpid()])] == [7 * GIB]
    assert cuda.enforcement(device) == "watched"
    monkeypatch.setattr(machine, "HOST_PIDS", "pid:[1]")
    assert list(cuda.held(device, [os.getpid()])) == []
    assert cuda.enforcement(device) == "counted"
    assert [one.bytes for one in cuda.held(device)] == [7 * GIB]  # that somebody holds it is so all the same
