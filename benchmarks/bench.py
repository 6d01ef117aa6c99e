"""One run: sides take turns for some rounds, and every round is kept with who else used the machine meanwhile."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from .drivers import Load
from .machine import Usage, Watch

Kind = Literal["bare", "plain", "endpoint"]
Measure = Literal["rate", "first", "p50"]


@dataclass(frozen=True)
class Side:
    """`run(scale)` does one round, shortened to `scale` of its length to warm up. An `endpoint` side is loaded by the
    client and so is a `plain` server; a `bare` engine loads itself."""

    name: str
    kind: Kind
    run: Callable[[float], Load]


@dataclass(frozen=True)
class Bar:
    """What `side` must reach, as a multiple of `against`: at least for a rate, below it for a time."""

    measure: Measure
    bound: float
    side: str
    against: str

    @property
    def text(self) -> str:
        return f"≥ {self.bound:.2f}" if self.measure == "rate" else f"< {self.bound:.2f}"

    def met(self, ratio: float) -> bool:
        return ratio >= self.bound if self.measure == "rate" else ratio < self.bound


@dataclass(frozen=True)
class Round:
    """One side's round. Times in seconds; `work` is processor seconds a unit, of the engine or of all behind the
    endpoint; `client` processor seconds a request. None where it does not apply or could not be seen."""

    rate: float
    p50: float | None
    p99: float | None
    first: float | None
    first99: float | None
    late: float | None
    answered: int
    errors: Mapping[str, int]
    work: float | None
    client: float | None
    usage: Usage


@dataclass
class Outcome:
    name: str
    unit: str
    rounds: dict[str, list[Round]]  # by side, in the order in which they ran
    bars: tuple[Bar, ...] = ()
    notes: list[str] = field(default_factory=list)
    failed: str = ""  # why it was not measured

    def values(self, side: str, measure: str) -> list[float]:
        return [value for one in self.rounds[side] if (value := getattr(one, measure)) is not None]

    def ratios(self, side: str, against: str, measure: str) -> list[float]:
        """Round by round: both sides of a ratio ran within the same minute."""
        pairs = zip(self.values(side, measure), self.values(against, measure), strict=False)
        return [mine / theirs for mine, theirs in pairs if theirs]

    def median(self, side: str, measure: str) -> float:
        values = self.values(side, measure)
        return statistics.median(values) if values else 0.0

    def errors(self, side: str) -> Counter[str]:
        total: Counter[str] = Counter()
        for one in self.rounds[side]:
            total.update(one.errors)
        return total

    def met(self, bar: Bar) -> bool:
        ratios = self.ratios(bar.side, bar.against, bar.measure)
        return bool(ratios) and bar.met(statistics.median(ratios))


class Bench:
    """Runs comparisons, one after another. `say` is told what happens, a line at a time."""

    def __init__(self, rounds: int, fleet: Sequence[int], say: Callable[[str], None]) -> None:
        self.rounds, self.fleet, self.say = rounds, tuple(fleet), say
        self.outcomes: list[Outcome] = []

    def compare(
        self, name: str, unit: str, sides: Sequence[Side], bars: Sequence[Bar] = (), notes: Sequence[str] = ()
    ) -> Outcome:
        """Each side once to warm up, then A B, A B, …"""
        outcome = Outcome(name, unit, {side.name: [] for side in sides}, tuple(bars), list(notes))
        self.say(f"{name}: {', '.join(side.name for side in sides)}; {self.rounds} rounds")
        for side in sides:
            side.run(0.3)
        for number in range(1, self.rounds + 1):
            told = []
            for side in sides:
                watch = Watch(self.fleet)
                load = side.run(1.0)
                one = _round(side.kind, load, watch.stop())
                outcome.rounds[side.name].append(one)
                broken = f", {sum(load.errors.values())} errors" if load.errors else ""
                told.append(f"{side.name} {one.rate:.1f} {unit}{broken} (others {one.usage.others:.0f} %)")
            self.say(f"  {number}: " + "; ".join(told))
        self.outcomes.append(outcome)
        return outcome

    def skip(self, name: str, reason: str) -> None:
        self.say(f"{name}: not measured: {reason}")
        self.outcomes.append(Outcome(name, "", {}, failed=reason))


def _round(kind: Kind, load: Load, usage: Usage) -> Round:
    spent = {"bare": load.cpu, "plain": usage.ours - load.cpu, "endpoint": usage.fleet}[kind]
    driven = kind != "bare" and load.answered > 0
    return Round(
        rate=load.rate,
        p50=quantile(load.latencies, 0.5),
        p99=quantile(load.latencies, 0.99),
        first=quantile(load.firsts, 0.5),
        first99=quantile(load.firsts, 0.99),
        late=quantile(load.late, 0.5),
        answered=load.answered,
        errors=dict(load.errors),
        work=spent / load.units if load.units and spent > 0 else None,
        client=load.cpu / load.answered if driven else None,
        usage=usage,
    )


def quantile(values: Sequence[float], at: float) -> float | None:
    """The smallest value that at least this share of all values does not exceed; None of none."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, math.ceil(at * len(ordered)) - 1)]
