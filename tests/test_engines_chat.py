"""Chat on vLLM, built for processors, against transformers on the same weights."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, get_args

import psutil
import pytest
import pytest_asyncio
import torch
from gate import until
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from vllm.config.model import ModelDType
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.usage.usage_lib import is_usage_stats_enabled
from vllm.v1.attention.backends.registry import AttentionBackendEnum

import argosy
import argosy_cpu
import argosy_llm
from argosy import registry, tasks
from argosy.engines import Vllm
from argosy.errors import BadRequest, ModelFailed
from argosy.fleet.sources import parse_model
from argosy.fleet.weights import Allow, fetch
from argosy.runtime.replica import Replica
from argosy.testing import running
from argosy.testing.machines import MACHINES

# Starting vLLM takes 40 s on two idle cores, and several times that on busy ones.
pytestmark = [pytest.mark.engines, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]

POSITIONS = 256
SEQUENCES = 4
# A token that vLLM chose may have this much less than the best logit of the reference: both compute in float32, and
# round in another order. The logits of these weights spread over some 20.
TIE = 1e-3
TEMPLATE = (
    "{% for turn in messages %}{% if turn.role == 'tool' %}{{ raise_exception('tools are not for this model') }}"
    "{% endif %}<{{ turn.role }}> {{ turn.content }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SPECIAL = ("<unk>", "<end>", "<system>", "<user>", "<assistant>")
WORDS = tuple(f"{first}{last}" for first in "bdfgklmnprstvz" for last in ("a", "e", "i", "o", "u", "ai", "ou", "é"))

QUESTIONS = [WORDS[start : start + 3 + start % 5] for start in (0, 11, 42, 77)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with random weights, 0.3 MB, in the layout of a model hub; its tokens are words."""
    path = tmp_path_factory.mktemp("llama")
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(SPECIAL + WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="<unk>",
        eos_token="<end>",
        additional_special_tokens=list(SPECIAL[2:]),
        chat_template=TEMPLATE,
    )
    tokenizer.save_pretrained(path)
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(SPECIAL + WORDS),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=POSITIONS,
        eos_token_id=1,
        bos_token_id=None,
        initializer_range=0.4,  # logits far apart, or rounding would choose the words
        torch_dtype="float32",
    )
    model = LlamaForCausalLM(config)
    with torch.inference_mode():
        rows = model.lm_head.weight  # (words, 64) float32
        rows[: len(SPECIAL)] = 0
        answer = model.generate(torch.tensor([prompt(tokenizer, QUESTIONS[0])]), do_sample=False, max_new_tokens=10)
        rows[tokenizer.eos_token_id] = 1.05 * rows[answer[0, -1]]  # the end takes the tenth word's place
    model.save_pretrained(path)
    return path


def prompt(tokenizer: PreTrainedTokenizerFast, words: Sequence[str]) -> list[int]:
    asked = [{"role": "user", "content": " ".join(words)}]
    text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    return list(tokenizer.encode(text))


@pytest.fixture(scope="module")
def reference(folder: Path) -> Iterator[LlamaForCausalLM]:
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    with torch.inference_mode():
        yield model


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(folder)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replica(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Replica]:
    backend = argosy_cpu.Cpu()
    (device,) = backend.detect()
    offered = {engine.name: engine for engine in backend.offers(device, 2**30, 1)}["vllm"]
    assert isinstance(offered, Vllm)
    engine = dataclasses.replace(offered, dtype="float32", kv_cache_bytes=64 * 2**20, extra={"max_num_seqs": SEQUENCES})
    async with running(
        argosy_llm.Chat,
        backend=backend,
        engine=engine,
        cores=1,
        model=parse_model(f"file://{folder}", folder),
        cache=str(tmp_path_factory.mktemp("cache")),
        offline=True,
        options={"max_model_len": 4096, "temperature": 0.0},
    ) as found:
        yield found


def asks(*words: str, **wishes: Any) -> tasks.ChatRequest:
    return tasks.ChatRequest((tasks.Message(role="user", content=" ".join(words)),), **wishes)


async def told(stream: AsyncIterator[tasks.ChatDelta]) -> tasks.ChatResponse:
    """A stream's deltas as one answer; none of them but the last is empty."""
    deltas = [delta async for delta in stream]
    assert all(delta.text for delta in deltas[:-1])
    assert all(delta.finish is None for delta in deltas[:-1])
    usage = deltas[-1].usage
    assert usage is not None
    assert sum(delta.tokens for delta in deltas) == usage.completion_tokens
    return tasks.chat.fold(asks(), deltas) if tasks.chat.fold else tasks.ChatResponse("")


