"""Pickles and code, which come only by name; files by URL, which come only with a checksum."""

from __future__ import annotations

import hashlib
import pickle

import pytest
from hub import CHUNK, REPO, Client, Hub, model_files, random_bytes

from argosy.errors import WeightsError
from argosy.fleet.weights import Allow, Progress

CT2_HEADER = b"\x06\x00\x00\x00\x0c\x00WhisperSpec\x00\x03\x00\x00\x00"


def test_a_repository_of_pickles_is_refused_until_one_is_allowed_by_name(hub: Hub, hub_client: Client) -> None:
    hub.add(REPO, {"pytorch_model.bin": pickle.dumps({"a": list(range(1000))}), "config.json": b"{}"})
    with pytest.raises(WeightsError, match=r"pickles, .*: pytorch_model\.bin; .*`allow: \[pytorch_model\.bin\]`"):
        hub_client.measure()
    with pytest.raises(WeightsError, match=r"allow: \[pytorch_model\.bin\]"):
        hub_client.measure(f"hf://{REPO}/pytorch_model.bin")
    weights = hub_client.fetch(allow=("pytorch_model.bin",))
    assert [file.name for file in weights.files] == ["config.json", "pytorch_model.bin"]


def test_pickles_and_code_beside_open_formats_are_left_out_and_told(hub: Hub, hub_client: Client) -> None:
    hub.add(REPO, model_files(**{"pytorch_model.bin": b"x", "modeling_compass.py": b"x", "training_args.bin": b"x"}))
    listing = hub_client.measure()
    assert [file.name for file in listing.files] == ["config.json", "model.safetensors", "tokenizer.json"]
    assert {one.name: one.why.split(";")[0] for one in listing.skipped} == {
        "modeling_compass.py": "code",
        "pytorch_model.bin": "pickle",
        "training_args.bin": "pickle",
    }
    assert any("`allow: [modeling_compass.py]`" in one.why for one in listing.skipped)
    for allow in ("modeling_compass.py", "remote_code"):
        assert "modeling_compass.py" in [file.name for file in hub_client.measure(allow=(allow,)).files]
        assert Allow.of([allow]).remote_code
    assert not Allow.of(["pytorch_model.bin"]).remote_code


def test_ctranslate2s_model_bin_is_taken_for_what_it_is(hub: Hub, hub_client: Client) -> None:
    files = {"model.bin": CT2_HEADER + random_bytes(200_000), "config.json": b"{}", "vocabulary.json": b"[]"}
    hub.add(REPO, files)
    assert hub_client.measure().formats == ("ctranslate2",)
    assert hub_client.fetch().format == "ctranslate2"


def test_a_pickle_that_calls_itself_ctranslate2_is_refused_after_a_look(hub: Hub, hub_client: Client) -> None:
    evil = pickle.dumps({"a": list(range(1000))})
    hub.add(REPO, {"model.bin": evil, "config.json": b"{}", "vocabulary.json": b"[]"})
    with pytest.raises(WeightsError, match=r"found: a pickle, .*`allow: \[model\.bin\]`"):
        hub_client.fetch()
    assert not [path for path in (hub_client.cache / "blobs").iterdir() if path.read_bytes() == evil]


def test_openvinos_bin_is_data_and_a_pickle_in_its_place_is_not(hub: Hub, hub_client: Client) -> None:
    hub.add(REPO, {"openvino_model.xml": b"<net/>", "openvino_model.bin": bytes(2000), "config.json": b"{}"})
    assert hub_client.fetch().format == "openvino"
    hub.add("sailor/evil", {"openvino_model.xml": b"<net/>", "openvino_model.bin": b"PK\x03\x04" + bytes(2000)})
    with pytest.raises(WeightsError, match="a pickle"):
        hub_client.fetch("hf://sailor/evil")


def test_a_file_by_url_is_verified_resumed_and_kept(hub: Hub, hub_client: Client) -> None:
    data = random_bytes(12_000_000)
    hub.plain["/files/voice.onnx"] = data
    model = f"{hub.url}/files/voice.onnx#sha256={hashlib.sha256(data).hexdigest()}"
    assert hub_client.measure(model).download == len(data)
    fault = hub.fault("voice.onnx")
    fault.cut, fault.status = [CHUNK + 1], [500]
    with pytest.raises(WeightsError, match=r"it goes on from the 10\.5 MB"):
        hub_client.fetch(model)
    hub.requests.clear()
    seen: list[Progress] = []
    assert (hub_client.fetch(model, progress=seen.append) / "voice.onnx").read_bytes() == data
    assert [one.range for one in hub.bodies("voice.onnx")] == [f"bytes={CHUNK}-"]
    assert seen[-1].done == seen[-1].total == len(data)
    hub.requests.clear()
    assert hub_client.fetch(model, offline=True).one(".onnx").name == "voice.onnx"
    assert hub.requests == []


def test_a_url_with_a_wrong_checksum_an_unknown_path_or_a_pickle_is_refused(hub: Hub, hub_client: Client) -> None:
    hub.plain["/voice.onnx"] = hub.plain["/model.pt"] = b"weights"
    wrong = f"#sha256={'0' * 64}"
    with pytest.raises(WeightsError, match="with sha256 0000"):
        hub_client.fetch(f"{hub.url}/voice.onnx{wrong}")
    with pytest.raises(WeightsError, match="answered 404"):
        hub_client.fetch(f"{hub.url}/gone/at/all.onnx{wrong}")
    with pytest.raises(WeightsError, match=r"allow: \[model\.pt\]"):
        hub_client.fetch(f"{hub.url}/model.pt{wrong}")
    with pytest.raises(WeightsError, match="without the network"):
        hub_client.fetch(f"{hub.url}/voice.onnx{wrong}", offline=True)
