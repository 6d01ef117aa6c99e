"""What is compared: each service through the endpoint with its bare engine, and a no-op with plain FastAPI."""

from __future__ import annotations

import json
import math
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from . import bare, texts
from .bench import Bar, Bench, Side
from .child import Child
from .drivers import Load
from .noop import Plain
from .wire import post_form, post_json, target

PAIRS = 16  # documents a rerank request
MAX_TOKENS = 64  # of a chat


class Refused(Exception):
    """The endpoint did not answer a comparison's first request as it should."""


@dataclass(frozen=True)
class Pace:
    """How long a round takes. Seconds where a driver runs for a time, counts where it runs so many requests."""

    rounds: int
    seconds: float
    chats: int
    clips: int
    speeches: int
    sweep: float  # seconds a batch size
    extras: bool  # also what has no bar and is not needed to read the rest

    @classmethod
    def full(cls) -> Pace:
        return cls(rounds=5, seconds=4.0, chats=64, clips=2, speeches=2, sweep=1.0, extras=True)

    @classmethod
    def quick(cls) -> Pace:
        return cls(rounds=3, seconds=2.0, chats=32, clips=1, speeches=1, sweep=0.3, extras=False)


@dataclass(frozen=True)
class Setting:
    bench: Bench
    client: Child
    endpoint: str  # http://host:port
    threads: int  # of each bare engine
    pace: Pace

    def ask(self, request: urllib.request.Request | str) -> bytes:
        """One request before the rounds, answered in full. Raises Refused."""
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            raise Refused(f"{error.url} answered {error.code}: {error.read()[:300].decode(errors='replace')}") from None
        except OSError as error:
            raise Refused(f"{self.endpoint} cannot be reached: {error}") from None

    def ask_json(self, path: str, body: object) -> Any:
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.endpoint + path, data, {"Content-Type": "application/json"})
        return json.loads(self.ask(request))

    def closed(
        self,
        requests: list[bytes],
        clients: int,
        *,
        count: int | None = None,
        reader: str = "whole",
        units: float = 1.0,
        base: str = "",
    ) -> Callable[[float], Load]:
        """A side's rounds by the closed-loop driver; `units` is what one answer counts for."""
        aim = target(requests, base or self.endpoint)

        def run(scale: float) -> Load:
            how: dict[str, Any] = {"clients": clients, "reader": reader}
            if count is None:
                how["seconds"] = self.pace.seconds * scale
            else:
                how["count"] = max(1, round(count * scale))
            load: Load = self.client.call("closed", aim, **how)
            return Load(**{**vars(load), "units": load.units * units})

        return run

    def opened(self, requests: list[bytes], rate: float, base: str = "") -> Callable[[float], Load]:
        aim = target(requests, base or self.endpoint)

        def run(scale: float) -> Load:
            load: Load = self.client.call("opened", aim, rate=rate, seconds=self.pace.seconds * scale)
            return load

        return run


# each comparison -----------------------------------------------------------------------------------------------------


def noop(at: Setting) -> None:
    body = {"text": "ready"}
    if at.ask_json("/echo", body) != body:
        raise Refused("/echo did not answer what it was asked")
    with Child(Plain) as plain:
        address = plain.call("address")
        sent = {name: [post_json(f"{address}/{name}", body)] for name in ("noop", "echo")}
        ours = [post_json(f"{at.endpoint}/echo", body)]
        outcome = at.bench.compare(
            "no-op, 32 clients",
            "requests/s",
            [
                Side("uvicorn + FastAPI", "plain", at.closed(sent["noop"], 32, base=address)),
                Side("endpoint", "endpoint", at.closed(ours, 32)),
                Side("uvicorn + FastAPI, validating", "plain", at.closed(sent["echo"], 32, base=address)),
            ],
            [Bar("rate", 0.25, "endpoint", "uvicorn + FastAPI")],
        )
        if at.pace.extras:
            at.bench.compare(
                "no-op, 1 client",
                "requests/s",
                [
                    Side("uvicorn + FastAPI", "plain", at.closed(sent["noop"], 1, base=address)),
                    Side("endpoint", "endpoint", at.closed(ours, 1)),
                ],
            )
        rate = outcome.median("endpoint", "rate") / 2
        if rate:
            at.bench.compare(
                f"no-op, open loop at {rate:.0f} requests/s (half of the endpoint's closed-loop rate)",
                "requests/s",
                [
                    Side("uvicorn + FastAPI", "plain", at.opened(sent["noop"], rate, address)),
                    Side("endpoint", "endpoint", at.opened(ours, rate)),
                ],
            )


