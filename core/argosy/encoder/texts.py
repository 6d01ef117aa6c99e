"""Texts in, vectors or scores out: tokenising, cutting, sorting by length and batching, the same on every engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..engines import Engine, Onnxruntime, Openvino, Torch
from ..errors import WeightsError
from .config import Config
from .files import graph
from .forward import Feed, Forward, Vectors, at_once
from .onnxruntime import OnOnnxruntime
from .openvino import OnOpenvino
from .options import Options, Pooling
from .torch import OnTorch

if TYPE_CHECKING:
    from ..fleet.weights import Weights

Text = str | tuple[str, str]  # a pair is read as one sequence, with the separator that the tokenizer knows

STEP = 8  # tokens that lengths are rounded up to: the engine prepares each new shape once, for some 10 ms
SHORT = 64  # tokens: among texts up to here padding costs less than another inference
CHARACTERS = 64  # per token of `max_length` that are looked at: a text of a million characters is not tokenised whole


class TextEncoder:
    """A tokenizer and a forward pass. `scores` are the numbers per text where it is a classifier, 0 where it embeds;
    `width` is the length of a row either way."""

    def __init__(self, forward: Forward, tokenizer: Path, config: Config, max_length: int, pooling: str) -> None:
        """Raises WeightsError where there is no such tokenizer."""
        from tokenizers import Tokenizer

        if not tokenizer.is_file():
            raise WeightsError(
                f"{tokenizer.name} among the weights", "none", "a `model:` that names one: {tokenizer.json: SOURCE}"
            )
        self.forward, self.max_length = forward, max_length
        self.scores, self.pooling = forward.scores, pooling if forward.pooled else "the graph's own"
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._pad = _pad(self._tokenizer, config)
        self._typed = config.kinds != 1  # with one kind of token, a tokenizer's word for another would be no index
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length)
        self._characters = max_length * CHARACTERS
        self._at_once = at_once(forward.rows)
        self.width = self([" "])[0].shape[1]

    @property
    def read(self) -> str:
        """How much of a text is read, for people."""
        return f"{self.max_length} tokens; what is longer is cut"

    def __call__(self, texts: Sequence[Text]) -> tuple[Vectors, list[int]]:
        """(texts, width) float32, and the number of tokens read of each text. Not to be called from two threads."""
        encodings = self._tokenizer.encode_batch_fast([self._cut(text) for text in texts])
        tokens = [len(encoding) for encoding in encodings]
        batches = list(self._batches(tokens))
        answers = self.forward(self._feed([encodings[place] for place in places]) for places in batches)
        found = np.empty((len(texts), answers[0].shape[1]), np.float32)
        for places, rows in zip(batches, answers, strict=True):
            found[places] = rows
        return found, tokens

    def _cut(self, text: Text) -> Text:
        if isinstance(text, str):
            return text[: self._characters]
        return text[0][: self._characters], text[1][: self._characters]

    def _batches(self, tokens: Sequence[int]) -> Iterator[list[int]]:
        """Places of texts that go in together: like lengths, no more of them than one of the engine's lanes should
        take, and none padded to more than twice its length."""
        rows = max(1, min(self.forward.rows, -(-len(tokens) // self.forward.lanes)))
        batch: list[int] = []
        for place in sorted(range(len(tokens)), key=tokens.__getitem__):
            longest = self._padded(tokens[place])
            if batch and (
                len(batch) == rows
                or longest * (len(batch) + 1) > self._at_once
                or longest > max(SHORT, 2 * self._padded(tokens[batch[0]]))
            ):
                yield batch
                batch = []
            batch.append(place)
        if batch:
            yield batch

    def _padded(self, length: int) -> int:
        return min(-(-length // STEP) * STEP, self.max_length)  # never past the positions that the model knows

    def _feed(self, encodings: Sequence[Any]) -> Feed:
        shape = len(encodings), self._padded(len(encodings[-1]))
        arrays: dict[str, NDArray[np.int64]] = {name: np.zeros(shape, np.int64) for name in self.forward.inputs}
        if self._pad:
            arrays["input_ids"].fill(self._pad)
        for row, encoding in enumerate(encodings):
            size = len(encoding)
            arrays["input_ids"][row, :size] = encoding.ids
            arrays["attention_mask"][row, :size] = 1
            if self._typed and "token_type_ids" in arrays:
                arrays["token_type_ids"][row, :size] = encoding.type_ids
        return arrays


def load(weights: Weights, engine: Engine, options: Options, *, normalise: bool = True) -> TextEncoder:
    """The encoder in a folder of weights, on its engine. WeightsError where there is none."""
    config = Config.read(weights.path)
    way = options.pooling or config.pooling or "mean"
    pooling: Pooling = "cls" if way == "cls" else "mean"
    forward: Forward
    match engine:
        case Openvino():
            forward = OnOpenvino(engine, graph(weights, engine), pooling=pooling, normalise=normalise)
        case Onnxruntime():
            forward = OnOnnxruntime(engine, graph(weights, engine), pooling=pooling, normalise=normalise)
        case Torch():
            forward = OnTorch(engine, weights.path, config, pooling=pooling, normalise=normalise)
        case _:
            raise WeightsError("an encoder on openvino, onnxruntime or torch", engine.name)
    if forward.pooled:
        config.refuse_pooling(way)
    return TextEncoder(forward, weights / "tokenizer.json", config, config.read_of(options.max_length), pooling)


def _pad(tokenizer: Any, config: Config) -> int:
    """The id of padding. Models that count positions by it must get the right one."""
    if config.pad is not None:
        return config.pad
    if tokenizer.padding is not None:
        return int(tokenizer.padding["pad_id"])
    known = (tokenizer.token_to_id(token) for token in ("[PAD]", "<pad>"))
    return next((found for found in known if found is not None), 0)
