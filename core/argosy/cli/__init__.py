"""The `argosy` command: one module for each group of sub-commands, heavy rooms imported inside them."""

from __future__ import annotations

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from .. import __version__
from ..errors import ArgosyError
from . import check, dev, devices, fleet, fleetfile, ledger, node, plan, plugins, run_one, scaffold, weights


class _Commands(TyperGroup):
    """Every ArgosyError becomes its sentence on standard error and its exit code; --debug adds the traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ArgosyError as error:
            if ctx.params.get("debug") or _debug():
                raise
            typer.secho(f"argosy: {error}", err=True, fg="red" if sys.stderr.isatty() else None)
            raise typer.Exit(error.exit_code) from None


def _debug() -> bool:
    from ..settings import Settings

    try:
        return Settings.read().debug
    except ArgosyError:  # the settings are what is wrong: their sentence is being told already
        return False


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"argosy {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=_Commands,
    name="argosy",
    help="One inference service from a mixed bag of GPUs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _options(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error (also: ARGOSY_DEBUG=1)."),
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Say the version."),
) -> None:
    """What stands before the sub-command; `debug` is read where errors are told."""


for _module in (fleetfile, devices, plugins, scaffold, check, run_one, dev, plan, ledger, weights, fleet, node):
    _module.register(app)


def main() -> None:
    app()
