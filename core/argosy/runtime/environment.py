"""What a replica's process has to have in its environment before a vendor or engine library is imported."""

from __future__ import annotations

import os
from collections.abc import Collection, MutableMapping

from .assignment import Assignment

THREADS = (
    "OMP_NUM_THREADS",  # OpenMP: ctranslate2, torch, onnxruntime's training builds, and what numpy may be linked with
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",  # numpy's own wheels; read when numpy is imported
    "NUMEXPR_NUM_THREADS",
    "RAYON_NUM_THREADS",  # tokenizers
)
"""Variables that say how many threads a library starts; without them each takes one for every core of the host."""


def variables(assignment: Assignment) -> dict[str, str]:
    """The device's mask and the thread limits. Whoever starts the process sets them there already: numpy is imported
    with core, before a replica can say anything. What the assignment names wins over what is derived."""
    threads = dict.fromkeys(THREADS, str(assignment.cores)) if assignment.cores > 0 else {}
    return {**threads, **assignment.environment}


def apply(
    assignment: Assignment, environ: MutableMapping[str, str] | None = None, masks: Collection[str] = ()
) -> dict[str, str]:
    """Set `variables` in this process, and remove those of `masks` that are not among them: a shell's own mask would
    hide the planned device, or count it anew. Returns what was not so before; what was removed is empty there."""
    target = os.environ if environ is None else environ
    wanted = variables(assignment)
    changed = {name: value for name, value in wanted.items() if target.get(name) != value}
    target.update(changed)
    for name in masks:
        if name not in wanted and target.pop(name, None) is not None:
            changed[name] = ""
    return changed
