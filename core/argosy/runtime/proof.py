"""The proof that a replica runs on what was planned, and that its model works."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

from ..model import Model
from .assignment import Assignment
from .memory import Taken


@dataclass(frozen=True)
class Canary:
    """How the canary went. `seconds` is the time to its answer; `asked` is False where the model has none."""

    asked: bool
    answer: Any = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Proof:
    """`sentence` says what was seen, whether it is `ok` or not."""

    ok: bool
    sentence: str


def prove(assignment: Assignment, model: type[Model], before: Taken, after: Taken, canary: Canary) -> Proof:
    """Hold what was seen while loading and answering against the plan.

    A canary's answer has to be of the task's type and finite. Where the device's backend tells who holds memory
    there, this process has to be among them: engines fall back to the processor without a word.
    """
    where = f"{assignment.engine.name} on {assignment.device.name}"
    if canary.asked and not isinstance(canary.answer, model.task.response):
        wanted = model.task.response.__name__
        return Proof(False, f"the canary was answered with {type(canary.answer).__name__}, not {wanted}")
    if canary.asked and not finite(canary.answer):
        return Proof(False, f"the canary's answer holds numbers that are not finite: {where} computes wrongly")
    if after.told and not after.bytes:
        return Proof(False, f"{where} was planned, and this process holds no memory there")
    more = f"{max(after.bytes - (before.bytes if before.told == after.told else 0), 0) / 2**20:.0f} MiB taken"
    taken = f"{more} on {assignment.device.name}" if after.told else f"{more} by the process"
    answered = f"canary answered in {canary.seconds:.3f} s" if canary.asked else "the model brings no canary"
    return Proof(True, f"{assignment.engine.name} {type(assignment.engine).version()}: {taken}, {answered}")


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
