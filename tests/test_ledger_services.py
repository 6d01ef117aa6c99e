"""The bar of the ledger: after one load, what it foretells is within 5 % of what the next load is measured to hold."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from conftest import ROOT

from argosy import registry
from argosy.fleet import file
from argosy.plan.ledger import Ledger, Record
from argosy.plan.place import Plan
from argosy.runtime.survey import node, survey

FLEET = ROOT / "examples/default/fleet.yaml"
BAR = 0.05
SERVICES = ("llm", "whisper", "tts", "embeddings", "reranker")

# One replica, in a process of its own as in a fleet: loaded, asked some questions, looked at once more.
LOAD = """
import asyncio, dataclasses, json, pickle, sys
from argosy import registry
from argosy.model import Context
from argosy.runtime import memory
from argosy.runtime.replica import Replica

async def main():
    assignment, installed = pickle.load(sys.stdin.buffer), registry.load()
    replica = Replica(assignment, installed)
    await replica.start()
    for number in range(3):
        await replica.answer(replica.canary(), Context(f"r{number}"))
    status = dataclasses.asdict(replica.status())
    # The replica looks by itself once a second, or more seldom on a busy machine: this look comes after the answers.
    now = memory.measure(installed.backend(assignment.device.backend), assignment.device).bytes
    print(json.dumps({**status, "memory_peak": max(status["memory_peak"], now)}))
    await replica.stop()

asyncio.run(main())
"""


def started(plan: Plan, service: str, cache: Path) -> subprocess.Popen[bytes]:
    import pickle

    from argosy.runtime.assign import assign

    assignment = assign(file.read(FLEET), plan.of(service)[0], registry.load(), base=FLEET.parent, cache=str(cache))
    process = subprocess.Popen([sys.executable, "-c", LOAD], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(pickle.dumps(assignment))
    process.stdin.close()
    process.stdin = None
    return process


def measured(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """What the replica said of itself at its end."""
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 0
    return dict(json.loads(said))


def planned(cache: Path, ledger: Ledger) -> Plan:
    installed = registry.load()
    here = node(installed)
    return survey(file.read(FLEET), installed, [here], FLEET.parent, store=cache, offline=True, ledger=ledger)


def test_after_one_load_alone_the_next_one_in_company_is_foretold_within_five_percent(tmp_path: Path) -> None:
    first = planned(tmp_path, Ledger())
    records = []
    for service in SERVICES:
        status = measured(started(first, service, tmp_path))
        (placement,) = first.of(service)
        assert placement.figure.source != "measured"
        assert placement.key is not None
        assert status["memory_loaded"] <= status["memory_canary"] * 1.01 <= status["memory_peak"] * 1.01
        sizes = {name: status[f"memory_{name}"] for name in ("loaded", "canary", "peak")}
        records.append(
            Record(key=dataclasses.replace(placement.key, version=status["engine_version"]), at=0.0, **sizes)
        )
    second = planned(tmp_path, Ledger(tuple(records)))
    together = {service: started(second, service, tmp_path) for service in SERVICES}
    held = {service: measured(process)["memory_peak"] for service, process in together.items()}
    wrong = {}
    for service, peak in held.items():
        figure = second.of(service)[0].figure
        assert figure.source == "measured"
        assert figure.bytes is not None
        if abs(figure.bytes - peak) > BAR * peak:
            wrong[service] = f"{figure.bytes / 2**20:.0f} MiB foretold, {peak / 2**20:.0f} MiB held"
        print(f"{service}: {figure.bytes / 2**20:.1f} MiB foretold, {peak / 2**20:.1f} MiB held")
    assert not wrong
