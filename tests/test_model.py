"""What a plugin author writes: options, batching, implementations, contexts, and the tasks' own arithmetic."""

import pickle
import time

import numpy as np
import pytest
from pydantic import ValidationError

import argosy
from argosy import Context, Model, Options, gather, live, tasks
from argosy.errors import ArgosyError, BadRequest, FleetError, Overloaded, PluginError
from argosy.model import runs
from argosy.tasks import (
    ChatDelta,
    ChatRequest,
    Embedding,
    EmbeddingRequest,
    Message,
    Pair,
    RerankRequest,
    Score,
    Segment,
    Sound,
    SpeechRequest,
    TranscriptionRequest,
    Usage,
)
from argosy.testing.models import Slow, Streaming


class Tuned(Options):
    size: int = 4
    temperature: float = live(0.7, ge=0, le=2)


def test_options_are_frozen_refuse_strangers_and_know_which_are_live() -> None:
    assert Tuned.live_names() == {"temperature"}
    assert Options.live_names() == frozenset()
    with pytest.raises(ValidationError, match="frozen"):
        Tuned().size = 5
    with pytest.raises(ValidationError, match="Extra inputs"):
        Tuned(tempo=1)  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="less than or equal to 2"):
        Tuned(temperature=3)


def test_a_models_config_is_its_options_defaults_unless_given() -> None:
    class Tunes(Slow):
        options = Tuned  # type: ignore[assignment]

    assert Tunes().config == Tuned()
    assert Tunes(Tuned(size=9)).config.size == 9  # type: ignore[attr-defined]


def test_a_family_keeps_its_own_table_of_engines_in_order() -> None:
    class Chat(Model):
        name, task = "chat", tasks.chat

    @Chat.on("vllm", weights=("safetensors", "awq"))
    class OnVllm(Chat):
        batching = argosy.engine_batches

    @Chat.on("openvino_genai", weights=("gguf",))
    class OnOpenvino(Chat):
        pass

    class Other(Model):
        name, task, engines, weights = "other", tasks.chat, ("python", "torch"), ("onnx",)

    assert [(way.engine, way.formats, way.model) for way in Chat.implementations()] == [
        ("vllm", ("safetensors", "awq"), OnVllm),
        ("openvino_genai", ("gguf",), OnOpenvino),
    ]
    assert [(way.engine, way.formats, way.model) for way in Other.implementations()] == [
        ("python", ("onnx",), Other),
        ("torch", ("onnx",), Other),
    ]
    with pytest.raises(PluginError, match=r"subclass of Chat; found: .*; try: class Other\(Chat\)"):
        Chat.on("torch")(Other)


def test_a_model_predicts_or_generates() -> None:
    class Both(Slow):
        generate = Streaming.generate

    assert runs(Slow) == "predict"
    assert runs(Streaming) == "generate"
    for wrong in (Model, Both):
        with pytest.raises(PluginError, match="one of predict"):
            runs(wrong)


def test_a_context_is_cancelled_by_its_client_or_its_deadline() -> None:
    assert not Context("1").cancelled
    assert not Context("1", deadline=time.monotonic() + 60).cancelled
    assert Context("1", deadline=time.monotonic() - 0.001).cancelled
    left = Context("1")
    left.cancel()
    assert left.cancelled


def test_batching_says_how_and_how_many() -> None:
    assert (gather(32).kind, gather(32).size) == ("gather", 32)
    assert (argosy.one_by_one.kind, argosy.one_by_one.size) == ("one", 1)
    assert argosy.engine_batches.kind == "engine"


def test_deltas_of_a_chat_add_up_to_its_response() -> None:
    request = ChatRequest((Message(role="user", content="x"),))
    assert tasks.chat.fold is not None
    whole = tasks.chat.fold(request, [ChatDelta("a"), ChatDelta("b"), ChatDelta("", "length", Usage(1, 2))])
    assert (whole.text, whole.finish, whole.usage) == ("ab", "length", Usage(1, 2))
    assert tasks.chat.fold(request, []).text == ""


def test_segments_add_up_to_a_transcription_with_the_language_that_was_heard() -> None:
    request = TranscriptionRequest(np.zeros(32_000, np.float32))
    assert tasks.transcription.fold is not None
    found = tasks.transcription.fold(request, [Segment(0, 1, " one", language="en"), Segment(1, 2, " two")])
    assert (found.text, found.language, found.seconds, len(found.segments)) == ("one two", "en", 2.0, 2)
    assert tasks.transcription.fold(TranscriptionRequest(request.audio, language="de"), []).language == "de"


def test_sounds_add_up_in_order_and_silence_is_a_sound() -> None:
    assert tasks.speech.fold is not None
    sounds = [Sound(np.full(2, number, np.float32), 8000) for number in (1, 2)]
    whole = tasks.speech.fold(SpeechRequest("x"), sounds)
    assert (whole.samples.tolist(), whole.rate) == ([1, 1, 2, 2], 8000)
    assert len(tasks.speech.fold(SpeechRequest(""), []).samples) == 0


def test_requests_of_many_items_are_split_and_joined_in_order() -> None:
    embed = EmbeddingRequest(("a", "b"))
    assert list(tasks.embedding.split(embed)) == ["a", "b"]
    vectors = [Embedding(np.ones(2, np.float32), 3), Embedding(np.zeros(2, np.float32), 4)]
    joined = tasks.embedding.join(embed, vectors)
    assert (joined.items, joined.tokens) == (tuple(vectors), 7)
    rank = RerankRequest("q", ("d", "e"))
    assert list(tasks.rerank.split(rank)) == [Pair("q", "d"), Pair("q", "e")]
    assert tasks.rerank.join(rank, [Score(0.5, 1), Score(0.1, 2)]).tokens == 3


@pytest.mark.parametrize("task", [tasks.chat, tasks.transcription, tasks.speech, tasks.embedding, tasks.rerank])
def test_every_task_of_core_brings_a_canary_of_its_own_type(task: tasks.Task) -> None:  # type: ignore[type-arg]
    assert task.canary is not None
    assert isinstance(task.canary(), task.request)


@pytest.mark.parametrize(
    "error",
    [
        ArgosyError("this", "that", "the other"),
        FleetError("a fleet", problems=("one", "two")),
        BadRequest("no", param="text", code="bad_text"),
        Overloaded("full", retry_after=7.5),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_cross_processes_whole(error: Exception) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.__dict__ == error.__dict__
