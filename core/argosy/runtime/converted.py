"""Weights in a format that the planned engine reads: as they came, or made once by the plugin's own `convert`."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock

from ..errors import WeightsError
from ..fleet.sources import parse_model
from ..fleet.weights import Allow, Weights, fetch
from ..model import Implementation, Options


def readable(how: Implementation, formats: Sequence[str]) -> bool:
    """Whether the implementation reads one of these formats, or can make what it reads."""
    return not how.formats or not set(how.formats).isdisjoint(formats) or how.model.convert is not None


def converted(
    weights: Weights, how: Implementation, options: Options, cache: Path, tell: Callable[[str], None]
) -> Weights:
    """The weights as they are where `how` reads them; else what its `convert` makes, kept in `cache` by the digest of
    the content, the engine and the options. Two replicas that want the same at once make it once.

    Raises WeightsError where nothing can be done, or when `convert` made nothing.
    """
    if not how.formats or not set(how.formats).isdisjoint(weights.formats):
        return weights
    if how.model.convert is None:
        raise WeightsError(
            f"weights for {how.engine} in {' or '.join(how.formats)}",
            f"{' and '.join(weights.formats) or 'no known format'} in {weights.path}",
            "another `model:`, or another engine",
        )
    key = f"{weights.digest}\n{how.engine}\n{how.model.__qualname__}\n{options.model_dump_json()}"
    folder = cache / "converted" / hashlib.sha256(key.encode()).hexdigest()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            tell(f"converting {' and '.join(weights.formats)} for {how.engine}")
            fresh = folder.with_suffix(".new")
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
            try:
                how.model.convert(weights.path, fresh, options)
            except Exception as error:  # a plugin's own code and the tools it calls
                wanted = f"{' or '.join(how.formats)} from convert() of {how.model.__name__}"
                raise WeightsError(wanted, f"{type(error).__name__}: {error}") from error
            if not any(fresh.iterdir()):
                raise WeightsError(f"weights from convert() of {how.model.__name__}", "an empty folder")
            fresh.rename(folder)
    source = parse_model({".": f"file://{folder.absolute()}"}, folder)
    made = fetch(source, cache, allow=Allow.of(["*"]), offline=True)
    if set(how.formats).isdisjoint(made.formats):
        found = " and ".join(made.formats) or "no known format"
        raise WeightsError(f"{' or '.join(how.formats)} from convert() of {how.model.__name__}", found)
    return made
