"""The store: where state lives that outlives a process. One interface, SQLite or Postgres by URL.

Control alone writes it. What is kept: the fleet that should run (as the owner wrote it), the ledger of measured
memory, and the history of what happened.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ..plan.ledger import Key, Ledger, Record

_tables = sa.MetaData()
_documents = sa.Table(
    "argosy_documents",
    _tables,
    sa.Column("name", sa.String(200), primary_key=True),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("written", sa.Float, nullable=False),
)
_measured = sa.Table(
    "argosy_measured",
    _tables,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("record", sa.Text, nullable=False),
)
_history = sa.Table(
    "argosy_history",
    _tables,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("service", sa.String(100), nullable=False),
    sa.Column("event", sa.String(100), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
)


@dataclass(frozen=True)
class Event:
    """Something that happened: `at` is seconds since the epoch; `service` is empty for the whole fleet."""

    at: float
    service: str
    event: str
    detail: str


class Store:
    """Opened by URL: `sqlite:////path/store.db`, `sqlite://` (in memory), `postgresql+psycopg://…`."""

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(url)
        if self._engine.dialect.name == "sqlite":
            sa.event.listen(self._engine, "connect", _durable)
        _tables.create_all(self._engine)

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        with self._engine.begin() as connection:
            yield connection

    def put(self, name: str, body: Mapping[str, Any]) -> None:
        """Keep one JSON document under a name, in place of what was there."""
        with self._write() as connection:
            connection.execute(_documents.delete().where(_documents.c.name == name))
            connection.execute(_documents.insert().values(name=name, body=json.dumps(body), written=time.time()))

    def get(self, name: str) -> dict[str, Any] | None:
        """The document of that name; None when there is none."""
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(_documents.c.body).where(_documents.c.name == name)).first()
        return json.loads(row[0]) if row else None

    def drop(self, name: str) -> None:
        with self._write() as connection:
            connection.execute(_documents.delete().where(_documents.c.name == name))

    def measure(self, record: Record) -> None:
        """Remember what a load took; the peak only grows for as long as nothing that it depends on changes."""
        key = record.key.digest
        with self._write() as connection:
            known = connection.execute(sa.select(_measured.c.record).where(_measured.c.key == key)).first()
            connection.execute(_measured.delete().where(_measured.c.key == key))
            now = record.after(_record(known[0]) if known else None)
            body = json.dumps(dataclasses.asdict(now))
            connection.execute(_measured.insert().values(key=key, record=body))

    def ledger(self) -> Ledger:
        """Everything that was measured, by what it was measured on."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(_measured.c.record).order_by(_measured.c.key)).all()
        return Ledger(tuple(_record(row[0]) for row in rows))

    def happened(self, event: str, detail: str, service: str = "") -> None:
        with self._write() as connection:
            connection.execute(_history.insert().values(at=time.time(), service=service, event=event, detail=detail))

    def history(self, last: int = 100) -> list[Event]:
        """The last events, oldest first."""
        columns = (_history.c.at, _history.c.service, _history.c.event, _history.c.detail)
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(*columns).order_by(_history.c.id.desc()).limit(last)).all()
        return [Event(*row) for row in reversed(rows)]

    def close(self) -> None:
        self._engine.dispose()


def _record(body: str) -> Record:
    found = json.loads(body)
    return Record(**{**found, "key": Key(**found["key"])})


def _durable(connection: Any, record: Any) -> None:
    """SQLite: readers beside the one writer, and no half-written page after a kill."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
