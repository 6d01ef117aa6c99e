"""`argosy ledger export | import | show`: what replicas were measured to hold, carried from one fleet to another."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..errors import ArgosyError, ClusterError

if TYPE_CHECKING:
    from ..plan.ledger import Record
    from ..plan.place import Node
    from ..serve.home import Home

NAME = 36  # columns for a model; `ledger export` has it whole
FLEET = typer.Option("", "--fleet", help="The fleet's name; needed only when several run or ran on this machine.")


def register(app: typer.Typer) -> None:
    commands = typer.Typer(no_args_is_help=True)
    commands.command("export")(export)
    commands.command("import")(take_in)
    commands.command("show")(show)
    app.add_typer(
        commands, name="ledger", help="What replicas were measured to hold.", rich_help_panel="The fleet file"
    )


def export(fleet: str = FLEET) -> None:
    """Write the ledger, and the nodes of a running fleet, to standard output: for `argosy plan --ledger FILE`."""
    from ..plan.ledger import dump

    records, nodes = _known(_home(fleet))
    typer.echo(dump(records, nodes))


def take_in(file: Path = typer.Argument(help="What `argosy ledger export` wrote."), fleet: str = FLEET) -> None:
    """Take in what was measured elsewhere. Where both know the same, the higher peak stays."""
    from ..plan.ledger import load
    from ..serve.store import Store

    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArgosyError(f"a ledger at {file}", str(error), "argosy ledger export > FILE") from None
    records = load(text, str(file))[0].records
    home = _home(fleet)
    if not _asked(home, records):
        with closing(Store(home.store)) as store:
            for record in records:
                store.measure(record)
    typer.echo(f"{len(records)} records taken into the ledger of the fleet {home.fleet}")


def show(
    file: Path | None = typer.Argument(None, help="What `argosy ledger export` wrote; without it, this machine's."),
    fleet: str = FLEET,
) -> None:
    """List what was measured: MiB after loading, after the canary, and at most while serving."""
    from rich.table import Table
    from rich.text import Text

    from ..plan.ledger import load
    from . import screen

    if file is not None and file.is_file():
        records: Sequence[Record] = load(file.read_text(encoding="utf-8"), str(file))[0].records
    elif file is not None:
        raise ArgosyError(f"a ledger at {file}", "no such file", "argosy ledger export > FILE")
    else:
        records = _known(_home(fleet))[0]
    grid = Table("model", "engine", "device", box=None, pad_edge=False, header_style="dim")
    for column in ("loaded", "canary", "peak"):
        grid.add_column(column, justify="right")
    grid.add_column("measured")
    for one in sorted(records, key=lambda record: (record.key.source, record.key.engine)):
        sizes = (f"{size / 2**20:.0f}" for size in (one.loaded, one.canary, one.peak))
        when = datetime.fromtimestamp(one.at).astimezone().strftime("%Y-%m-%d %H:%M")
        name = one.key.source if len(one.key.source) <= NAME else f"{one.key.source[: NAME - 1]}…"
        grid.add_row(
            Text(name or "(no weights)"), f"{one.key.engine} {one.key.version}", Text(one.key.device), *sizes, when
        )
    screen.console().print(grid if records else "nothing was measured yet")


def _home(fleet: str) -> Home:
    from .down import kept

    home = kept(fleet)
    if home is None:
        raise ClusterError("a fleet on this machine", "none runs here or ever did", "argosy up fleet.yaml")
    return home


def _known(home: Home) -> tuple[Sequence[Record], Sequence[Node]]:
    """From control where it runs; else the records alone, from the store that it left."""
    from ..serve.store import Store
    from .plan import of_running

    if (running := of_running(home.fleet)) is not None:
        return running.ledger.records, running.nodes
    with closing(Store(home.store)) as store:
        return store.ledger().records, ()


def _asked(home: Home, records: Sequence[Record]) -> bool:
    """Have control write them; False where none runs."""
    from ..serve import client
    from ..serve import cluster as clusters

    cluster = clusters.running(home)
    if cluster is None:
        return False
    with client.joined(cluster.address, cluster.environment):
        control = client.find()
        if control is None:
            return False
        client.ask(control.learn.remote(list(records)), 120)
    return True
