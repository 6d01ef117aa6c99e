"""A machine packed into a file and detected again from it, without its serial numbers."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from argosy import registry
from argosy.backend import Device
from argosy.errors import ArgosyError
from argosy.runtime.checks import RECORDED
from argosy.runtime.detect import devices
from argosy.runtime.record import MANIFEST, MOST_BYTES, opened, record
from argosy.testing.machines import MACHINES

UUID = "5c9b4f2e-81d3-4a67-9f10-aa37c2e8d5b1"
OTHER = "0d3e1c77-5b2a-4f19-8e64-1bb90c7d2f3a"


def put(root: Path, path: str, content: str | bytes) -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def packed(tmp_path: Path, *globs: str) -> Path:
    """The machine in tmp_path/machine, recorded and unpacked again."""
    record(globs, tmp_path / "machine.tar.gz", tmp_path / "machine")
    target = tmp_path / "again"
    with tarfile.open(tmp_path / "machine.tar.gz") as archive:
        archive.extractall(target, filter="data")
    return target


@pytest.fixture(scope="module")
def installed() -> registry.Registry:
    return registry.load()


def globs(installed: registry.Registry) -> list[str]:
    return [*RECORDED, *(glob for backend in installed.backends.values() for glob in backend.recorded)]


@pytest.mark.parametrize("machine", MACHINES.values(), ids=list(MACHINES))
def test_a_machine_is_the_same_one_after_it_was_recorded(machine, installed, tmp_path):
    machine.build(tmp_path / "machine")
    made = record(globs(installed), tmp_path / "machine.tar.gz", tmp_path / "machine")
    assert not made.unreadable

    def anonymous(found: tuple[Device, ...]) -> list[dict[str, object]]:
        return [{**vars(device), "identity": bool(device.identity)} for device in found]

    with opened(tmp_path / "machine.tar.gz") as again:
        found = devices(installed, again)
        assert anonymous(found) == anonymous(devices(installed, tmp_path / "machine"))
        told = {name: list(backend.checks(again)) for name, backend in installed.backends.items()}
    assert told == {name: list(backend.checks(tmp_path / "machine")) for name, backend in installed.backends.items()}
    assert not again.exists()
    identities = [device.identity for device in found if len(device.identity) > 3]
    assert len(set(identities)) == len(identities)


def test_serial_numbers_are_counted_and_keep_their_length_and_stay_the_same_everywhere(tmp_path):
    root = tmp_path / "machine"
    put(root, "proc/gpus/0/information", f"Model: \t\t GPU 2070\nGPU UUID: \t GPU-{UUID}\nVideo BIOS: \t 90.06.18\n")
    put(root, "proc/gpus/1/information", f"Model: \t\t GPU 2070\nGPU UUID: \t GPU-{OTHER}\nVideo BIOS: \t 90.06.18\n")
    put(root, "proc/cmdline", f"root=UUID={OTHER} mac=3c:52:82:0a:1b:2c quiet\n")
    put(root, "proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu serial\nSerial\t\t: 10000000abcdef12\n")
    put(root, "sys/kfd/1/properties", f"simd_count 80\nunique_id {0xF1B2C3D4E5A69788}\nlocation_id 50432\n")
    put(root, "sys/gpu/unique_id", "f1b2c3d4e5a69788\n")
    put(root, "sys/gpu/serial_number", "PK4X-22Q\n")
    put(root, "sys/apu/unique_id", "0000000000000000\n")
    put(root, "sys/gpu/gpu_metrics", b"\x08\x01\x03\x00" + UUID.encode())
    again = packed(tmp_path, "proc/gpus/*/information", "proc/c*", "sys/*/*", "sys/*/*/properties")
    first, second = ((again / f"proc/gpus/{number}/information").read_text() for number in (0, 1))
    one = "GPU-00000000-0000-0000-0000-000000000004"
    assert first == f"Model: \t\t GPU 2070\nGPU UUID: \t {one}\nVideo BIOS: \t 90.06.18\n"
    assert second == first.replace(one, one[:-1] + "1")
    cmdline = (again / "proc/cmdline").read_text()
    assert cmdline == "root=UUID=00000000-0000-0000-0000-000000000001 mac=00:00:00:00:00:02 quiet\n"
    assert (again / "proc/cpuinfo").read_text().endswith("Serial\t\t: 0000000000000003\n")
    assert "flags\t\t: fpu serial\n" in (again / "proc/cpuinfo").read_text()
    assert (again / "sys/gpu/serial_number").read_text() == "0000-005\n"
    assert (again / "sys/gpu/unique_id").read_text() == "0000000000000006\n"
    properties = (again / "sys/kfd/1/properties").read_text()
    assert properties == "simd_count 80\nunique_id 00000000000000000006\nlocation_id 50432\n"
    assert (again / "sys/apu/unique_id").read_text() == "0000000000000000\n"
    assert (again / "sys/gpu/gpu_metrics").read_bytes() == (root / "sys/gpu/gpu_metrics").read_bytes()


def test_a_container_s_name_is_replaced_in_paths_as_in_files(tmp_path):
    root, container = tmp_path / "machine", "4f" * 32
    put(root, "proc/self/cgroup", f"0::/docker/{container}\n")
    put(root, f"sys/fs/cgroup/docker/{container}/memory.max", "1073741824\n")
    again = packed(tmp_path, "proc/self/cgroup", "sys/fs/cgroup/*/*/memory.max")
    name = (again / "proc/self/cgroup").read_text().strip().rpartition("/")[2]
    assert name == "1".rjust(64, "0")
    assert (again / f"sys/fs/cgroup/docker/{name}/memory.max").read_text() == "1073741824\n"


def test_links_end_where_they_ended_and_never_outside(tmp_path):
    root = tmp_path / "machine"
    real = "sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0"
    put(root, f"{real}/vendor", "0x1234\n")
    (root / "sys/bus/pci/drivers/acme").mkdir(parents=True)
    (root / real / "driver").symlink_to("../../../../bus/pci/drivers/acme")
    (root / "sys/bus/pci/devices").mkdir()
    (root / "sys/bus/pci/devices/0000:01:00.0").symlink_to("../../../devices/pci0000:00/0000:00:01.0/0000:01:00.0")
    put(tmp_path, "secret", "not of this machine")
    (root / "sys/bus/pci/devices/out").symlink_to("../../../../../secret")
    (root / "etc").mkdir()
    (root / "etc/os-release").symlink_to("/usr/lib/os-release")
    put(root, "usr/lib/os-release", 'ID=debian\nVERSION_ID="12"\n')
    (root / "round").symlink_to("about")
    (root / "about").symlink_to("round")
    again = packed(tmp_path, "sys/bus/pci/devices/*/*", "sys/bus/pci/devices/out", "etc/os-release", "round")
    device = again / "sys/bus/pci/devices/0000:01:00.0"
    assert os.readlink(device) == "../../../devices/pci0000:00/0000:00:01.0/0000:01:00.0"
    assert (device / "vendor").read_text() == "0x1234\n"
    assert (device / "driver").resolve() == again.resolve() / "sys/bus/pci/drivers/acme"
    assert (again / "etc/os-release").read_text().startswith("ID=debian")
    assert "not of this machine" not in [path.read_text() for path in again.rglob("*") if path.is_file()]


def test_device_nodes_are_recorded_as_empty_files_and_never_opened(tmp_path):
    (tmp_path / "machine/dev").mkdir(parents=True)
    os.mkfifo(tmp_path / "machine/dev/acme0")  # to open it would wait for a writer for ever
    again = packed(tmp_path, "dev/*", "sys/nothing/*")
    node = again / "dev/acme0"
    assert stat.S_ISREG(node.stat().st_mode)
    assert node.read_bytes() == b""


def test_what_is_closed_to_a_user_is_closed_in_the_recording():
    """By somebody who is not root, to whom nothing is closed."""
    script = (
        "import gzip, os, tarfile, tempfile, zlib\n"
        "from pathlib import Path\n"
        "from argosy import machine\n"
        "from argosy.runtime.record import opened, record\n"
        "if os.geteuid() == 0: os.seteuid(65534)\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    root, target = Path(folder, 'machine'), Path(folder, 'machine.tar.gz')\n"
        "    (root / 'dev').mkdir(parents=True)\n"
        "    (root / 'dev/open').touch()\n"
        "    (root / 'dev/closed').touch(0)\n"
        "    record(['dev/*'], target, root)\n"
        "    for tree in (root, target):\n"
        "        with opened(tree) as found:\n"
        "            print([machine.closed(found, f'dev/{name}') for name in ('open', 'closed', 'none')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["['', 'denied', 'missing']"] * 2, done.stdout + done.stderr


def test_a_device_node_that_may_not_be_opened_stays_closed(tmp_path, monkeypatch):
    (tmp_path / "machine/dev").mkdir(parents=True)
    os.mkfifo(tmp_path / "machine/dev/acme0")
    monkeypatch.setattr(os, "access", lambda path, mode, **more: False)
    record(["dev/*"], tmp_path / "machine.tar.gz", tmp_path / "machine")
    with opened(tmp_path / "machine.tar.gz") as again:
        assert stat.S_IMODE((again / "dev/acme0").stat().st_mode) == 0


def test_the_manifest_names_neither_the_machine_nor_its_user(tmp_path):
    root = tmp_path / "machine"
    put(root, "etc/os-release", 'NAME="Debian"\nID=debian\nVERSION_ID="12"\n')
    put(root, "proc/sys/kernel/osrelease", "6.18.9-generic\n")
    put(root, "proc/self/mounts", "server:/home/grace /home/grace nfs rw 0 0\nshm /dev/shm tmpfs rw,size=65536k 0 0\n")
    device = Device(backend="b", name="n", architecture="a", identity=f"GPU-{UUID}", memory_bytes=7)
    made = record(RECORDED, tmp_path / "machine.tar.gz", root, [device])
    assert made.manifest.items() >= {"kernel": "6.18.9-generic", "distribution": "debian 12"}.items()
    assert set(made.manifest) == {"argosy", "kernel", "distribution", "date", "devices", "unreadable"}
    assert made.manifest["devices"][0]["memory_bytes"] == 7
    with opened(tmp_path / "machine.tar.gz") as again:
        everything = "".join(path.read_text() for path in again.rglob("*") if path.is_file())
        assert (again / MANIFEST).exists()
        assert (again / "proc/self/mounts").read_text() == "none /dev/shm tmpfs rw,size=65536k 0 0\n"
    assert "grace" not in everything
    assert UUID not in everything
    with tarfile.open(tmp_path / "machine.tar.gz") as archive:
        assert {(entry.uid, entry.uname, entry.gname, entry.mtime) for entry in archive} == {(0, "", "", 0)}


def test_the_same_machine_gives_the_same_bytes(installed, tmp_path):
    MACHINES["workstation"].build(tmp_path / "machine")
    for name in ("one.tar.gz", "two.tar.gz"):
        record(globs(installed), tmp_path / name, tmp_path / "machine")
    assert (tmp_path / "one.tar.gz").read_bytes() == (tmp_path / "two.tar.gz").read_bytes()


def archive(path: Path, *entries: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as out:
        for entry, content in entries:
            entry.size = len(content)
            out.addfile(entry, io.BytesIO(content))
    return path


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(entry("../outside"), id="above"),
        pytest.param(entry("/abs"), id="an absolute name"),
        pytest.param(entry("link", tarfile.SYMTYPE, "../.."), id="a link that leads out"),
        pytest.param(entry("dev/null0", tarfile.CHRTYPE), id="a device node"),
    ],
)
def test_a_recording_that_reaches_out_of_its_folder_is_refused(bad, tmp_path):
    with (
        pytest.raises(ArgosyError, match="a folder or a recording at"),
        opened(archive(tmp_path / "x.tar.gz", (bad, b""))),
    ):
        pass
    assert not (tmp_path.parent / "outside").exists()


def test_a_recording_closes_no_file_of_whoever_opens_it(tmp_path):
    mine = put(tmp_path, "mine", "text")
    mine.chmod(0o600)
    bad = entry(str(mine))
    bad.mode = 0
    with pytest.raises(ArgosyError, match="would lie outside"), opened(archive(tmp_path / "x.tar.gz", (bad, b""))):
        pass
    assert stat.S_IMODE(mine.stat().st_mode) == 0o600


def test_what_is_packed_otherwise_is_refused_as_a_recording(tmp_path):
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:xz") as out:
        out.addfile(entry("file"))
    for part in (len(whole.getvalue()), len(whole.getvalue()) // 2):
        (tmp_path / "x.tar.xz").write_bytes(whole.getvalue()[:part])
        with pytest.raises(ArgosyError, match="a folder or a recording"), opened(tmp_path / "x.tar.xz"):
            pass


def test_a_number_in_a_header_that_is_none_is_refused(tmp_path):
    bad = entry("file")
    bad.pax_headers = {"GNU.sparse.size": "many"}
    with pytest.raises(ArgosyError, match="a folder or a recording"), opened(archive(tmp_path / "x.gz", (bad, b""))):
        pass


def test_what_stands_in_headers_counts(tmp_path, monkeypatch):
    long = entry("file")
    long.pax_headers = {"comment": "x" * (2 << 20)}
    recording = archive(tmp_path / "long.tar.gz", (long, b""))
    monkeypatch.setattr("argosy.runtime.record.MOST_FILES", 10)
    monkeypatch.setattr("argosy.runtime.record.MOST_BYTES", 1 << 20)
    with pytest.raises(ArgosyError, match="1 MiB are in it"), opened(recording):
        pass


def test_a_recording_larger_than_any_machine_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    many = archive(tmp_path / "many.tar.gz", *[(entry(f"f{number}"), b"") for number in range(20)])
    big = archive(tmp_path / "big.tar.gz", (entry("f"), bytes(MOST_BYTES + 1)))
    with pytest.raises(ArgosyError, match="64 MiB are in it"), opened(big):
        pass
    with opened(many):
        pass
    monkeypatch.setattr("argosy.runtime.record.MOST_FILES", 19)
    with pytest.raises(ArgosyError, match="more than 19 files"), opened(many):
        pass


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b\x08\x00truncated"])
def test_what_is_no_recording_is_told_with_the_command_that_makes_one(content, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ArgosyError, match=r"argosy doctor --record FILE\.tar\.gz"), opened(tmp_path / "file"):
        pass
    with pytest.raises(ArgosyError, match="No such file"), opened(tmp_path / "none"):
        pass


def test_a_recording_that_was_cut_off_is_refused(installed, tmp_path):
    MACHINES["workstation"].build(tmp_path / "machine")
    record(globs(installed), tmp_path / "whole.tar.gz", tmp_path / "machine")
    whole = (tmp_path / "whole.tar.gz").read_bytes()
    for part in (len(whole) // 4, len(whole) // 2):
        (tmp_path / "cut.tar.gz").write_bytes(whole[:part])
        with pytest.raises(ArgosyError, match="a folder or a recording"), opened(tmp_path / "cut.tar.gz"):
            pass


def test_a_recording_that_cannot_be_written_says_where(tmp_path):
    with pytest.raises(ArgosyError, match=r"to write .*nowhere/machine\.tar\.gz"):
        record((), tmp_path / "nowhere/machine.tar.gz", tmp_path)
