"""Reports on runs, in the shape that `piecework show --json` prints."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from piecework.errors import InputError
from piecework.ledger.store import Ledger, open_ledger
from piecework.report.runs import find_run, list_runs, runs_of
from tests.unit.ledger.histories import at, attempt_life, machine_life, tell

FIRST, SECOND, OTHER = "etl.clean.aa.1", "etl.clean.aa.2", "etl.load.ab.1"


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    """A run that was interrupted and tried again, and one that waits."""
    with open_ledger("sqlite://") as opened:
        opened.append(machine_life("m0", 0, 100, bought_for=FIRST, had={FIRST: (10, 100)}))
        opened.append(attempt_life(FIRST, 0, 20, 95, "interrupted", pipeline_run="monday"))
        opened.append(machine_life("m1", 110, 400, bought_for=SECOND, had={SECOND: (110, 400)}))
        opened.append(attempt_life(SECOND, 105, 110, None, pipeline_run="monday", team="red"))
        opened.append(
            [
                tell(SECOND, "attempt.admitted", 110, machines=["m1"], instance_type="m5.large"),
                tell(
                    SECOND,
                    "attempt.ended",
                    390,
                    outcome="success",
                    exit_code=0,
                    use={"cpu_seconds": 250.5, "peak_memory_bytes": 1 << 30, "read_bytes": None},
                ),
            ]
        )
        opened.append(attempt_life(OTHER, 200, pipeline_run="monday"))
        opened.append([tell(OTHER, "attempt.waiting", 201, reason="no machine is free")])
        yield opened


def test_a_run_is_what_became_of_its_last_attempt(ledger: Ledger) -> None:
    report = find_run(ledger, "etl.clean.aa", now=at(500))
    assert report is not None
    told = report.to_json()
    assert (told["run"], told["job"], told["outcome"]) == ("etl.clean.aa", "clean", "success")
    assert (told["cost"], told["currency"]) == ("0.390000000", "USD")
    assert [a["outcome"] for a in told["attempts"]] == ["interrupted", "success"]
    assert [a["cost"] for a in told["attempts"]] == ["0.100000000", "0.290000000"]


def test_an_attempt_tells_its_machines_times_and_use(ledger: Ledger) -> None:
    report = find_run(ledger, "etl.clean.aa", now=at(500))
    assert report is not None
    told = report.to_json()["attempts"][1]
    assert told["attempt"] == SECOND
    assert told["machines"] == ["m1"]
    assert (told["pool"], told["instance_type"]) == ("local", "m5.large")
    assert told["queued_at"] == "2026-11-01T22:01:45.000000Z"
    assert told["started_at"] == "2026-11-01T22:01:50.000000Z"
    assert told["ended_at"] == "2026-11-01T22:06:30.000000Z"
    assert (told["cpu_seconds"], told["peak_memory_bytes"]) == (250.5, 1 << 30)
    assert told["read_bytes"] is None
    assert told["as_if"] is True
    assert told["parts"] == {
        "work": {"cost": "0.280000000", "machine_seconds": 280.0},
        "teardown": {"cost": "0.010000000", "machine_seconds": 10.0},
    }


def test_a_waiting_run_says_why_and_has_cost_nothing(ledger: Ledger) -> None:
    report = find_run(ledger, OTHER)
    assert report is not None
    told = report.to_json()
    assert (told["state"], told["outcome"]) == ("waiting", None)
    assert told["waiting_reason"] == "no machine is free"
    assert told["cost"] == "0.000000000"


def test_a_running_attempt_costs_more_as_time_goes_by(ledger: Ledger) -> None:
    ledger.append(machine_life("m2", 600, None, bought_for=OTHER, had={OTHER: (600, None)}))
    ledger.append([tell(OTHER, "attempt.started", 605)])
    costs = []
    for seconds in (700, 800):
        report = find_run(ledger, OTHER, now=at(seconds))
        assert report is not None
        assert report.state == "running"
        costs.append(report.to_json()["cost"])
    assert costs == ["0.100000000", "0.200000000"]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("etl.clean.aa", "etl.clean.aa"),
        ("etl.clean.aa.1", "etl.clean.aa"),
        ("etl.l", "etl.load.ab"),
        ("etl.load.abc", None),
        ("%", None),
        ("", None),
    ],
)
def test_a_run_is_found_by_its_name_its_attempt_or_its_beginning(
    ledger: Ledger, asked: str, found: str | None
) -> None:
    report = find_run(ledger, asked)
    assert (report.run if report else None) == found


def test_a_beginning_of_several_runs_is_told(ledger: Ledger) -> None:
    with pytest.raises(InputError, match=r"several runs \(etl\.clean\.aa, etl\.load\.ab\)"):
        find_run(ledger, "etl.")


def test_runs_are_listed_the_newest_first_and_by_what_they_are(ledger: Ledger) -> None:
    assert [report.run for report in list_runs(ledger)] == ["etl.load.ab", "etl.clean.aa"]
    assert [report.run for report in list_runs(ledger, limit=1)] == ["etl.load.ab"]
    assert [report.run for report in list_runs(ledger, state="ended")] == ["etl.clean.aa"]
    assert [report.run for report in list_runs(ledger, since=at(150))] == ["etl.load.ab"]
    assert list_runs(ledger, pipeline="ml") == []


def test_a_pipeline_run_has_its_runs_in_the_order_of_the_queue(ledger: Ledger) -> None:
    found = runs_of(ledger, "monday")
    assert [report.run for report in found] == ["etl.clean.aa", "etl.load.ab"]
    assert runs_of(ledger, "tuesday") == []


def test_a_gang_costs_what_all_of_its_machines_cost(ledger: Ledger) -> None:
    attempt = "ml.train.ff.1"
    for name in ("g0", "g1", "g2"):
        ledger.append(machine_life(name, 0, 100, bought_for=attempt, had={attempt: (0, 100)}))
    ledger.append(attempt_life(attempt, 0, 0, 100))
    report = find_run(ledger, attempt)
    assert report is not None
    assert report.to_json()["cost"] == "0.300000000"
    assert report.to_json()["attempts"][0]["machines"] == ["g0", "g1", "g2"]


def test_the_cost_of_a_run_without_a_price_is_not_known(ledger: Ledger) -> None:
    attempt = "ml.train.ff.1"
    ledger.append(
        machine_life("g0", 0, 100, bought_for=attempt, had={attempt: (0, 100)}, price=None)
    )
    ledger.append(attempt_life(attempt, 0, 0, 100))
    report = find_run(ledger, attempt)
    assert report is not None
    assert report.cost is None
    assert report.to_json()["cost"] is None
    assert report.to_json()["unpriced"] == 100


def test_an_attempt_whose_beginning_is_lost_is_found_all_the_same(ledger: Ledger) -> None:
    ledger.append([tell("ml.train.ff.3", "attempt.ended", 900, outcome="error", cause="exit 1")])
    report = find_run(ledger, "ml.train.ff")
    assert report is not None
    assert (report.outcome, report.last.number, report.job) == ("error", 3, None)
