"""Weights in a format that the planned engine reads: as they came, or made once by the plugin's own `convert`."""

from __future__ import annotations

import hashlib
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock

from ..errors import WeightsError
from ..fleet.sources import parse_model
from ..fleet.weights import Allow, Weights, fetch
from ..model import Implementation, Options
from .tools import Tools


def readable(how: Implementation, formats: Sequence[str]) -> bool:
    """Whether the implementation reads one of these formats, or can make what it reads."""
    return as_they_are(how, formats) or convertible(how, formats)


def as_they_are(how: Implementation, formats: Sequence[str]) -> bool:
    return not how.formats or not set(how.formats).isdisjoint(formats)


def convertible(how: Implementation, formats: Sequence[str]) -> bool:
    takes = how.model.convert_from
    return how.model.convert is not None and (not takes or not set(takes).isdisjoint(formats))


def lacking(how: Implementation, weights: Weights, options: Options, cache: Path) -> WeightsError | None:
    """What keeps `converted` from giving these weights here, with the command to type; None where nothing does."""
    if as_they_are(how, weights.formats):
        return None
    if not convertible(how, weights.formats):
        return WeightsError(
            f"weights for {how.engine} in {' or '.join(how.formats)}",
            f"{' and '.join(weights.formats) or 'no known format'} in {weights.path}",
            "another `model:`, or another engine",
        )
    if how.model.convert_needs and _folder(weights, how, options, cache).is_dir():
        return None
    return toolless(how, weights.formats, cache)


def toolless(how: Implementation, formats: Sequence[str], cache: Path) -> WeightsError | None:
    """The tools that `convert` lacks here, with the command to type; None where it lacks none."""
    needs = how.model.convert_needs
    if not needs or Tools.of(needs, cache).python:
        return None
    return WeightsError(
        f"tools that make {' or '.join(how.formats)} for {how.engine} of {' and '.join(formats)}",
        f"no tool environment with {', '.join(needs)} in {cache}",
        f"ARGOSY_CACHE={shlex.quote(str(cache))} "  # a fleet file may name another than the shell's
        f"argosy weights convert --plugin {how.model.name} --engine {how.engine} --install-tools",
    )


def converted(
    weights: Weights, how: Implementation, options: Options, cache: Path, tell: Callable[[str], None]
) -> Weights:
    """The weights as they are where `how` reads them; else what its `convert` makes, kept in `cache` by the digest of
    the content, the engine and the options that are not live. Two replicas that want the same at once make it once.

    A `convert` that needs tools runs in their environment, in a process of its own. Raises WeightsError where nothing
    can be done, or when `convert` made nothing.
    """
    if as_they_are(how, weights.formats):
        return weights
    if problem := lacking(how, weights, options, cache):
        raise problem
    folder = _folder(weights, how, options, cache)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            tell(f"converting {' and '.join(weights.formats)} for {how.engine}")
            fresh = folder.with_suffix(".new")
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
            _make(weights, how, options, cache, fresh)
            if not any(fresh.iterdir()):
                raise WeightsError(f"weights from convert() of {how.model.__name__}", "an empty folder")
            fresh.rename(folder)
    source = parse_model({".": f"file://{folder.absolute()}"}, folder)
    made = fetch(source, cache, allow=Allow.of(["*"]), offline=True)
    if set(how.formats).isdisjoint(made.formats):
        found = " and ".join(made.formats) or "no known format"
        raise WeightsError(f"{' or '.join(how.formats)} from convert() of {how.model.__name__}", found)
    return made


def _make(weights: Weights, how: Implementation, options: Options, cache: Path, target: Path) -> None:
    if how.model.convert_needs:
        log = target.with_suffix(".log")
        Tools.of(how.model.convert_needs, cache).convert(how.model, weights.path, target, options, log)
        log.unlink()
        return
    assert how.model.convert is not None
    try:
        how.model.convert(weights.path, target, options)
    except Exception as error:  # a plugin's own code and the tools it calls
        wanted = f"{' or '.join(how.formats)} from convert() of {how.model.__name__}"
        raise WeightsError(wanted, f"{type(error).__name__}: {error}") from error


def _folder(weights: Weights, how: Implementation, options: Options, cache: Path) -> Path:
    """Where what is made of these weights is kept. Live options change no weights; pinned tools may."""
    fixed = options.model_dump_json(exclude=set(type(options).live_names()))
    parts = (weights.digest, how.engine, how.model.__qualname__, fixed, *sorted(how.model.convert_needs))
    return cache / "converted" / hashlib.sha256("\n".join(parts).encode()).hexdigest()
