"""Devices found from files alone, on every machine that is known, on worse ones, and on broken ones."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from argosy import machine, registry
from argosy.runtime.detect import devices, ruled_out
from argosy.testing.machines import MACHINES, Machine, trees

GIB, MIB = trees.GIB, trees.MIB
REGISTRY = registry.load()
VENDORS = {name: REGISTRY.backend(name) for name in ("cuda", "rocm", "xpu")}
NVIDIA = 0x10DE

every = pytest.mark.parametrize("known", MACHINES.values(), ids=MACHINES)


@every
def test_each_machine_is_recognised_exactly(known: Machine, tmp_path: Path) -> None:
    known.build(tmp_path)
    assert devices(REGISTRY, tmp_path) == known.expected


@every
def test_each_vendor_counts_its_own_and_says_why_it_is_ruled_out(known: Machine, tmp_path: Path) -> None:
    known.build(tmp_path)
    for name, backend in VENDORS.items():
        mine = [device for device in known.expected if device.backend == name]
        found = [dataclasses.replace(device, index=index) for index, device in enumerate(mine)]
        assert list(backend.detect(tmp_path)) == found
        why = backend.absent(tmp_path)
        assert (why == "") == any(device.usable for device in mine)
        assert all(problem in why for device in mine if not device.usable for problem in device.problems)


@every
def test_detection_takes_less_than_50_ms(known: Machine, tmp_path: Path) -> None:
    known.build(tmp_path)
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        for backend in VENDORS.values():
            backend.detect(tmp_path)
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.05


def test_machines_say_where_they_come_from_and_none_claims_to_be_recorded() -> None:
    assert len(MACHINES) >= 15
    assert all(known.source for known in MACHINES.values())
    assert not [known.name for known in MACHINES.values() if known.recorded]


LIBRARIES = {
    *("amdsmi", "dpctl", "intel_extension_for_pytorch", "onnxruntime", "openvino", "openvino_genai", "pynvml", "pyzes"),
    *("ctranslate2", "rocm_bootstrap", "torch", "vllm"),
}

# Detects in a process that has imported nothing yet, and says what it has afterwards, and what it read meanwhile.
CHILD = """
import json, sys
from pathlib import Path
root, read = Path(sys.argv[1]), set()
def heard(event, about):
    if event == "open" and str(about[0]).startswith(str(root)):
        read.add(str(Path(about[0]).relative_to(root)))
import argosy, argosy_cuda, argosy_rocm, argosy_xpu
backends = [*argosy_cuda.argosy_backends(), *argosy_rocm.argosy_backends(), *argosy_xpu.argosy_backends()]
sys.addaudithook(heard)
for backend in backends:
    backend.detect(root), backend.absent(root), backend.checks(root)
