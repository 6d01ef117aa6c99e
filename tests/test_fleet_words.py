"""Real input: what is spoken is written down, a question is answered, meanings are near or far."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from conftest import Running, body
from spoken import FILES, PARAGRAPH, file_of, speak, word_errors, words

from argosy.audio.samples import Samples

pytestmark = pytest.mark.fleet


@pytest.fixture(scope="module")
def paragraph(fleet: Running) -> Samples:
    with httpx.Client(base_url=fleet.url, timeout=120, trust_env=False) as client:
        return speak(client, PARAGRAPH)


@pytest.mark.parametrize("name", FILES)
def test_a_spoken_paragraph_is_written_down_from_every_kind_of_file(
    client: httpx.Client, paragraph: Samples, name: str
) -> None:
    upload = {"file": (f"sound.{name}", file_of(paragraph, name))}
    heard = body(client.post("/whisper/v1/audio/transcriptions", files=upload))["text"]
    assert word_errors(heard, PARAGRAPH) <= 0.05, heard


def test_word_errors_are_counted() -> None:
    assert word_errors("One, two THREE four.", "one two three four") == 0
    assert word_errors("one two too free", "one two three four") == 0.5
    assert word_errors("", "one two three four") == 1
    assert word_errors("one and two three four", "one two three four") == 0.25


def test_the_chat_model_knows_the_capital_of_france(client: httpx.Client) -> None:
    question = [{"role": "user", "content": "What is the capital of France?"}]
    asked = {"messages": question, "temperature": 0, "max_tokens": 30}
    said = body(client.post("/llm/v1/chat/completions", json=asked))
    assert "Paris" in said["choices"][0]["message"]["content"]


def test_a_meal_is_nearer_to_a_meal_than_the_stock_market_is(client: httpx.Client) -> None:
    query, documents = "a man eats food", ["the stock market fell", "someone is having a meal"]
    man, market, meal = np.array(body(client.post("/embeddings", json={"texts": [query, *documents]}))["embeddings"])
    assert man @ meal > man @ market + 0.3
    ranked = body(client.post("/reranker/v1/rerank", json={"query": query, "documents": documents}))
    assert [result["index"] for result in ranked["results"]] == [1, 0]
    assert "cosine" in ranked["about"]["scoring"]
    assert body(client.post("/reranker", json={"query": query, "documents": documents}))["scores"] == pytest.approx(
        [man @ market, man @ meal], abs=1e-3
    )


def test_sixteen_chats_at_once_are_each_complete(client: httpx.Client) -> None:
    def ask(number: int) -> dict[str, object]:
        messages = [{"role": "user", "content": f"Count from {number} to {number + 3}."}]
        asked = {"messages": messages, "max_tokens": 24, "ignore_eos": True, "stream": number % 2 == 0}
        if not asked["stream"]:
            return dict(body(client.post("/llm/v1/chat/completions", json=asked))["usage"])
        asked["stream_options"] = {"include_usage": True}
        lines = client.post("/llm/v1/chat/completions", json=asked).text.split("\n\n")
        assert lines[-2:] == ["data: [DONE]", ""]
        return dict(httpx.Response(200, text=lines[-3].removeprefix("data: ")).json()["usage"])

    with ThreadPoolExecutor(16) as pool:
        used = list(pool.map(ask, range(16)))
    assert [usage["completion_tokens"] for usage in used] == [24] * 16


def test_three_hundred_texts_in_one_request_keep_their_order(client: httpx.Client) -> None:
    things = ("a river", "the price of bread", "an old violin", "rain in March", "two engineers", "a letter home")
    texts = [f"Number {n}: {things[n % 6]} " + "and so on " * (n % 5) for n in range(300)]  # of five lengths
    answer = body(client.post("/embeddings/v1/embeddings", json={"input": texts}))
    assert [row["index"] for row in answer["data"]] == list(range(300))
    together = np.array([row["embedding"] for row in answer["data"]])  # (300, 384)
    assert together.shape == (300, 384)
    for place in (0, 1, 63, 64, 65, 128, 150, 298, 299):  # the edges of the batches among them
        alone = np.array(body(client.post("/embeddings", json={"text": texts[place]}))["embeddings"][0])
        assert alone == pytest.approx(together[place], abs=1e-3)
        assert np.argmax(together @ alone) == place


def test_speech_and_transcription_follow_each_other_at_the_root(client: httpx.Client) -> None:
    spoken = client.post("/v1/audio/speech", json={"model": "tts", "input": "Good morning.", "response_format": "flac"})
    upload = {"file": ("said.flac", spoken.content)}
    heard = body(client.post("/v1/audio/transcriptions", files=upload, data={"model": "whisper"}))
    assert words(heard["text"]) == ["good", "morning"]
