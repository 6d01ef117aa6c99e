"""What the files beside the weights say of a model: Hugging Face's and sentence-transformers' own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import WeightsError

# Architectures whose positions are counted from behind the padding's id: of 514 positions a text can have 512.
OFFSET = ("roberta", "camembert", "mpnet", "longformer", "data2vec-text", "xmod")
LENGTH = 256  # tokens that are read of a text where neither the owner nor the model says it
UNBOUNDED = 1_000_000  # tokens; tokenizers without a limit state numbers like 1e30


@dataclass(frozen=True)
class Config:
    """None, 0 or empty where no file says it.

    length: tokens that a text, or a pair, can have
    pooling: how the model was trained to make one vector of a text
    scores: numbers per text, where the model ends in a classifier
    pad: id of the token that fills up
    kinds: of token_type_ids
    unread: steps after pooling that change the vector and that are not computed here
    width, inner, heads, layers: of the transformer
    """

    length: int | None = None
    pooling: str | None = None
    scores: int = 0
    pad: int | None = None
    kinds: int | None = None
    unread: tuple[str, ...] = ()
    width: int = 0
    inner: int = 0
    heads: int = 0
    layers: int = 0

    @classmethod
    def read(cls, folder: Path) -> Config:
        """From whatever lies there; a file that is not what its name says counts as absent."""
        config = _object(folder / "config.json")
        width = _count(config, "hidden_size") or _count(config, "dim") or 0
        return cls(
            length=min(_lengths(folder, config), default=None),
            pooling=_pooling(folder),
            scores=_scores(config),
            pad=_count(config, "pad_token_id"),
            kinds=_count(config, "type_vocab_size"),
            unread=tuple(_unread(folder)),
            width=width,
            inner=_count(config, "intermediate_size") or _count(config, "hidden_dim") or 4 * width,
            heads=_count(config, "num_attention_heads") or _count(config, "n_heads") or 0,
            layers=_count(config, "num_hidden_layers") or _count(config, "n_layers") or 0,
        )

    def read_of(self, wish: int | None) -> int:
        """Tokens that are read of a text: the owner's wish, as far as the model goes."""
        return min(wish or self.length or LENGTH, self.length or wish or LENGTH)

    def refuse_pooling(self, way: str) -> None:
        """WeightsError where vectors made of hidden states would not be the model's own."""
        if way not in ("mean", "cls"):
            raise WeightsError(
                "pooling by mean or cls", f"{way} in 1_Pooling/config.json", "`options: {pooling: mean}`"
            )
        if self.unread:
            raise WeightsError("a model that ends in pooling", " and ".join(self.unread), "a graph that holds it too")


def _lengths(folder: Path, config: dict[str, Any]) -> Iterator[int]:
    found = [_count(_object(path), "max_seq_length") for path in sorted(folder.glob("sentence_*_config.json"))]
    found.append(_count(_object(folder / "tokenizer_config.json"), "model_max_length"))
    positions = _count(config, "max_position_embeddings")
    if positions and any(name in str(config.get("model_type")) for name in OFFSET):
        positions -= (_count(config, "pad_token_id") or 0) + 1
    yield from (length for length in [*found, positions] if length and length < UNBOUNDED)


def _scores(config: dict[str, Any]) -> int:
    classes = config.get("architectures")
    if not isinstance(classes, list) or not str([*classes, ""][0]).endswith("ForSequenceClassification"):
        return 0
    labels = config.get("id2label")
    return len(labels) if isinstance(labels, dict) else _count(config, "num_labels") or 2  # transformers' own default


def _pooling(folder: Path) -> str | None:
    config = _object(folder / "1_Pooling/config.json")
    if named := config.get("pooling_mode"):  # as sentence-transformers writes it since 6: one, or a list of them
        return " and ".join(map(str, named)) if isinstance(named, list) else str(named)
    modes = [name for name, value in config.items() if name.startswith("pooling_mode_") and value is True]
    names = [mode.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token") for mode in modes]
    return " and ".join(names) or None


def _unread(folder: Path) -> Iterator[str]:
    modules = _json(folder / "modules.json")
    for module in modules if isinstance(modules, list) else []:
        kind = str(module.get("type") if isinstance(module, dict) else module).rpartition(".")[2]
        if kind not in ("Transformer", "Pooling", "Normalize"):
            yield f"a module {kind}"


def _count(config: dict[str, Any], name: str) -> int | None:
    value = config.get(name)
    whole = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e18
    return int(value) if whole else None  # type: ignore[arg-type]


def _object(path: Path) -> dict[str, Any]:
    value = _json(path)
    return value if isinstance(value, dict) else {}


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, OSError, RecursionError):
        return None
