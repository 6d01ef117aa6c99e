"""Bare torch: the same weights, texts, batch, precision and pooling as the service, in one process of its own.

`python -m benchmarks.gpu.bare make FOLDER SIZE` writes random weights; `… look` says what torch sees; `… rate` reads
one JSON object on standard input, and writes texts a second.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

# hidden width, layers, heads: `large` is that of BERT-large, which BGE-large has too
SIZES = {"large": (1024, 24, 16), "tiny": (128, 2, 2)}
WORDS = 5000
SECONDS = 0.5  # of warming up


def look() -> dict[str, Any]:
    import torch

    found: dict[str, Any] = {"torch": torch.__version__, "built_for": torch.version.cuda or "", "devices": []}
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            one = torch.cuda.get_device_properties(index)
            found["devices"].append({"name": one.name, "bytes": one.total_memory, "capability": [one.major, one.minor]})
    return found


def make(folder: Path, size: str) -> None:
    """A random encoder with a vocabulary of made-up words, as transformers writes one."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    width, layers, heads = SIZES[size]
    vocabulary = {name: number for number, name in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words()])}
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=4 * width,
    )  # fmt: skip
    BertModel(config, add_pooling_layer=False).half().save_pretrained(folder)


def words() -> list[str]:
    return [f"w{number}" for number in range(WORDS)]


def texts(count: int, length: int) -> list[str]:
    """Sentences of `length` words, always the same."""
    pick = random.Random(1)
    known = words()
    return [" ".join(pick.choice(known) for _ in range(length)) for _ in range(count)]


def rate(weights: str, device: str, dtype: str, batch: int, length: int, seconds: float, threads: int) -> float:
    """Texts a second: tokens, forward, mean over the mask, length 1, back on the host."""
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModel

    if device == "cpu":
        torch.set_num_threads(threads)
    model = AutoModel.from_pretrained(weights, dtype=getattr(torch, dtype), local_files_only=True, use_safetensors=True)
    model = model.to(device).eval()
    tokenizer = Tokenizer.from_file(str(Path(weights) / "tokenizer.json"))
    tokenizer.enable_padding()
    some = texts(batch, length)

    def once() -> None:
        encoded = tokenizer.encode_batch(some)
        ids = torch.tensor([one.ids for one in encoded], device=device)
        mask = torch.tensor([one.attention_mask for one in encoded], device=device)
        with torch.inference_mode():
            hidden = model(input_ids=ids, attention_mask=mask)[0].float()
            weight = mask.unsqueeze(2).float()
            pooled = (hidden * weight).sum(1) / weight.sum(1)
            torch.nn.functional.normalize(pooled, dim=1).cpu().numpy()

    end = time.monotonic() + SECONDS
    once()
    while time.monotonic() < end:
        once()
    done, began = 0, time.monotonic()
    while time.monotonic() - began < seconds:
        once()
        done += batch
    return done / (time.monotonic() - began)


def main(arguments: list[str]) -> int:
    if arguments[0] == "look":
        print(json.dumps(look()))
    elif arguments[0] == "make":
        make(Path(arguments[1]), arguments[2])
    else:
        print(json.dumps(rate(**json.load(sys.stdin))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
