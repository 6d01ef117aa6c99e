from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

import pytest

import argosy_cpu
from argosy import registry

GIB = 1024**3
XEON = "processor\t: {0}\nmodel name\t: Intel(R)  Xeon(R) Gold\nflags\t\t: fpu lm sse2 {1}\n\n"


def tree(root: Path, files: dict[str, str]) -> Path:
    """A host below `root`: 4 cores with AVX2 and 16 GiB, unless `files` says otherwise."""
    host = {
        "proc/cpuinfo": "".join(XEON.format(core, "avx2") for core in range(4)),
        "proc/meminfo": f"MemTotal:       {16 * GIB // 1024} kB\nMemFree:  1 kB\n",
        "proc/self/status": "Name:\tpython\nCpus_allowed_list:\t0-3\n",
        "proc/self/cgroup": "0::/\n",
    }
    for name, text in (host | files).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_plain_host_is_one_device_with_its_memory_less_the_reserve(tmp_path: Path) -> None:
    (device,) = argosy_cpu.Cpu().detect(tree(tmp_path, {}))
    assert device.name == "Intel(R) Xeon(R) Gold"
    assert (device.architecture, device.cores, device.memory_bytes) == ("x86-64-avx2", 4, 14 * GIB)
    assert device.backend == "cpu"
    assert device.usable
    assert argosy_cpu.Cpu().absent(tmp_path) == ""


def test_a_small_host_keeps_three_quarters_for_models(tmp_path: Path) -> None:
    (device,) = argosy_cpu.Cpu().detect(tree(tmp_path, {"proc/meminfo": f"MemTotal: {4 * GIB // 1024} kB\n"}))
    assert device.memory_bytes == 3 * GIB


@pytest.mark.parametrize(
    ("files", "cores", "memory"),
    [
        pytest.param(
            {"sys/fs/cgroup/memory.max": str(10 * GIB), "sys/fs/cgroup/cpu.max": "250000 100000"}, 2, 8, id="v2"
        ),
        pytest.param(
            {"sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/cpu.max": "max 100000"}, 4, 14, id="no limit"
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/pod/box\n", "sys/fs/cgroup/pod/memory.max": str(12 * GIB)},
            4,
            10,
            id="v2, a parent",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "4:memory:/box\n3:cpu,cpuacct:/box\n",
                "sys/fs/cgroup/memory/box/memory.limit_in_bytes": str(10 * GIB),
                "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "100000",
                "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000",
            },
            1,
            8,
            id="v1",
        ),
        pytest.param({"proc/self/status": "Cpus_allowed_list:\t0,2-3\n"}, 3, 14, id="affinity"),
        pytest.param({"sys/fs/cgroup/cpu.max": "50000 100000"}, 1, 14, id="half a core is one"),
    ],
)
def test_control_groups_and_affinity_bound_cores_and_memory(
    tmp_path: Path, files: dict[str, str], cores: int, memory: int
) -> None:
    (device,) = argosy_cpu.Cpu().detect(tree(tmp_path, files))
    assert (device.cores, device.memory_bytes) == (cores, memory * GIB)


@pytest.mark.parametrize(
    ("cpuinfo", "name", "architecture"),
    [
        (XEON.format(0, "avx2 avx512f"), "Intel(R) Xeon(R) Gold", "x86-64-avx512"),
        (XEON.format(0, ""), "Intel(R) Xeon(R) Gold", "x86-64"),
        ("processor : 0\nFeatures : fp asimd\nModel : Raspberry Pi 5\n", "Raspberry Pi 5", "aarch64"),
        ("processor : 0\nFeatures : fp asimd sve\n", "aarch64-sve", "aarch64-sve"),
        ("\x00 nonsense", "unknown", "unknown"),
    ],
)
def test_the_architecture_follows_the_flags(tmp_path: Path, cpuinfo: str, name: str, architecture: str) -> None:
    (device,) = argosy_cpu.Cpu().detect(tree(tmp_path, {"proc/cpuinfo": cpuinfo}))
    assert (device.name, device.architecture) == (name, architecture)


def test_a_processor_without_wide_vectors_is_a_finding_that_stops_nothing(tmp_path: Path) -> None:
    root = tree(tmp_path, {"proc/cpuinfo": XEON.format(0, "")})
    (finding,) = argosy_cpu.Cpu().checks(root)
    assert not finding.fatal
    assert "-cpu host" in finding.fix
    assert not argosy_cpu.Cpu().checks(tree(tmp_path, {}))


def test_an_empty_root_has_no_device_and_says_why(tmp_path: Path) -> None:
    assert not argosy_cpu.Cpu().detect(tmp_path)
    assert "proc/cpuinfo" in argosy_cpu.Cpu().absent(tmp_path)


def test_unreadable_memory_is_unknown(tmp_path: Path) -> None:
    (device,) = argosy_cpu.Cpu().detect(tree(tmp_path, {"proc/meminfo": "garbage"}))
    assert device.memory_bytes is None


def test_every_engine_works_on_a_processor() -> None:
    backend = argosy_cpu.Cpu()
    (device,) = backend.detect()
    assert device.cores <= len(os.sched_getaffinity(0))
    engines = {engine.name: engine for engine in backend.offers(device, device.memory_bytes, 2)}
    assert all(engine.threads == 2 for engine in engines.values())
    assert engines["python"].version() == platform.python_version()
    for name, kind in registry.load().engines.items():
        assert isinstance(engines[name], kind)
    assert engines["openvino"].version() == importlib.metadata.version("openvino")


def test_what_is_held_is_this_process_and_it_grows_with_it() -> None:
    backend = argosy_cpu.Cpu()
    (device,) = backend.detect()

    def own() -> int:
        return next(held.bytes for held in backend.held(device) if held.pid == os.getpid())

    before = own()
    block = bytearray(b"x" * 64 * 1024 * 1024)
    assert own() - before > 60 * 1024 * 1024
    assert block


def test_a_share_is_watched_and_nothing_is_masked() -> None:
    backend = argosy_cpu.Cpu()
    (device,) = backend.detect()
    assert backend.enforcement(device) == "watched"
    assert backend.environment(device) == {}
