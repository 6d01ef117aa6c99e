"""What every engine is: options of one library, its preparation in the replica's process, and its own report."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from ..errors import ReplicaError

log = logging.getLogger("argosy.engines")


@dataclass
class Seen:
    """What a library said of itself while it was prepared, loaded and asked: the proof is made of it.

    told: devices and figures in the library's own words; empty where it tells nothing
    elsewhere: why it does not run on what was planned, a sentence each; empty where nothing speaks against it
    watched: asked at every report why something has left its device since; they return nothing where it has not
    """

    told: dict[str, str] = field(default_factory=dict)
    elsewhere: list[str] = field(default_factory=list)
    watched: list[Callable[[], str]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Engine:
    """`threads` is the replica's core budget (0: the engine's own default). `extra` is what the fleet file's
    `engine_options` added, handed to the library as it is. `strict`: a device that the library would not take is an
    error; where it is off (`fallback: degrade`), the library may run elsewhere and the proof says so. `seen` is empty
    until the engine is used in a replica's process; each replica has its own."""

    name: ClassVar[str]
    distributions: ClassVar[tuple[str, ...]]  # any one of them installed means the engine is here
    threads: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)
    strict: bool = True
    seen: Seen = field(default_factory=Seen, compare=False, repr=False)

    def prepare(self) -> Self:
        """Called in the replica's process and in the model's thread when the environment stands, before the model's
        `load`: caps that are set by a call, libraries that must be loaded first. Returns the engine that `load` gets:
        this one, or, where it is not `strict` and the library cannot run on the planned device, what comes nearest.
        ReplicaError where it is strict."""
        return self

    def report(self) -> Seen:
        """What the library says now, after an answer: `seen`, and what can only be asked then."""
        left = [why for ask in self.seen.watched if (why := ask())]
        return Seen(dict(self.seen.told), [*self.seen.elsewhere, *left])

    def missed(self, wanted: str, found: str, fix: str = "argosy doctor") -> None:
        """Say that the library is not on the planned device. ReplicaError where the engine is strict; else the proof
        will say so."""
        if self.strict:
            raise ReplicaError(wanted, found, fix)
        log.warning("%s was planned, found: %s", wanted, found)
        self.seen.elsewhere.append(f"{wanted} was planned, found: {found}")

    @classmethod
    def version(cls) -> str | None:
        """The installed library's version, from package metadata (nothing is imported); None where it is absent."""
        for distribution in cls.distributions:
            try:
                return importlib.metadata.version(distribution)
            except importlib.metadata.PackageNotFoundError:
                continue
        return None


@dataclass(frozen=True, kw_only=True)
class Python(Engine):
    """No engine: for models that compute by themselves."""

    name = "python"
    distributions = ()

    @classmethod
    def version(cls) -> str | None:
        return platform.python_version()
