"""The fleet file: what is wrong is told with its line, its field, what was found and what is allowed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import argosy
from argosy.errors import FleetError
from argosy.fleet.file import check, parse, read, schema
from argosy.fleet.schema import Fleet
from argosy.registry import load
from argosy.testing import installed

FILE = Path("fleet.yaml")
ROOT = Path(__file__).parent.parent
ECHO = "version: 1\nservices:\n  echo:\n    plugin: echo\n"  # four lines

# One broken file each: what stands in it, and what the problem says besides the file's name.
BROKEN = {
    "no version": ("services:\n  a: {plugin: echo}\n", ":1: version: found nothing; version is required: 1"),
    "another version": (ECHO.replace("1", "2", 1), ":1: version: found 2; allowed: 1"),
    "no services": ("version: 1\n", ":1: services: found nothing; services is required"),
    "empty services": ("version: 1\nservices: {}\n", ":2: services: found {}; at least one is needed"),
    "services as a list": ("version: 1\nservices:\n  - echo\n", ':2: services: found ["echo"]; allowed: a mapping'),
    "a service of nothing": (
        "version: 1\nservices:\n  echo:\n",
        ":3: services.echo: found nothing; allowed: a mapping with allow,",
    ),
    "a service of text": (
        "version: 1\nservices:\n  echo: echo\n",
        ':3: services.echo: found "echo"; allowed: a mapping with allow,',
    ),
    "no plugin": (
        "version: 1\nservices:\n  echo:\n    share: 1\n",
        ":3: services.echo.plugin: found nothing; plugin is required: text (a model that `argosy plugins` lists)",
    ),
    "a number for text": (
        ECHO.replace("plugin: echo", "plugin: 3"),
        ":4: services.echo.plugin: found 3; allowed: text",
    ),
    "a misspelt field": (
        ECHO + "    modle: hf://a/b\n",
        ":5: services.echo.modle: found the field modle; did you mean model? allowed: allow, body, cores,",
    ),
    "a misspelt field at the top": (
        ECHO + "servces: 1\n",
        ":5: servces: found the field servces; did you mean services? allowed: broken_plugins,",
    ),
    "a field of elsewhere": (
        ECHO + "    variants:\n      - replicas: 2\n",
        ":6: services.echo.variants.0.replicas: found the field replicas; there is no such field; allowed: cores,",
    ),
    "a misspelt field of the endpoint": (
        ECHO + "endpoint:\n  prt: 1\n",
        ":6: endpoint.prt: found the field prt; did you mean port? allowed: host, port",
    ),
    "a share above one": (
        ECHO + "    share: 1.5\n",
        ":5: services.echo.share: found 1.5; allowed: a number above 0 and up to 1 (fraction of a device",
    ),
    "a share of nothing": (ECHO + "    share: 0\n", ":5: services.echo.share: found 0; allowed: a number above 0"),
    "a share that is no number": (ECHO + "    share: .nan\n", ":5: services.echo.share: found NaN; allowed: a number"),
    "a share in words": (ECHO + "    share: half\n", ':5: services.echo.share: found "half"; allowed: a number'),
    "share and memory": (
        ECHO + "    share: 0.5\n    memory: 1GiB\n",
        ':3: services.echo: found {"share": 0.5, "memory": "1GiB"}; share or memory, not both',
    ),
    "an unknown unit": (
        ECHO + "    memory: 4XB\n",
        ':5: services.echo.memory: found "4XB"; allowed: a size such as 4GiB',
    ),
    "a negative size": (
        ECHO + "    memory: -1\n",
        ":5: services.echo.memory: found -1; allowed: text or a whole number",
    ),
    "a name in capitals": (
        "version: 1\nservices:\n  Big_Name:\n    plugin: echo\n",
        ':3: services.Big_Name: found "Big_Name"; allowed: a name of up to 40 lower case letters, digits and dashes',
    ),
    "a name that is a route": (
        "version: 1\nservices:\n  v1:\n    plugin: echo\n",
        ':3: services.v1: found "v1"; v1 is a route of the endpoint itself: name the service otherwise',
    ),
    "a device with a blank": (
        ECHO + "    device: GPU 0\n",
        ':5: services.echo.device: found "GPU 0"; allowed: a backend (`cpu`), or one device of it (`cpu:0`)',
    ),
    "one device of a list": (
        ECHO + "    device: [cpu, x y]\n",
        ':5: services.echo.device.1: found "x y"; allowed: a backend (`cpu`)',
    ),
    "no cores": (ECHO + "    cores: 0\n", ":5: services.echo.cores: found 0; allowed: a whole number from 1 to 1024"),
    "cores in words": (ECHO + "    cores: two\n", ':5: services.echo.cores: found "two"; allowed: a whole number'),
    "no replicas": (ECHO + "    replicas: 0\n", ":5: services.echo.replicas: found 0; allowed: a whole number from 1"),
    "a negative queue": (ECHO + "    queue: -1\n", ":5: services.echo.queue: found -1; allowed: a whole number from 0"),
    "no time": (ECHO + "    timeout: 0\n", ":5: services.echo.timeout: found 0; allowed: a number above 0"),
    "an unknown fallback": (
        ECHO + "    fallback: maybe\n",
        ':5: services.echo.fallback: found "maybe"; allowed: refuse or degrade (when a replica cannot prove',
    ),
    "variants as a mapping": (
        ECHO + "    variants:\n      engine: x\n",
        ':5: services.echo.variants: found {"engine": "x"}; allowed: a list (ways to run it, preferred first)',
    ),
    "a port beyond the last": (
        ECHO + "endpoint:\n  port: 70000\n",
        ":6: endpoint.port: found 70000; allowed: a whole number from 1 to 65535",
    ),
    "an unknown log form": (ECHO + "logs: xml\n", ':5: logs: found "xml"; allowed: text or json'),
    "a device without a backend": (
        ECHO + "nodes:\n  one:\n    devices:\n      - name: x\n",
        ":8: nodes.one.devices.0.backend: found nothing; backend is required: text",
    ),
    "a node that is not listed": (
        ECHO + "    node: two\nnodes:\n  one: {}\n",
        ':5: services.echo.node: found "two"; allowed: one',
    ),
    "a switch that is no switch": (
        ECHO + "weights:\n  offline: perhaps\n",
        ':6: weights.offline: found "perhaps"; allowed: true or false (never download',
    ),
    "a source without a scheme": (
        ECHO + "    model: BAAI/bge\n",
        ":5: services.echo.model: found \"BAAI/bge\"; 'BAAI/bge' has no scheme: write hf://BAAI/bge",
    ),
    "an unknown scheme": (
        ECHO + "    model: ftp://a/b\n",
        ":5: services.echo.model: found \"ftp://a/b\"; 'ftp://a/b' has the unknown scheme 'ftp': allowed are hf, wheel",
    ),
    "a download without a checksum": (
        ECHO + "    model:\n      m.onnx: https://h/f\n",
        ':5: services.echo.model: found {"m.onnx": "https://h/f"}; model: m.onnx: \'https://h/f\' has no checksum',
    ),
    "a file outside the folder": (
        ECHO + "    variants:\n      - model: {../x: hf://a/b}\n",
        ":6: services.echo.variants.0.model: found",
    ),
    "a source that is a number": (
        ECHO + "    model: 3\n",
        ":5: services.echo.model: found 3; allowed: text or a mapping of names",
    ),
    "an error in what is merged": (
        "version: 1\nservices:\n  a: &a\n    plugin: echo\n  b:\n    <<: *a\n    share: 3\n",
        ":7: services.b.share: found 3; allowed",
    ),
}

# Files that are no mapping, or no YAML: they are told in the first line.
UNREADABLE = {
    "nothing": ("", "fleet.yaml:1: nothing"),
    "a list": ("- a\n", 'fleet.yaml:1: ["a"]'),
    "a tab": ("version: 1\nservices:\n\ta: 1\n", "fleet.yaml:3: found character '\\t'"),
    "a bracket that stays open": ("version: [1\n", "fleet.yaml:2: expected ',' or ']'"),
    "a service twice": (
        ECHO + "  echo:\n    plugin: x\n",
        "fleet.yaml:5: services.echo a second time, it stands in line 3",
    ),
    "a field twice": (ECHO + "    plugin: x\n", "fleet.yaml:5: services.echo.plugin a second time"),
    "a name that reads as a switch": (
        "version: 1\nservices:\n  on: {plugin: echo}\n",
        'fleet.yaml:3: services.on: a key that YAML reads as bool; write it in quotes: "on"',
    ),
    "a list for a key": ("version: 1\n? [a]\n: 3\n", "fleet.yaml:2: a key that is a list or a mapping"),
    "a Python object": ("version: !!python/object:os.system {}\n", "fleet.yaml:1: could not determine a constructor"),
    "a zero byte": ("version: 1\x00\n", "fleet.yaml: unacceptable character #x0000"),
    "brackets without end": ("[" * 5000, "fleet.yaml: maximum recursion depth"),
}


@pytest.mark.parametrize(("text", "problem"), BROKEN.values(), ids=BROKEN)
def test_a_problem_names_file_line_field_what_was_found_and_what_is_allowed(text, problem):
    with pytest.raises(FleetError) as caught:
        parse(text, FILE)
    (said,) = caught.value.problems
    assert said.startswith(f"fleet.yaml{problem}")
    assert "\n" not in said
    assert said in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("text", "problem"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_is_no_fleet_file_at_all_is_told_in_one_sentence(text, problem):
    with pytest.raises(FleetError) as caught:
        parse(text, FILE)
    assert caught.value.found.startswith(problem)
    assert "\n" not in str(caught.value)


def test_every_problem_is_told_at_once():
    text = "version: 1\nservices:\n  a:\n    share: 3\n    cores: 0\n  B:\n    plugin: echo\nlogs: xml\n"
    with pytest.raises(FleetError, match="has 5 problems") as caught:
        parse(text, FILE)
    places = [problem.split(":")[1] for problem in caught.value.problems]
    assert sorted(places) == ["3", "4", "5", "6", "8"]


def test_a_file_that_is_not_there_says_how_to_make_one(tmp_path):
    with pytest.raises(FleetError, match=r"No such file.*argosy init"):
        read(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes("# \xe9\nversion: 1\n".encode("latin-1"))
    with pytest.raises(FleetError, match="utf-8"):
        read(tmp_path / "latin.yaml")


class Tuned(argosy.Options):
    """Options of Tuned."""

    size: int = 3
    warmth: float = argosy.live(0.7, ge=0, le=2)


class Model(argosy.Model):
    """A model to check a fleet against."""

    name, task, options, engines = "tuned", argosy.tasks.chat, Tuned, ("python", "onnxruntime")


TUNED = "    plugin: tuned\n    model: hf://a/b\n"  # lines four and five


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            TUNED.replace("tuned", "tunde"),
            ":4: services.a.plugin: found \"tunde\"; model 'tunde'; found: installed: tuned",
        ),
        ("    plugin: tuned\n", ":3: services.a.model: found nothing; tuned needs weights: model: hf://… or wheel://…"),
        (f"{TUNED}    engine: vllm\n", ':6: services.a.engine: found "vllm"; tuned runs on python, onnxruntime'),
        (f"{TUNED}    options: {{sise: 1}}\n", ":6: services.a.options.sise: found 1; tuned knows size, warmth"),
        (
            f"{TUNED}    options:\n      warmth: 9\n",
            ":7: services.a.options.warmth: found 9; Input should be less than or equal to 2",
        ),
        (
            f"{TUNED}    variants:\n      - options: {{size: x}}\n",
            ':7: services.a.variants.0.options.size: found "x"; Input should be a valid integer',
        ),
    ],
)
def test_what_is_not_installed_or_not_an_option_is_told_with_its_line(text, problem, tmp_path):
    file = tmp_path / "fleet.yaml"
    file.write_text("version: 1\nservices:\n  a:\n" + text)
    with pytest.raises(FleetError) as caught:
        check(read(file), installed(Model), file)
    (said,) = caught.value.problems
    assert said.startswith(f"{file}{problem}")


def test_a_near_miss_of_a_plugin_is_guessed(tmp_path):
    file = tmp_path / "fleet.yaml"
    file.write_text("version: 1\nservices:\n  a:\n    plugin: tunde\n")
    with pytest.raises(FleetError, match=r"did you mean tuned\?"):
        check(read(file), installed(Model), file)


def test_the_schema_is_what_the_reader_holds_a_file_against():
    from jsonschema import Draft202012Validator

    document = json.loads(schema())
    Draft202012Validator.check_schema(document)
    validator = Draft202012Validator(document)
    assert validator.is_valid({"version": 1, "services": {"echo": {"plugin": "echo", "memory": "4GiB"}}})
    assert not validator.is_valid({"version": 1, "services": {"echo": {"plugin": "echo", "share": 2}}})
    assert not validator.is_valid({"version": 1, "services": {"Echo": {"plugin": "echo"}}})
    assert not validator.is_valid({"version": 1, "services": {"echo": {"plugin": "echo", "modle": "x"}}})
    assert set(document["properties"]) == set(Fleet.model_fields)


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GiB", 4 * 2**30), ("500 MB", 500_000_000), ("1.5kib", 1536), ("7", 7), ("123456", 123456), ("2 TiB", 2**41)],
)
def test_sizes_are_read_in_both_kinds_of_units(text, size):
    fleet = parse(f"{ECHO}    memory: {text}\n", FILE)
    assert fleet.services["echo"].memory == size


def test_a_variant_takes_from_its_service_what_it_leaves_out():
    fleet = parse(
        ECHO + "    share: 0.5\n    cores: 2\n    options: {a: 1}\n    variants:\n"
        "      - engine: python\n      - memory: 1GiB\n        cores: 1\n      - options: {b: 2}\n",
        FILE,
    )
    first, second, third = fleet.services["echo"].ways()
    assert (first.engine, first.share, first.memory, first.cores) == ("python", 0.5, None, 2)
    assert (second.share, second.memory, second.cores) == (None, 2**30, 1)
    assert (third.share, third.options) == (0.5, {"b": 2})


def test_the_default_fleet_is_valid_and_leaves_room():
    file = ROOT / "examples/default/fleet.yaml"
    fleet = read(file)
    assert list(fleet.services) == ["llm", "whisper", "tts", "embeddings", "reranker"]
    assert sum(service.share or 0 for service in fleet.services.values()) <= 1
    check(fleet, load(), file)


@pytest.mark.parametrize(("gib", "cores"), [(6, 1), (22, 2), (60, 16)])
def test_the_default_fleet_has_a_place_for_every_service_on_machines_small_and_large(gib, cores, tmp_path):
    from argosy.backend import Device
    from argosy.plan.place import Node
    from argosy.runtime.survey import node, survey

    file = ROOT / "examples/default/fleet.yaml"
    cpu = Device(backend="cpu", name="c", architecture="x86-64", memory_bytes=gib * 2**30, cores=cores)
    machine = Node(name="small", devices=(cpu,), cores=cores, engines=node(load()).engines)
    plan = survey(read(file), load(), [machine], file.parent, store=tmp_path)
    assert plan.pending == {}
    engines = {placement.service: placement.engine.name for placement in plan.placements}
    assert engines["llm"] == "openvino_genai"
    assert max(placement.cores for placement in plan.placements) <= max(cores, 2)
