"""The contract tests: kept by every installed model and backend and by our mocks, and broken where they should be."""

import dataclasses
import os
import subprocess
import sys
import time
import types
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ConfigDict

import argosy
import argosy_cpu
from argosy import Context, Device, Finding, Model, engine_batches, one_by_one, registry, tasks
from argosy.engines import Engine, Onnxruntime, Python
from argosy.tasks import ChatDelta, ChatRequest, Embedding
from argosy.testing import MockBackend, assignment, check_answers, check_backend, check_model, installed, models
from argosy.testing.machines import MACHINES, Machine
from argosy.testing.models import EngineBatched, FailsOnRequest, Mock, Slow, Streaming, Text, Vectors

INSTALLED = registry.load([("mock", models)])


def test_every_installed_plugin_is_whole() -> None:
    assert {plugin.name: plugin.broken for plugin in INSTALLED.plugins if plugin.broken} == {}


@pytest.mark.parametrize("name", sorted(INSTALLED.models))
def test_every_installed_model_keeps_the_contract(name: str) -> None:
    check_model(INSTALLED.model(name), INSTALLED)


@pytest.mark.parametrize("name", sorted(INSTALLED.backends))
def test_every_installed_backend_keeps_the_contract(name: str) -> None:
    check_backend(INSTALLED.backend(name))


@pytest.mark.parametrize("machine", MACHINES.values(), ids=list(MACHINES))
def test_every_installed_backend_keeps_the_contract_on_every_machine(machine: Machine, tmp_path: Path) -> None:
    machine.build(tmp_path)
    for backend in INSTALLED.backends.values():
        if not isinstance(backend, MockBackend):  # which has no files
            check_backend(backend, tmp_path)


@pytest.mark.parametrize(
    "name",
    sorted(
        name
        for name, model in INSTALLED.models.items()
        if not model.needs_weights and name != "mock-fails-on-load" and model.implementations()[0].engine == "python"
    ),
)
async def test_every_model_that_needs_no_weights_keeps_it_while_running(name: str) -> None:
    model = INSTALLED.model(name)
    await check_answers(assignment(model), installed(model))


async def test_different_requests_are_answered_alone_as_they_are_in_batches() -> None:
    given = [Text(text=f"{number}") for number in range(5)]
    await check_answers(assignment(Slow), installed(Slow), given)


# models that break it ------------------------------------------------------------------------------------------------


def breaks(**fields: Any) -> type[Model]:
    return type("Broken", (Slow,), {"__doc__": "Not as it should be.", **fields})


class Loose(argosy.Options):
    model_config = ConfigDict(extra="allow", frozen=True)


class Needy(argosy.Options):
    size: int


