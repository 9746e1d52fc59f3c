from __future__ import annotations

from typing import Any

import click
import pytest

from piecework.cli import bill


def run(outcome: str | None = "success", cost: str | None = "0.01", **attempt: Any) -> bill.Run:
    one = {
        "attempt": "p.a.1.1",
        "number": 1,
        "outcome": outcome,
        "cause": "exit code 0",
        "machines": ["local-1"],
        "pool": "local",
        "instance_type": "m5.large",
        "queued_at": "2026-11-23T06:00:00.000000Z",
        "started_at": "2026-11-23T06:00:02.000000Z",
        "ended_at": "2026-11-23T06:01:02.000000Z",
        "cpu_seconds": 30.0,
        "peak_memory_bytes": 2**30,
        "cost": cost,
        **attempt,
    }
    return {
        "run": "p.a.1",
        "job": "a",
        "outcome": outcome,
        "cause": one["cause"],
        "cost": cost,
        "attempts": [one],
    }


def test_all_successes_are_a_success() -> None:
    assert bill.pipeline_outcome([run(), run()], ["success", "success"]) == "success"


def test_the_first_failure_is_the_outcome() -> None:
    late = run("timeout", ended_at="2026-11-23T07:00:00Z")
    early = run("out-of-memory", ended_at="2026-11-23T06:30:00Z")
    assert bill.pipeline_outcome([late, run(), early]) == "out-of-memory"


def test_a_run_that_was_not_seen_to_end_is_never_a_success() -> None:
    assert bill.pipeline_outcome([run(), run(None, ended_at=None)]) == "cancelled"


def test_no_runs_are_never_a_success() -> None:
    assert bill.pipeline_outcome([]) == "cancelled"


def test_a_job_that_failed_before_it_began_makes_an_error() -> None:
    assert bill.pipeline_outcome([run()], ["success", "error", "not run"]) == "error"


def test_jobs_that_never_began_make_it_cancelled() -> None:
    assert bill.pipeline_outcome([run()], ["success", "to come"]) == "cancelled"


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        ("success", 0),
        ("error", 1),
        ("out-of-memory", 1),
        ("timeout", 1),
        ("cancelled", 1),
        ("interrupted", 1),
        ("never-started", 3),
    ],
)
def test_every_outcome_has_its_exit_code(outcome: str, code: int) -> None:
    assert bill.exit_code(outcome) == code


def test_the_sum_is_exact() -> None:
    assert str(bill.total([run(cost="0.1"), run(cost="0.2")])) == "0.3"


def test_an_unpriced_run_makes_the_sum_unknown_never_less() -> None:
    runs = [run(cost="0.1"), run(cost=None)]
    assert bill.total(runs) is None
    assert bill.to_json(runs, "p", "p-1", "success")["cost"] is None
    assert "unpriced" in bill.describe(runs)


def test_the_object_has_the_promised_keys() -> None:
    found = bill.to_json([run()], "p", "p-1", "success")
    assert set(found) == {"pipeline_run", "pipeline", "outcome", "cost", "currency", "runs"}
    assert found["cost"] == "0.01"


def test_the_bill_reads_as_a_table() -> None:
    lines = click.unstyle(bill.describe([run()])).splitlines()
    assert lines[1].split() == "a success m5.large 2.0s 1m 30s 1 GiB $0.010".split()  # noqa: SIM905
    assert lines[2].split() == ["sum", "$0.010"]


def test_a_span_that_goes_back_in_time_is_none_at_all() -> None:
    later, sooner = "2026-11-23T06:00:02Z", "2026-11-23T06:00:00Z"
    assert bill.span(later, sooner) == 0
    assert bill.span(None, sooner) is None
