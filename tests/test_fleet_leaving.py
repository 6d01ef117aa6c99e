"""Clients that leave, queues that are full, deadlines that pass: the next client is served."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from threading import Barrier
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import Running, body
from spoken import PARAGRAPH, STORY, speak, wav_of

from argosy.audio.samples import Samples

pytestmark = pytest.mark.fleet

# Generates until it is stopped or at the end of the context: minutes.
ENDLESS = {"messages": [{"role": "user", "content": "Tell a story."}], "max_tokens": 4000, "ignore_eos": True}
CHAT = "/v1/chat/completions"
WAV = {"content-type": "audio/wav"}


@pytest.fixture(scope="module")
def speech(fleet: Running) -> Samples:
    """Forty seconds of speech in which nothing is said twice: Whisper would try a repeated text again and again."""
    with httpx.Client(base_url=fleet.url, timeout=120, trust_env=False) as client:
        return speak(client, f"{PARAGRAPH} {STORY}")


def logged(fleet: Running, service: str, request_id: str) -> dict[str, Any]:
    """The door's line on a request, which it writes when the request holds nothing any more."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        lines = [json.loads(line) for line in fleet.argosy("logs", "-n", "500", service).stdout.splitlines()]
        if found := [line for line in lines if line.get("request") == request_id]:
            return dict(found[-1])
    raise AssertionError(f"{service} logged nothing on {request_id}")


