from __future__ import annotations

import threading
from collections.abc import Iterable

from piecework.errors import LedgerError
from piecework.keeper.cluster.writer import Writer
from piecework.ledger.events import Event, Kind
from tests.unit.keeper.cluster.worlds import NOW


class _Ledger:
    """Takes events, but for the first few times."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.events: list[Event] = []

    def append(self, events: Iterable[Event]) -> int:
        if self.failures:
            self.failures -= 1
            raise LedgerError("it is away")
        self.events += events
        return len(self.events)


def _event(subject: str, kind: Kind = Kind.ATTEMPT_STARTED, sequence: int = 0) -> Event:
    return Event("keeper", subject, kind, sequence, NOW, NOW)


def test_an_event_is_written_once_however_often_it_is_told() -> None:
    ledger = _Ledger()
    writer = Writer(ledger.append)
    assert writer.put([_event("a"), _event("b")]) == 2
    assert writer.put([_event("a"), _event("a", sequence=1)]) == 1
    writer.flush()
    assert [(event.subject, event.sequence) for event in ledger.events] == [
        ("a", 0),
        ("b", 0),
        ("a", 1),
    ]


def test_what_is_over_is_known_only_once_the_ledger_has_it() -> None:
    writer = Writer(_Ledger().append)
    writer.put([_event("a", Kind.ATTEMPT_ENDED), _event("m", Kind.MACHINE_GONE), _event("b")])
    assert writer.over == frozenset()
    writer.flush()
    assert writer.over == {"a", "m"}
    writer.forget({"a"})
    assert writer.over == {"m"}


def test_a_ledger_that_is_away_loses_nothing_and_stops_nobody() -> None:
    ledger = _Ledger(failures=2)
    written = threading.Event()
    writer = Writer(ledger.append, written.set, longest_pause_seconds=0.01)
    writer.put([_event("a")])
    writer.start()
    assert written.wait(10)
    writer.stop()
    assert [event.subject for event in ledger.events] == ["a"]
    assert writer.error is None
    assert writer.waiting == 0


def test_the_lag_is_measured_for_what_is_written_at_once() -> None:
    writer = Writer(_Ledger().append)
    writer.put([_event("a"), _event("a", Kind.ATTEMPT_QUEUED)])
    writer.flush()
    assert len(writer.take_lags()) == 1
    assert writer.take_lags() == []
