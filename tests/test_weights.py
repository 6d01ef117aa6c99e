"""Weights from a hub: measured before they come, fetched once, verified, and found again."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hub import CHUNK, REPO, Client, Hub, model_files, random_bytes, tensors

from argosy.errors import WeightsError
from argosy.fleet.sources import parse_model
from argosy.fleet.weights import Allow, Progress, measure


def test_a_hub_model_is_measured_without_downloading_and_then_fetched(hub: Hub, hub_client: Client) -> None:
    files = model_files(**{"merges.txt": b""})
    commit = hub.add(REPO, files)
    wanted = {name: len(data) for name, data in files.items() if name != "README.md"}

    listing = hub_client.measure()
    assert {file.name: file.size for file in listing.files} == wanted
    assert (listing.total, listing.download, listing.disk) == (sum(wanted.values()),) * 3
    assert listing.commits == {REPO: commit}
    assert listing.formats == ("safetensors",)
    assert not any(file.here for file in listing.files if file.size)
    assert "model.safetensors" in str(listing)
    assert hub.bodies("model.safetensors") == []

    weights = hub_client.fetch()
    assert {file.name: (weights / file.name).read_bytes() for file in weights.files} == {n: files[n] for n in wanted}
    assert weights.format == "safetensors"
    assert weights.bytes == listing.total
    shas = {name: hashlib.sha256(files[name]).hexdigest() for name in sorted(wanted)}
    assert {file.name: file.sha256 for file in weights.files} == shas
    text = "".join(f"{name}\0{sha}\n" for name, sha in shas.items())
    assert weights.digest == hashlib.sha256(text.encode()).hexdigest()

    after = hub_client.measure()
    assert (after.download, after.disk) == (0, 0)
    assert all(file.here for file in after.files)


def test_progress_adds_up_to_what_was_announced(hub: Hub, hub_client: Client) -> None:
    hub.add(REPO, model_files(**{"model.safetensors": tensors(6_000_000)}))
    total = hub_client.measure().download
    seen: list[Progress] = []
    hub_client.fetch(progress=seen.append)
    assert {step.total for step in seen} == {total}
    assert [step.done for step in seen] == sorted(step.done for step in seen)
    assert seen[-1].done == total
    assert any(CHUNK <= step.done < total for step in seen), "a step in the middle of the large file"

    again: list[Progress] = []
    hub_client.fetch(progress=again.append)
    assert again == []


def test_a_cut_connection_goes_on_where_it_broke(hub: Hub, hub_client: Client) -> None:
    data = tensors(6_000_000)
    hub.add(REPO, {"model.safetensors": data})
    hub.fault("model.safetensors").cut = [CHUNK + 1000]
    weights = hub_client.fetch()
    assert (weights / "model.safetensors").read_bytes() == data
    large = [seen.range for seen in hub.bodies("model.safetensors") if seen.path.startswith("/large")]
    assert large == ["", f"bytes={CHUNK}-"]


def test_a_download_that_failed_goes_on_in_the_next_one(hub: Hub, hub_client: Client) -> None:
    data = tensors(6_000_000)
    hub.add(REPO, {"model.safetensors": data})
    fault = hub.fault("model.safetensors")
    fault.cut, fault.status = [CHUNK + 1000], [500]
    with pytest.raises(WeightsError, match=r"answered 500; try: again: it goes on from the 10\.5 MB"):
        hub_client.fetch()
    assert hub_client.measure().download == len(data) - CHUNK

    hub.requests.clear()
    seen: list[Progress] = []
    weights = hub_client.fetch(progress=seen.append)
    assert (weights / "model.safetensors").read_bytes() == data
    assert {one.range for one in hub.bodies("model.safetensors")} == {f"bytes={CHUNK}-"}
    assert (seen[0].done, seen[-1].done) == (CHUNK, len(data))


def test_a_killed_process_leaves_what_it_downloaded(hub: Hub, hub_client: Client) -> None:
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
    child = subprocess.Popen([sys.executable, "-c", code, str(hub_client.cache), hub.url], env=environment)
    part = hub_client.cache / "blobs" / f"sha256-{hashlib.sha256(data).hexdigest()}.part"
    deadline = time.monotonic() + 60
    while not part.exists() or part.stat().st_size < CHUNK:
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    hold.set()

    hub.requests.clear()
    assert (hub_client.fetch() / "model.safetensors").read_bytes() == data
    assert {one.range for one in hub.bodies("model.safetensors")} == {f"bytes={CHUNK}-"}


def test_a_server_that_ignores_ranges_begins_again(hub: Hub, hub_client: Client) -> None:
    data = tensors(6_000_000)
    hub.add(REPO, {"model.safetensors": data})
    fault = hub.fault("model.safetensors")
    fault.cut, fault.ignore_range = [CHUNK + 1000], True
    assert (hub_client.fetch() / "model.safetensors").read_bytes() == data


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_wrong_checksum_is_refused_for_large_and_small_files(hub: Hub, hub_client: Client, name: str) -> None:
    hub.add(REPO, model_files())
    hub.fault(name).corrupt = True
    algorithm = "sha256" if name == "model.safetensors" else "git"
    with pytest.raises(WeightsError, match=rf"{name} with {algorithm} .*; found: {algorithm} .* after download"):
        hub_client.fetch()
    assert not (hub_client.cache / "weights").exists()
    hub.faults.clear()
    assert hub_client.fetch().format == "safetensors"


def test_a_damaged_half_download_is_dropped_and_begun_again(hub: Hub, hub_client: Client) -> None:
    data = tensors()
    hub.add(REPO, {"model.safetensors": data})
    part = hub_client.cache / "blobs" / f"sha256-{hashlib.sha256(data).hexdigest()}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 1000)
    assert (hub_client.fetch() / "model.safetensors").read_bytes() == data


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_a_damaged_cached_file_is_downloaded_again(hub: Hub, hub_client: Client, damage: str) -> None:
    data = tensors()
    hub.add(REPO, model_files())
    first = hub_client.fetch()
    blob = hub_client.cache / "blobs" / f"sha256-{hashlib.sha256(data).hexdigest()}"
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
    again = hub_client.fetch()
    assert again.digest == first.digest
    assert (again / "model.safetensors").read_bytes() == data
    assert len(hub.bodies("model.safetensors")) == 2, "the redirect and the file"
    assert hub.bodies("config.json") == []


def test_a_full_disk_is_noticed_before_anything_is_downloaded(hub: Hub, hub_client: Client) -> None:
    hub.add(REPO, model_files())
    size = hub_client.measure().total
    with pytest.raises(WeightsError) as caught:
        hub_client.fetch(free=lambda path: 1_000_000_000 + size - 1)
    assert "to spare" in str(caught.value)
    assert "1.0 GB free" in caught.value.found
    assert hub.bodies("model.safetensors") == []
    assert hub_client.fetch(free=lambda path: 1_000_000_000 + size).bytes == size
    assert hub_client.fetch(free=lambda path: 0).bytes == size, "nothing has to be written any more"


def test_services_that_fetch_the_same_at_once_download_it_once(hub: Hub, hub_client: Client) -> None:
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
        running = [pool.submit(hub_client.fetch, progress=watch) for _ in range(3)]
        assert all_reached.wait(60)
        hold.set()
        digests = {one.result().digest for one in running}
    assert len(digests) == 1
    assert len([one for one in hub.bodies("model.safetensors") if one.path.startswith("/large")]) == 1


def test_a_branch_is_resolved_once_and_stays_what_it_was(hub: Hub, hub_client: Client) -> None:
    first = hub.add(REPO, model_files())
    hub_client.fetch()
    second = hub.add(REPO, model_files(**{"model.safetensors": tensors(seed=1)}))
    assert hub_client.measure().commits == {REPO: first}
    assert hub_client.measure(f"hf://{REPO}@{second}").commits == {REPO: second}
    assert hub_client.measure(f"hf://{REPO}@{second}").download == len(tensors())


def test_offline_serves_what_is_here_and_says_what_is_not(hub: Hub, hub_client: Client) -> None:
    commit = hub.add(REPO, model_files())
    with pytest.raises(
        WeightsError, match=r"without the network; found: a listing of sailor/compass .* not in the cache"
    ):
        hub_client.fetch(offline=True)
    hub_client.measure()
    with pytest.raises(WeightsError, match=r"model\.safetensors.* are not in the cache"):
        hub_client.fetch(offline=True)
    online = hub_client.fetch()
    hub.requests.clear()
    assert hub_client.fetch(offline=True).digest == online.digest
    assert hub_client.fetch(f"hf://{REPO}@{commit}", offline=True).digest == online.digest
    assert hub.requests == []


def test_the_hubs_own_offline_switch_holds(hub: Hub, hub_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(REPO, model_files())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="without the network"):
        hub_client.fetch()
    assert hub.requests == []


def test_the_token_goes_to_the_hub_and_not_to_where_it_redirects(
    hub: Hub, hub_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.add(REPO, model_files())
    hub_client.fetch()
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
def test_what_a_hub_does_not_have_is_said_clearly(hub: Hub, hub_client: Client, model: str, message: str) -> None:
    hub.add(REPO, model_files())
    hub.gated.add("sailor/gated")
    with pytest.raises(WeightsError, match=message):
        hub_client.measure(model)


def test_an_absent_hub_is_said_clearly(tmp_path: Path) -> None:
    with Hub() as gone:
        url = gone.url
    with pytest.raises(WeightsError, match="checking the network, or HF_ENDPOINT"):
        measure(parse_model(f"hf://{REPO}", tmp_path), tmp_path / "c", allow=Allow(), offline=False, endpoint=url)


def test_a_listing_that_leads_out_of_its_folder_is_refused(hub: Hub, hub_client: Client) -> None:
    hub.add(REPO, {"../../evil.json": b"{}"})
    with pytest.raises(WeightsError, match="leading out of its folder"):
        hub_client.measure()


def test_one_file_or_one_folder_of_a_repository_can_be_named(hub: Hub, hub_client: Client) -> None:
    hub.add(REPO, model_files(**{"onnx/model.onnx": random_bytes(2000), "onnx/config.json": b"{}"}))
    assert [file.name for file in hub_client.fetch(f"hf://{REPO}/onnx/model.onnx").files] == ["model.onnx"]
    assert [file.name for file in hub_client.fetch(f"hf://{REPO}/onnx").files] == ["config.json", "model.onnx"]
    model = {"net.onnx": f"hf://{REPO}/onnx/model.onnx", "tokenizer.json": f"hf://{REPO}/tokenizer.json"}
    assert [file.name for file in hub_client.fetch(model).files] == ["net.onnx", "tokenizer.json"]


def test_a_repository_of_many_ggufs_asks_which_one(hub: Hub, hub_client: Client) -> None:
    hub.add(REPO, {f"m-{q}.gguf": random_bytes(2000, i) for i, q in enumerate(("Q4", "Q8"))} | {"mmproj.gguf": b"x"})
    with pytest.raises(WeightsError, match=rf"2: m-Q4\.gguf .*, m-Q8\.gguf .*; try: hf://{REPO}@\w+/m-Q4\.gguf"):
        hub_client.measure()
    assert hub_client.fetch(f"hf://{REPO}/m-Q8.gguf").one(".gguf").name == "m-Q8.gguf"


def test_one_piece_of_a_split_gguf_brings_all_of_them(hub: Hub, hub_client: Client) -> None:
    pieces = {f"m-0000{number}-of-00002.gguf": random_bytes(2000, number) for number in (1, 2)}
    hub.add(REPO, pieces | {"other-00001-of-00002.gguf": b"x"})
    weights = hub_client.fetch(f"hf://{REPO}/m-00001-of-00002.gguf")
    assert [file.name for file in weights.files] == sorted(pieces)
    assert weights.one(".gguf").name == "m-00001-of-00002.gguf"
