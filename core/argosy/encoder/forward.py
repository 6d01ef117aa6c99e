"""The forward pass: what an engine does for the text encoder, and nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..errors import WeightsError

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
Feed = Mapping[str, NDArray[np.int64]]  # each (texts, tokens)
Vectors = NDArray[np.float32]  # (texts, width)

ROWS = 8  # texts per inference on a processor: more adds padding and no speed
ROWS_ACCELERATED = 64  # on an accelerator: as many as come, which wants every lane of it busy


class Forward(ABC):
    """A loaded model.

    inputs: those of INPUTS that it takes
    scores: numbers per text where it ends in a classifier; 0 where it embeds
    pooled: whether the vector was made here, of hidden states; else it is the graph's own
    rows: texts in one inference at most
    lanes: inferences that run side by side
    """

    engine: ClassVar[str]
    inputs: Collection[str]
    scores: int = 0
    pooled: bool = True
    rows: int = ROWS
    lanes: int = 1

    @abstractmethod
    def __call__(self, feeds: Iterable[Feed]) -> Sequence[Vectors]:
        """One answer for each feed, in order. A feed is taken when there is room for it. From one thread only."""


def at_once(rows: int) -> int:
    """Tokens with their padding in one inference at most, where longer texts than usual come in so many rows: eight of
    512 on a processor, 64 of 256 on an accelerator. It bounds the memory that inferences take."""
    return 512 * rows if rows <= ROWS else 256 * rows


def unlike(name: str, found: str) -> WeightsError:
    return WeightsError(
        f"{name}: an encoder of input_ids and attention_mask", found, "weights exported for feature extraction"
    )