def embeddings(at: Setting) -> None:
    with Child(bare.Embedder, at.threads) as engine:
        for tokens, bound in ((20, 0.60), (115, 0.85)):
            said = texts.sentences(256, tokens)
            note = _same_vector(at, engine, said[0])
            batch, swept = _best_batch(engine, said, at.pace.sweep)

            def alone(scale: float, said: list[str] = said, batch: int = batch) -> Load:
                load: Load = engine.call("run", said, batch, at.pace.seconds * scale)
                return load

            url = f"{at.endpoint}/embeddings/v1/embeddings"
            plain = [post_json(url, {"model": "embeddings", "input": one}) for one in said]
            packed = [
                post_json(url, {"model": "embeddings", "input": one, "encoding_format": "base64"}) for one in said
            ]
            sides = [
                Side("bare", "bare", alone),
                Side("endpoint", "endpoint", at.closed(plain, 32)),
                Side("endpoint, base64", "endpoint", at.closed(packed, 32)),
            ]
            outcome = at.bench.compare(
                f"embeddings, one sentence of {tokens} tokens a request, 32 clients",
                "sentences/s",
                sides if tokens == 20 and at.pace.extras else sides[:2],
                [Bar("rate", bound, "endpoint", "bare")],
                [f"bare: its best batch is {batch} ({swept})", note],
            )
            rate = 0.7 * outcome.median("endpoint", "rate")
            if rate and tokens == 20 and at.pace.extras:
                at.bench.compare(
                    f"embeddings, 20 tokens, open loop at {rate:.0f} sentences/s (0.7 of the closed-loop rate)",
                    "sentences/s",
                    [Side("endpoint", "endpoint", at.opened(plain, rate))],
                )


def _best_batch(engine: Child, said: list[str], seconds: float) -> tuple[int, str]:
    """Two passes over the batch sizes, the better of each: one bad second must not choose."""
    passes: list[Mapping[int, float]] = [engine.call("sweep", said, seconds) for _ in range(2)]
    rates = {size: max(one[size] for one in passes) for size in passes[0]}
    return max(rates, key=lambda size: rates[size]), ", ".join(f"{size}: {rate:.0f}" for size, rate in rates.items())


def _same_vector(at: Setting, engine: Child, text: str) -> str:
    ours = at.ask_json("/embeddings/v1/embeddings", {"model": "embeddings", "input": text})["data"][0]["embedding"]
    theirs = engine.call("embed", [text])[0]
    cosine = sum(a * float(b) for a, b in zip(ours, theirs, strict=True)) / math.sqrt(sum(a * a for a in ours))
    return f"the endpoint's vector and the bare engine's: cosine {cosine:.5f}"


