"""One report of one run: a page to read and the numbers behind it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .bench import Bar, Outcome
from .machine import Machine, Usage

MEASURES = {"rate": "rate", "first": "time to first", "p50": "median latency"}


DISTURBED = 10  # percent of all cores, by neither the benchmark nor the fleet, from which a comparison is in doubt


@dataclass(frozen=True)
class Run:
    """What was run, where and how."""

    command: str
    started: str  # UTC
    minutes: float
    commit: str
    endpoint: str
    threads: int
    rounds: int
    fleet: Sequence[int]
    machine: Machine
    idle: Usage  # before the rounds, with nothing being measured
    services: dict[str, Any]  # what the endpoint says of itself


def markdown(run: Run, outcomes: Sequence[Outcome]) -> str:
    parts = [_head(run), _bars(outcomes)]
    if refused := [outcome for outcome in outcomes if outcome.failed]:
        parts.append("## Not measured\n\n" + "\n".join(f"- **{one.name}**: {one.failed}" for one in refused))
    parts += [_detail(outcome) for outcome in outcomes if not outcome.failed]
    return "\n\n".join(parts) + "\n"


def write(run: Run, outcomes: Sequence[Outcome], folder: Path, name: str) -> tuple[Path, Path]:
    """`name`.md and `name`.json in the folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    page, numbers = folder / f"{name}.md", folder / f"{name}.json"
    page.write_text(markdown(run, outcomes))
    content = {"run": asdict(run), "outcomes": [asdict(outcome) for outcome in outcomes]}
    numbers.write_text(json.dumps(content, indent=1) + "\n")
    return page, numbers


def _head(run: Run) -> str:
    machine = run.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    seen = f"its {len(run.fleet)} process trees are seen" if run.fleet else "processes not seen: they count as others"
    return "\n".join(
        (
            "# Benchmark: the endpoint beside the bare engines",
            "",
            f"`{run.command}`, {run.started} UTC, {run.minutes:.1f} minutes, commit {run.commit}.",
            "",
            f"- machine: {machine.cpu}, {machine.cores} cores, {machine.memory_gib} GiB, Linux {machine.kernel}",
            f"- Python {machine.python}, {versions}",
            f"- endpoint {run.endpoint} ({seen}); bare engines with {run.threads} threads",
            f"- before the rounds the idle fleet used {run.idle.fleet / run.idle.seconds:.2f} cores, others "
            f"{run.idle.others:.0f} % of the machine, load average {run.idle.load:.2f}",
            f"- {run.rounds} rounds, sides in turn; the client is a process of its own on the same cores",
            "- numbers are medians over the rounds with (lowest–highest); a ratio is taken round by round",
        )
    )


def _bars(outcomes: Sequence[Outcome]) -> str:
    lines = ["## Bars", "", "| comparison | measure | against | side | ratio | bar | met |", "| --- " * 7 + "|"]
    missed = []
    for outcome in outcomes:
        for bar in outcome.bars if not outcome.failed else ():
            lines.append(_bar(outcome, bar))
            if not outcome.met(bar):
                missed.append(f"- **{outcome.name}**, {MEASURES[bar.measure]}: below the bar.")
    if busy := [outcome.name for outcome in outcomes if _disturbed(outcome)]:
        lines += ["", f"**Others used more than {DISTURBED} % of the machine** (median over a side's rounds) during:"]
        lines += [f"{'; '.join(busy)}. Do not trust those ratios; processor time a unit still says something."]
    errors = sum(sum(outcome.errors(side).values()) for outcome in outcomes for side in outcome.rounds)
    lines += ["", f"Errors in all rounds together: {errors}."]
    if missed:
        lines += ["", "### What fell short", "", *missed]
    return "\n".join(lines)


def _disturbed(outcome: Outcome) -> bool:
    shares = ([one.usage.others + one.usage.stolen for one in rounds] for rounds in outcome.rounds.values())
    return any(statistics.median(seen) > DISTURBED for seen in shares if seen)


def _bar(outcome: Outcome, bar: Bar) -> str:
    show = _rate if bar.measure == "rate" else _milliseconds
    cells = (
        outcome.name,
        MEASURES[bar.measure] + (f", {outcome.unit}" if bar.measure == "rate" else ", ms"),
        spread(outcome.values(bar.against, bar.measure), show),
        spread(outcome.values(bar.side, bar.measure), show),
        spread(outcome.ratios(bar.side, bar.against, bar.measure), lambda ratio: f"{ratio:.2f}"),
        bar.text,
        "yes" if outcome.met(bar) else "**no**",
    )
    return f"| {' | '.join(cells)} |"


def _detail(outcome: Outcome) -> str:
    head = (
        f"side|{outcome.unit}|p50 ms|p99 ms|first p50 ms|first p99 ms|answered|errors|CPU ms a unit|client µs a request"
        "|others %|stolen %"
    ).split("|")
    lines = [f"## {outcome.name}", "", f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for side, rounds in outcome.rounds.items():
        errors = ", ".join(f"{count} × {name}" for name, count in outcome.errors(side).items())
        cells = (
            side,
            spread(outcome.values(side, "rate"), _rate),
            *(spread(outcome.values(side, name), _milliseconds) for name in ("p50", "p99", "first", "first99")),
            str(sum(one.answered for one in rounds)),
            errors or "0",
            spread(outcome.values(side, "work"), lambda value: f"{value * 1e3:.3g}"),
            spread(outcome.values(side, "client"), lambda value: f"{value * 1e6:.0f}"),
            spread([one.usage.others for one in rounds], lambda value: f"{value:.0f}"),
            spread([one.usage.stolen for one in rounds], lambda value: f"{value:.0f}"),
        )
        lines.append(f"| {' | '.join(cells)} |")
    if late := [value for side in outcome.rounds for value in outcome.values(side, "late")]:
        lines += ["", f"Of each latency, the client's own lateness is {statistics.median(late) * 1e3:.2f} ms (median)."]
    lines += ["", *(f"- {note}" for note in outcome.notes)] if outcome.notes else []
    return "\n".join(lines)


def spread(values: Sequence[float], show: Callable[[float], str]) -> str:
    """`median (lowest–highest)`; a dash where there is nothing."""
    if not values:
        return "–"
    middle = show(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({show(min(values))}–{show(max(values))})"


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}" if seconds < 1 else f"{seconds * 1e3:.0f}"