print(json.dumps({"modules": sorted(name.partition(".")[0] for name in sys.modules), "read": sorted(read)}))
"""


@pytest.mark.parametrize("name", ["workstation", "strix-halo-64", "core-ultra-9"])
def test_detection_imports_no_vendor_library_and_reads_what_a_recording_holds(name: str, tmp_path: Path) -> None:
    MACHINES[name].build(tmp_path)
    done = subprocess.run([sys.executable, "-c", CHILD, tmp_path], capture_output=True, text=True, check=True)
    seen = json.loads(done.stdout)
    assert set(seen["modules"]) & LIBRARIES == set()
    packed = {
        str(path.relative_to(tmp_path))
        for backend in VENDORS.values()
        for pattern in backend.recorded
        for path in tmp_path.glob(pattern)
    }
    assert seen["read"]
    assert {path for path in seen["read"] if (tmp_path / path).is_file()} <= packed


# broken machines -----------------------------------------------------------------------------------------------------

GARBAGE = [
    b"",
    b"\xff\xfe\x00garbage",
    b"-1\n",
    b"0x\n",
    b"9" * 5000,
    "٣٤ ５６ ²\n".encode(),
    b": \n" * 50,
    b" \n\n",
    b"a b c d\n",
]


NUMBERS = [b"9" * 5000, "²".encode(), "٣".encode(), b"-1", b"0x", b"max", b""]  # in place of each number in a file


@every
def test_no_file_of_any_machine_is_trusted(known: Machine, tmp_path: Path) -> None:
    """Each file in turn: gone, cut in half, filled with nonsense, and with numbers that are none."""
    known.build(tmp_path)
    patterns = {pattern for backend in VENDORS.values() for pattern in backend.recorded}
    for path in sorted({path for pattern in patterns for path in tmp_path.glob(pattern) if path.is_file()}):
        whole = path.read_bytes()
        bad = [*GARBAGE, *(re.sub(rb"\d+", number, whole) for number in NUMBERS), whole[: len(whole) // 2]]
        for content in bad:
            path.write_bytes(content)
            found = [device for backend in VENDORS.values() for device in backend.detect(tmp_path)]
            assert len(found) <= len(known.expected), (path, content)
        path.unlink()
        for backend in VENDORS.values():
            backend.detect(tmp_path)
        path.write_bytes(whole)
    assert devices(REGISTRY, tmp_path) == known.expected


@pytest.fixture(scope="module")
def trees_of_all() -> Iterator[dict[str, Path]]:
    with tempfile.TemporaryDirectory() as folder:
        built = {}
        for name, known in MACHINES.items():
            known.build(Path(folder, name))
            built[name] = Path(folder, name)
        yield built


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_broken_file_makes_detection_raise(trees_of_all: dict[str, Path], data: st.DataObject) -> None:
    root = trees_of_all[data.draw(st.sampled_from(sorted(trees_of_all)))]
    files = sorted(path for path in root.rglob("*") if path.is_symlink() or path.is_file())
    path = data.draw(st.sampled_from(files))
    link = os.readlink(path) if path.is_symlink() else None
    whole = b"" if link else path.read_bytes()
    try:
        path.unlink()
        match data.draw(st.sampled_from(["gone", "cut", "garbage", "part", "folder", "elsewhere"])):
            case "cut":
                path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
            case "garbage":
                path.write_bytes(data.draw(st.one_of(st.sampled_from(GARBAGE), st.binary(max_size=200))))
            case "part":
                place = data.draw(st.integers(0, len(whole)))
                path.write_bytes(whole[:place] + data.draw(st.sampled_from(GARBAGE)) + whole[place:])
            case "folder":
                path.mkdir()
            case "elsewhere":
                path.symlink_to("/dev/null/nowhere")
        for backend in VENDORS.values():
            found = backend.detect(root)
            assert len({device.index for device in found}) == len(found)
            assert all(device.memory_bytes is None or device.memory_bytes > 0 for device in found)
            assert all(": " in problem and "\n" not in problem for device in found for problem in device.problems)
            assert "\n" not in backend.absent(root)
            backend.checks(root)
            for device in found:
                backend.offers(device, GIB, 1)
                backend.environment(device)
    finally:
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        path.unlink(missing_ok=True)
        path.symlink_to(link) if link else path.write_bytes(whole)


def test_a_folder_that_is_no_machine_has_no_devices(tmp_path: Path) -> None:
    assert devices(REGISTRY, tmp_path) == ()
    (tmp_path / "sys").write_text("a file where a folder should be")
    assert devices(REGISTRY, tmp_path) == ()
    assert {"cuda", "rocm", "xpu"} <= set(ruled_out(REGISTRY, tmp_path))


# what the vendors share ----------------------------------------------------------------------------------------------


def test_displays_are_found_by_class_in_the_order_of_their_addresses(tmp_path: Path) -> None:
    for pci, kind in (("0001:01:00.0", 0x030200), ("0000:c1:00.0", 0x030000), ("0000:02:00.0", 0x038000)):
        trees.function(tmp_path, pci, "10de:2330", kind, "nvidia")
    trees.function(tmp_path, "0000:02:00.1", "10de:22bc", 0x040300, "snd_hda_intel")  # its sound
    trees.function(tmp_path, "0000:03:00.0", "10de:2330", 0x120000, "nvidia")  # no display
    (tmp_path / "sys/bus/pci/devices/nonsense").mkdir()
    found = machine.displays(tmp_path, NVIDIA)
    assert [display.pci for display in found] == ["0000:02:00.0", "0000:c1:00.0", "0001:01:00.0"]
    assert {display.ids for display in found} == {"10de:2330"}
    assert machine.displays(tmp_path, 0x1002) == []


def test_a_driver_is_told_by_the_link_or_by_what_the_event_daemon_was_told(tmp_path: Path) -> None:
    folder = tmp_path / trees.function(tmp_path, "0000:01:00.0", "10de:1f02", 0x030000, "nouveau")
    assert [display.driver for display in machine.displays(tmp_path, NVIDIA)] == ["nouveau"]
    (folder / "driver").unlink()
    assert [display.driver for display in machine.displays(tmp_path, NVIDIA)] == ["nouveau"]
    (folder / "uevent").write_text("PCI_CLASS=30000\n")
    assert [display.driver for display in machine.displays(tmp_path, NVIDIA)] == [""]


@pytest.mark.parametrize(
    ("memory", "wanted", "left"),
    [
        (125 * GIB, 110 * GIB, 110 * GIB),  # less than there is
        (125 * GIB, 124 * GIB, 112.5 * GIB),  # a tenth stays with the host
        (31 * GIB, 30 * GIB, 23 * GIB),  # at least 8 GiB do
        (31 * GIB, 0, 23 * GIB),
        (10 * GIB, 9 * GIB, 2.5 * GIB),  # a quarter, where that would leave nearly nothing
        (0, 16 * GIB, 16 * GIB),  # nothing tells
    ],
)
def test_shared_memory_leaves_the_host_its_part(memory: int, wanted: int, left: float, tmp_path: Path) -> None:
    if memory:
        trees.host(tmp_path, memory)
    assert machine.unified(tmp_path, wanted) == left


def test_nothing_is_said_of_shared_memory_where_nothing_tells(tmp_path: Path) -> None:
    assert machine.unified(tmp_path) is None


AMDGPU = (
    "pos:\t0\ndrm-driver:\tamdgpu\ndrm-client-id:\t{client}\ndrm-pdev:\t{pci}\ndrm-total-vram:\t900 KiB\n"
    "drm-resident-vram:\t512 KiB\ndrm-memory-vram:\t512 KiB\ndrm-memory-gtt: \t2048 KiB\ndrm-memory-cpu: \t4 KiB\n"
)
I915 = (
    "drm-driver:\ti915\ndrm-pdev:\t{pci}\ndrm-client-id:\t{client}\n"
    "drm-total-local0:\t3 MiB\ndrm-total-system0:\t1 MiB\n"
)
XE = (
    "drm-driver:\txe\ndrm-client-id:\t{client}\ndrm-pdev:\t{pci}\ndrm-total-vram0:\t9 GiB\ndrm-resident-vram0:\t1 GiB\n"
    "drm-resident-system:\t0\ndrm-resident-gtt:\t192 KiB\ndrm-resident-stolen:\t12\n"
)


def test_the_kernel_tells_who_holds_memory_of_a_display(tmp_path: Path) -> None:
    def opens(pid: int, file: int, text: str, client: int = 1, pci: str = "0000:03:00.0", target: str = "") -> None:
        trees.put(tmp_path, f"proc/{pid}/fdinfo/{file}", text.format(client=client, pci=pci))
        (tmp_path / f"proc/{pid}/fd").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"proc/{pid}/fd/{file}").symlink_to(target or "/dev/dri/renderD128")

    opens(10, 5, AMDGPU)
    opens(10, 6, AMDGPU)  # the same client by another number
    opens(11, 5, AMDGPU, client=2)
    opens(11, 6, AMDGPU, client=3)
    opens(11, 7, AMDGPU, client=4, pci="0000:04:00.0")  # another display
    opens(11, 8, AMDGPU, client=5, target="/etc/hosts")  # says so, and is none
    opens(12, 0, "pos:\t0\n")
    found = machine.drm_memory(tmp_path, "0000:03:00.0")
    assert found == {10: 512 * 1024, 11: 2 * 512 * 1024, 12: 0}
    assert machine.drm_memory(tmp_path, "0000:03:00.0", [11, 99]) == {11: 2 * 512 * 1024}
    assert machine.drm_memory(tmp_path, "0000:03:00.0", [10], shared=True) == {10: (512 + 2048) * 1024}

    opens(20, 1, I915, client=6)
    opens(21, 1, XE, client=7)
    assert machine.drm_memory(tmp_path, "0000:03:00.0", [20, 21]) == {20: 3 * MIB, 21: GIB}
    assert machine.drm_memory(tmp_path, "0000:03:00.0", [20, 21], shared=True) == {20: 4 * MIB, 21: GIB + 192 * 1024}


def test_this_machine_s_own_processes_are_read_without_a_complaint() -> None:
    assert machine.drm_memory(Path("/"), "0000:00:00.0", [os.getpid()]) == {os.getpid(): 0}


@contextlib.contextmanager
def stranger() -> Iterator[Path]:
    """A folder that everybody may look into, and this process without a superuser's rights meanwhile."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    root = os.geteuid() == 0
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        shutil.rmtree(folder)


