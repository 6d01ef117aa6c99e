"""What the plan knows of weights: their size, what the model says of them, and what no engine can make of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import argosy
from argosy.engines import Onnxruntime, Python
from argosy.fleet.schema import Fleet
from argosy.fleet.weights import Weights
from argosy.plan.decision import Cause, Plan
from argosy.runtime import survey
from argosy.testing import MockBackend, installed

GIB = 2**30
MIB = 2**20


class Plain(argosy.Model):
    """Reads onnx on one engine, and anything on the other."""

    name, task = "plain", argosy.tasks.embedding


@Plain.on("onnxruntime", weights=("onnx",))
class OnOnnxruntime(Plain):
    pass


@Plain.on("python")
class OnPython(Plain):
    pass


class Made(argosy.Model):
    """Makes onnx of safetensors, with a tool that nobody has."""

    name, task = "made", argosy.tasks.embedding


@Made.on("onnxruntime", weights=("onnx",))
class MadeOnOnnxruntime(Made):
    convert_from = ("safetensors",)
    convert_needs = ("no-such-tool==1.0",)

    @staticmethod
    def convert(source: Path, target: Path, options: Any) -> None:
        raise AssertionError("planning converts nothing")


class Knowing(argosy.Model):
    """Says itself what it needs; with the option `broken` it cannot."""

    name, task, engines = "knowing", argosy.tasks.embedding, ("python",)

    class options(argosy.Options):
        broken: bool = False

    @classmethod
    def memory(cls, weights: Weights, options: Any, offer: argosy.Offer) -> int:
        if options.broken:
            raise KeyError("hidden_size")
        return 3 * weights.bytes


def planned(folder: Path, plugin: str, model: str | None = "file://weights", **said: Any) -> Plan:
    registry = installed(Plain, Made, Knowing, backend=MockBackend(engines=(Onnxruntime, Python)))
    service = {"plugin": plugin, "model": model, **said}
    fleet = Fleet.model_validate({"version": 1, "services": {"a": service}})
    return survey.survey(fleet, registry, [survey.node(registry)], folder, store=folder / "cache", offline=True)


def weights(folder: Path, name: str, size: int = 100 * MIB) -> None:
    (folder / "weights").mkdir()
    with (folder / "weights" / name).open("wb") as file:
        file.truncate(size)


def test_the_size_of_the_weights_gives_the_figure(tmp_path: Path) -> None:
    weights(tmp_path, "model.onnx")
    (placement,) = planned(tmp_path, "plain").placements
    assert placement.engine.name == "onnxruntime"
    assert (placement.figure.bytes, placement.figure.source) == (450 * MIB, "size")
    assert "weights of 104.9 MB" in placement.figure.detail
    assert placement.key is not None
    assert placement.key.source == "file://weights"
    assert len(placement.key.weights) == 64


def test_an_engine_that_reads_no_such_weights_is_passed_over_with_both_formats(tmp_path: Path) -> None:
    weights(tmp_path, "model.safetensors")
    plan = planned(tmp_path, "plain")
    assert plan.of("a")[0].engine.name == "python"
    first = plan.decisions["a"].candidates[0]
    assert first.cause is Cause.WEIGHTS
    assert first.why.startswith("weights for onnxruntime in onnx; found: safetensors")


def test_weights_that_would_be_made_by_tools_that_are_not_here_are_refused_with_what_to_type(tmp_path: Path) -> None:
    weights(tmp_path, "model.safetensors")
    said = planned(tmp_path, "made").pending["a"]
    assert "no tool environment with no-such-tool==1.0" in said
    assert "argosy weights convert --plugin made --engine onnxruntime --install-tools" in said


def test_what_the_model_says_goes_before_the_size_and_one_that_breaks_is_named(tmp_path: Path) -> None:
    weights(tmp_path, "model.safetensors")
    figure = planned(tmp_path, "knowing").of("a")[0].figure
    assert (figure.bytes, figure.source, figure.detail) == (300 * MIB, "plugin", "memory() of knowing")
    said = planned(tmp_path, "knowing", options={"broken": True}).pending["a"]
    assert "memory() of Knowing; found: KeyError: 'hidden_size'" in said


def test_weights_that_cannot_be_weighed_leave_the_figure_unknown_and_say_why(tmp_path: Path) -> None:
    (placement,) = planned(tmp_path, "plain", "hf://owner/name@main", share=0.5).placements
    assert (placement.figure.bytes, placement.figure.source) == (None, "unknown")
    assert "its weights cannot be weighed" in placement.figure.detail
    assert placement.key is not None
    assert (placement.key.source, placement.key.weights) == ("hf://owner/name@main", "")


def test_a_quantised_checkpoint_is_no_plain_one(tmp_path: Path) -> None:
    weights(tmp_path, "model.safetensors")
    (tmp_path / "weights/config.json").write_text(json.dumps({"quantization_config": {"quant_method": "awq"}}))
    assert "found: awq" in planned(tmp_path, "made").pending["a"]
