"""What gpu-bench found: each bar with what was wanted and found, as a page and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Bar:
    """`met` is None where this device cannot decide it."""

    name: str
    wanted: str
    found: str
    met: bool | None


@dataclass
class Report:
    device: str
    machine: dict[str, Any]
    seconds: float = 0.0
    bars: list[Bar] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        """Whether every bar that could be decided is met, and there was one."""
        decided = [bar.met for bar in self.bars if bar.met is not None]
        return bool(decided) and all(decided)

    def bar(self, name: str, wanted: str, found: str, met: bool | None) -> None:
        self.bars.append(Bar(name, wanted, found, met))

    def plain(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}

    def page(self) -> str:
        words = {True: "met", False: "**missed**", None: "not decided here"}
        dry = "\n\nA dry run on the processor: it says nothing of any GPU." if self.device == "cpu" else ""
        rows = [f"| {bar.name} | {bar.wanted} | {bar.found} | {words[bar.met]} |" for bar in self.bars]
        notes = [f"- {name}: `{json.dumps(value)}`" for name, value in {**self.machine, **self.notes}.items()]
        return "\n".join(
            [
                f"# gpu-bench on {self.device}{dry}",
                "",
                *("| bar | wanted | found | |", "| --- | --- | --- | --- |", *rows, ""),
                *(f"{self.seconds:.0f} s in all.", "", *notes, ""),
            ]
        )
