"""`argosy dev`: a plugin's module, served and reloaded on save."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..errors import ArgosyError, PluginError
from . import project, run_one

if TYPE_CHECKING:
    from ..api.wire import Receive, Scope, Send
    from ..settings import Settings

LOOK_SECONDS = 0.2  # between two looks at the file: one stat each


def register(app: typer.Typer) -> None:
    app.command("dev", rich_help_panel="Plugins")(dev)


def dev(
    module: Path = typer.Argument(help="The plugin's module, argosy_NAME.py."),
    file: Path | None = typer.Option(None, "-f", "--file", help="A fleet file with a service of this plugin."),
    service: str | None = typer.Option(None, "--service", help="Which service of it, or which of the module's models."),
    port: int = run_one.PORT_OPTION,
) -> None:
    """Serve a plugin from its file, without installing it, and reload it on save."""
    from ..settings import Settings

    with run_one.listening(port) as bound:
        asyncio.run(_Session(module, file, service, Settings.read()).run(bound))


class _Session:
    """What answers now, and how it is replaced. A version that does not load leaves the last good one answering."""

    def __init__(self, module: Path, file: Path | None, service: str | None, settings: Settings) -> None:
        self._module, self._file, self._service, self._settings = module, file, service, settings
        self._now: run_one.Served | None = None
        self._leaving: set[asyncio.Task[None]] = set()

    async def run(self, bound: socket.socket) -> None:
        seen = self._stamp()
        if not self._module.is_file():
            raise PluginError(f"a plugin's module at {self._module}", "no such file", "argosy new NAME")
        while not await self._load():  # the first version has nothing to fall back to: wait until it is mended
            seen = await self._changed(seen)
        try:
            await run_one.serve(self._answer, bound, lambda: self._watch(seen))
        finally:
            for task in self._leaving:
                task.cancel()
            if self._now:
                await self._now.replica.stop()

    async def _watch(self, seen: tuple[int, int]) -> None:
        while True:
            seen = await self._changed(seen)
            await self._load()

    async def _load(self) -> bool:
        """Build a replica from the file as it is now, and let it answer from then on."""
        try:
            registry, models = project.loaded([(self._name, project.module(self._module))], self._module)
            one = run_one.wanted(registry, self._service or run_one.chosen(models, self._file), self._file)
            run_one.logged(one, self._settings)
            fresh = await run_one.start(one, registry, self._settings, run_one.say)
        except ArgosyError as error:
            cause = "".join(traceback.format_exception(error.__cause__)) if error.__cause__ else ""
            waiting = "the last good version goes on answering" if self._now else "waiting for the file to be mended"
            typer.secho(f"{cause}argosy: {error}\n{waiting}", err=True, fg="red")
            return False
        before, self._now = self._now, fresh
        if before:
            run_one.say("the new version answers")
            task = asyncio.ensure_future(before.replica.stop())
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)
        return True

    @property
    def _name(self) -> str:
        return self._module.stem.removeprefix("argosy_")

    async def _changed(self, seen: tuple[int, int]) -> tuple[int, int]:
        """Return when the file is not as it was `seen`, and stays so for one look: editors write in steps."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = self._stamp()
            if now != seen:
                await asyncio.sleep(LOOK_SECONDS)
                if now == self._stamp() and now != (0, 0):
                    return now

    def _stamp(self) -> tuple[int, int]:
        with contextlib.suppress(FileNotFoundError):
            stat = self._module.stat()
            return stat.st_mtime_ns, stat.st_size
        return 0, 0

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self._now is not None
        await self._now.app(scope, receive, send)
