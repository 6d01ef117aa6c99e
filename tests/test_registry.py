"""The registry: what is installed, what is broken and why, and that one broken plugin takes no other down."""

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import argosy
from argosy import registry
from argosy.errors import PluginError
from argosy.testing import MockBackend, models
from argosy.testing.models import Slow


def plugin(*names: type[argosy.Model], **fields: Any) -> ModuleType:
    """A plugin module with these models."""
    module = ModuleType("made_up")
    module.argosy_models = argosy.hookimpl(lambda: list(names))  # type: ignore[attr-defined]
    for name, value in fields.items():
        setattr(module, name, value)
    return module


def broken(loaded: registry.Registry, name: str) -> str:
    return next(plugin.broken for plugin in loaded.plugins if plugin.name == name)


def test_core_brings_its_engines_and_no_model_and_no_backend() -> None:
    core = next(plugin for plugin in registry.load().plugins if plugin.name == "argosy")
    assert {"vllm", "openvino_genai", "openvino", "onnxruntime", "ctranslate2", "torch", "python"} == set(core.engines)
    assert (core.models, core.backends, core.broken) == ((), (), "")


def test_a_plugin_is_listed_with_what_it_registers() -> None:
    loaded = registry.load([("mock", models)])
    mock = next(plugin for plugin in loaded.plugins if plugin.name == "mock")
    assert "mock-slow" in mock.models
    assert mock.backends == ("mock",)
    assert loaded.model("mock-slow") is Slow
    assert isinstance(loaded.backend("mock"), MockBackend)
    assert loaded.engine("python").name == "python"


def test_a_name_that_nobody_registered_is_refused_with_what_there_is() -> None:
    loaded = registry.load([("mock", models)])
    with pytest.raises(
        PluginError, match=r"model 'nope'; found: installed: .*mock-slow.*; try: pip install argosy-nope"
    ):
        loaded.model("nope")


def test_a_misspelt_hook_breaks_its_plugin_and_no_other() -> None:
    module = plugin()
    module.argosy_modles = argosy.hookimpl(lambda: [])  # type: ignore[attr-defined]
    loaded = registry.load([("typo", module), ("mock", models)])
    assert "argosy_modles" in broken(loaded, "typo")
    assert "mock-slow" in loaded.models


def test_a_plugin_for_another_api_is_refused() -> None:
    loaded = registry.load([("old", plugin(Slow, argosy_api=0))])
    assert "API 1; found: it was written for API 0" in broken(loaded, "old")
    assert "mock-slow" not in loaded.models


def test_a_plugin_that_registers_nothing_is_broken() -> None:
    assert "no hook answered" in broken(registry.load([("empty", plugin())]), "empty")


def test_a_name_that_two_plugins_register_belongs_to_the_first() -> None:
    class Second(Slow):
        pass

    loaded = registry.load([("first", plugin(Slow)), ("second", plugin(Second))])
    assert loaded.model("mock-slow") is Slow
    assert "registered a second time" in broken(loaded, "second")


def test_a_model_that_neither_predicts_nor_generates_breaks_its_plugin() -> None:
    class Idle(argosy.Model):
        name, task, engines = "idle", argosy.tasks.chat, ("python",)

    assert "neither" in broken(registry.load([("idle", plugin(Idle))]), "idle")


def test_a_model_without_engines_breaks_its_plugin() -> None:
    class Nowhere(Slow):
        engines = ()

    assert "name its engines" in broken(registry.load([("nowhere", plugin(Nowhere))]), "nowhere")


@pytest.fixture
def on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Installs a distribution with one plugin module, as pip would."""

    def install(name: str, code: str, requires: str = "argosy") -> None:
        info = tmp_path / f"argosy_{name}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: argosy-{name}\nVersion: 1.2\nRequires-Dist: {requires}\n"
        )
        (info / "entry_points.txt").write_text(f"[argosy]\n{name} = argosy_{name}\n")
        (tmp_path / f"argosy_{name}.py").write_text(code)
        monkeypatch.syspath_prepend(str(tmp_path))
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, f"argosy_{name}", raising=False)

    return install


def test_an_import_that_fails_is_told_with_distribution_cause_and_traceback(on_disk: Any) -> None:
    on_disk("sunk", "import no_such_engine")
    loaded = registry.load([("mock", models)])
    sunk = next(plugin for plugin in loaded.plugins if plugin.name == "sunk")
    assert (sunk.distribution, sunk.version) == ("argosy-sunk", "1.2")
    assert sunk.broken == "ModuleNotFoundError: No module named 'no_such_engine'"
    assert "argosy_sunk.py" in sunk.detail
    assert "mock-slow" in loaded.models
    with pytest.raises(PluginError, match="argosy-sunk is broken: ModuleNotFoundError"):
        loaded.model("sunk")


def test_a_distribution_that_asks_for_another_argosy_is_not_imported(on_disk: Any) -> None:
    on_disk("future", "raise SystemExit('imported')", requires="argosy>=99")
    loaded = registry.load()
    assert "it asks for argosy>=99" in broken(loaded, "future")
    assert "argosy_future" not in sys.modules


def test_a_plugin_from_a_distribution_is_found_by_its_entry_point(on_disk: Any) -> None:
    on_disk(
        "good",
        "from argosy.testing.models import Slow\nimport argosy\n@argosy.hookimpl\ndef argosy_models(): return [Slow]\n",
    )
    loaded = registry.load()
    assert loaded.model("mock-slow") is Slow
    good = next(plugin for plugin in loaded.plugins if plugin.name == "good")
    assert (good.distribution, good.version, good.models) == ("argosy-good", "1.2", ("mock-slow",))


def test_an_object_with_hooks_serves_as_a_plugin_as_well() -> None:
    class Hooks:
        @argosy.hookimpl
        def argosy_models(self) -> list[type[argosy.Model]]:
            return [Slow]

    assert registry.load([("object", Hooks())]).model("mock-slow") is Slow
    assert "no hook answered" in broken(registry.load([("nothing", SimpleNamespace())]), "nothing")