def chat(at: Setting) -> None:
    body = {"model": "llm", "max_tokens": MAX_TOKENS, "temperature": 0, "ignore_eos": True}
    url = f"{at.endpoint}/llm/v1/chat/completions"

    def request(prompt: str) -> bytes:
        streamed = {"stream": True, "stream_options": {"include_usage": True}}
        return post_json(url, {**body, **streamed, "messages": [{"role": "user", "content": prompt}]})

    (first,) = texts.prompts(1, seed=0)
    answer = at.ask_json("/llm/v1/chat/completions", {**body, "messages": [{"role": "user", "content": first}]})
    with Child(bare.Chat, at.threads) as engine:
        same = engine.call("answer", first, MAX_TOKENS).strip() == answer["choices"][0]["message"]["content"].strip()
        notes = [
            f"answers to one prompt are {'equal' if same else 'not equal'}; it has {answer['usage']['prompt_tokens']} "
            f"tokens; {MAX_TOKENS} new tokens each, greedy, no prompt is sent twice to one side"
        ]
        for clients, count in ((16, at.pace.chats), (1, at.pace.chats // 16))[: 2 if at.pace.extras else 1]:
            # A set of prompts for each round, the same for both sides: what a cache of prefixes remembers helps nobody.
            sets = [texts.prompts(count, seed=100 * clients + number) for number in range(at.pace.rounds + 1)]
            theirs, ours = iter(sets), iter(sets)

            def alone(scale: float, clients: int = clients, sets: Iterator[list[str]] = theirs) -> Load:
                load: Load = engine.call("run", _part(next(sets), scale), clients, MAX_TOKENS)
                return load

            def served(scale: float, clients: int = clients, sets: Iterator[list[str]] = ours) -> Load:
                requests = [request(prompt) for prompt in _part(next(sets), scale)]
                return at.closed(requests, clients, count=len(requests), reader="chat")(1.0)

            bars = [Bar("rate", 0.90, "endpoint", "bare"), Bar("first", 1.5, "endpoint", "bare")]
            at.bench.compare(
                f"chat, {clients} client{'s' if clients > 1 else ''}",
                "tokens/s",
                [Side("bare", "bare", alone), Side("endpoint", "endpoint", served)],
                bars if clients == 16 else (),
                notes if clients == 16 else (),
            )


def _part(prompts: list[str], scale: float) -> list[str]:
    return prompts[: max(1, round(len(prompts) * scale))]


def transcription(at: Setting) -> None:
    beginning = ". ".join(texts.PARAGRAPH.split(". ")[:2]) + "."
    with Child(bare.Speaker, at.threads) as speaker:
        spoken = {"short": beginning, "long": texts.PARAGRAPH}
        clips = {name: speaker.call("wav", text) for name, text in spoken.items()}
    url = f"{at.endpoint}/whisper/v1/audio/transcriptions"
    fields = {"model": "whisper", "language": "en", "response_format": "json", "temperature": "0"}
    with Child(bare.Transcriber, at.threads) as engine:
        for name, wav in clips.items():
            seconds = bare.wav_seconds(wav)
            form = post_form(url, fields, f"{name}.wav", wav)
            head, body = form.split(b"\r\n\r\n", 1)
            kind = head.split(b"Content-Type: ", 1)[1].split(b"\r\n", 1)[0].decode()
            heard = json.loads(at.ask(urllib.request.Request(url, body, {"Content-Type": kind})))["text"].strip()
            same = heard == engine.call("text", wav)
            count = at.pace.clips * (1 if name == "long" else 2)

            def alone(scale: float, wav: bytes = wav, count: int = count) -> Load:
                load: Load = engine.call("run", wav, max(1, round(count * scale)))
                return load

            at.bench.compare(
                f"transcription of {seconds:.0f} s, 1 client",
                "s of audio/s",
                [
                    Side("bare", "bare", alone),
                    Side("endpoint", "endpoint", at.closed([form], 1, count=count, units=seconds)),
                ],
                [Bar("rate", 0.90, "endpoint", "bare")],
                [f"the texts are {'equal' if same else 'not equal'}"],
            )


def speech(at: Setting) -> None:
    url = f"{at.endpoint}/tts/v1/audio/speech"
    with Child(bare.Speaker, at.threads) as engine:
        for name, text in (("a sentence", texts.SENTENCE), ("a paragraph", texts.PARAGRAPH)):
            body = {"model": "tts", "input": text, "response_format": "wav"}
            data = json.dumps(body).encode()
            at.ask(urllib.request.Request(url, data, {"Content-Type": "application/json"}))
            count = at.pace.speeches * (3 if name == "a sentence" else 1)

            def alone(scale: float, text: str = text, count: int = count) -> Load:
                load: Load = engine.call("run", text, max(1, round(count * scale)))
                return load

            at.bench.compare(
                f"speech of {name}, 1 client",
                "s of audio/s",
                [
                    Side("bare", "bare", alone),
                    Side("endpoint", "endpoint", at.closed([post_json(url, body)], 1, count=count, reader="wav")),
                ],
                [Bar("rate", 0.90, "endpoint", "bare")],
            )


def rerank(at: Setting) -> None:
    said = texts.sentences(64 * (PAIRS + 1), 40)  # all different: nothing is saved where requests are batched
    questions = [said[place : place + PAIRS + 1] for place in range(0, len(said), PAIRS + 1)]
    url = f"{at.endpoint}/reranker/v1/rerank"
    bodies = [{"model": "reranker", "query": one[0], "documents": one[1:]} for one in questions]
    results = at.ask_json("/reranker/v1/rerank", bodies[0])["results"]
    if len(results) != PAIRS:
        raise Refused(f"{url} scored {len(results)} of {PAIRS} documents")
    with Child(bare.Embedder, at.threads) as engine:
        best = results[0]["index"] == engine.call("best", questions[0])

        def alone(scale: float) -> Load:
            load: Load = engine.call("rank", questions, at.pace.seconds * scale)
            return load

        requests = [post_json(url, body) for body in bodies]
        at.bench.compare(
            f"rerank, {PAIRS} documents of 40 tokens a request, 4 clients",
            "pairs/s",
            [Side("bare", "bare", alone), Side("endpoint", "endpoint", at.closed(requests, 4, units=PAIRS))],
            notes=[
                "bare: cosine over the embedding weights, one request at a time, query and documents in one batch",
                f"the best document of one request is {'the same' if best else 'not the same'}",
            ],
        )


ALL: Mapping[str, Callable[[Setting], None]] = {
    "noop": noop,
    "embeddings": embeddings,
    "chat": chat,
    "transcription": transcription,
    "speech": speech,
    "rerank": rerank,
}
