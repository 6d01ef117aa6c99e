"""`argosy new`: a plugin's project, made from templates, that passes `argosy check` as it is."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from string import Template

import typer

from .. import __version__
from ..errors import ArgosyError, PluginError

_NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
# What is written where; $-names are filled in.
_FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "argosy_{module}.py": "{task}.py",
    "tests/test_{module}.py": "test.py",
}
TASK = "json (anything in, anything out), chat, embedding, rerank, speech or transcription."


def register(app: typer.Typer) -> None:
    app.command("new", rich_help_panel="Plugins")(new)


def new(
    name: str = typer.Argument(help="Lower case, digits and dashes: the plugin's and the model's name."),
    task: str = typer.Option("json", "--task", help=TASK),
    folder: Path | None = typer.Option(None, "--dir", help="The project's folder [default: argosy-NAME]."),
) -> None:
    """Write a plugin: a project with one module, its entry point and a test."""
    from ..registry import load

    if not _NAME.fullmatch(name) or "--" in name:
        raise PluginError(
            "a plugin's name of lower case letters, digits and single dashes", repr(name), "argosy new sentiment"
        )
    if task not in tasks():
        raise PluginError(f"a task: {', '.join(tasks())}", repr(task), f"argosy new {name} --task json")
    if name in load().models:
        raise PluginError(f"a name that no installed model has, not {name}", "it is installed", "argosy plugins")
    target = folder or Path(f"argosy-{name}")
    try:
        target.mkdir(parents=True)
    except FileExistsError:
        raise ArgosyError(f"a new folder {target}", "one is there", f"argosy new {name} --dir ANOTHER") from None
    write(name, task, target)
    typer.echo(f"wrote {target}; try:\n  argosy check {target}\n  argosy dev {target / f'argosy_{_module(name)}.py'}")


def tasks() -> list[str]:
    """The tasks for which there is a template, `json` first."""
    files = (resources.files(__package__) / "templates").iterdir()
    names = {file.name.partition(".")[0] for file in files if file.name.endswith(".py.template")}
    return sorted(names - {"test"}, key=lambda name: (name != "json", name))


def write(name: str, task: str, target: Path) -> None:
    """Fill the templates in and write them below `target`, a folder that is there."""
    templates = resources.files(__package__) / "templates"
    words = {
        "name": name,
        "task": task,
        "module": _module(name),
        "Class": "".join(part.title() for part in name.split("-")),
        "title": name.replace("-", " ").capitalize(),
        "version": __version__,
    }
    for path, template in _FILES.items():
        source = templates / f"{template.format(task=task)}.template"
        written = target / path.format(module=words["module"])
        written.parent.mkdir(exist_ok=True)
        written.write_text(Template(source.read_text("utf-8")).substitute(words), "utf-8")


def _module(name: str) -> str:
    return name.replace("-", "_")
