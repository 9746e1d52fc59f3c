"""The ledger on SQLite: each event once, and answers that are what the events say."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, text

from piecework.errors import LedgerError
from piecework.ledger import connection as connection_module
from piecework.ledger.connection import writing
from piecework.ledger.events import Event, Kind
from piecework.ledger.schema import HEAD, METADATA
from piecework.ledger.store import Ledger, open_ledger
from piecework.report.cost import cost
from piecework.report.machines import list_machines
from piecework.report.runs import list_runs
from tests.unit.ledger.answers import expected_bills, expected_costs, tables, told_costs
from tests.unit.ledger.histories import at, attempt_life, histories, machine_life, tell, times

A, B = "etl.clean.aa.1", "etl.load.bb.1"


def _story() -> list[Event]:
    return machine_life("m0", 0, 200, bought_for=A, had={A: (5, 30), B: (40, 140)}) + (
        attempt_life(A, 0, 5, 30) + attempt_life(B, 35, 40, 140)
    )


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/state/ledger.sqlite"


def test_an_event_that_is_appended_again_changes_nothing(url: str) -> None:
    with open_ledger(url) as ledger:
        assert ledger.append(_story()) == len(_story())
        before = tables(ledger)
        assert ledger.append(_story()) == 0
        assert ledger.append([*_story(), *_story()]) == 0
        assert tables(ledger) == before
        assert ledger.events() == _story()


def test_nothing_to_append_is_nothing(url: str) -> None:
    with open_ledger(url) as ledger:
        assert ledger.append([]) == 0
        assert ledger.events() == []
        verification = ledger.verify()
        assert verification.ok
        assert verification.to_json()["difference"] == "0.000000000"


def test_a_ledger_keeps_what_it_was_told_when_it_is_opened_again(url: str) -> None:
    with open_ledger(url) as ledger:
        ledger.append(_story())
    with open_ledger(url) as ledger:
        assert ledger.events() == _story()


def test_events_come_back_by_subject_and_time(url: str) -> None:
    with open_ledger(url) as ledger:
        ledger.append(_story())
        of_b = [event for event in _story() if event.subject == B]
        assert ledger.events([B]) == of_b
        assert ledger.events([B, B, "unknown"], since=at(40)) == of_b[1:]
        assert ledger.events(since=at(200)) == [_story()[-7]]


@pytest.fixture(scope="module")
def memory() -> Iterator[Ledger]:
    """One ledger for all examples of a property: making one takes longer than trying it."""
    with open_ledger("sqlite://") as ledger:
        yield ledger


def _emptied(ledger: Ledger) -> Ledger:
    with writing(ledger._engine) as connection:
        for table in METADATA.sorted_tables:
            connection.execute(delete(table))
    return ledger


@settings(max_examples=60)
@given(histories(), times, st.data())
def test_the_tables_are_what_the_events_say_however_they_came(
    memory: Ledger, events: list[Event], now: datetime, data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(events))
    repeats = data.draw(st.lists(st.sampled_from(events), max_size=5)) if events else []
    told = [*shuffled, *repeats]
    size = data.draw(st.integers(1, 12))
    ledger = _emptied(memory)
    for start in range(0, len(told), size):
        ledger.append(told[start : start + size])
    _assert_told(ledger, events, now)
    before = tables(ledger)
    ledger.rebuild()
    assert tables(ledger) == before


def _assert_told(ledger: Ledger, events: list[Event], now: datetime) -> None:
    verification = ledger.verify(now)
    assert verification.problems == ()
    assert verification.difference_nanos == 0
    assert verification.bills_nanos == expected_bills(events, now)
    report = cost(ledger, "job", now=now)
    assert told_costs(report) == expected_costs(events, now)
    assert report.total == report.machines_total
    for by in ("pipeline", "team", "day", "pool"):
        assert cost(ledger, by, now=now).total == report.total


@settings(max_examples=60)
@given(histories(), times, st.one_of(st.none(), times), st.one_of(st.none(), times))
def test_a_period_is_exact_up_to_its_ends(
    memory: Ledger,
    events: list[Event],
    now: datetime,
    since: datetime | None,
    until: datetime | None,
) -> None:
    ledger = _emptied(memory)
    ledger.append(events)
    told = told_costs(cost(ledger, "job", since, until, now))
    if since is None or until is None or since <= until:
        assert told == expected_costs(events, now, since, until)
    else:
        assert told == {}


@settings(max_examples=30)
@given(histories(), times, times)
def test_two_periods_that_meet_are_the_whole(
    memory: Ledger, events: list[Event], now: datetime, between: datetime
) -> None:
    ledger = _emptied(memory)
    ledger.append(events)
    before = cost(ledger, "job", until=between, now=now)
    after = cost(ledger, "job", since=between, now=now)
    assert before.total + after.total == cost(ledger, "job", now=now).machines_total


def test_long_periods_are_read_from_days_and_hours_and_are_still_exact() -> None:
    events = []
    for number in range(60):
        attempt, begin = f"etl.clean.{number}.1", number * 7 * 3600.0 + number * 17
        end = begin + 5000 + 11 * 3600 * (number % 4)
        events += machine_life(
            f"m{number}", begin, end + 100, bought_for=attempt, had={attempt: (begin, end)}
        )
        events += attempt_life(attempt, begin, begin + 3, end)
    with open_ledger("sqlite://") as ledger:
        ledger.append(events)
        now = at(20 * 86400)
        for since, until in ((0, 17), (3.5, 14), (2, 2.01), (None, 9.37), (16.99, None)):
            low = None if since is None else at(since * 86400)
            high = None if until is None else at(until * 86400)
            told = told_costs(cost(ledger, "job", low, high, now))
            assert told == expected_costs(events, now, low, high)


def test_verify_finds_a_sum_that_was_changed(url: str) -> None:
    with open_ledger(url) as ledger:
        ledger.append(_story())
        with writing(ledger._engine) as connection:
            connection.execute(text("UPDATE sums SET nanos = nanos + 1 WHERE part = 'work'"))
        verification = ledger.verify()
        assert not verification.ok
        assert "differs from the events" in verification.problems[0]
        ledger.rebuild()
        assert ledger.verify().ok


@pytest.mark.parametrize("table", ["machines", "attempts", "sums"])
def test_verify_finds_what_is_missing_in_a_table(url: str, table: str) -> None:
    with open_ledger(url) as ledger:
        ledger.append(_story())
        with writing(ledger._engine) as connection:
            connection.execute(text(f"DELETE FROM {table}"))
        assert not ledger.verify().ok
        ledger.rebuild()
        assert ledger.verify().ok


def test_verify_finds_events_that_were_taken_away(url: str) -> None:
    with open_ledger(url) as ledger:
        ledger.append(_story())
        with writing(ledger._engine) as connection:
            connection.execute(text("DELETE FROM events WHERE kind = 'machine.gone'"))
        assert not ledger.verify().ok


def test_a_full_disk_is_told_and_nothing_is_lost(tmp_path: Path) -> None:
    """The limit on pages makes SQLite itself say that the disk is full."""
    with open_ledger(f"sqlite:///{tmp_path}/ledger.sqlite") as ledger:
        ledger.append(_story())
        before = tables(ledger)
        many = [tell(f"x{n}", "machine.launched", n, note="x" * 500) for n in range(2000)]
        _limit_pages(ledger, 60)
        with pytest.raises(LedgerError, match="the disk is full") as caught:
            ledger.append(many)
        assert caught.value.retryable
        assert "xxx" not in str(caught.value)
        assert tables(ledger) == before
        assert ledger.verify().ok
        _limit_pages(ledger, 1 << 30)
        assert ledger.append(many) == 2000
        assert ledger.verify(at(5000)).ok
    with sqlite3.connect(tmp_path / "ledger.sqlite") as raw:
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    raw.close()


def _limit_pages(ledger: Ledger, pages: int) -> None:
    with ledger.reading() as connection:
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")


def test_the_migrations_make_the_tables_that_the_code_expects(url: str) -> None:
    with open_ledger(url) as ledger, ledger.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
        found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    folder = Path(connection_module.__file__).with_name("migrations")
    assert ScriptDirectory(str(folder)).get_heads() == [HEAD] == [found]


def test_a_ledger_of_a_newer_version_is_refused(url: str) -> None:
    with open_ledger(url) as ledger, writing(ledger._engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(LedgerError, match="newer piecework.*'9999'.*" + HEAD):
        open_ledger(url)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_text("hello\n" * 1000)
    with pytest.raises(LedgerError, match="not a SQLite database"):
        open_ledger(f"sqlite:///{tmp_path}/ledger.sqlite")


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LedgerError, match=r"ledger\.sqlite"):
        open_ledger(f"sqlite:///{tmp_path}/file/ledger.sqlite")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("", "not a URL"),
        ("ledger.sqlite", "not a URL"),
        ("postgres:s3cret", "not a URL"),
        ("mysql://me:s3cret@host/db", "'mysql'"),
    ],
)
def test_a_wrong_url_is_told_without_its_password(wrong: str, said: str) -> None:
    with pytest.raises(LedgerError, match=said) as caught:
        open_ledger(wrong)
    assert "s3cret" not in str(caught.value)


def test_a_ledger_that_others_keep_locked_can_be_tried_again(url: str, tmp_path: Path) -> None:
    with open_ledger(url, timeout_seconds=0.05) as ledger:
        ledger.append(_story()[:3])
        other = sqlite3.connect(tmp_path / "state" / "ledger.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            assert len(ledger.events()) == 3
            with pytest.raises(LedgerError, match="locked") as caught:
                ledger.append(_story())
            assert caught.value.retryable
        finally:
            other.close()
        assert ledger.append(_story()) == len(_story()) - 3


def test_an_event_that_cannot_be_written_is_told(url: str) -> None:
    wrong = replace(_story()[0], data={"reason": object()})
    with open_ledger(url) as ledger:
        with pytest.raises(LedgerError, match=r"machine\.requested of 'm0' cannot be recorded"):
            ledger.append([wrong])
        assert ledger.events() == []


def test_text_that_databases_dislike_is_kept(url: str) -> None:
    events = attempt_life(A, 0, 1, 2, team="nul \0 half \ud800 'quote' \u2028")
    with open_ledger(url) as ledger:
        ledger.append(events + machine_life("m0", 0, 90, had={A: (0, 9)}))
        assert ledger.events([A]) == events
        assert ledger.verify().ok
        assert cost(ledger, "team").rows[0].key == "nul ? half ? 'quote' \u2028"


def test_reading_the_ledger_imports_no_migrations(url: str) -> None:
    """Alembic takes longer to import than a query to run; an up-to-date ledger needs none."""
    open_ledger(url).close()
    code = (
        "import sys; from piecework.ledger.store import open_ledger; "
        f"open_ledger({url!r}).close(); print('alembic' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout == "False\n"


@pytest.mark.parametrize("kind", list(Kind))
def test_a_subject_of_which_one_event_is_known_is_no_trouble(url: str, kind: Kind) -> None:
    with open_ledger(url) as ledger:
        ledger.append([tell("s", kind.value, 0, attempt=""), tell("t", kind.value, 0, attempt=A)])
        verification = ledger.verify(at(100))
        assert verification.problems == ()
        assert verification.machines + verification.attempts == 2
        assert cost(ledger, "day", now=at(100)).total.amount == 0
        assert len(list_runs(ledger)) + len(list_machines(ledger)) == 2


def test_the_first_of_two_events_of_one_identity_counts(url: str) -> None:
    first = tell("m0", "machine.launched", 0, minimum_seconds=60)
    second = replace(first, data={"minimum_seconds": 3600})
    with open_ledger(url) as ledger:
        assert ledger.append([first, second]) == 1
        assert ledger.append([second]) == 0
        assert ledger.events() == [first]


def test_a_clock_that_was_months_off_does_not_stop_the_ledger(url: str) -> None:
    events = [replace(event, at=event.at - timedelta(days=100)) for event in _story()[:2]]
    with open_ledger(url) as ledger:
        ledger.append(events + _story()[2:])
        assert ledger.verify().ok