def seconds(work: Callable[[], Any]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def leave(
    client: httpx.Client, path: str, name: str, after: float, media: str = "application/json", **request: Any
) -> float:
    """Send a request, read what comes for `after` seconds, and hang up. Returns when, in seconds since 1970."""
    try:
        with client.stream(
            "POST", path, headers={"x-request-id": name, "content-type": media}, timeout=after, **request
        ) as reply:
            assert reply.status_code == 200
            until = time.monotonic() + after
            for _ in reply.iter_raw():
                if time.monotonic() > until:
                    break
    except httpx.ReadTimeout:
        pass
    return time.time()


@pytest.mark.parametrize("place", ["prefix", "root"])
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_an_abandoned_chat_frees_its_slot_within_a_second(
    client: httpx.Client, fleet: Running, stream: bool, place: str
) -> None:
    name = f"left/{uuid.uuid4()}"
    asked = {**ENDLESS, "model": "llm", "stream": stream}
    left = leave(client, CHAT if place == "root" else f"/llm{CHAT}", name, 1.0, json=asked)
    line = logged(fleet, "llm", name)
    assert " 499 " in line["message"]
    assert "client_left" in line["message"]
    # The line is written after the slot was given back, by the same machine's clock.
    assert datetime.fromisoformat(line["time"]).timestamp() - left < 1.0
    until = time.monotonic() + 5  # the replica reports once a second
    while (report := fleet.status()["services"]["llm"]["running"][0]["status"])["running"] and time.monotonic() < until:
        time.sleep(0.1)
    assert (report["running"], report["waiting"]) == (0, 0)


def test_forty_abandoned_chats_leave_no_trace(client: httpx.Client) -> None:
    def ask() -> float:
        asked = {**ENDLESS, "max_tokens": 16}
        return seconds(lambda: body(client.post(f"/llm{CHAT}", json=asked)))

    alone = min(ask() for _ in range(3))
    with ThreadPoolExecutor(40) as pool:
        for number in range(40):
            pool.submit(leave, client, f"/llm{CHAT}", f"left-{number}", 0.5, json={**ENDLESS, "stream": True})
    time.sleep(1)  # what is promised: within a second
    # Forty rows that were still computed would make each step several times as long.
    assert min(ask() for _ in range(3)) < 2.5 * alone + 0.2


def test_an_abandoned_transcription_makes_room_for_the_next(client: httpx.Client, speech: Samples) -> None:
    window = wav_of(speech[: 30 * 16_000])
    long = wav_of(np.tile(speech, 10))  # 6 minutes and more

    def hear() -> None:
        body(client.post("/whisper", content=window, headers=WAV))

    alone = seconds(hear)
    leave(client, "/whisper", "left-hearing", 1.0, "audio/wav", content=long)
    after = seconds(hear)
    # One step of Whisper cannot be called off: the look for speech in all of the sound, or half a minute of text.
    assert after < 5 * alone + 2, f"{after:.1f} s, alone {alone:.1f} s"


def test_an_abandoned_speech_makes_room_for_the_next(client: httpx.Client) -> None:
    sentence = "Later that day a man came from the city with a letter."
    long = " ".join([PARAGRAPH, STORY] * 28)  # twenty minutes of speech
    assert len(long) < 20_000

    def say() -> None:
        assert client.post("/tts", json={"text": sentence}).status_code == 200

    alone = min(seconds(say) for _ in range(2))
    leave(client, "/tts", "left-speaking", 1.0, json={"text": long})
    after = seconds(say)
    # One sentence, or what of one is spoken at once, ends before the next client's turn.
    assert after < 6 * alone + 1, f"{after:.1f} s, alone {alone:.1f} s"


def test_over_the_bounds_of_queue_and_time_each_client_is_told_so(
    client: httpx.Client, fleet: Running, speech: Samples
) -> None:
    """`narrow` lets one wait, and gives each five seconds."""
    pids = fleet.pids("narrow")
    long = wav_of(np.tile(speech, 10))  # more than it can hear in its time
    together = Barrier(6)

    def ask(number: int) -> httpx.Response:
        together.wait()
        if number % 2:
            upload = {"file": ("long.wav", long)}
            return client.post("/v1/audio/transcriptions", files=upload, data={"model": "narrow"})
        return client.post("/narrow", content=long, headers=WAV)

    started = time.monotonic()
    with ThreadPoolExecutor(6) as pool:
        replies = list(pool.map(ask, range(6)))
    assert time.monotonic() - started < 20
    for reply in replies:
        error = reply.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["type"] == "server_error"
        assert reply.headers["argosy-served-by"].startswith("narrow;")
    full = [reply for reply in replies if reply.status_code == 503]
    late = [reply for reply in replies if reply.status_code == 504]
    assert len(full) + len(late) == len(replies)
    assert full, "nobody was told that the queue is full"
    assert len(late) >= 2  # one runs, one waits; whoever is decoded later may find a free place
    for reply in full:
        assert reply.json()["error"]["code"] == "overloaded"
        assert int(reply.headers["retry-after"]) >= 1
    assert {reply.json()["error"]["code"] for reply in late} == {"deadline_exceeded"}
    until = time.monotonic() + 30  # the one that ran ends with its step
    while (reply := client.post("/narrow", content=wav_of(speech[:32_000]), headers=WAV)).status_code != 200:
        assert reply.status_code in (503, 504)
        assert time.monotonic() < until, reply.text
        time.sleep(0.2)
    assert fleet.pids("narrow") == pids


@pytest.mark.parametrize("header", ["x-request-timeout-seconds", "x-request-disconnect-disabled"])
def test_no_header_of_a_client_lifts_a_limit(
    client: httpx.Client, fleet: Running, speech: Samples, header: str
) -> None:
    sent = {header: "3600" if "seconds" in header else "?1"}
    long = wav_of(np.tile(speech, 10))
    reply = client.post("/narrow", content=long, headers={**WAV, **sent})
    assert reply.status_code == 504
    name = f"stays/{uuid.uuid4()}"
    try:
        client.post(f"/llm{CHAT}", json=ENDLESS, headers={"x-request-id": name, **sent}, timeout=1.0)
    except httpx.ReadTimeout:
        left = time.time()
    line = logged(fleet, "llm", name)
    assert " 499 " in line["message"]
    assert datetime.fromisoformat(line["time"]).timestamp() - left < 1.0
