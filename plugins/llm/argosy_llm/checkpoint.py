"""What a checkpoint's config.json says of the memory that its tokens take."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from argosy.fleet.weights import Weights

BYTES = 2  # of one number in the cache: bfloat16 and float16


@dataclass(frozen=True)
class Checkpoint:
    """tensors: bytes of all tensors in the files
    positions: tokens that the model was made for; None where it does not say, or says how it goes on beyond them
    per_token: bytes in the cache for one token, keys and values of all layers; None where config.json does not tell
    """

    tensors: int
    positions: int | None
    per_token: int | None

    def fits(self, tokens: int) -> int:
        """As many tokens of one request as were wished for, and no more than the model was made for."""
        return min(tokens, self.positions or tokens)

    @classmethod
    def of(cls, weights: Weights) -> Checkpoint:
        tensors = sum(file.size for file in weights.files if file.name.endswith(".safetensors"))
        config = _config(weights)
        text = config.get("text_config")
        if isinstance(text, dict):  # of a model that also sees or hears
            config = {**config, **text}
        layers, heads = (_whole(config.get(key)) for key in ("num_hidden_layers", "num_attention_heads"))
        groups = _whole(config.get("num_key_value_heads")) or heads
        size = _whole(config.get("head_dim")) or _whole(config.get("hidden_size")) // max(heads, 1)
        scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
        plain = not isinstance(scaling, dict) or scaling.get("rope_type", "default") == "default"
        return cls(
            tensors,
            _whole(config.get("max_position_embeddings")) or None if plain else None,
            2 * layers * groups * size * BYTES or None,
        )


def _config(weights: Weights) -> dict[str, Any]:
    """Empty where there is none that can be read: vLLM will say so."""
    try:
        found = json.loads((weights / "config.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0
