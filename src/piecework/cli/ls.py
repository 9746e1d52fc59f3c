"""`piecework ls`: runs, the newest first."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import click

from piecework.cli import bill, options, terminal
from piecework.cli.table import Column, table

if TYPE_CHECKING:
    from piecework.report.runs import RunReport

_STATES = ("waiting", "running", "ended")


@click.command()
@click.option("--pipeline", metavar="NAME", help="Only runs of this pipeline.")
@click.option("--state", type=click.Choice(_STATES), help="Only runs in this state.")
@click.option("--running", is_flag=True, help="Only runs that wait or run.")
@click.option(
    "--since", type=options.Moment(), help="Only runs from this time on: 12h, 2026-11-23."
)
@click.option(
    "-n", "--limit", type=click.IntRange(1, 100_000), default=20, show_default=True, help="At most."
)
@options.json_option
def command(
    pipeline: str | None,
    state: str | None,
    running: bool,
    since: datetime | None,
    limit: int,
    as_json: bool,
) -> None:
    """List runs, the newest first."""
    from piecework import clock, config
    from piecework.cli.reading import read_ledger
    from piecework.errors import InputError
    from piecework.report.runs import list_runs

    if running and state == "ended":
        raise InputError("--running and --state ended exclude each other; leave one out")
    states: list[str | None] = ["waiting", "running"] if running and state is None else [state]
    runs: list[RunReport] = []
    with read_ledger(config.load()) as ledger:
        for each in states:
            runs += list_runs(ledger, limit=limit, pipeline=pipeline, state=each, since=since)
    if as_json:
        terminal.result_json({"runs": [run.to_json() for run in runs]})
        return
    if not runs:
        terminal.say("There are no such runs." if _filtered(pipeline, states, since) else _NONE)
        return
    _print(runs, clock.now())
    if len(runs) >= limit:
        terminal.say(f"These are the newest {limit}; --limit shows more.")


_NONE = "There are no runs yet. `piecework demo` makes some, `piecework init` a pipeline of yours."


def _filtered(pipeline: str | None, states: list[str | None], since: datetime | None) -> bool:
    return pipeline is not None or states != [None] or since is not None


def _print(runs: list[RunReport], now: datetime) -> None:
    columns = [
        Column("RUN"),
        Column("STATE"),
        Column("MACHINE"),
        Column("AGE", right=True),
        Column("RAN", right=True),
        Column("COST", right=True),
        Column("CAUSE", shrinks=True),
    ]
    rows = []
    for report in runs:
        run = report.to_json()
        cause = report.last.waiting_reason or report.cause
        rows.append(
            [
                report.run,
                _state(report),
                bill.machine_text(run),
                bill.age(run["attempts"][0]["queued_at"], now),
                bill.ran(run["attempts"], now),
                bill.money(run["cost"]),
                "" if cause in (None, "exit code 0") else cause,
            ]
        )
    terminal.result(table(columns, rows, terminal.width()))


def _state(report: RunReport) -> str:
    state = report.outcome.value if report.outcome is not None else report.state
    return state if len(report.attempts) == 1 else f"{state} ({len(report.attempts)})"
