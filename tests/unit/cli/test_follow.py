"""What Airflow and the runner know of a job, as one view; and how views are shown."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest

from piecework.airflow.client import TaskState
from piecework.cli.follow import JobView, view_job
from piecework.cli.progress import Lines, draw, elapsed
from piecework.ledger.events import Outcome
from piecework.runners.runner import AttemptStatus

AT = datetime(2026, 11, 23, 6, tzinfo=UTC)


def task(state: str | None, note: str | None = None) -> TaskState:
    return TaskState("a", -1, state, 1, 0, "id", note)


def attempt(state: str, outcome: Outcome | None = None, reason: str | None = None) -> AttemptStatus:
    return AttemptStatus("p.a.1.1", state, reason=reason, outcome=outcome, cause="because")


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (None, "to come"),
        ("scheduled", "queued"),
        ("queued", "queued"),
        ("deferred", "starting"),
        ("running", "starting"),
        ("upstream_failed", "not run"),
        ("skipped", "not run"),
        ("failed", "error"),
        ("success", "success"),
    ],
)
def test_a_job_without_an_attempt_is_what_airflow_says(state: str | None, words: str) -> None:
    assert view_job("a", "p.a.1", task(state), []).state == words


def test_a_waiting_attempt_says_why() -> None:
    view = view_job("a", "p.a.1", task("deferred"), [attempt("waiting", reason="no core is free")])
    assert (view.state, view.detail) == ("waiting", "no core is free")


def test_a_success_is_one_whatever_airflow_has_not_noticed_yet() -> None:
    view = view_job("a", "p.a.1", task("deferred"), [attempt("ended", Outcome.SUCCESS)])
    assert view.state == "success"


def test_a_failure_that_airflow_goes_on_with_is_tried_again() -> None:
    view = view_job("a", "p.a.1", task("up_for_retry"), [attempt("ended", Outcome.ERROR)])
    assert view.state == "trying again"
    assert "error" in view.detail


@pytest.mark.parametrize("state", ["failed", "deferred", "running"])
def test_any_other_failure_is_the_outcome(state: str) -> None:
    view = view_job("a", "p.a.1", task(state), [attempt("ended", Outcome.OUT_OF_MEMORY)])
    assert (view.state, view.detail) == ("out-of-memory", "because")


def test_without_a_terminal_each_change_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    waiting = JobView("a", "p.a.1", "waiting", "no core\nis free")
    lines([waiting, JobView("b", "p.b.1", "to come")])
    lines([waiting])
    lines([JobView("a", "p.a.1", "running", number=2)])
    told = [line[10:] for line in capsys.readouterr().err.splitlines()]
    assert told == ["a: waiting: no core is free", "a: running (attempt 2)"]


def test_on_a_terminal_only_the_explanation_is_cut() -> None:
    from rich.console import Console

    view = JobView("weather", "p.w.1", "waiting", "x" * 200, number=1, queued_at=AT)
    console = Console(file=io.StringIO(), width=60)
    console.print(draw([view], AT + timedelta(seconds=75)))
    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert "weather" in output
    assert "1m 15s" in output
    assert max(len(line) for line in output.splitlines()) <= 60


def test_an_ended_job_shows_how_long_it_ran() -> None:
    view = JobView(
        "a", "p.a.1", "success", started_at=AT, ended_at=AT + timedelta(seconds=30), number=1
    )
    assert elapsed(view, AT + timedelta(hours=5)) == "30s"
    assert elapsed(JobView("a", "p.a.1", "queued"), AT) == ""
