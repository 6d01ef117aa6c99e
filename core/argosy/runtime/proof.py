"""The proof that a replica runs on what was planned, and that its model works."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from ..engines import Python, Seen
from ..model import Model
from .assignment import Assignment
from .memory import Taken


class Cause(StrEnum):
    """What speaks against a replica, as the metric `argosy_replica_degraded` names it."""

    DEVICE = "device"  # the planned device is not there, or not as it was planned
    ENGINE = "engine"  # the library says that it runs elsewhere
    MEMORY = "memory"  # nothing was taken on the device
    SPEED = "speed"  # slower than the model is on any accelerator
    ANSWER = "answer"  # the canary's answer is wrong


@dataclass(frozen=True)
class Doubt:
    cause: Cause
    sentence: str


@dataclass(frozen=True)
class Canary:
    """How the canary went. `seconds` is the time to its answer, `warm` to its second one, None where it was asked
    once; `asked` is False where the model has none."""

    asked: bool
    answer: Any = None
    seconds: float = 0.0
    warm: float | None = None


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What was seen while a replica started.

    before: held before the library was imported; prepared: held when the engine was prepared and the model not yet
    loaded, for some open their device there; after: held after the canary's answer
    engine: the library's own report, after the answer
    lost: why the device is not there as it was planned; empty where it is
    """

    before: Taken
    prepared: Taken
    after: Taken
    canary: Canary
    engine: Seen = field(default_factory=Seen)
    lost: str = ""


@dataclass(frozen=True)
class Proof:
    """`evidence` is what was seen, in one sentence; `doubts` is what speaks against the replica."""

    evidence: str
    doubts: tuple[Doubt, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.doubts

    @property
    def sentence(self) -> str:
        return "; ".join(doubt.sentence for doubt in self.doubts) or self.evidence


def prove(assignment: Assignment, model: type[Model], seen: Evidence) -> Proof:
    """Hold what was seen while loading and answering against the plan: engines fall back to the processor without a
    word, so an accelerator has to show that it was used.

    The device must still be there, the library must not say that it runs elsewhere, and where the backend tells who
    holds memory on the device, this process must be among them; where neither tells, that is no proof. A canary's
    answer has to be of the task's type and finite, and come within the model's own floor.
    """
    return Proof(_sentence(assignment, seen), tuple(_doubts(assignment, model, seen)))


def _doubts(assignment: Assignment, model: type[Model], seen: Evidence) -> Iterator[Doubt]:
    where = f"{assignment.engine.name} on {assignment.device.name}"
    if seen.lost:
        yield Doubt(Cause.DEVICE, seen.lost)
    for sentence in seen.engine.elsewhere:
        yield Doubt(Cause.ENGINE, sentence)
    if sentence := _untaken(assignment, seen):
        yield Doubt(Cause.MEMORY, f"{where} was planned, and {sentence}")
    canary = seen.canary
    if model.slowest is not None and canary.warm is not None and canary.warm > model.slowest:
        yield Doubt(
            Cause.SPEED,
            f"{where} was planned, and the canary took {canary.warm:.3f} s when warm, which says it runs elsewhere: "
            f"{assignment.plugin} takes at most {model.slowest:g} s on an accelerator",
        )
    if canary.asked and not isinstance(canary.answer, model.task.response):
        wanted = model.task.response.__name__
        yield Doubt(Cause.ANSWER, f"the canary was answered with {type(canary.answer).__name__}, not {wanted}")
    elif canary.asked and not finite(canary.answer):
        yield Doubt(Cause.ANSWER, f"the canary's answer holds numbers that are not finite: {where} computes wrongly")


def _untaken(assignment: Assignment, seen: Evidence) -> str:
    """Why memory does not show that the device was used; empty where it does, or need not."""
    after, prepared = seen.after, seen.prepared
    if after.told:
        if not after.bytes:
            return "this process holds no memory there"
        # A library that says where it runs may use again what it held before; from one that is silent, more is wanted.
        if accelerated(assignment) and not seen.engine.told and prepared.told and after.bytes <= prepared.bytes:
            return f"loading took none of its memory: this process holds {after.bytes / 2**20:.0f} MiB as before"
    elif accelerated(assignment) and not seen.engine.told and not isinstance(assignment.engine, Python):
        return "neither the device nor the library tells that it was used"
    return ""


def _sentence(assignment: Assignment, seen: Evidence) -> str:
    before, after, canary = seen.before, seen.after, seen.canary
    more = f"{max(after.bytes - (before.bytes if before.told == after.told else 0), 0) / 2**20:.0f} MiB taken"
    said = [f"{name} {value}" for name, value in seen.engine.told.items()]
    answered = f"canary answered in {canary.seconds:.3f} s" if canary.asked else "the model brings no canary"
    if canary.warm is not None:
        answered += f", then in {canary.warm:.3f} s"
    taken = f"{more} on {assignment.device.name}" if after.told else f"{more} by the process"
    engine = f"{assignment.engine.name} {type(assignment.engine).version()}"
    return f"{engine}: {', '.join([taken, *said, answered])}"


def accelerated(assignment: Assignment) -> bool:
    """Whether the planned device is another than the host's processor, which every library can use."""
    return not assignment.device.cores


def finite(value: Any) -> bool:
    """Whether every number in an answer is one: NaN is what a wrong kernel or a too narrow type leaves behind."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, np.ndarray):
        return bool(np.isfinite(value).all()) if value.dtype.kind == "f" else True
    if isinstance(value, list | tuple):
        return all(finite(item) for item in value)
    if is_dataclass(value):
        return all(finite(getattr(value, field.name)) for field in fields(value))
    return True
