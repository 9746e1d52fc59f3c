from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from piecework.errors import LedgerError
from piecework.keeper.cluster.reconcile import Reconciliation, close_vanished, read_open
from piecework.keeper.cluster.record import events_of_attempt, events_of_machine
from piecework.keeper.cluster.snapshot import Snapshot
from piecework.keeper.cluster.writer import Writer
from piecework.ledger.events import Event, Kind
from piecework.ledger.occupancy import Timeline, read_timeline
from piecework.ledger.store import open_ledger
from tests.unit.keeper.cluster.worlds import NOW, attempt, machine, pod, world

_RUNNING = attempt(pod("run", node="node-m", started=-20, admitted=-60))
_OPEN = [
    *events_of_machine(machine("m", attempt="run.abc.1"), [], NOW),
    *events_of_attempt(_RUNNING, {"node-m": machine("m")}, NOW),
]


def _closed(snapshot: Snapshot) -> list[tuple[str, Kind]]:
    events = close_vanished(read_timeline(_OPEN), snapshot, {"spot"})
    return [(event.subject, event.kind) for event in events]


def test_what_is_still_there_stays_open() -> None:
    assert _closed(world([_RUNNING], [machine("m")])) == []


def test_what_nobody_knows_any_more_is_closed_as_of_now() -> None:
    assert _closed(world()) == [("m", Kind.MACHINE_GONE), ("run.abc.1", Kind.ATTEMPT_ENDED)]
    timeline = read_timeline([*_OPEN, *close_vanished(read_timeline(_OPEN), world(), {"spot"})])
    assert timeline.machines["m"].gone_cause == "lost"
    assert timeline.attempts["run.abc.1"].outcome == "interrupted"


def test_what_belongs_to_pools_of_others_is_theirs_to_close() -> None:
    assert close_vanished(read_timeline(_OPEN), world(), {"other"}) == []


def test_a_ledger_tells_what_is_open_in_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.sqlite"
    with open_ledger(url) as ledger:
        ledger.append(_OPEN)
        found = read_open(url)
        assert (set(found.machines), set(found.attempts)) == ({"m"}, {"run.abc.1"})
        ledger.append(close_vanished(found, world(), {"spot"}))
        assert ledger.verify().ok
    assert read_open(url).machines == {}


def test_it_reads_before_it_compares_and_does_so_once() -> None:
    written: list[Event] = []
    answers: list[Timeline | LedgerError] = [LedgerError("away"), read_timeline(_OPEN)]

    def read() -> Timeline:
        answer = answers.pop(0)
        if isinstance(answer, LedgerError):
            raise answer
        return answer

    def append(events: Iterable[Event]) -> int:
        written.extend(events)
        return 0

    writer = Writer(append)
    reconciliation = Reconciliation(read, writer)
    deadline = time.monotonic() + 10
    while not written and time.monotonic() < deadline:
        reconciliation.look(world())
        writer.flush()
        time.sleep(0.01)
    reconciliation.stop()
    assert {event.subject for event in written} == {"m", "run.abc.1"}
    assert answers == []
