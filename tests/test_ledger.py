"""The ledger: what is the same replica again, and what control writes, reads and carries elsewhere."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from argosy import testing
from argosy.backend import Device
from argosy.engines import Onnxruntime, Python
from argosy.errors import ArgosyError
from argosy.fleet import file
from argosy.plan.estimate import Figure
from argosy.plan.ledger import Key, Ledger, Record, dump, load
from argosy.plan.nodes import Node
from argosy.plan.place import Standing
from argosy.registry import Registry
from argosy.runtime import survey
from argosy.serve import known
from argosy.serve.entry import Entry
from argosy.serve.prepare import Ready
from argosy.testing import MockBackend, models

GIB = 2**30
CARD = Device(backend="mock", name="Vendor Card 8000", architecture="mk_80", driver="mock 1.2", memory_bytes=8 * GIB)


def key(engine: Any = None, device: Device = CARD, **fields: Any) -> Key:
    said: dict[str, Any] = {"plugin": "p", "source": "hf://a/b", "weights": "w", "version": "1", "options": {"n": 1}}
    return Key.of(engine=engine or Onnxruntime(threads=2), device=device, **{**said, **fields})


def record(of: Key, peak: int = 100, at: float = 0.0) -> Record:
    return Record(key=of, loaded=80, canary=90, peak=peak, at=at)


def test_each_thing_that_costs_memory_makes_another_replica() -> None:
    others = [
        key(plugin="q"),
        key(weights="x"),
        key(version="2"),
        key(options={"n": 2}),
        key(engine=Python(threads=2)),
        key(engine=Onnxruntime(threads=4)),
        key(engine=Onnxruntime(threads=2, extra={"arena": 1})),
        key(device=dataclasses.replace(CARD, name="Vendor Card 9000")),
        key(device=dataclasses.replace(CARD, driver="mock 1.3")),
    ]
    assert key().matches(key())
    assert [other for other in others if key().matches(other)] == []
    assert len({other.digest for other in [*others, key()]}) == len(others) + 1


def test_a_device_is_known_by_its_model_and_not_by_its_place() -> None:
    assert key().matches(key(device=dataclasses.replace(CARD, index=3, pci="0000:09:00.0", identity="GPU-7")))


def test_weights_are_known_by_content_and_by_name_only_where_the_content_is_not_here() -> None:
    assert key(source="hf://a/b").matches(key(source="file://copy"))
    assert not key(weights="old").matches(key(weights="new"))
    assert key(weights="").matches(key(weights="w"))
    assert not key(weights="", source="hf://a/c").matches(key(weights="w"))


def test_a_device_that_only_a_file_describes_is_known_by_half_its_name() -> None:
    seen = record(key(version="1.31", engine=Onnxruntime(threads=8)))
    written = key(version="", device=Device(backend="mock", name="card 8000", architecture=""))
    ledger = Ledger((seen,))
    assert ledger.figure(written) is None
    assert ledger.figure(written, loosely=True) == Figure(
        100, "measured", "measured 1970-01-01 on Vendor Card 8000 with onnxruntime 1.31"
    )
    for other in ({"name": "Card 9000"}, {"name": "card 8000", "architecture": "mk_90"}):
        device = Device(**{"backend": "mock", "architecture": "", **other})
        assert ledger.figure(key(version="", device=device), loosely=True) is None
    assert ledger.figure(key(options={"n": 2}, device=CARD), loosely=True) is None


def test_of_several_records_that_hold_the_latest_counts() -> None:
    ledger = Ledger((record(key(weights=""), 50, at=1.0), record(key(), 70, at=3.0), record(key(), 60, at=2.0)))
    found = ledger.figure(key())
    assert found is not None
    assert found.bytes == 70
    assert Ledger().figure(key()) is None


def test_a_ledger_and_its_nodes_come_back_from_a_file_as_they_were() -> None:
    node = Node(name="n", id="ray", devices=(CARD,), cores=8, engines={"python": "3"}, taken={0: 5})
    assert load(dump([record(key())], [node]), "f") == (Ledger((record(key()),)), (node,))
    with pytest.raises(ArgosyError, match=r"a ledger in f.*argosy ledger export > FILE"):
        load(json.dumps({"argosy_ledger": 1, "records": [{"key": 1}], "nodes": []}), "f")


def mocked(backend: MockBackend) -> Registry:
    return testing.installed(models.Slow, backend=backend)


def test_a_node_reports_what_others_hold_and_not_what_its_own_replicas_do() -> None:
    backend = MockBackend(memory=(8 * GIB, 8 * GIB, 8 * GIB))
    inner = "import sys; print(1, flush=True); sys.stdin.read()"
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    replica = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert replica.stdout is not None
    replica.stdout.readline()
    (child,) = [int(pid) for pid in Path(f"/proc/{replica.pid}/task/{replica.pid}/children").read_text().split()]
    try:
        backend.fill(3 * GIB, index=0, pid=1)
        backend.fill(GIB, index=0, pid=replica.pid)
        backend.fill(GIB, index=1, pid=child)
        backend.fill(GIB, index=2, pid=os.getpid())
        assert survey.node(mocked(backend), ours=[replica.pid]).taken == {0: 3 * GIB}
    finally:
        replica.communicate()
    # Both have ended: what is still held under their numbers is somebody else's, and this process's is its own.
    assert survey.node(mocked(backend)).taken == {0: 4 * GIB, 1: GIB}
    assert survey.node(mocked(backend), ours=[replica.pid]).taken == {0: 3 * GIB, 1: GIB}


def test_the_processor_reports_no_strangers() -> None:
    from argosy import registry

    assert not {device.index for device in survey.node(registry.load()).devices if device.cores} & {
        *survey.node(registry.load()).taken
    }


def entry(**fields: Any) -> Entry:
    assignment = testing.assignment(models.Slow)
    ready: dict[str, Any] = {
        "assignment": assignment,
        "node": Node(name="here", id="ray"),
        "replicas": 1,
        "task": "json",
        "start_timeout": 60,
        "digest": "one",
        "key": key(version="planned"),
    }
    return Entry.of(Ready(**{**ready, **fields}), None)


STATUS = {"memory_loaded": 1, "memory_canary": 2, "memory_peak": 3, "memory_told": True, "engine_version": "real"}


def test_control_remembers_what_the_replica_says_under_the_engine_that_it_had() -> None:
    found = known.record(entry(), STATUS)
    assert found is not None
    assert (found.loaded, found.canary, found.peak, found.key) == (1, 2, 3, key(version="real"))
    assert abs(found.at - time.time()) < 60
    assert known.record(entry(key=None), STATUS) is None
    assert known.record(entry(), {**STATUS, "memory_told": False}) is None


def test_control_that_comes_back_reckons_as_it_did() -> None:
    running, gone = entry(), entry()
    gone.give_up("it broke")
    stands = known.standing({"a": running, "b": gone})
    assert stands == {"a": Standing(node="here", index=0, share=1.0, key=key(version="planned"))}
    then = [Node(name="here", taken={0: 5, 2: 7}), Node(name="there")]
    document = json.loads(json.dumps({"text": "", **known.noted(stands, then)}))
    assert known.recalled(document) == stands
    now = [Node(name="here", taken={0: 9}), Node(name="there", taken={1: 1}), Node(name="new", taken={0: 2})]
    assert [node.taken for node in known.as_then(document, now)] == [{0: 5, 2: 7}, {}, {}]
    assert known.recalled({"text": ""}) == {}


def test_control_knows_its_replicas_processes_by_node() -> None:
    one = entry()
    one.hear({"replica": "a", "node": "ray", "pid": 7, "digest": "one", "at": time.time(), "state": "ready"})
    one.hear({"replica": "b", "node": "ray", "pid": 8, "digest": "old", "at": time.time(), "state": "ready"})
    assert known.processes({"a": one, "b": entry()}) == {"ray": [7, 8]}


def test_a_second_plan_takes_what_was_measured_under_the_keys_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text("{version: 1, services: {a: {plugin: mock-slow, options: {voice: deep, seconds: 1}}}}")
    registry = mocked(MockBackend())
    here = survey.node(registry)

    def planned(text: str | None = None, ledger: Ledger | None = None) -> Any:
        fleet = file.parse(text or path.read_text(), path)
        (placement,) = survey.survey(
            fleet, registry, [here], tmp_path, store=tmp_path, offline=True, ledger=ledger
        ).placements
        return placement

    first = planned()
    assert first.figure.source == "size"
    ledger = Ledger((record(first.key, peak=GIB),))
    again = planned(ledger=ledger)
    assert (again.figure.source, again.figure.bytes, again.share) == ("measured", GIB, 0.14)
    live = path.read_text().replace("seconds: 1", "seconds: 2")
    assert planned(live, ledger).figure.source == "measured"
    other = path.read_text().replace("deep", "high")
    assert planned(other, ledger).figure.source == "size"


@pytest.mark.parametrize(("share", "asked"), [(0.5, 0.5), (1, 1), (0.29, 0.29), (1 / 3, 0.3333), (1 / 6, 0.1666)])
def test_shares_that_sum_to_one_still_do_in_ray(share: float, asked: float) -> None:
    from argosy.serve.deploy import lease

    assert lease(share) == asked
    assert int(1 / share + 1e-9) * lease(share) <= 1
    assert lease(1e-6) == 0.0001
