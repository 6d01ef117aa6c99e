"""Which engine a chat runs on, and what it is expected to take there: decided from files, with no engine here."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import pytest

import argosy
import argosy_cpu
import argosy_llm
from argosy import registry
from argosy.engines import OpenvinoGenai, Vllm
from argosy.fleet.file import check, parse
from argosy.fleet.sources import parse_model
from argosy.fleet.weights import Allow, Weights, fetch
from argosy.plan.nodes import Node
from argosy.runtime.survey import survey
from argosy.testing import MockBackend

ROOT = Path(__file__).parent.parent
GIB = 1024**3
# Llama 3.1 8B, as its card on the hub has it: grouped attention, and positions stretched beyond what it was made for.
LLAMA = {
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "max_position_embeddings": 131072,
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0},
}


def offers(device: argosy.Device) -> Sequence[argosy.Offer]:
    return [argosy.Offer(engine=engine, device=device) for engine in (OpenvinoGenai(), Vllm())]


def names(found: Sequence[argosy.Offer]) -> list[str]:
    return [offer.engine.name for offer in found]


def checkpoint(folder: Path, config: Any, tensors: int = 1000) -> Weights:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    (folder / "model.safetensors").write_bytes(bytes(tensors))
    source = parse_model(f"file://{folder}", folder)
    return fetch(source, folder.parent / "cache", allow=Allow(), offline=True)


def test_vllm_comes_first_on_accelerators_and_last_on_a_processor() -> None:
    (processor,) = argosy_cpu.Cpu().detect()
    (accelerator,) = MockBackend("cuda").detect()
    assert names(argosy_llm.Chat.choose(offers(accelerator))) == ["vllm", "openvino_genai"]
    assert names(argosy_llm.Chat.choose(offers(processor))) == ["openvino_genai", "vllm"]


def test_each_engine_reads_its_own_formats() -> None:
    reads = {way.engine: set(way.formats) for way in argosy_llm.Chat.implementations()}
    assert reads == {"openvino_genai": {"openvino", "gguf"}, "vllm": {"safetensors", "awq", "gptq"}}


@pytest.mark.parametrize(("file", "engine"), [("model.safetensors", "vllm"), ("model.gguf", "openvino_genai")])
def test_on_a_processor_that_has_both_engines_the_weights_decide(file: str, engine: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    (folder / file).write_bytes(bytes(1000))
    fleet = parse(f"version: 1\nservices: {{llm: {{plugin: llm, model: 'file://{folder}', share: 0.9}}}}", tmp_path)
    device = argosy.Device(backend="cpu", name="here", architecture="", memory_bytes=20 * GIB, cores=2)
    node = Node(name="here", devices=(device,), cores=2, engines={"vllm": "0.32.0", "openvino_genai": "2026.4.1"})
    plan = survey(fleet, registry.load(), [node], tmp_path, store=tmp_path / "cache", offline=True)
    assert [placement.engine.name for placement in plan.placements] == [engine], dict(plan.pending)


def test_a_quantised_checkpoint_is_known_by_its_config(tmp_path: Path) -> None:
    for method, found in {"awq": "awq", "gptq": "gptq", "fp8": "safetensors"}.items():
        weights = checkpoint(tmp_path / method, {**LLAMA, "quantization_config": {"quant_method": method}})
        assert weights.formats == (found,)


def test_the_cache_is_the_owner_s_else_what_the_budget_leaves_else_the_backend_s(tmp_path: Path) -> None:
    weights = checkpoint(tmp_path / "llama", LLAMA)
    (known,) = MockBackend("cuda", memory=(24 * GIB,)).detect()
    (unknown,) = MockBackend("cuda", memory=(None,)).detect()

    def memory(engine: Vllm, device: argosy.Device = known, **options: Any) -> int:
        offer = argosy.Offer(engine=engine, device=device)
        found = argosy_llm.OnVllm.memory(weights, argosy_llm.Options(**options), offer)
        assert found is not None
        return found

    half = Vllm(memory_fraction=0.5, kv_cache_bytes=3 * GIB)
    beside = 1000 + 3 * GIB // 2  # the tensors, and what vLLM takes beside them and the cache
    assert memory(half, cache_gib=2) == beside + 2 * GIB
    assert memory(half) == 12 * GIB + GIB // 2  # the whole budget, of which the context is no part of the fraction
    assert memory(Vllm(kv_cache_bytes=7 * GIB)) == beside + 7 * GIB
    assert memory(half, unknown) == beside + 3 * GIB
    # Keys and values of 32 layers with 8 groups of 128 numbers of 2 bytes: 128 KiB a token.
    small = Vllm(memory_fraction=0.05)
    assert memory(small, max_model_len=8192) == beside + 8192 * 128 * 1024
    both = Vllm(memory_fraction=0.05, tensor_parallel=2)
    assert memory(both, max_model_len=8192) == 500 + 3 * GIB // 2 + 8192 * 64 * 1024


@pytest.mark.parametrize(
    ("config", "positions", "per_token"),
    [
        (LLAMA, None, 128 * 1024),
        ({**LLAMA, "rope_scaling": None}, 131072, 128 * 1024),
        ({**LLAMA, "rope_scaling": {"rope_type": "default"}, "head_dim": 64}, 131072, 64 * 1024),
        ({"text_config": {**LLAMA, "rope_scaling": None}, "hidden_size": 7}, 131072, 128 * 1024),
        ({**LLAMA, "num_key_value_heads": None, "rope_parameters": {"rope_theta": 1e6}}, None, 512 * 1024),
        ({"max_position_embeddings": "many", "num_hidden_layers": -3}, None, None),
        ("[]", None, None),
        ("{", None, None),
    ],
)
def test_a_checkpoint_tells_its_positions_and_what_a_token_takes(
    config: Any, positions: int | None, per_token: int | None, tmp_path: Path
) -> None:
    from argosy_llm.checkpoint import Checkpoint

    found = Checkpoint.of(checkpoint(tmp_path / "model", config))
    assert (found.tensors, found.positions, found.per_token) == (1000, positions, per_token)


def test_a_model_without_a_config_is_estimated_by_its_tensors(tmp_path: Path) -> None:
    weights = checkpoint(tmp_path / "bare", {})
    (tmp_path / "bare/config.json").unlink()
    offer = argosy.Offer(engine=Vllm(), device=dataclasses.replace(argosy_cpu.Cpu().detect()[0], cores=2))
    assert argosy_llm.OnVllm.memory(weights, argosy_llm.Options(), offer) == 1000 + 3 * GIB // 2


def test_the_page_has_every_engine_with_its_formats_and_every_option_with_its_default() -> None:
    page = (ROOT / "docs/chat.md").read_text("utf-8")
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in re.findall(r"^\| `.*", page, re.MULTILINE)]
    names = [re.findall(r"`([a-z_]+)`", row[0]) for row in rows]
    reads = {way.engine: set(way.formats) for way in argosy_llm.Chat.implementations()}
    count = len(reads)
    assert {
        name: set(re.findall(r"`(\w+)`", row[1])) for (name,), row in zip(names, rows[:count], strict=False)
    } == reads
    assert [name for group in names[count:] for name in group] == list(argosy_llm.Options.model_fields)
    defaults = re.findall(r"`([\d.]+)`|the engine's", "".join(row[1] for row in rows[count:]))
    told = dict(zip(argosy_llm.Options.model_fields, defaults, strict=True))
    assert {name: float(value) if value else None for name, value in told.items()} == argosy_llm.Options().model_dump()


def test_the_page_s_fleets_are_fleets() -> None:
    page = ROOT / "docs/chat.md"
    fleets = re.findall(r"^```yaml\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert len(fleets) == 2
    for text in fleets:
        check(parse(text, page), registry.load(), page, text=text)


def test_a_child_of_vllm_s_ends_when_its_replica_is_killed(tmp_path: Path) -> None:
    (plugin,) = metadata.entry_points(group="vllm.general_plugins", name="argosy")
    script = tmp_path / "replica.py"
    script.write_text(
        "import multiprocessing, os, time\n"
        "from importlib import metadata\n"
        f"plugin = metadata.EntryPoint({plugin.name!r}, {plugin.value!r}, {plugin.group!r})\n"
        "def child(ready):\n"
        "    plugin.load()()\n"
        "    ready.send(os.getpid())\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    plugin.load()()  # as vLLM does in the replica's own process too, which goes on\n"
        "    here, there = multiprocessing.Pipe()\n"
        "    multiprocessing.get_context('spawn').Process(target=child, args=(there,), daemon=True).start()\n"
        "    print(here.recv(), flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as replica:
        assert replica.stdout is not None
        child = psutil.Process(int(replica.stdout.readline()))
        assert replica.poll() is None
        replica.kill()
    gone, left = psutil.wait_procs([child], timeout=5)
    for process in left:
        process.kill()
    assert gone
