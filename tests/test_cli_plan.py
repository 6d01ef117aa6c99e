"""`argosy plan`, `explain` and `ledger`: on this machine, on recorded ones, on none, and on a running fleet."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, Running
from typer.testing import CliRunner

from argosy.cli import app
from argosy.fleet import file
from argosy.plan.ledger import Key, Ledger, Record, dump
from argosy.plan.place import Node, Plan
from argosy.registry import load
from argosy.runtime import survey
from argosy.serve.home import Home
from argosy.serve.store import Store
from argosy.testing.machines import MACHINES

DEFAULT = ROOT / "examples/default/fleet.yaml"
HOMELAB = ROOT / "examples/homelab/fleet.yaml"
GIB = 2**30
FIXTURES = {"strix": "strix-halo-64", "tower": "rtx-2070", "mini": "radeon-680m", "arc": "arc-a770"}


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """State and cache of this test alone, no network."""
    monkeypatch.setenv("ARGOSY_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("ARGOSY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ARGOSY_OFFLINE", "1")
    return tmp_path / "state"


def argosy(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    assert result.exit_code == code, result.output
    return result.output


def as_json(*arguments: str | Path, code: int = 0) -> dict[str, Any]:
    return dict(json.loads(argosy(*arguments, "--json", code=code)))


def fleet_file(folder: Path, **services: dict[str, Any]) -> Path:
    path = folder / "fleet.yaml"
    path.write_text(yaml.safe_dump({"version": 1, "services": services}))
    return path


def test_the_default_fleet_is_planned_for_this_machine_without_a_fleet() -> None:
    said = argosy("plan", DEFAULT)
    assert said.startswith("planned for local: this machine\n")
    assert "openvino_genai" in said
    found = as_json("plan", DEFAULT)
    assert set(found["services"]) == {"llm", "whisper", "tts", "embeddings", "reranker"}
    (cpu,) = [one for one in found["nodes"]["local"]["devices"] if one["backend"] == "cpu"]
    budgets = [one["placements"][0]["budget"] for one in found["services"].values()]
    assert cpu["after"] - cpu["before"] == sum(budgets)
    assert cpu["share"] == pytest.approx(0.9)
    sources = {name: one["placements"][0]["needs"]["source"] for name, one in found["services"].items()}
    assert sources["llm"] == "plugin"
    assert set(sources.values()) <= {"size", "plugin"}
    assert {one["placements"][0]["enforcement"] for one in found["services"].values()} == {"watched"}


def test_what_does_not_fit_is_refused_with_the_arithmetic_and_exit_code_5(tmp_path: Path) -> None:
    path = fleet_file(
        tmp_path,
        first={"plugin": "echo", "share": 0.7, "device": "cpu"},
        second={"plugin": "echo", "share": 0.5, "device": "cpu"},
        third={"plugin": "echo", "memory": "1MiB", "device": "cpu"},
    )
    said = " ".join(argosy("plan", path, code=5).split())
    assert "/second has no place: variant 0 on local/" in said
    assert re.search(
        r"wants a share of 0.5 \([\d.]+ GiB\), 0.3 \([\d.]+ GiB\) is left of it beside first \(0.7\)", said
    )
    assert "python needs about 0.29 GiB, a share of" in said
    found = as_json("plan", path, code=5)
    assert {name: bool(one["pending"]) for name, one in found["services"].items()} == {
        "first": False,
        "second": True,
        "third": True,
    }


def test_explain_prints_every_candidate_where_the_figure_came_from_and_how_the_share_is_kept() -> None:
    said = argosy("explain", "whisper", DEFAULT)
    assert "ctranslate2" in said
    assert "chosen" in said
    assert "was taken before it" in said or "not installed" in said
    assert "GiB, reckoned from the weights' size (" in said or "GiB, the plugin's memory() (" in said
    assert "the fleet file gives it" in said
    assert "watched: the node's watchdog ends the replica when it holds more" in said
    found = as_json("explain", "llm", DEFAULT)
    assert [one["engine"] for one in found["candidates"] if one["verdict"] == "chosen"] == ["openvino_genai"]
    assert found["placements"][0]["needs"]["detail"] == "memory() of llm"


def test_explain_of_a_pending_service_says_why_and_of_an_absent_one_what_there_is(tmp_path: Path) -> None:
    path = fleet_file(tmp_path, big={"plugin": "echo", "memory": "9TiB", "device": "cpu"})
    assert "/big has no place: variant 0 on local/" in argosy("explain", "big", path)
    assert "it has big" in argosy("explain", "small", path, code=1)


def test_a_fleet_of_four_machines_is_planned_where_none_of_them_is() -> None:
    said = " ".join(argosy("plan", HOMELAB).split())
    assert "not seen, planned from the fleet file with every engine taken to be installed there: strix" in said
    found = as_json("plan", HOMELAB)
    places = {
        name: (one["placements"][0]["node"], one["placements"][0]["share"]) for name, one in found["services"].items()
    }
    assert places == {
        "llm": ("strix", 0.95),
        "whisper": ("tower", 0.5),
        "tts": ("tower", 0.5),
        "embeddings": ("mini", 0.8),
        "reranker": ("arc", 0.8),
    }
    assert all(node["assumed"] for node in found["nodes"].values())


def recorded(folder: Path) -> list[Node]:
    """The four machines, detected from the trees of their files."""
    nodes = []
    for name, machine in FIXTURES.items():
        MACHINES[machine].build(folder / name)
        nodes.append(survey.recorded(load(), folder / name, name))
    return nodes


def homelab(nodes: list[Node], folder: Path, ledger: Ledger | None = None) -> Plan:
    return survey.survey(
        file.read(HOMELAB), load(), nodes, HOMELAB.parent, store=folder / "cache", offline=True, ledger=ledger
    )


def test_the_homelab_is_planned_on_its_machines_as_they_are_detected(tmp_path: Path) -> None:
    nodes = recorded(tmp_path)
    plan = homelab(nodes, tmp_path)
    assert not plan.pending
    found = {one.service: (one.node, one.device.name, one.engine.name, one.budget) for one in plan.placements}
    assert found["llm"] == ("strix", "AMD Radeon 8060S", "vllm", int(0.95 * 31 * GIB))
    assert found["whisper"][:3] == ("tower", "NVIDIA GeForce RTX 2070", "ctranslate2")
    assert found["tts"][:3] == ("tower", "NVIDIA GeForce RTX 2070", "torch")
    assert found["whisper"][3] == found["tts"][3] == 4 * 10**9
    assert found["embeddings"] == ("mini", "AMD Radeon 680M", "torch", int(0.8 * 15.5 * GIB))
    assert found["reranker"][:3] == ("arc", "Intel Arc A770", "openvino")


def test_seventy_billion_parameters_are_refused_on_half_of_64_gb_and_fit_on_more(tmp_path: Path) -> None:
    nodes = recorded(tmp_path)
    (placement,) = homelab(nodes, tmp_path).of("llm")
    assert placement.key is not None
    ledger = Ledger((Record(key=placement.key, loaded=39 * GIB, canary=40 * GIB, peak=41 * GIB, at=time.time()),))
    said = homelab(nodes, tmp_path, ledger).pending["llm"]
    assert "vllm needs 41.00 GiB, a share of 0.95 of 31.00 GiB is 29.45 GiB" in said
    wide = dataclasses.replace(nodes[0].devices[0], memory_bytes=48 * GIB)
    nodes[0] = dataclasses.replace(nodes[0], devices=(wide, *nodes[0].devices[1:]))
    assert homelab(nodes, tmp_path, ledger).of("llm")[0].figure.source == "measured"


def test_a_recorded_machine_is_planned_for(tmp_path: Path) -> None:
    MACHINES["laptop"].build(tmp_path / "laptop")
    texts = {"plugin": "embeddings", "model": "hf://BAAI/bge-large-en-v1.5@main", "device": ["rocm", "cuda"]}
    path = fleet_file(tmp_path, texts=texts)
    found = as_json("plan", path, "--root", tmp_path / "laptop")
    (placement,) = found["services"]["texts"]["placements"]
    assert (placement["backend"], placement["budget"]) == ("rocm", int(0.1 * 15 * GIB))
    names = [one["name"] for one in found["nodes"]["local"]["devices"]]
    assert names[:2] == ["NVIDIA GeForce RTX 4070 Laptop GPU", "AMD Radeon 780M"]
    assert "every engine is taken to be installed there" in found["notes"][0]


def key(**fields: str) -> Key:
    every = {name.name: "" for name in dataclasses.fields(Key)}
    return Key(**{**every, "source": "wheel://voice", "engine": "onnxruntime", "device": "A Processor", **fields})


RECORD = Record(key=key(), loaded=170 * 2**20, canary=175 * 2**20, peak=180 * 2**20, at=1_800_000_000.0)


def test_a_ledger_is_shown_exported_and_imported_where_no_fleet_runs(apart: Path, tmp_path: Path) -> None:
    assert "none runs here or ever did" in argosy("ledger", "show", code=7)
    home = Home.of(apart, "mine")
    store = Store(home.store)
    store.measure(RECORD)
    store.close()
    assert all(word in argosy("ledger", "show") for word in ("wheel://voice", "170", "175", "180"))
    carried = tmp_path / "ledger.json"
    carried.write_text(argosy("ledger", "export"))
    assert "wheel://voice" in argosy("ledger", "show", carried)
    Home.of(apart, "other")
    said = argosy("ledger", "import", carried, "--fleet", "other")
    assert said == "1 records taken into the ledger of the fleet other\n"
    other = Store(Home.of(apart, "other").store)
    assert other.ledger() == Ledger((RECORD,))
    other.close()


@pytest.mark.parametrize(
    "text", ["", "{}", '{"argosy_ledger": 2}', '{"argosy_ledger": 1, "records": [1], "nodes": []}']
)
def test_a_file_that_is_no_ledger_is_refused_with_the_command_that_makes_one(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ledger.json"
    path.write_text(text)
    assert "argosy ledger export" in argosy("plan", DEFAULT, "--ledger", path, code=1)
    assert "argosy ledger export" in argosy("ledger", "show", path, code=1)
    assert "argosy ledger export" in argosy("plan", DEFAULT, "--ledger", tmp_path / "none", code=1)


def test_a_laptop_plans_with_an_exported_ledger_as_the_cluster_does(tmp_path: Path) -> None:
    nodes = recorded(tmp_path)
    nodes = [dataclasses.replace(one, engines={**one.engines, "vllm": "0.32.0"}, assumed=False) for one in nodes]
    (placement,) = homelab(nodes, tmp_path).of("llm")
    assert placement.key is not None
    records = (Record(key=placement.key, loaded=20 * GIB, canary=21 * GIB, peak=22 * GIB, at=1_800_000_000.0),)
    there = homelab(nodes, tmp_path, Ledger(records))
    carried = tmp_path / "ledger.json"
    carried.write_text(dump(records, nodes))
    found = as_json("plan", HOMELAB, "--ledger", carried)
    here = {name: one["placements"][0] for name, one in found["services"].items()}
    for one in there.placements:
        same = here[one.service]
        assert (same["node"], same["index"], same["engine"]) == (one.node, one.device.index, one.engine.name)
        assert (same["budget"], same["needs"]["bytes"]) == (one.budget, one.figure.bytes)
    assert here["llm"]["needs"]["bytes"] == 22 * GIB
    assert "as they were when it was written" in found["notes"][0]


def test_a_ledger_without_nodes_serves_devices_that_only_a_file_describes(tmp_path: Path) -> None:
    (placement,) = homelab(recorded(tmp_path), tmp_path).of("llm")
    assert placement.key is not None
    seen = dataclasses.replace(placement.key, version="0.32.0", driver="amdgpu", caps="of 28 GiB")
    records = [Record(key=seen, loaded=20 * GIB, canary=21 * GIB, peak=22 * GIB, at=1_800_000_000.0)]
    carried = tmp_path / "ledger.json"
    carried.write_text(dump(records))
    needs = as_json("plan", HOMELAB, "--ledger", carried)["services"]["llm"]["placements"][0]["needs"]
    assert (needs["bytes"], needs["source"]) == (22 * GIB, "measured")
    assert needs["detail"].endswith("on AMD Radeon 8060S with vllm 0.32.0")


@pytest.mark.fleet
def test_a_running_fleet_is_planned_with_its_own_nodes_and_what_it_measured(fleet: Running) -> None:
    exported = json.loads(fleet.argosy("ledger", "export").stdout)
    sources = {record["key"]["engine"] for record in exported["records"]}
    assert {"openvino_genai", "ctranslate2", "onnxruntime", "openvino"} <= sources
    assert [node["name"] for node in exported["nodes"]] == ["local"]
    found = json.loads(fleet.argosy("plan", "--json", str(fleet.file)).stdout)
    assert "planned for the running fleet tests" in found["notes"][0]
    for name, one in found["services"].items():
        needs = one["placements"][0]["needs"]
        assert (name, needs["source"]) == (name, "measured")
        assert needs["bytes"] > 0
    said = fleet.argosy("explain", "whisper", str(fleet.file)).stdout
    assert "measured" in said
