"""The bill of one or more runs, for people and as the object that `run --json` prints.

Enters runs as `report.runs` gives them in JSON; leaves text, or that object. Amounts are decimal
strings in JSON and None where a price is unknown: an unpriced run makes the sum unknown, not less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from piecework.cli import terminal
from piecework.cli.table import Column, table
from piecework.ledger.events import Outcome
from piecework.units import Memory, Money, round_duration

#: A run as JSON; its keys are part of the command line's interface.
Run = Mapping[str, Any]

_COLOURS = {
    "success": "green",
    "running": "cyan",
    "waiting": "yellow",
}


def pipeline_outcome(runs: Sequence[Run], expected: int | None = None) -> str:
    """The outcome of all together: that of the first that was no success, in order of time.

    `expected` runs that never came to be (because those before them failed) don't count where one
    failed; where none did, the pipeline run was ended before they began: cancelled.
    """
    for run in sorted(runs, key=_ended_at):
        if run["outcome"] not in (None, Outcome.SUCCESS):
            return str(run["outcome"])
    if any(run["outcome"] is None for run in runs):
        return str(Outcome.CANCELLED)
    if expected is not None and len(runs) < expected:
        return str(Outcome.CANCELLED)
    return str(Outcome.SUCCESS)


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
    costs = [run["cost"] for run in runs]
    if any(cost is None for cost in costs):
        return None
    return sum((Decimal(cost) for cost in costs), Decimal(0))


def to_json(
    runs: Sequence[Run], pipeline: str, pipeline_run: str | None, outcome: str, currency: str
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


def money(cost: str | Decimal | None, currency: str = "USD") -> str:
    """An amount for people; "unpriced" where it is unknown."""
    return "unpriced" if cost is None else str(Money(Decimal(cost), currency))


def outcome_text(outcome: str | None) -> str:
    """An outcome, in colour where there is one."""
    text = outcome or "unfinished"
    return terminal.style(text, fg=_COLOURS.get(text, "red"))


def describe(runs: Sequence[Run], currency: str) -> str:
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
    rows.append(["sum", None, None, None, None, None, None, money(total(runs), currency)])
    blank = [[("" if cell is None else cell) for cell in row] for row in rows]
    return table(columns, blank, terminal.width())


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


def waited(attempts: Sequence[Mapping[str, Any]]) -> str:
    """How long the attempts waited for their machines, together."""
    spans = [
        span(attempt["queued_at"], attempt["started_at"] or attempt["ended_at"])
        for attempt in attempts
    ]
    return _sum(spans)


def ran(attempts: Sequence[Mapping[str, Any]]) -> str:
    """How long the attempts ran, together."""
    return _sum([span(attempt["started_at"], attempt["ended_at"]) for attempt in attempts])


def _sum(spans: Sequence[float | None]) -> str:
    from datetime import timedelta

    known = [seconds for seconds in spans if seconds is not None]
    return round_duration(timedelta(seconds=sum(known))) if known else "-"


def span(start: str | None, end: str | None) -> float | None:
    """Seconds between two times in text, never below 0; None where one is unknown."""
    if start is None or end is None:
        return None
    seconds = (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
    return max(0.0, seconds)


def _cpu(attempts: Sequence[Mapping[str, Any]]) -> str:
    return _sum([attempt["cpu_seconds"] for attempt in attempts])


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
    from datetime import timedelta

    seconds = (now.astimezone(UTC) - datetime.fromisoformat(text)).total_seconds()
    return round_duration(timedelta(seconds=max(0.0, seconds)))
