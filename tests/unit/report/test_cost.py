"""Costs in words and numbers: `piecework cost`."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from piecework.errors import InputError
from piecework.ledger.store import Ledger, open_ledger
from piecework.report.cost import cost
from piecework.units import Money
from tests.unit.ledger.histories import at, attempt_life, machine_life

CLEAN, LOAD, OTHER = "etl.clean.aa.1", "etl.load.bb.1", "ml.clean.cc.1"


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    """Three attempts at 0.001 dollars a second: 100 s, 1,000 s and 50 s, and 10 s idle."""
    with open_ledger("sqlite://") as opened:
        opened.append(machine_life("m0", 0, 110, bought_for=CLEAN, had={CLEAN: (0, 100)}))
        opened.append(machine_life("m1", 6600, 7600, bought_for=LOAD, had={LOAD: (6600, 7600)}))
        opened.append(machine_life("m2", 0, 50, bought_for=OTHER, had={OTHER: (0, 50)}, minimum=0))
        opened.append(attempt_life(CLEAN, 0, 0, 100, team="red"))
        opened.append(attempt_life(LOAD, 0, 6600, 7600, team="blue"))
        opened.append(attempt_life(OTHER, 0, 0, 50))
        yield opened


def _rows(report: dict[str, Any]) -> dict[str, Decimal]:
    return {row["key"]: Decimal(row["cost"]) for row in report["rows"]}


def test_rows_come_the_dearest_first_and_add_up(ledger: Ledger) -> None:
    report = cost(ledger, "pipeline", now=at(9000)).to_json()
    assert [row["key"] for row in report["rows"]] == ["etl", "ml"]
    assert _rows(report) == {"etl": Decimal("1.1"), "ml": Decimal("0.05")}
    assert report["idle"] == "0.010000000"
    assert report["total"] == report["machines_total"] == "1.160000000"
    assert report["currency"] == "USD"
    assert report["unpriced"] == 0
    assert [row["machine_seconds"] for row in report["rows"]] == [1100.0, 50.0]


def test_jobs_of_one_name_in_two_pipelines_stay_apart(ledger: Ledger) -> None:
    report = cost(ledger, "job", now=at(9000)).to_json()
    assert _rows(report) == {
        "load": Decimal(1),
        "etl.clean": Decimal("0.1"),
        "ml.clean": Decimal("0.05"),
    }


def test_what_belongs_to_no_team_is_told_as_such(ledger: Ledger) -> None:
    report = cost(ledger, "team", now=at(9000)).to_json()
    assert _rows(report) == {
        "blue": Decimal(1),
        "red": Decimal("0.1"),
        "(none)": Decimal("0.05"),
    }


def test_a_machine_over_midnight_counts_for_each_day_by_its_time(ledger: Ledger) -> None:
    """The histories begin at 22:00, so that midnight is after 7,200 s."""
    report = cost(ledger, "day", now=at(9000)).to_json()
    assert _rows(report) == {"2026-11-01": Decimal("0.75"), "2026-11-02": Decimal("0.4")}


def test_a_period_cuts_what_goes_across_its_ends(ledger: Ledger) -> None:
    report = cost(ledger, "job", since=at(6700), until=at(7550.5), now=at(9000)).to_json()
    assert _rows(report) == {"load": Decimal("0.8505")}
    assert report["total"] == "0.850500000"
    assert report["idle"] == "0.000000000"


def test_a_live_machine_costs_more_as_time_goes_by(ledger: Ledger) -> None:
    attempt = "ml.train.dd.1"
    ledger.append(machine_life("m3", 8000, None, bought_for=attempt, had={attempt: (8000, None)}))
    ledger.append(attempt_life(attempt, 8000, 8000))
    for seconds in (8100, 9000):
        report = cost(ledger, "job", now=at(seconds))
        assert _rows(report.to_json())["train"] == Decimal(seconds - 8000) / 1000
        assert report.total == report.machines_total


def test_time_without_a_price_is_never_zero_money(ledger: Ledger) -> None:
    attempt = "ml.train.dd.1"
    ledger.append(
        machine_life("m3", 0, 100, bought_for=attempt, had={attempt: (0, 100)}, price=None)
    )
    ledger.append(attempt_life(attempt, 0, 0, 100))
    report = cost(ledger, "job", now=at(9000)).to_json()
    row = report["rows"][-1]
    assert (row["key"], row["cost"], row["unpriced"]) == ("train", None, 100)
    assert report["unpriced"] == 100
    assert report["total"] == "1.160000000"


def test_an_empty_ledger_costs_nothing() -> None:
    with open_ledger("sqlite://") as ledger:
        report = cost(ledger, "job")
    assert report.rows == ()
    assert report.total == report.machines_total == Money(Decimal(0))


def test_an_unknown_grouping_is_told(ledger: Ledger) -> None:
    with pytest.raises(InputError, match="'week': write one of job, pipeline"):
        cost(ledger, "week")  # type: ignore[arg-type]  # as a program without types may call it
