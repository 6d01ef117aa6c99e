"""Weights made in other formats: what runs in a tool environment, in a process of its own.

    python -m argosy.convert MODULE CLASS SOURCE TARGET OPTIONS

calls `convert` of a plugin's class there. `to_openvino` and `to_onnx` are what a text model's `convert` can be: they
read a checkpoint in the layout of a model hub (`config.json`, `*.safetensors`, a tokenizer).
"""

from __future__ import annotations

import importlib
import json
import operator
import os
import shutil
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHECKPOINT = ("torch==2.13.0", "transformers==5.19.0")  # what reads safetensors
OPENVINO = (*CHECKPOINT, "openvino==2026.4.1")
ONNX = (*CHECKPOINT, "onnx==1.23.2", "onnxscript==0.7.2")

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# Of a checkpoint: its configuration, its tokenizer, and what sentence-transformers keeps in folders (1_Pooling).
BESIDE = ("*.json", "*.txt", "*.model", "*/config.json")
ONE_FILE = 1_500_000_000  # bytes of tensors; a file of ONNX holds 2 GB at most, the graph included


def to_openvino(source: Path, target: Path) -> None:
    """`openvino_model.xml` and `.bin` of a text encoder or cross-encoder, and what lies beside them.

    Inputs are input_ids, attention_mask and, where the model has kinds of tokens, token_type_ids: (batch, tokens)
    int64. The output is `logits` (batch, n) of a model for sequence classification, else `last_hidden_state`
    (batch, tokens, n). Tensors are stored in float16 where the checkpoint's are 16 bits wide, else in float32.
    """
    import openvino

    with _graph(source) as (graph, names, output):
        model = traced(graph, _example(names))
        narrow = sixteen(source)
    for port, name in zip(model.inputs, names, strict=True):
        port.get_tensor().set_names({name})
    model.outputs[0].get_tensor().set_names({output})
    openvino.save_model(model, target / "openvino_model.xml", compress_to_fp16=narrow)
    copy_beside(source, target)


def to_onnx(source: Path, target: Path) -> None:
    """`model.onnx` in float32, with the inputs and the output of `to_openvino`; big tensors in `model.onnx.data`."""
    import torch

    with _graph(source) as (graph, names, output):
        size = sum(tensor.numel() * tensor.element_size() for tensor in graph.parameters())
        axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
        torch.onnx.export(
            graph,
            _example(names),
            target / "model.onnx",
            input_names=names,
            output_names=[output],
            dynamic_shapes={"given": tuple(axes for _ in names)},
            external_data=size > ONE_FILE,
            dynamo=True,
            verbose=False,
        )
    copy_beside(source, target)


def traced(graph: Any, example: tuple[Any, ...]) -> Any:
    """An openvino Model of a module of torch, as it computes `example`."""
    import openvino
    import torch

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # shapes that the example holds for constant: most are
        return openvino.convert_model(graph.eval(), example_input=example)


def copy_beside(source: Path, target: Path) -> None:
    """Configuration and tokenizer of a checkpoint; a `tokenizer.json` is made where it has an older kind alone."""
    for pattern in BESIDE:
        for file in source.glob(pattern):
            if not file.name.endswith(".index.json"):
                place = target / file.relative_to(source)
                place.parent.mkdir(exist_ok=True)
                shutil.copyfile(file, place)
    if not (target / "tokenizer.json").exists():
        from transformers import AutoTokenizer

        AutoTokenizer.from_pretrained(source).save_pretrained(target)


def sixteen(source: Path) -> bool:
    """Whether a checkpoint says that its tensors are 16 bits wide."""
    config = json.loads((source / "config.json").read_bytes())
    return (config.get("dtype") or config.get("torch_dtype")) in ("float16", "bfloat16")


@contextmanager
def _graph(source: Path) -> Iterator[tuple[Any, list[str], str]]:
    """The checkpoint in float32 as a module of tensors alone, the names of its inputs, the name of its output."""
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(source)
    scores = any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
    kind = transformers.AutoModelForSequenceClassification if scores else transformers.AutoModel
    model = kind.from_pretrained(source, dtype=torch.float32).eval()
    names = [name for name in INPUTS if name != "token_type_ids" or getattr(config, "type_vocab_size", 0) > 1]
    output = "logits" if scores else "last_hidden_state"

    class Graph(torch.nn.Module):  # type: ignore[misc] # torch is untyped here
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *given: Any) -> Any:
            return getattr(self.model(**dict(zip(names, given, strict=True))), output)

    with torch.no_grad():
        yield Graph().eval(), names, output


def _example(names: Sequence[str]) -> tuple[Any, ...]:
    """Two texts of unlike length, so that nothing of the mask is taken for constant."""
    import torch

    ids = torch.full((2, 7), 2)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    return tuple({"input_ids": ids, "attention_mask": mask}.get(name, torch.zeros_like(ids)) for name in names)


def main(arguments: Sequence[str]) -> None:
    """Ends with the process that started it: its end of standard input says so."""
    module, kind, source, target, options = arguments
    threading.Thread(target=_end_with_parent, daemon=True).start()
    model = operator.attrgetter(kind)(importlib.import_module(module))
    model.convert(Path(source), Path(target), model.options.model_validate_json(options))


def _end_with_parent() -> None:
    while os.read(0, 1):  # no object of Python's, whose lock this thread would hold when the interpreter ends
        pass
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
