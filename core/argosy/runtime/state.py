"""The states of a replica, and what it tells of itself."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    STARTING = "starting"
    LOADING = "loading"
    PROVING = "proving"
    READY = "ready"
    DEGRADED = "degraded"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Status:
    """A replica as it is now, plain enough for JSON. `memory`, and what it was when the model was loaded, when it had
    answered its canary, and at most, are bytes: on the device where its backend tells (`memory_told`), else on the
    host; `loaded_seconds` is what fetching and loading took; `proof` is the sentence of the proof."""

    service: str
    state: State
    reason: str
    variant: int
    plugin: str
    engine: str
    engine_version: str
    backend: str
    device: str
    share: float
    budget: int | None
    enforcement: str
    memory: int
    memory_peak: int
    pid: int
    loaded_seconds: float
    running: int
    waiting: int
    about: dict[str, str]
    canary_seconds: float
    proof: str
    memory_loaded: int = 0
    memory_canary: int = 0
    memory_told: bool = False
