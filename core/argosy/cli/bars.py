"""Progress bars of downloads."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from ..fleet.weights import Progress as Step


class Bars:
    """One bar for each model that has something to fetch, on standard error. Used in a `with`."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._bars = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bars.stop()

    def of(self, name: str) -> Callable[[Step], None]:
        """What `fetch` tells its progress to; the bar appears with the first step."""
        bar: list[TaskID] = []

        def step(progress: Step) -> None:
            if not bar:
                bar.append(self._bars.add_task(name, total=progress.total))
            self._bars.update(
                bar[0], completed=progress.done, total=progress.total, description=f"{name}: {progress.name}"
            )

        return step
