"""Log lines: text or JSON, once each, with the request's id from the door to the engine."""

import io
import json
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from argosy import Context
from argosy.errors import ModelFailed
from argosy.runtime import logs
from argosy.testing import running
from argosy.testing.models import Slow, Text

log = logging.getLogger("argosy.test")


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    root, level = logging.getLogger(), logging.getLogger("argosy").level
    stream = io.StringIO()
    before = list(root.handlers)
    yield stream
    for handler in [handler for handler in root.handlers if handler not in before]:
        root.removeHandler(handler)
        handler.close()
    logging.getLogger("argosy").setLevel(level)


class Talks(Slow):
    """Logs what it is asked, as an engine does, in its thread."""

    def predict(self, batch: Sequence[Text]) -> Sequence[Text]:
        logging.getLogger("some.engine").warning("a batch of %d", len(batch))
        if batch[0].text == "fail":
            raise ValueError("it broke")
        return batch


async def test_a_line_carries_the_id_of_its_request_from_the_task_to_the_worker_thread(written: io.StringIO) -> None:
    logs.setup("json", service="talks", stream=written)
    async with running(Talks) as replica:
        await replica.answer(Text(text="x"), Context("request-1"))
        log.info("answered")
        with pytest.raises(ModelFailed):
            await replica.answer(Text(text="fail"), Context("request-2"))
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    mine = [line for line in lines if line.get("request") == "request-1"]
    assert [(line["logger"], line["message"]) for line in mine] == [
        ("some.engine", "a batch of 1"),
        ("argosy.test", "answered"),
    ]
    assert mine[0].keys() == {"time", "level", "logger", "service", "request", "message"}
    failed = next(line for line in lines if line["level"] == "error")
    assert failed["request"] == "request-2"
    assert "ValueError: it broke" in failed["error"]


async def test_a_batchs_line_carries_every_id(written: io.StringIO) -> None:
    logs.setup("text", service="talks", stream=written)
    logs.requests.set(("a", "b"))
    log.warning("both")
    logs.requests.set(())
    log.warning("none")
    first, second = written.getvalue().splitlines()
    assert first.endswith("WARNING argosy.test [talks a,b] both")
    assert second.endswith("WARNING argosy.test [talks] none")


def test_setting_up_twice_writes_each_line_once_and_only_warnings_of_strangers(written: io.StringIO) -> None:
    logs.setup("json", stream=written)
    logs.setup("text", stream=written)
    log.info("ours")
    logging.getLogger("stranger").info("theirs")
    assert written.getvalue().count("\n") == 1
    assert "ours" in written.getvalue()


def test_a_log_file_is_written_beside_and_does_not_grow_without_end(
    written: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "LONGEST", 2000)
    monkeypatch.setattr(logs, "BATCH", 4)
    logs.setup("text", service="talks", stream=written, folder=str(tmp_path))
    for number in range(100):
        log.info("line %d", number)
    logs.setup("text", stream=written)  # which closes the file
    assert sorted(path.name for path in tmp_path.iterdir()) == ["talks.log", "talks.log.1"]
    assert all(path.stat().st_size < 2200 for path in tmp_path.iterdir())
    assert (tmp_path / "talks.log").read_text().splitlines()[-1].endswith("line 99")
    assert written.getvalue().count("\n") == 100


def test_lines_of_a_file_are_written_together_soon_and_warnings_at_once(tmp_path: Path) -> None:
    logs.setup("text", service="talks", folder=str(tmp_path), console=False)
    file = tmp_path / "talks.log"
    log.info("first")
    log.info("second")
    assert file.read_text() == ""
    until = time.monotonic() + 5
    while file.read_text().count("\n") < 2 and time.monotonic() < until:
        time.sleep(0.01)
    assert [line.split()[-1] for line in file.read_text().splitlines()] == ["first", "second"]
    log.info("third")
    log.warning("fourth")
    assert [line.split()[-1] for line in file.read_text().splitlines()][2:] == ["third", "fourth"]
    logs.setup("text")
