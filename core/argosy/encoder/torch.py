"""An encoder on torch, by transformers: one of the architectures that it has itself, from safetensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..engines import Torch
from ..errors import WeightsError
from .config import Config
from .forward import ROWS, ROWS_ACCELERATED, Feed, Forward, Vectors
from .options import Pooling


class OnTorch(Forward):
    """Device and precision are the engine's. Attention is torch's own (SDPA) wherever the architecture has it."""

    engine = "torch"

    def __init__(self, engine: Torch, folder: Path, config: Config, *, pooling: Pooling, normalise: bool) -> None:
        """Raises WeightsError where transformers cannot read the folder, or would have to make up some of its
        tensors."""
        import torch

        self._torch, self._pooling, self._normalise = torch, pooling, normalise
        self._device = torch.device(engine.device)
        self._model = _read(engine, folder, config).to(self._device).eval()
        self.scores, self.pooled = config.scores, not config.scores
        # Where there is one kind of token, the library makes the zeros itself.
        typed = config.kinds is not None and config.kinds > 1
        self.inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if typed else [])]
        self.rows = ROWS if self._device.type == "cpu" else ROWS_ACCELERATED

    def __call__(self, feeds: Iterable[Feed]) -> Sequence[Vectors]:
        with self._torch.inference_mode():
            # An accelerator works on one while the next is made ready: nothing waits before the last is launched.
            launched = [self._launch(feed) for feed in feeds]
            return [vectors.cpu().numpy() for vectors in launched]

    def _launch(self, feed: Feed) -> Any:
        torch = self._torch
        tensors = {name: torch.from_numpy(array).to(self._device, non_blocking=True) for name, array in feed.items()}
        output = self._model(**tensors)
        if self.scores:
            return output.logits.float()  # (texts, scores)
        hidden = output[0]  # (texts, tokens, width)
        if self._pooling == "cls":
            vectors = hidden[:, 0].float()
        else:
            weight = tensors["attention_mask"].unsqueeze(2).float()  # (texts, tokens, 1)
            vectors = (hidden.float() * weight).sum(1) / weight.sum(1)
        return torch.nn.functional.normalize(vectors, dim=1) if self._normalise else vectors


def _read(engine: Torch, folder: Path, config: Config) -> Any:
    import torch
    import transformers

    kind = transformers.AutoModelForSequenceClassification if config.scores else transformers.AutoModel
    try:
        model, told = kind.from_pretrained(
            folder,
            dtype=getattr(torch, engine.dtype),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **engine.extra,
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        wanted = f"a transformer in {folder}, of an architecture that transformers {transformers.__version__} has"
        raise WeightsError(wanted, reason, "config.json and *.safetensors as transformers writes them") from error
    # What the weights lack is made up at random, with a warning; a pooler that nobody asks may be.
    if missing := sorted(name for name in told["missing_keys"] if not name.startswith("pooler.")):
        raise WeightsError(
            f"every tensor of a {type(model).__name__}",
            f"{len(missing)} are missing, {missing[0]} for one",
            "weights whose config.json is their own",
        )
    return model
