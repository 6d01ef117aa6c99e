"""`argosy weights list | pull | convert`: what a fleet file's models consist of, and having it here beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..errors import ArgosyError, WeightsError
from .convert import convert

if TYPE_CHECKING:
    from ..fleet.sources import ModelSource
    from ..fleet.weights import Listing

FILE = typer.Argument(Path("fleet.yaml"), help="The fleet file.")
OFFLINE = typer.Option(False, "--offline", help="Never ask a network (also: ARGOSY_OFFLINE=1).")


def register(app: typer.Typer) -> None:
    commands = typer.Typer(no_args_is_help=True)
    commands.command("list")(show)
    commands.command("pull")(pull)
    commands.command("convert")(convert)
    app.add_typer(
        commands,
        name="weights",
        help="See, fetch and convert the weights of a fleet file.",
        rich_help_panel="The fleet file",
    )


@dataclass(frozen=True)
class Wanted:
    """One model of the file, and the services that share it. `listing` is None where `problem` says why."""

    model: ModelSource
    services: tuple[str, ...]
    allow: tuple[str, ...]
    listing: Listing | None
    problem: str = ""


@dataclass(frozen=True)
class Measured:
    models: tuple[Wanted, ...]
    cache: Path
    offline: bool

    @property
    def download(self) -> int:
        """Bytes that have yet to come over a network."""
        return sum(item.listing.download for item in self.models if item.listing)


def show(file: Path = FILE, offline: bool = OFFLINE) -> None:
    """List the files of every service's weights, how big they are and what is here already; downloads nothing."""
    tell(measured(file, offline))


def pull(
    file: Path = FILE,
    yes: bool = typer.Option(False, "--yes", "-y", help="Do not ask before downloading."),
    offline: bool = OFFLINE,
) -> None:
    """Say what is missing and how big it is, then download it into the cache, verified."""
    from ..fleet.weights import Allow, fetch
    from ..fleet.weights_cache import size_text
    from .bars import Bars

    found = measured(file, offline)
    tell(found)
    if found.download and not yes and not typer.confirm(f"\nDownload {size_text(found.download)} to {found.cache}?"):
        raise typer.Abort
    with Bars() as bars:
        for item in found.models:
            step = bars.of(", ".join(item.services))
            fetch(item.model, found.cache, allow=Allow.of(item.allow), offline=found.offline, progress=step)
    typer.echo(f"every file is here and verified; cache: {found.cache}")


def measured(file: Path, offline: bool) -> Measured:
    """Every distinct model of the fleet file with what it consists of. FleetError where the file is wrong."""
    from ..fleet.file import read
    from ..fleet.sources import parse_model
    from ..fleet.weights import Allow, measure
    from ..runtime.survey import cache as cache_of
    from ..settings import Settings

    fleet, settings = read(file), Settings.read()
    cache = cache_of(fleet, settings.cache)
    offline = offline or settings.offline or fleet.weights.offline
    users: dict[tuple[ModelSource, tuple[str, ...]], list[str]] = {}
    for name, service in fleet.services.items():
        for way in service.ways():
            if way.model is not None:
                users.setdefault((parse_model(way.model, file.parent), tuple(service.allow)), []).append(name)
    found = []
    for (model, allow), names in users.items():
        services = tuple(dict.fromkeys(names))
        try:
            listing = measure(model, cache, allow=Allow.of(allow), offline=offline)
        except WeightsError as error:
            found.append(Wanted(model, services, allow, None, str(error)))
        else:
            found.append(Wanted(model, services, allow, listing))
    return Measured(tuple(found), cache, offline)


def tell(found: Measured) -> None:
    """Print it. WeightsError when some of it cannot be had, after the rest was told."""
    for item in found.models:
        typer.secho(f"{', '.join(item.services)}: {item.model}", bold=True)
        typer.echo(str(item.listing) if item.listing else f"  {item.problem}")
        for skipped in item.listing.skipped if item.listing else ():
            typer.echo(f"  left out: {skipped.name}, {skipped.why}")
    if wrong := [name for item in found.models if item.listing is None for name in item.services]:
        raise WeightsError(f"weights for {', '.join(wrong)}", "what stands above", "mend `model:` in the fleet file")
    if not found.models:
        raise ArgosyError("a service with weights", "no service of the file names a model", "model: hf://OWNER/NAME")
