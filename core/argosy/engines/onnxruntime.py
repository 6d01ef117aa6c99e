"""ONNX Runtime, which falls back to the processor without a word: when a provider's library does not load, when a
provider takes no node of the graph, and when one fails in the midst of an answer."""

from __future__ import annotations

import importlib
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from .engine import Engine
from .openvino import same

PROCESSOR = "CPUExecutionProvider"
RECORD = "session.record_ep_graph_assignment_info"  # which provider computes which node; since 1.24


@dataclass(frozen=True, kw_only=True)
class Onnxruntime(Engine):
    """The first provider is the planned one. Where no build of onnxruntime has it, `plugin` is the distribution that
    brings it as a library, and `on` what onnxruntime's list of devices says of the planned one (metadata of the
    provider's own)."""

    name = "onnxruntime"
    distributions = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-migraphx", "onnxruntime-openvino")
    providers: tuple[tuple[str, Mapping[str, Any]], ...] = ((PROCESSOR, {}),)
    plugin: str = ""
    on: Mapping[str, str] = field(default_factory=dict)

    def prepare(self) -> Self:
        """The vendor's libraries that a provider links with, where they came as packages (the loader does not look
        there, and without them the provider does not load), and the provider itself, where it is a plugin."""
        if self.providers[0][0] == PROCESSOR:
            return self
        import onnxruntime

        if hasattr(onnxruntime, "preload_dlls"):  # since 1.21
            onnxruntime.preload_dlls()
        if self.plugin and not self._listed(onnxruntime):
            try:
                plugin = importlib.import_module(self.plugin.replace("-", "_"))
            except ImportError:
                return self  # `session` says what is missing
            onnxruntime.register_execution_provider_library(self.plugin, plugin.get_library_path())
        return self

    def session(self, model: Path) -> Any:
        """An InferenceSession on exactly the planned providers. ReplicaError, where the engine is strict, when the
        first one is not in this build, does not load, or takes no part of the graph; such a session does not fall
        back later either: a request then fails."""
        import onnxruntime

        (wanted, values), options = self.providers[0], self._options(onnxruntime)
        known = onnxruntime.get_available_providers()
        # One that came as a plugin is listed too, but is taken by its device alone; by its name it is passed over.
        names = [name for name, _ in self.providers if name in known and not (self.plugin and name == wanted)]
        if devices := self._devices(onnxruntime) if self.plugin else []:
            options.add_provider_for_devices(devices[:1], {name: str(value) for name, value in values.items()})
        elif wanted not in names:
            self.missed(f"onnxruntime with {self._planned}", self._lack(onnxruntime), self._fix)
        session = onnxruntime.InferenceSession(
            str(model),
            options,
            providers=None if devices else [(name, dict(own)) for name, own in self.providers if name in names],
            enable_fallback=int(not self.strict),
        )
        self._look(session, model.name, bool(devices) or wanted in names)
        return session

    @property
    def _planned(self) -> str:
        return " on ".join([self.providers[0][0], *self.on.values()])

    @property
    def _fix(self) -> str:
        return f"pip install {self.plugin}" if self.plugin else "argosy doctor"

    def _listed(self, onnxruntime: Any) -> list[Any]:
        """The provider's devices in onnxruntime's list; none before its plugin is registered."""
        return [device for device in onnxruntime.get_ep_devices() if device.ep_name == self.providers[0][0]]

    def _devices(self, onnxruntime: Any) -> list[Any]:
        """Those of them that are the planned one."""
        return [
            device
            for device in self._listed(onnxruntime)
            if all(same(value, device.ep_metadata.get(key, "")) for key, value in self.on.items())
        ]

    def _lack(self, onnxruntime: Any) -> str:
        """What there is instead of the planned provider."""
        here = f"onnxruntime {self.version()} with {', '.join(onnxruntime.get_available_providers())}"
        found = [device.ep_metadata.get(key, "?") for device in self._listed(onnxruntime) for key in self.on]
        return f"{here}, on {', '.join(found)} alone" if found else here

    def _options(self, onnxruntime: Any) -> Any:
        options = onnxruntime.SessionOptions()
        if self.threads:
            options.intra_op_num_threads = self.threads
            options.inter_op_num_threads = 1
        for key, value in self.extra.items():
            setattr(options, key, value)
        if self.providers[0][0] != PROCESSOR:
            options.add_session_config_entry(RECORD, "1")
        return options

    def _look(self, session: Any, name: str, available: bool) -> None:
        """Keep what the session says of itself, now and whenever the proof asks."""
        wanted, used = self.providers[0][0], session.get_providers()[0]
        self.seen.told["provider"] = used
        if used != wanted:
            if available:  # else it was said already
                self.missed(f"onnxruntime with {wanted} for {name}", f"it did not load, {used} is used")
            return
        if wanted != PROCESSOR and hasattr(session, "get_provider_graph_assignment_info"):
            parts = session.get_provider_graph_assignment_info()
            nodes = sum(len(part.get_nodes()) for part in parts)
            taken = sum(len(part.get_nodes()) for part in parts if part.ep_name == wanted)
            self.seen.told["provider"] = f"{wanted}, {taken} of {nodes} nodes of {name}"
            if nodes and not taken:
                self.missed(f"onnxruntime with {wanted} for {name}", f"it takes none of the graph's {nodes} nodes")
                return
        alive = weakref.ref(session)  # the model's own: it ends when the model lets go of it

        def left() -> str:
            session = alive()
            now = session.get_providers()[0] if session is not None else wanted
            return f"{name} was on {wanted} and has fallen back to {now}" if now != wanted else ""

        self.seen.watched.append(left)
