"""The ledger on a real PostgreSQL: the same as on SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, text

from piecework.errors import LedgerError
from piecework.ledger.connection import writing
from piecework.ledger.events import Event
from piecework.ledger.schema import METADATA
from piecework.ledger.store import Ledger, open_ledger
from piecework.report.cost import cost
from piecework.report.runs import find_run, list_runs
from tests.conftest import RequiredLayer
from tests.postgres import Server, running_postgresql
from tests.unit.ledger.answers import expected_bills, expected_costs, tables, told_costs
from tests.unit.ledger.histories import at, attempt_life, histories, machine_life, tell, times

A, B = "etl.clean.aa.1", "etl.load.bb.1"


@pytest.fixture(scope="module")
def running() -> Iterator[ExitStack]:
    """What the module's tests started, stopped after the last of them."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def servers() -> list[Server]:
    return []


@pytest.fixture
def server(required_layer: RequiredLayer, running: ExitStack, servers: list[Server]) -> Server:
    required_layer("postgresql")
    if not servers:
        servers.append(running.enter_context(running_postgresql()))
    return servers[0]


@pytest.fixture
def url(server: Server) -> str:
    return server.create_database()


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    with open_ledger(url) as opened:
        yield opened


def _story() -> list[Event]:
    return machine_life("m0", 0, 200, bought_for=A, had={A: (5, 30), B: (40, 140)}) + (
        attempt_life(A, 0, 5, 30) + attempt_life(B, 35, 40, 140)
    )


def test_an_event_that_is_appended_again_changes_nothing(ledger: Ledger) -> None:
    assert ledger.append(_story()) == len(_story())
    before = tables(ledger)
    assert ledger.append([*_story(), *_story()]) == 0
    assert tables(ledger) == before
    assert ledger.events() == _story()


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(histories(), times, st.one_of(st.none(), times), st.data())
def test_the_tables_are_what_the_events_say_however_they_came(
    ledger: Ledger,
    events: list[Event],
    now: datetime,
    since: datetime | None,
    data: st.DataObject,
) -> None:
    with writing(ledger._engine) as connection:
        for table in METADATA.sorted_tables:
            connection.execute(delete(table))
    told = [*data.draw(st.permutations(events)), *events[:3]]
    size = data.draw(st.integers(1, 12))
    for start in range(0, len(told), size):
        ledger.append(told[start : start + size])
    verification = ledger.verify(now)
    assert verification.problems == ()
    assert verification.bills_nanos == verification.charged_nanos == expected_bills(events, now)
    report = cost(ledger, "job", now=now)
    assert told_costs(report) == expected_costs(events, now)
    assert report.total == report.machines_total
    period = cost(ledger, "job", since=since, now=now)
    assert told_costs(period) == expected_costs(events, now, since)
    before = tables(ledger)
    ledger.rebuild()
    assert tables(ledger) == before


def test_runs_are_found_by_the_beginning_of_their_names(ledger: Ledger) -> None:
    ledger.append(_story())
    assert [report.run for report in list_runs(ledger)] == ["etl.load.bb", "etl.clean.aa"]
    found = find_run(ledger, "etl.c")
    assert found is not None
    assert found.run == "etl.clean.aa"
    assert find_run(ledger, "ETL.c") is None


def test_text_that_postgresql_dislikes_is_kept(ledger: Ledger) -> None:
    events = attempt_life(A, 0, 1, 2, team="nul \0 half \ud800 'quote'")
    ledger.append(events + machine_life("m0", 0, 90, had={A: (0, 9)}))
    assert ledger.events([A]) == events
    assert ledger.verify().ok
    assert cost(ledger, "team").rows[0].key == "nul ? half ? 'quote'"


def test_an_identity_that_postgresql_cannot_hold_is_told(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="ledger_"):
        ledger.append([tell("nul \0", "machine.launched", 0)])
    assert ledger.events() == []


def test_the_socket_serves_as_well(server: Server, url: str) -> None:
    with open_ledger(url) as ledger:
        ledger.append(_story())
    with open_ledger(server.socket_url(url.rpartition("/")[2])) as ledger:
        assert ledger.events() == _story()


def test_a_connection_that_the_server_dropped_is_made_again(server: Server, url: str) -> None:
    with open_ledger(url) as ledger:
        ledger.append(_story()[:4])
        server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE datname = '{url.rpartition('/')[2]}'"
        )
        assert ledger.append(_story()) == len(_story()) - 4


def test_a_ledger_that_others_keep_locked_can_be_tried_again(url: str) -> None:
    with open_ledger(url) as other, open_ledger(url, timeout_seconds=0.2) as ledger:
        with (
            writing(other._engine),
            pytest.raises(LedgerError, match="locked for too long") as caught,
        ):
            ledger.append(_story())
        assert caught.value.retryable
        assert ledger.append(_story()) == len(_story())


def test_a_database_that_is_not_there_is_told(server: Server) -> None:
    with pytest.raises(LedgerError, match="no such database"):
        open_ledger(server.url("missing"))


def test_a_server_that_is_not_there_is_told_without_the_password() -> None:
    with pytest.raises(LedgerError, match="does not answer") as caught:
        open_ledger("postgresql://me:s3cret@127.0.0.1:1/ledger", timeout_seconds=2)
    assert caught.value.retryable
    assert "s3cret" not in str(caught.value)


def test_a_ledger_of_a_newer_version_is_refused(url: str) -> None:
    with open_ledger(url) as ledger, writing(ledger._engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(LedgerError, match="newer piecework"):
        open_ledger(url)


def test_the_meter_of_a_live_machine_is_read_at_any_time(ledger: Ledger) -> None:
    ledger.append(machine_life("m0", 0, None, bought_for=A, had={A: (5, None)}))
    ledger.append(attempt_life(A, 0, 10))
    for seconds in (100, 5000, 90_000):
        assert cost(ledger, "job", now=at(seconds)).total.nanos() == seconds * 1_000_000
