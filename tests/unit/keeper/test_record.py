"""Carrying events into the ledger: none lost, none twice, whatever breaks on the way."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from piecework.config import Settings
from piecework.errors import LedgerError
from piecework.keeper import tend
from piecework.keeper.record import Recorder
from piecework.ledger.events import Event, Kind
from piecework.ledger.store import Ledger, open_ledger
from piecework.machines.host import Capacity
from piecework.machines.local import Machines
from piecework.runners.folder import AttemptFolder, open_attempts
from tests.unit.machines.test_local import wish
from tests.unit.runners.test_folder import order

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def event(kind: Kind, sequence: int = 0) -> Event:
    data = {"outcome": "success", "cause": "exit code 0", "exit_code": 0, "use": None}
    return Event("test", "r.1", kind, sequence, NOON, NOON, data)


@pytest.fixture
def folder(tmp_path: Path) -> AttemptFolder:
    made = AttemptFolder(tmp_path / "runs" / "r" / "1")
    made.write_order(order())
    return made


def test_a_spool_is_recorded_as_it_grows(tmp_path: Path, folder: AttemptFolder) -> None:
    recorder = Recorder(tmp_path)
    with open_ledger(f"sqlite:///{tmp_path}/ledger.sqlite") as ledger:
        assert not recorder.has_news()
        folder.append(event(Kind.ATTEMPT_QUEUED))
        assert recorder.has_news()
        assert recorder.record(ledger) == 1
        assert not recorder.has_news()
        folder.append(event(Kind.ATTEMPT_STARTED))
        folder.append(event(Kind.ATTEMPT_ENDED))
        assert recorder.record(ledger) == 2
        assert open_attempts(tmp_path) == []
        folder.recorded.unlink()  # as if a crash had come before it was written
        folder.mark.touch()
        assert recorder.record(ledger) == 0
        assert len(list(ledger.events())) == 3


def test_machines_are_recorded_from_the_outbox(tmp_path: Path) -> None:
    with Machines(tmp_path, "test", lambda _: True) as machines:
        machines.take(wish("a1"), Capacity((0, 1), 2**40), NOON)
        written = len(machines.outbox())
    recorder = Recorder(tmp_path)
    assert recorder.has_news()
    with open_ledger(f"sqlite:///{tmp_path}/ledger.sqlite") as ledger:
        assert recorder.record(ledger) == written
        assert recorder.record(ledger) == 0
    assert not recorder.has_news()


class Away:
    """A ledger whose database is away: the seam is what `Recorder` calls."""

    def append(self, events: Iterable[Event]) -> int:
        raise LedgerError("the database is away")


def test_what_cannot_be_recorded_stays(tmp_path: Path, folder: AttemptFolder) -> None:
    folder.append(event(Kind.ATTEMPT_ENDED))
    recorder = Recorder(tmp_path)
    away: Ledger = Away()  # type: ignore[assignment]
    with pytest.raises(LedgerError):
        recorder.record(away)
    assert recorder.has_news()
    with open_ledger(f"sqlite:///{tmp_path}/ledger.sqlite") as ledger:
        assert recorder.record(ledger) == 1


def test_a_home_that_does_not_exist_needs_no_keeper(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "none", ledger_url=f"sqlite:///{tmp_path}/ledger.sqlite")
    assert tend(settings).recorded == 0
    assert not (tmp_path / "ledger.sqlite").exists()
