"""`argosy init | validate | schema`: the fleet file."""

from __future__ import annotations

from pathlib import Path

import typer

from ..errors import ArgosyError

DEFAULT = Path("fleet.yaml")


def register(app: typer.Typer) -> None:
    for command in (init, validate, schema):
        app.command(command.__name__, rich_help_panel="The fleet file")(command)


def init(
    output: Path | None = typer.Option(None, "-o", "--output", help="Write to this file; standard output without it."),
    force: bool = typer.Option(False, "--force", help="Write over a file that is there."),
) -> None:
    """Write a first fleet file from what is installed and detected here."""
    from ..fleet.file import check, parse
    from ..registry import load
    from ..runtime import survey
    from . import first

    registry = load()
    text = first.text(registry, survey.node(registry))
    where = output or DEFAULT
    check(parse(text, where), registry, where, text=text)
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        with output.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ArgosyError(f"a new file at {output}", "one is there", f"argosy init --force -o {output}") from None
    except OSError as error:
        raise ArgosyError(f"to write {output}", str(error)) from None
    typer.echo(f"wrote {output}; try: argosy validate {output}")


def validate(file: Path = typer.Argument(DEFAULT, help="The fleet file.")) -> None:
    """Check a fleet file against its schema and against what is installed; every problem is told with its line."""
    from ..fleet.file import check, read
    from ..registry import load

    fleet = read(file)
    check(fleet, load(), file)
    typer.echo(f"{file}: nothing wrong; services: {', '.join(fleet.services)}")


def schema() -> None:
    """Write the JSON Schema of fleet files, for editors."""
    from ..fleet.file import schema as text

    typer.echo(text())
