"""The folder of an attempt: what a crash may tear, and what must stay whole."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from piecework.errors import RunnerError
from piecework.ledger.events import Event, Kind
from piecework.runners.folder import (
    AttemptFolder,
    Order,
    folder_of,
    folders_of_run,
    open_attempts,
    read_spool,
)

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def event(number: int) -> Event:
    at = NOON + timedelta(seconds=number)
    return Event("test", "r.1", Kind.ATTEMPT_WAITING, number, at, at, {"reason": "so"})


def order(attempt: str = "r.1") -> Order:
    return Order(
        attempt=attempt,
        run="r",
        number=1,
        queued_at="2026-11-23T12:00:00Z",
        run_queued_at="2026-11-23T12:00:00Z",
        queued={"priority": 0},
        purchase={},
        price={},
        count=1,
        cores=1,
        memory_bytes=1,
        minimum_seconds=60,
        keep_seconds=0,
        timeout_seconds=1,
        deadline_at=None,
        owner={"kind": "cli"},
        launch={},
        environ={"TOKEN": "secret"},
        host_cpus=None,
        host_memory_bytes=None,
        most_machines=None,
        home="/nowhere",
        config=None,
        python="python",
    )


@pytest.fixture
def folder(tmp_path: Path) -> AttemptFolder:
    made = AttemptFolder(tmp_path / "runs" / "r" / "1")
    assert made.write_order(order())
    return made


def test_an_order_is_read_as_it_was_written(folder: AttemptFolder, tmp_path: Path) -> None:
    assert folder.read_order() == order()
    assert [found.attempt for found in open_attempts(tmp_path)] == ["r.1"]
    assert [found.attempt for found in folders_of_run(tmp_path, "r")] == ["r.1"]


def test_only_its_owner_can_read_an_order(folder: AttemptFolder) -> None:
    assert folder.request.stat().st_mode & 0o077 == 0
    assert folder.path.stat().st_mode & 0o077 == 0


def test_the_first_order_stays(folder: AttemptFolder) -> None:
    assert not folder.write_order(order("other.1"))
    assert folder.read_order().attempt == "r.1"
    assert [file.name for file in folder.path.iterdir()] == ["request.json"]


def test_a_broken_order_is_told_with_its_place(folder: AttemptFolder) -> None:
    folder.request.write_text("{")
    with pytest.raises(RunnerError, match=r"request\.json"):
        folder.read_order()


@pytest.mark.parametrize("attempt", ["", "r", "r.x", "../r.1", "..1", "r/1.1", "s.1"])
def test_a_name_finds_a_folder_of_this_home_or_none(
    folder: AttemptFolder, tmp_path: Path, attempt: str
) -> None:
    assert folder_of(tmp_path, attempt) is None


def test_a_torn_line_hides_no_other(folder: AttemptFolder) -> None:
    folder.append(event(0))
    with folder.spool.open("ab") as stream:
        stream.write(event(1).to_json().encode()[:40])  # the writer was killed here
    assert folder.events() == [event(0)]
    folder.append(event(2))
    assert folder.events() == [event(0), event(2)]


def test_a_spool_is_read_from_where_it_was_left(folder: AttemptFolder) -> None:
    folder.append(event(0))
    (_, offset) = read_spool(folder.spool)[-1]
    assert read_spool(folder.spool, offset) == []
    folder.append(event(1))
    assert [found for found, _ in read_spool(folder.spool, offset)] == [event(1)]


def test_the_first_cause_of_a_cancellation_stays(folder: AttemptFolder) -> None:
    assert folder.cancel_cause() is None
    folder.request_cancel("enough")
    folder.request_cancel("too late")
    assert folder.cancel_cause() == "enough"


def test_nobody_supervises_an_attempt_that_was_not_started(folder: AttemptFolder) -> None:
    assert not folder.is_supervised()
    assert folder.ended() is None
