"""The bill of one or more runs, for people and as the object that `run --json` prints.

Enters runs as `report.runs` gives them in JSON; leaves text, or that object. Amounts are decimal
strings in JSON and None where a price is unknown: an unpriced run makes the sum unknown, not less.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from piecework.cli import terminal
from piecework.cli.table import Column, table
from piecework.ledger.events import Outcome
from piecework.units import Memory, Money, round_duration

#: A run as JSON; its keys are part of the command line's interface.
Run = Mapping[str, Any]

#: The ledger counts in one currency.
CURRENCY = "USD"

_COLOURS = {
    "success": "green",
    "running": "cyan",
    "waiting": "yellow",
}


def pipeline_outcome(runs: Sequence[Run], states: Sequence[str] = ()) -> str:
    """The outcome of all together: that of the run that was the first to be no success.

    `states` are those of all jobs, as they were last seen: where all runs that there are succeeded,
    but not all jobs did, it was an error before a job began, or the rest was cancelled.
    """
    for run in sorted(runs, key=_ended_at):
        if run["outcome"] not in (None, Outcome.SUCCESS):
            return str(run["outcome"])
    if any(run["outcome"] is None for run in runs):
        return str(Outcome.CANCELLED)
    if Outcome.ERROR in states:
        return str(Outcome.ERROR)
    finished = all(state == Outcome.SUCCESS for state in states)
    return str(Outcome.SUCCESS if runs and finished else Outcome.CANCELLED)


def _ended_at(run: Run) -> str:
    ends = [attempt["ended_at"] for attempt in run["attempts"] if attempt["ended_at"]]
    return max(ends, default="9999")


def exit_code(outcome: str) -> int:
    """0 success, 3 where a machine could not be had, else 1."""
    if outcome == Outcome.SUCCESS:
        return 0
    return 3 if outcome == Outcome.NEVER_STARTED else 1


def total(runs: Sequence[Run]) -> Decimal | None:
    """The sum of the runs' costs; None where one is unknown."""
    return add(run["cost"] for run in runs)


def add(costs: Iterable[str | Decimal | None]) -> Decimal | None:
    """Their sum; None where one is unknown."""
    found = Decimal(0)
    for cost in costs:
        if cost is None:
            return None
        found += Decimal(cost)
    return found


def to_json(
    runs: Sequence[Run], pipeline: str, pipeline_run: str, outcome: str, currency: str = CURRENCY
) -> dict[str, Any]:
    """The object that `run --json` prints."""
    cost = total(runs)
    return {
        "pipeline_run": pipeline_run,
        "pipeline": pipeline,
        "outcome": outcome,
        "cost": None if cost is None else f"{cost:f}",
        "currency": currency,
        "runs": list(runs),
    }


def money(cost: str | Decimal | None, currency: str = CURRENCY) -> str:
    """An amount for people; "unpriced" where it is unknown."""
    return "unpriced" if cost is None else str(Money(Decimal(cost), currency))


def outcome_text(outcome: str | None) -> str:
    """An outcome, in colour where there is one."""
    text = outcome or "unfinished"
    return terminal.style(text, fg=_COLOURS.get(text, "red"))


def failure(run: Run) -> str:
    """Why a run was no success, and where to read more; a line."""
    cause = terminal.one_line(run["cause"] or "it has not ended yet")
    outcome = outcome_text(run["outcome"])
    return f"{run['job']}: {outcome}: {cause} (piecework logs {run['run']})"


def describe(runs: Sequence[Run], currency: str = CURRENCY) -> str:
    """The bill as a table with a line for each run, and their sum."""
    columns = [
        Column("JOB"),
        Column("OUTCOME"),
        Column("MACHINE"),
        Column("WAITED", right=True),
        Column("RAN", right=True),
        Column("CPU", right=True),
        Column("PEAK MEMORY", right=True),
        Column("COST", right=True),
    ]
    rows = [_row(run, currency) for run in runs]
    rows.append(["sum", "", "", "", "", "", "", money(total(runs), currency)])
    return table(columns, rows, terminal.width())


def _row(run: Run, currency: str) -> list[str]:
    attempts = run["attempts"]
    outcome = run["outcome"] or "unfinished"
    if len(attempts) > 1:
        outcome += f" (attempt {len(attempts)})"
    return [
        run["job"],
        outcome,
        machine_text(run),
        waited(attempts),
        ran(attempts),
        _cpu(attempts),
        peak_memory(attempts),
        money(run["cost"], currency),
    ]


def machine_text(run: Run) -> str:
    """The instance type of the last attempt, and how many machines it had."""
    for attempt in reversed(run["attempts"]):
        if attempt["instance_type"]:
            count = len(attempt["machines"])
            name = str(attempt["instance_type"])
            return f"{count} x {name}" if count > 1 else name
    return "-"


def waited(attempts: Sequence[Mapping[str, Any]], now: datetime | None = None) -> str:
    """How long the attempts waited for their machines, together; up to `now` where one does."""
    return _sum(
        span(attempt["queued_at"], attempt["started_at"] or attempt["ended_at"], now)
        for attempt in attempts
    )


def ran(attempts: Sequence[Mapping[str, Any]], now: datetime | None = None) -> str:
    """How long the attempts ran, together; up to `now` where one does."""
    return _sum(span(attempt["started_at"], attempt["ended_at"], now) for attempt in attempts)


def _sum(spans: Iterable[float | None]) -> str:
    known = [seconds for seconds in spans if seconds is not None]
    return span_text(sum(known)) if known else "-"


def span_text(seconds: float) -> str:
    """A span of time for people."""
    return round_duration(timedelta(seconds=seconds))


def span(start: str | None, end: str | None, now: datetime | None = None) -> float | None:
    """Seconds between two times in text, never below 0; None where they are not known.

    A span without an end lasts until `now`, where that is given.
    """
    if start is None or (end is None and now is None):
        return None
    until = now if end is None else datetime.fromisoformat(end)
    assert until is not None
    return max(0.0, (until - datetime.fromisoformat(start)).total_seconds())


def _cpu(attempts: Sequence[Mapping[str, Any]]) -> str:
    return _sum(attempt["cpu_seconds"] for attempt in attempts)


def peak_memory(attempts: Sequence[Mapping[str, Any]]) -> str:
    """The most memory that any of the attempts had."""
    peaks = [attempt["peak_memory_bytes"] for attempt in attempts]
    known = [peak for peak in peaks if peak is not None]
    return Memory(max(known)).rounded() if known else "-"


def local_time(text: str | None) -> str | None:
    """A time in the zone of this computer, to the second."""
    if text is None:
        return None
    at = datetime.fromisoformat(text).astimezone()
    return f"{at:%Y-%m-%d %H:%M:%S}"


def age(text: str | None, now: datetime) -> str | None:
    """How long ago a time was."""
    if text is None:
        return None
    seconds = (now.astimezone(UTC) - datetime.fromisoformat(text)).total_seconds()
    whole = max(0, int(seconds))
    return f"{whole}s" if whole < 10 else span_text(whole)