def _generates(self: Any, request: Any, ctx: Any) -> Iterator[Any]:
    yield request


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (breaks(name="Not A Name"), "in lower case"),
        (breaks(task="chat"), "task is one of argosy.tasks"),
        (breaks(options=Loose), "options forbid names"),
        (breaks(options=Needy), "size has none"),
        (breaks(options=dict), "subclass of argosy.Options"),
        (breaks(engines=("abacus",)), "'abacus' is an engine; there are .*python"),
        (breaks(engines=()), "names at least one engine"),
        (breaks(generate=_generates), "one of predict"),
        (breaks(batching=engine_batches), "async def predict"),
        (breaks(batching=argosy.gather(0)), "at least one item"),
        (breaks(load=Model.load), "says how to load"),
        (breaks(canary=Model.canary), "has a canary"),
        (breaks(features=["words"]), "features is a frozenset"),
        (breaks(about={"method": 3}), "about maps text to text"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_model_that_breaks_the_contract_is_told_how(model: type[Model], sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        check_model(model)


class Swaps(Slow):
    """Mixes up who asked what."""

    name = "swaps"

    def predict(self, batch: Sequence[Text]) -> Sequence[Text]:
        return batch[::-1]


class WrongType(Slow):
    """Answers with bare lists once its canary was answered."""

    name = "wrong-type"

    def predict(self, batch: Sequence[Text]) -> Sequence[Any]:
        return batch if batch[0].text == "ready" else [[0.5] for _ in batch]


class Jams(Slow):
    """Cannot be closed."""

    name = "jams"

    def close(self) -> None:
        raise OSError("jammed")


class Clings(Mock):
    """Does not let go of its slot."""

    name, task, batching = "clings", tasks.chat, one_by_one

    def generate(self, request: ChatRequest, ctx: Context) -> Iterator[ChatDelta]:
        yield ChatDelta("here")
        if ctx.id == "leaving":
            time.sleep(1.5)


class SaysText(Mock):
    """Yields bare text."""

    name, task, batching = "says-text", tasks.chat, engine_batches

    async def generate(self, request: ChatRequest, ctx: Context) -> AsyncIterator[Any]:
        yield ChatDelta("first") if ctx.id != "leaving" else "second"


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (Swaps, "answered as it is alone"),
        (WrongType, "answers with Text, not list"),
        (Jams, "closes without a complaint: .*jammed"),
        (Clings, "within a second"),
        (SaysText, "yields ChatDelta, not str"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_running_model_that_breaks_the_contract_is_told_how(model: type[Model], sentence: str) -> None:
    given = [Text(text=f"{number}") for number in range(5)] if issubclass(model, Slow) else []
    with pytest.raises(AssertionError, match=sentence):
        await check_answers(assignment(model), installed(model), given)


async def test_a_model_that_cannot_take_an_odd_batch_fails_the_check() -> None:
    class Pairs(Vectors):
        """Was made for even batches."""

        def predict(self, batch: Sequence[str]) -> Sequence[Embedding]:
            return super().predict(batch)[: max(len(batch) // 2 * 2, 1)]

    with pytest.raises((AssertionError, argosy.RequestError)):
        await check_answers(
            assignment(Pairs),
            installed(Pairs),
            [tasks.EmbeddingRequest(("a", "b", "c")), tasks.EmbeddingRequest(("d",))],
        )


# backends that break it ----------------------------------------------------------------------------------------------


class Sees(MockBackend):
    """Sees devices where there are none."""

    def detect(self, root: Path = Path("/")) -> Sequence[Device]:
        return super().detect()


class Mute(MockBackend):
    """Does not say why."""

    def absent(self, root: Path = Path("/")) -> str:
        return ""


class Imports(MockBackend):
    """Opens an engine to look."""

    def detect(self, root: Path = Path("/")) -> Sequence[Device]:
        if root == Path("/"):
            sys.modules.setdefault("vllm_cpu", types.ModuleType("vllm_cpu"))
        return super().detect(root)


class Unordered(MockBackend):
    """Lists its devices as they come."""

    def detect(self, root: Path = Path("/")) -> Sequence[Device]:
        return super().detect(root)[::-1]


class Numbers(MockBackend):
    """Puts numbers in the environment."""

    def environment(self, device: Device) -> Mapping[str, str]:
        return {"VISIBLE": device.index}  # type: ignore[dict-item]


class Contradicts(MockBackend):
    """Offers what it refuses."""

    def refuses(self, device: Device) -> Mapping[str, str]:
        return {"python": "too slow here"}


class Vague(MockBackend):
    """Names a problem without the check that knows what to do about it."""

    def detect(self, root: Path = Path("/")) -> Sequence[Device]:
        return [dataclasses.replace(device, problems=("it is odd",)) for device in super().detect(root)]


class Helpless(MockBackend):
    """Names a problem, and no check says what helps."""

    def detect(self, root: Path = Path("/")) -> Sequence[Device]:
        return [dataclasses.replace(device, problems=("odd: it is",)) for device in super().detect(root)]

    def checks(self, root: Path = Path("/")) -> Sequence[Finding]:
        return ()


class Curt(Helpless):
    """Leaves open what to type."""

    def checks(self, root: Path = Path("/")) -> Sequence[Finding]:
        return [Finding(check="odd", symptom="it is odd", evidence="it is", fix="")]


class Forgetful(argosy_cpu.Cpu):
    """Reads a file that it does not name."""

    recorded = ("proc/meminfo",)


class Fragile(argosy_cpu.Cpu):
    """Takes what the kernel writes for what it always writes."""

    def absent(self, root: Path = Path("/")) -> str:
        if (file := root / "proc/meminfo").exists():
            int(file.read_text().split()[1])
        return super().absent(root)


class Greedy(MockBackend):
    """Takes every core."""

    def offers(self, device: Device, budget: int | None, cores: int) -> Sequence[Engine]:
        return [Python(threads=64)]


@pytest.mark.parametrize(
    ("backend", "sentence"),
    [
        (Sees(), "finds nothing where there is nothing"),
        (Mute(), "says in one line why"),
        (Imports(), "it imported vllm_cpu"),
        (Unordered(memory=(1, 2)), "PCI addresses"),
        (Numbers(), "maps text to text"),
        (Contradicts(), "python is offered and refused"),
        (Vague(), "a problem is `<check>: <what was found>`"),
        (Helpless(), "checks\\(\\) says what helps against odd"),
        (Curt(), "a line each, not ''"),
        (Forgetful(), "`recorded` names every file"),
        (Fragile(), "raises nothing on garbage in proc/meminfo: IndexError"),
        (Greedy(), "64 threads of one core"),
        (MockBackend("Not A Name"), "in lower case"),
        (MockBackend(memory=(0,)), "memory is positive"),
        (MockBackend(enforcement="kept"), "not 'kept'"),  # type: ignore[arg-type]
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_backend_that_breaks_the_contract_is_told_how(
    backend: MockBackend, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm_cpu", None)  # put back afterwards, whatever the backend did
    monkeypatch.delitem(sys.modules, "vllm_cpu")
    with pytest.raises(AssertionError, match=sentence):
        check_backend(backend)


# the mock backend ----------------------------------------------------------------------------------------------------


def test_a_mock_device_fills_up_and_drains() -> None:
    backend = MockBackend()
    (device,) = backend.detect()
    assert backend.held(device) == ()
    backend.fill(2**30, pid=7)
    backend.fill(2**20, pid=os.getpid())
    assert [(held.pid, held.bytes) for held in backend.held(device)] == [(7, 2**30), (os.getpid(), 2**20)]
    backend.drain()
    assert backend.held(device) == ()


def test_a_mock_device_vanishes_breaks_and_comes_back() -> None:
    backend = MockBackend("cuda", memory=(2**30, None))
    check_backend(backend)
    backend.vanish(0)
    assert [device.index for device in backend.detect()] == [1]
    backend.vanish(1, "lost: it fell off the bus")
    assert [device.usable for device in backend.detect()] == [False]
    assert backend.absent() == "lost: it fell off the bus"
    check_backend(backend)
    backend.come_back(0)
    backend.come_back(1)
    assert [device.memory_bytes for device in backend.detect()] == [2**30, None]
    assert backend.absent() == ""


def test_a_mock_backend_offers_the_engines_that_it_is_given() -> None:
    backend = MockBackend(engines=(Onnxruntime, Python))
    (device,) = backend.detect()
    assert [(engine.name, engine.threads) for engine in backend.offers(device, None, 3)] == [
        ("onnxruntime", 3),
        ("python", 3),
    ]


@pytest.mark.parametrize("model", [Slow, FailsOnRequest, Vectors, Streaming, EngineBatched])
def test_an_assignment_is_made_in_one_line(model: type[Model]) -> None:
    made = assignment(model)
    assert (made.service, made.engine.name, made.device.name) == (model.name, "python", "mock 0")
    assert made.environment == {"ARGOSY_MOCK_VISIBLE_DEVICES": "0"}


def test_the_pytest_plugin_gives_a_plugin_author_his_fixtures(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["argosy.testing.pytest_plugin"]\n')
    (tmp_path / "test_mine.py").write_text(
        "def test_fixtures(mock_backend, mock_registry, recorder):\n"
        "    assert mock_backend.detect()[0].name == 'mock 0'\n"
        "    assert 'mock-slow' in mock_registry.models\n"
        "    recorder.add('argosy_requests_total', status='200')\n"
        "    assert next(recorder.named('argosy_requests_total')).value == 1\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "1 passed" in done.stdout) == (0, True), done.stdout + done.stderr
