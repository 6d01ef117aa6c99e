"""The store: documents, history and the ledger, in one SQLite file that outlives whoever wrote it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy.exc import SQLAlchemyError

from argosy.plan.ledger import Key, Record
from argosy.serve.store import Store

KEY = Key(
    source="wheel://voice",
    weights="abc",
    engine="onnxruntime",
    version="1.31.1",
    options="o",
    caps="c",
    device="A Processor",
    architecture="x86-64-avx2",
    driver="",
)
RECORD = Record(key=KEY, loaded=170, canary=175, peak=180, at=1000.0)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'store.db'}"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = Store(url)
    yield opened
    opened.close()


def test_a_document_is_kept_replaced_and_dropped(store: Store) -> None:
    assert store.get("fleet") is None
    store.put("fleet", {"text": "one"})
    store.put("fleet", {"text": "two", "more": [1, None]})
    assert store.get("fleet") == {"text": "two", "more": [1, None]}
    store.drop("fleet")
    assert store.get("fleet") is None


def test_what_one_process_wrote_another_reads(store: Store, url: str) -> None:
    store.measure(RECORD)
    store.put("fleet", {"text": "one"})
    other = Store(url)
    assert (other.ledger().records, other.get("fleet")) == ((RECORD,), {"text": "one"})
    other.close()


def test_a_later_load_replaces_what_was_measured_and_keeps_the_higher_peak(store: Store) -> None:
    store.measure(RECORD)
    store.measure(replace(RECORD, loaded=160, canary=165, peak=170, at=2000.0))
    (kept,) = store.ledger().records
    assert kept == Record(key=KEY, loaded=160, canary=165, peak=180, at=2000.0)
    store.measure(replace(RECORD, peak=200, at=3000.0))
    assert [(one.peak, one.at) for one in store.ledger().records] == [(200, 3000.0)]


@pytest.mark.parametrize("field", ["weights", "engine", "version", "options", "caps", "device", "driver"])
def test_each_part_of_the_key_has_its_own_record(store: Store, field: str) -> None:
    store.measure(RECORD)
    store.measure(replace(RECORD, key=replace(KEY, **{field: "another"}), peak=999))
    assert sorted(one.peak for one in store.ledger().records) == [180, 999]


def test_history_gives_the_last_events_oldest_first(store: Store) -> None:
    for number in range(5):
        store.happened("apply", f"number {number}", service="a" if number % 2 else "")
    assert [(event.detail, event.service) for event in store.history(2)] == [("number 3", "a"), ("number 4", "")]


def test_a_store_that_cannot_be_opened_says_so(tmp_path: Path) -> None:
    with pytest.raises(SQLAlchemyError):
        Store(f"sqlite:///{tmp_path / 'no folder' / 'store.db'}")
