"""The ledger: what replicas really held, remembered by what decides it.

A replica of the same weights, on the same engine with the same options and caps, on the same device model, holds the
same again. Control alone writes it; a file carries it elsewhere, with the nodes that it was measured on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ..backend import Device
from ..engines import Engine
from ..errors import ArgosyError
from .estimate import Figure
from .nodes import Node

VERSION = 1  # of the file


@dataclass(frozen=True, kw_only=True)
class Key:
    """What a measurement is remembered by.

    source, weights: the model as the fleet file names it, and the digest of its content, empty where it is not here
    options: digest of the plugin and of those of its options that are not live
    caps: digest of what the engine was handed: threads, memory caps, `engine_options`
    device, architecture, driver: as the node detected them
    """

    source: str
    weights: str
    engine: str
    version: str
    options: str
    caps: str
    device: str
    architecture: str
    driver: str

    @classmethod
    def of(
        cls,
        plugin: str,
        source: str,
        weights: str,
        engine: Engine,
        version: str,
        options: Mapping[str, Any],
        device: Device,
    ) -> Key:
        """`options` are those that are not live, defaults among them."""
        return cls(
            source=source,
            weights=weights,
            engine=engine.name,
            version=version,
            options=_digest([plugin, dict(options)]),
            caps=_digest(dataclasses.asdict(engine)),
            device=device.name,
            architecture=device.architecture,
            driver=device.driver,
        )

    @property
    def digest(self) -> str:
        return _digest(dataclasses.astuple(self))

    def matches(self, other: Key, *, loosely: bool = False) -> bool:
        """Whether what was measured for one holds for the other. Weights are the same by their content, or, where
        that is not known of one of them, by their name. `loosely`, for a device that only a fleet file describes:
        whatever its driver, the engine's version and caps."""
        same = self.weights == other.weights if self.weights and other.weights else self.source == other.source
        names = (
            ("engine", "options")
            if loosely
            else ("engine", "options", "version", "caps", "device", "architecture", "driver")
        )
        return (
            same
            and all(getattr(self, name) == getattr(other, name) for name in names)
            and (not loosely or _alike(self, other))
        )


def _alike(one: Key, other: Key) -> bool:
    """A fleet file may write half of a device's name, and no architecture."""
    names = sorted((one.device.lower(), other.device.lower()), key=len)
    return names[0] in names[1] and (
        not (one.architecture and other.architecture) or one.architecture == other.architecture
    )


@dataclass(frozen=True, kw_only=True)
class Record:
    """Bytes on the device after loading, after the canary, and at most while serving; `at` is when, in seconds since
    the epoch."""

    key: Key
    loaded: int
    canary: int
    peak: int
    at: float

    def after(self, earlier: Record | None) -> Record:
        """This one, with the higher of both peaks: what a busy day took is not forgotten by a quiet one."""
        return self if earlier is None else dataclasses.replace(self, peak=max(self.peak, earlier.peak))


@dataclass(frozen=True)
class Ledger:
    """Records to look up, none twice."""

    records: tuple[Record, ...] = ()

    def find(self, key: Key, *, loosely: bool = False) -> Record | None:
        """The latest record that holds for `key`; None where nothing like it was ever measured."""
        found = [one for one in self._alike.get((key.engine, key.options), ()) if one.key.matches(key, loosely=loosely)]
        return max(found, key=lambda record: record.at, default=None)

    @cached_property
    def _alike(self) -> dict[tuple[str, str], list[Record]]:
        """Records by what every match shares: a plan looks some thousand times."""
        found: dict[tuple[str, str], list[Record]] = {}
        for record in self.records:
            found.setdefault((record.key.engine, record.key.options), []).append(record)
        return found

    def figure(self, key: Key, *, loosely: bool = False) -> Figure | None:
        """What a replica of this key will hold: the most that one did."""
        record = self.find(key, loosely=loosely)
        if record is None:
            return None
        day = datetime.fromtimestamp(record.at, UTC).date().isoformat()
        version = f" {record.key.version}" if record.key.version else ""
        detail = f"measured {day} on {record.key.device} with {record.key.engine}{version}"
        return Figure(record.peak, "measured", detail)


def dump(records: Iterable[Record], nodes: Sequence[Node] = ()) -> str:
    """The file that `argosy ledger export` writes."""
    plain = {
        "argosy_ledger": VERSION,
        "records": [dataclasses.asdict(record) for record in records],
        "nodes": [dataclasses.asdict(node) for node in nodes],
    }
    return json.dumps(plain, indent=1)


def load(text: str, where: str) -> tuple[Ledger, tuple[Node, ...]]:
    """The records and nodes of a file that `dump` made. ArgosyError where it is none."""
    try:
        found = json.loads(text)
        version = found["argosy_ledger"]
        if version != VERSION:
            raise ArgosyError(f"a ledger of version {VERSION} in {where}", f"version {version}", "argosy ledger export")
        records = TypeAdapter(tuple[Record, ...]).validate_python(found["records"])
        nodes = TypeAdapter(tuple[Node, ...]).validate_python(found["nodes"])
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArgosyError(f"a ledger in {where}", said, "argosy ledger export > FILE, where the fleet runs") from None
    return Ledger(records), nodes


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:32]
