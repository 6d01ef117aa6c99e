"""ONNX Runtime, which falls back to the processor without a word: when a provider's library does not load, when a
provider takes no node of the graph, and when one fails in the midst of an answer."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from .engine import Engine

PROCESSOR = "CPUExecutionProvider"
RECORD = "session.record_ep_graph_assignment_info"  # which provider computes which node; since 1.24


@dataclass(frozen=True, kw_only=True)
class Onnxruntime(Engine):
    name = "onnxruntime"
    distributions = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-migraphx", "onnxruntime-openvino")
    providers: tuple[tuple[str, Mapping[str, Any]], ...] = ((PROCESSOR, {}),)

    def prepare(self) -> Self:
        """The vendor's libraries that a provider links with, where they came as packages: the loader does not look
        there, and without them the provider does not load."""
        if self.providers[0][0] != PROCESSOR:
            import onnxruntime

            if hasattr(onnxruntime, "preload_dlls"):  # since 1.21
                onnxruntime.preload_dlls()
        return self

    def session(self, model: Path) -> Any:
        """An InferenceSession on exactly the planned providers. ReplicaError, where the engine is strict, when the
        first one is not in this build, does not load, or takes no part of the graph; such a session does not fall
        back later either: a request then fails."""
        import onnxruntime

        wanted = self.providers[0][0]
        available = onnxruntime.get_available_providers()
        if wanted not in available:
            self.missed(f"onnxruntime with {wanted}", f"onnxruntime {self.version()} with {', '.join(available)}")
        session = onnxruntime.InferenceSession(
            str(model),
            self._options(onnxruntime),
            providers=[(name, dict(values)) for name, values in self.providers if name in available],
            enable_fallback=int(not self.strict),
        )
        self._look(session, model.name, wanted in available)
        return session

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