def test_a_node_that_may_not_be_opened_is_told_from_one_that_is_missing() -> None:
    with stranger() as root:
        trees.put(root, "dev/kfd")
        (root / "dev/kfd").chmod(0)
        if os.geteuid() == 0:
            os.seteuid(65534)
        assert machine.closed(root, "dev/kfd") == "denied"
        assert machine.closed(root, "dev/nothing") == "missing"


@pytest.mark.parametrize(
    ("name", "node"),
    [("rtx-2070", "dev/nvidia0"), ("strix-halo-64", "dev/kfd"), ("arc-b580", "dev/dri/renderD128")],
)
def test_a_node_that_is_missing_or_denied_is_the_device_s_problem(name: str, node: str) -> None:
    known = MACHINES[name]
    backend = VENDORS[known.expected[0].backend]
    with stranger() as root:
        known.build(root)
        gid = (root / node).stat().st_gid
        (root / node).chmod(0)
        if os.geteuid() == 0:
            os.seteuid(65534)
        (device,) = backend.detect(root)
        findings = backend.checks(root)
        if os.getuid() == 0:
            os.seteuid(0)
        assert f"no-permission: denied /{node}" in device.problems
        assert not device.usable
        (finding,) = (one for one in findings if one.check == "no-permission")
        assert finding.fatal
        assert f"--group-add {gid} " in finding.fix or gid == 0
        (root / node).unlink()
        (device,) = backend.detect(root)
        assert f"gpu-not-passed: missing /{node}" in device.problems
        assert not device.usable
        assert f"missing /{node}" in backend.absent(root)
        (finding,) = (one for one in backend.checks(root) if one.check == "gpu-not-passed")
        assert "docker run" in finding.fix
        assert finding.evidence.startswith(device.name)


@pytest.mark.parametrize(("vendor", "ids"), [("cuda", "10de:1f02"), ("rocm", "1002:1586"), ("xpu", "8086:e20b")])
def test_a_device_without_its_driver_is_seen_and_not_used(vendor: str, ids: str, tmp_path: Path) -> None:
    for pci, driver in (("0000:01:00.0", ""), ("0000:02:00.0", "vfio-pci"), ("0000:03:00.0", "nouveau")):
        trees.function(tmp_path, pci, ids, 0x030000, driver)
    without, passed_on, wrong = VENDORS[vendor].detect(tmp_path)
    assert without.problems == ("no-driver: none holds it",)
    assert passed_on.problems == ("wrong-driver: vfio-pci holds it",)
    assert wrong.problems == ("wrong-driver: nouveau holds it",)
    assert not any(device.usable for device in (without, passed_on, wrong))
    findings = VENDORS[vendor].checks(tmp_path)
    assert {finding.check for finding in findings if finding.fatal} == {"no-driver", "wrong-driver"}
    assert all("{" not in finding.fix and finding.fix and finding.symptom for finding in findings)
