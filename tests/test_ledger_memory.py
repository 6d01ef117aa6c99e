"""What a process's memory is counted as: the same alone and in company, and never twice."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from argosy import machine

MIB = 2**20

MAPS = """
import mmap, sys
with open(sys.argv[1], "rb") as file:
    seen = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    sum(seen[at] for at in range(0, len(seen), 4096))
    print("there", flush=True)
    sys.stdin.readline()
"""

FORKS = """
import os, sys
held = bytearray(b"x" * (96 << 20))
child = os.fork()
if not child:
    sys.stdin.readline()
    os._exit(0)
print(child, flush=True)
sys.stdin.readline()
os.waitpid(child, 0)
"""


@contextmanager
def running(script: str, *arguments: str) -> Iterator[tuple[int, str]]:
    """A process that runs `script` until the block ends: its id, and the line that it said."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield process.pid, process.stdout.readline().strip()
    finally:
        process.communicate("\n\n")


def test_a_file_that_several_map_counts_in_full_for_each(tmp_path: Path) -> None:
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"w" * 64 * MIB)
    with running(MAPS, str(weights)) as (first, _):
        alone = machine.resident(first)
        with running(MAPS, str(weights)) as (second, _):
            beside = machine.resident(first)
            assert abs(beside - alone) < 0.02 * alone
            assert abs(machine.resident(second) - alone) < 0.05 * alone
    assert alone > 64 * MIB


def test_pages_that_a_process_shares_with_its_own_child_count_once() -> None:
    with running(FORKS) as (parent, said):
        together = machine.resident(parent) + machine.resident(int(said))
    assert 96 * MIB < together < 140 * MIB


def test_where_the_kernel_does_not_sum_up_the_resident_size_counts(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/statm").write_text("9000 300 40 1 0 200 0\n")
    assert machine.resident(7, tmp_path) == 300 * 4096
    (tmp_path / "7/smaps_rollup").write_text("Rss: 3000 kB\nAnonymous: 2000 kB\nPss_Anon: 1500 kB\n")
    assert machine.resident(7, tmp_path) == 2500 * 1024
    (tmp_path / "7/smaps_rollup").write_text("Rss: many kB\n")
    assert machine.resident(7, tmp_path) == 300 * 4096
    assert machine.resident(8, tmp_path) == 0
