"""`argosy plan | explain`: where a fleet file's services would run, what that takes, and why; starts nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..errors import ArgosyError, PlanError

if TYPE_CHECKING:
    from ..fleet.schema import Fleet
    from ..plan.ledger import Ledger
    from ..plan.place import Node, Plan, Standing
    from ..registry import Registry
    from ..serve.known import Known

FILE = typer.Argument(Path("fleet.yaml"), help="The fleet file.")
LEDGER = typer.Option(None, "--ledger", metavar="FILE", help="Plan with what `argosy ledger export` wrote elsewhere.")
ROOT = typer.Option(
    None, "--root", metavar="PATH", help="Plan for a recorded machine: a file of the doctor's, or a folder."
)
OFFLINE = typer.Option(False, "--offline", help="Ask no hub for sizes (also: ARGOSY_OFFLINE=1).")
JSON = typer.Option(False, "--json", help="As JSON, for programs.")


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="The fleet file")(plan)
    app.command(rich_help_panel="The fleet file")(explain)


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A fleet's plan, and what it was made from, in sentences."""

    fleet: Fleet
    plan: Plan
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Around:
    """The nodes that a plan is made for, and what is known besides."""

    nodes: tuple[Node, ...]
    ledger: Ledger
    standing: Mapping[str, Standing] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def plan(
    file: Path = FILE,
    as_json: bool = JSON,
    ledger: Path | None = LEDGER,
    root: Path | None = ROOT,
    offline: bool = OFFLINE,
) -> None:
    """Say where each service would run, on how much of which device, and why another does not fit (exit code 5)."""
    from . import plan_screen as screen

    found = planned(file, ledger, root, offline)
    if as_json:
        typer.echo(json.dumps(screen.plain(found), indent=2))
    else:
        screen.show(found)
    if screen.pending(found):
        raise typer.Exit(PlanError.exit_code)


def explain(
    service: str = typer.Argument(help="A service of the fleet file."),
    file: Path = FILE,
    as_json: bool = JSON,
    ledger: Path | None = LEDGER,
    root: Path | None = ROOT,
    offline: bool = OFFLINE,
) -> None:
    """Say of one service every way in which it could run, which was chosen, and what each other was rejected by."""
    from . import plan_screen as screen

    found = planned(file, ledger, root, offline)
    if service not in found.fleet.services:
        names = ", ".join(found.fleet.services)
        raise ArgosyError(f"a service of {file}", f"{service!r}; it has {names}", "argosy explain SERVICE FILE")
    if as_json:
        typer.echo(json.dumps(screen.explained(found, service), indent=2))
    else:
        screen.explain(found, service)


def planned(file: Path, ledger: Path | None, root: Path | None, offline: bool) -> Planned:
    """FleetError or PluginError where the file is wrong."""
    from ..fleet import file as files
    from ..registry import load
    from ..runtime.survey import survey
    from ..settings import Settings

    fleet, registry, settings = files.read(file), load(), Settings.read()
    files.check(fleet, registry, file)
    around = looked(fleet, registry, ledger, root)
    made = survey(
        fleet,
        registry,
        around.nodes,
        file.parent,
        store=settings.cache,
        offline=offline or settings.offline,
        ledger=around.ledger,
        standing=around.standing,
    )
    return Planned(fleet=fleet, plan=made, notes=around.notes)


def looked(fleet: Fleet, registry: Registry, ledger: Path | None, root: Path | None) -> Around:
    """An exported ledger and its nodes; else those of the running fleet; else this machine, what the file says of
    others, and what the fleet measured when it last ran here."""
    from ..plan.ledger import load as read
    from ..plan.nodes import has
    from ..runtime import survey

    name = next(iter(fleet.nodes), "local")
    if ledger is not None:
        known, nodes = read(_text(ledger), str(ledger))
        if nodes and root is None:
            said = f"planned for the nodes of {ledger}, as they were when it was written"
            return _with_written(fleet, registry, nodes, known, (said,))
    else:
        if root is None and (running := of_running(fleet.name)) is not None:
            said = f"planned for the running fleet {fleet.name}: its nodes, its ledger, and what runs where"
            return Around(nodes=running.nodes, ledger=running.ledger, standing=running.standing, notes=(said,))
        known = left(fleet)
    here = survey.node(registry, name) if root is None else survey.recorded(registry, root, name)
    if fleet.nodes and not has(here, fleet.nodes[name].devices):
        return _with_written(fleet, registry, (), known, ())
    said = f"planned for {name}: {'this machine' if root is None else f'the machine recorded in {root}'}"
    if here.assumed:
        said += "; every engine is taken to be installed there"
    return _with_written(fleet, registry, (here,), known, (said,))


def _with_written(
    fleet: Fleet, registry: Registry, nodes: tuple[Node, ...], ledger: Ledger, notes: tuple[str, ...]
) -> Around:
    from ..plan.nodes import written

    more = written(fleet, [node.name for node in nodes], registry.engines)
    if more:
        names = ", ".join(node.name for node in more)
        notes += (f"not seen, planned from the fleet file with every engine taken to be installed there: {names}",)
    return Around(nodes=(*nodes, *more), ledger=ledger, notes=notes)


def left(fleet: Fleet) -> Ledger:
    """What a fleet that does not run left in its store; empty where it never ran here."""
    from ..plan.ledger import Ledger
    from ..serve.home import Home
    from ..serve.store import Store
    from ..settings import Settings

    home = next((home for home in Home.all(Settings.read().state) if home.fleet == fleet.name), None)
    if home is None:
        return Ledger()
    with closing(Store(fleet.store or home.store)) as store:
        return store.ledger()


def of_running(fleet: str) -> Known | None:
    """What control of the fleet of that name plans with; None where it does not run on this machine."""
    from ..serve import client
    from ..serve import cluster as clusters
    from ..serve.home import Home
    from ..settings import Settings

    home = next((home for home in Home.all(Settings.read().state) if home.fleet == fleet), None)
    cluster = clusters.running(home) if home is not None else None
    if cluster is None:
        return None
    with client.joined(cluster.address, cluster.environment):
        control = client.find()
        found: Known | None = client.ask(control.known.remote(), 120) if control is not None else None
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArgosyError(f"a ledger at {path}", str(error), "argosy ledger export > FILE") from None
