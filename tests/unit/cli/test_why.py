"""Why a run is as it is, in a sentence."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from piecework.cli.why import Reason, explain, reason_of_status, to_json
from piecework.ledger.events import Outcome
from piecework.runners.runner import AttemptStatus

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def ago(**span: float) -> datetime:
    return NOW - timedelta(**span)


def test_a_waiting_run_says_for_how_long_for_what_and_for_how_long_for_that() -> None:
    status = AttemptStatus(
        "flights.clean.1a.2",
        "waiting",
        reason="no spot capacity",
        queued_at=ago(minutes=20),
        since=ago(minutes=4),
    )
    first = AttemptStatus("flights.clean.1a.1", "ended", outcome=Outcome.INTERRUPTED, cause="lost")
    reason = reason_of_status("flights.clean.1a", status, [first])
    assert explain(reason, NOW).splitlines() == [
        "flights.clean.1a has been waiting for 20m (attempt 2): no spot capacity, for 4m.",
        "  Attempt 1 ended: interrupted: lost.",
    ]
    assert to_json(reason)["reason_since"] == "2026-11-24T11:56:00.000000Z"


def test_a_running_run_says_where_it_is() -> None:
    status = AttemptStatus(
        "flights.clean.1a.1", "running", machines=("n1", "n2"), started_at=ago(seconds=5)
    )
    said = explain(reason_of_status("flights.clean.1a", status), NOW)
    assert said == "flights.clean.1a has been running for 5s on n1, n2."
    waits = replace(status, reason="1 of its 2 executors wait: no spot capacity")
    assert explain(reason_of_status("flights.clean.1a", waits), NOW) == (
        "flights.clean.1a has been running for 5s on n1, n2; "
        "1 of its 2 executors wait: no spot capacity."
    )


def test_a_run_that_is_over_says_how_it_ended() -> None:
    reason = Reason(
        "flights.clean.1a", "ended", 1, "2026-11-24T11:00:00Z", "exit code 3.", outcome="error"
    )
    assert explain(reason, NOW) == "flights.clean.1a ended 1h ago: error: exit code 3."