def check(
    reference: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, words: Sequence[str], answer: tasks.ChatResponse
) -> None:
    """Every token is the reference's best, or ties with it, given all that stand before it."""
    asked = prompt(tokenizer, words)
    tokens = [(SPECIAL + WORDS).index(word) for word in answer.text.split()]
    tokens += [tokenizer.eos_token_id] * (answer.finish == "stop")
    assert answer.usage == tasks.Usage(len(asked), len(tokens))
    logits = reference(torch.tensor([asked + tokens])).logits[0, len(asked) - 1 : -1]  # (tokens, words) float32
    assert float(logits.std()) > 1000 * TIE, "words are told apart by more than rounding"
    missing = logits.max(dim=-1).values - logits[torch.arange(len(tokens)), torch.tensor(tokens)]
    assert float(missing.max()) <= TIE, f"{answer.text!r} at {int(missing.argmax())}"


async def test_greedy_answers_are_those_of_transformers(
    replica: Replica, reference: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    finishes = []
    for number, words in enumerate(QUESTIONS):
        answer = await replica.answer(asks(*words, max_tokens=32), argosy.Context(f"alone-{number}"))
        check(reference, tokenizer, words, answer)
        finishes.append((answer.finish, answer.usage.completion_tokens))
    assert finishes[0] == ("stop", 10)
    assert ("length", 32) in finishes


async def test_four_streams_at_once_get_the_answers_they_get_alone(
    replica: Replica, reference: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    streams = [
        told(replica.stream(asks(*words, max_tokens=100, ignore_eos=number > 0), argosy.Context(f"together-{number}")))
        for number, words in enumerate(QUESTIONS)
    ]
    running = [asyncio.ensure_future(stream) for stream in streams]
    await until(lambda: replica.status().running == SEQUENCES)
    answers = await asyncio.gather(*running)
    check(reference, tokenizer, QUESTIONS[0], answers[0])
    for words, answer in zip(QUESTIONS[1:], answers[1:], strict=True):
        if len(answer.text.split()) == 100:  # the end is no word, and an answer that goes on after it cannot be read
            check(reference, tokenizer, words, answer)
        assert (answer.finish, answer.usage.completion_tokens) == ("length", 100)


async def test_abandoned_streams_free_their_slots_within_a_second(replica: Replica) -> None:
    def endless(number: int) -> AsyncIterator[tasks.ChatDelta]:
        wish = asks(*QUESTIONS[1], max_tokens=POSITIONS, ignore_eos=True)
        return replica.stream(wish, argosy.Context(f"left-{number}"))

    streams = [endless(number) for number in range(SEQUENCES)]
    for stream in streams:
        await anext(stream)
    assert replica.status().running == SEQUENCES
    left = time.monotonic()
    for stream in streams:
        await stream.aclose()  # type: ignore[attr-defined]
    # The engine runs four at once: the first delta of a fifth shows that it has let go of one.
    async with aclosing(endless(SEQUENCES)) as next_one:  # type: ignore[type-var]
        await anext(next_one)
        assert time.monotonic() - left < 1
    await until(lambda: not replica.status().running, 1)
    assert replica._instance.llm.get_num_unfinished_requests() == 0  # type: ignore[union-attr]


async def test_an_answer_ends_before_a_stop_string_and_at_its_last_token(replica: Replica) -> None:
    whole = await replica.answer(asks(*QUESTIONS[1], max_tokens=9, ignore_eos=True), argosy.Context("whole"))
    words = whole.text.split()
    last = next(word for word in words[3:] if words.index(word) == words[3:].index(word) + 3)
    place = whole.text.index(f" {last}")
    stopped = await told(replica.stream(asks(*QUESTIONS[1], stop=(f" {last}", "")), argosy.Context("stopped")))
    assert (stopped.text, stopped.finish) == (whole.text[:place], "stop")
    short = await replica.answer(asks(*QUESTIONS[1], max_tokens=1), argosy.Context("short"))
    assert (short.text.split(), short.finish, short.usage.completion_tokens) == (words[:1], "length", 1)


async def test_a_seed_repeats_a_sampled_answer_and_penalties_change_a_greedy_one(replica: Replica) -> None:
    async def says(**wishes: Any) -> str:
        wish = asks(*QUESTIONS[2], max_tokens=24, ignore_eos=True, **wishes)
        return str((await replica.answer(wish, argosy.Context("sampled"))).text)

    hot = {"temperature": 2.0, "top_p": 1.0}
    assert await says(seed=3, **hot) == await says(seed=3, **hot)
    assert len({await says(seed=seed, **hot) for seed in range(4)}) > 1
    assert await says() == await says(temperature=0.0)
    apart = (await says(presence_penalty=2.0, frequency_penalty=2.0)).split()
    assert apart != (await says()).split()


async def test_what_does_not_fit_is_refused_with_the_model_s_own_limit(replica: Replica) -> None:
    assert replica.about["max_model_len"] == f"{POSITIONS} tokens, question and answer"
    with pytest.raises(BadRequest, match=f"are {POSITIONS} tokens; this model reads {POSITIONS}") as refusal:
        await replica.answer(asks(*["ba"] * (POSITIONS - 3)), argosy.Context("long"))
    assert (refusal.value.code, refusal.value.param) == ("context_length_exceeded", "messages")
    answer = await replica.answer(
        asks(*["ba"] * (POSITIONS - 8), max_tokens=100, ignore_eos=True), argosy.Context("nearly")
    )
    assert answer.usage == tasks.Usage(POSITIONS - 5, 5)
    with pytest.raises(BadRequest, match=r"hold \d+ characters"):
        await replica.answer(asks("x" * POSITIONS * 100), argosy.Context("longer"))


async def test_messages_that_the_template_refuses_are_refused_in_its_words(replica: Replica) -> None:
    turns = (tasks.Message(role="tool", content="12"),)
    with pytest.raises(BadRequest, match="chat template refuses these messages: tools are not for this model"):
        await replica.answer(tasks.ChatRequest(turns), argosy.Context("tool"))
    with pytest.raises(BadRequest, match=r"the engine refuses this request: .*temperature"):
        await replica.answer(asks("ba", temperature=-1.0), argosy.Context("cold"))


async def test_memory_is_what_was_estimated(replica: Replica, folder: Path, tmp_path: Path) -> None:
    weights = fetch(parse_model(f"file://{folder}", folder), tmp_path, allow=Allow(), offline=True)
    offer = argosy.Offer(engine=replica.assignment.engine, device=replica.assignment.device)
    estimate = argosy_llm.OnVllm.memory(weights, argosy_llm.Options(), offer)
    assert estimate is not None
    measured = replica.status().memory_peak
    print(f"estimated {estimate / 2**20:.0f} MiB, measured {measured / 2**20:.0f} MiB")
    assert 0.5 * estimate < measured <= estimate


async def test_vllm_runs_in_one_process_that_pins_nothing_and_tells_nobody(replica: Replica) -> None:
    names = [child.name() for child in psutil.Process().children(recursive=True)]
    assert [name for name in names if name.startswith("VLLM")] == ["VLLM::EngineCore"]
    wanted = {"VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_WAIT_POLICY": "passive"}
    assert {name: os.environ.get(name) for name in wanted} == wanted
    assert not is_usage_stats_enabled()


async def test_vllm_accepts_whatever_backends_offer(folder: Path) -> None:
    names = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    whole = Vllm(
        device="cpu",
        dtype="half",
        memory_fraction=0.5,
        kv_cache_bytes=2**30,
        attention="TRITON_ATTN",
        eager=True,
        tensor_parallel=2,
        extra={"max_num_batched_tokens": 4096},
    ).arguments()
    assert len(whole) == 7
    assert set(whole) <= names
    args = AsyncEngineArgs(model=str(folder), **whole)
    assert (args.dtype, args.enforce_eager, args.tensor_parallel_size) == ("half", True, 2)
    assert (args.gpu_memory_utilization, args.kv_cache_memory_bytes) == (0.5, 2**30)
    assert AttentionBackendEnum[whole["attention_backend"]]


async def test_vllm_accepts_what_every_backend_offers_for_every_machine(tmp_path: Path, folder: Path) -> None:
    offered: dict[str, list[dict[str, Any]]] = {}
    for machine in MACHINES.values():
        root = tmp_path / machine.name
        machine.build(root)
        for backend in registry.load().backends.values():
            for device in backend.detect(root):
                for budget in (None, 6 * 2**30):
                    for engine in backend.offers(device, budget, 2):
                        if isinstance(engine, Vllm):
                            offered.setdefault(backend.name, []).append(engine.arguments())
    assert offered.keys() >= {"cuda", "rocm", "xpu"}
    for arguments in itertools.chain(*offered.values()):
        AsyncEngineArgs(model=str(folder), **arguments)
        assert arguments["dtype"] in get_args(ModelDType)
        assert arguments.get("attention_backend", "TRITON_ATTN") in AttentionBackendEnum.__members__
    # What knows neither bfloat16 nor vLLM's own attention kernels is told so; what shares its memory gets bytes.
    for old in ("cuda", "xpu"):
        assert any(one["dtype"] == "half" and one["attention_backend"] == "TRITON_ATTN" for one in offered[old])
    assert any("kv_cache_memory_bytes" in one for one in offered["rocm"])


async def test_an_engine_that_dies_fails_its_requests_and_ends_its_replica(replica: Replica) -> None:
    """The last test of the module: there is no engine afterwards."""
    told_to_end = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told_to_end.set)
    stream = replica.stream(asks(*QUESTIONS[1], max_tokens=POSITIONS, ignore_eos=True), argosy.Context("orphan"))
    await anext(stream)
    children = psutil.Process().children(recursive=True)
    assert children
    for child in children:
        child.kill()
    with pytest.raises(ModelFailed, match="the engine failed while it answered"):
        async for _ in stream:
            pass
    with pytest.raises(ModelFailed):
        await replica.answer(asks("ba"), argosy.Context("after"))
    assert not told_to_end.is_set()
    await asyncio.wait_for(told_to_end.wait(), 5)
    asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
