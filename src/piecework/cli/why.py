"""`piecework why RUN`: what a run waits for and since when, or why it ended."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import click

from piecework.cli import bill, options, terminal

if TYPE_CHECKING:
    from piecework.report.runs import RunReport


@click.command()
@click.argument("run", metavar="RUN")
@options.json_option
def command(run: str, as_json: bool) -> None:
    """Say why a run waits, or why it ended."""
    from piecework import clock, config
    from piecework.cli.finding import find
    from piecework.cli.reading import read_ledger

    with read_ledger(config.load()) as ledger:
        found = find(ledger, run)
    runs = found if isinstance(found, list) else [found]
    if as_json:
        answers = [_to_json(each) for each in runs]
        terminal.result_json({"runs": answers} if isinstance(found, list) else answers[0])
        return
    for each in runs:
        terminal.result(explain(each, clock.now()))


def _to_json(found: RunReport) -> dict[str, str | None]:
    run = found.to_json()
    last = run["attempts"][-1]
    since = {"waiting": "queued_at", "running": "started_at", "ended": "ended_at"}[found.state]
    return {
        "run": found.run,
        "state": found.state,
        "since": last[since],
        "outcome": run["outcome"],
        "reason": run["waiting_reason"] or run["cause"],
    }


def explain(found: RunReport, now: datetime) -> str:
    """Why the run is as it is: a sentence for it, and one for each attempt before the last."""
    last = found.last
    lines = [
        f"  Attempt {attempt.number} ended: {attempt.outcome}: {attempt.cause}."
        for attempt in found.attempts[:-1]
    ]
    facts = _to_json(found)
    since = bill.age(facts["since"], now) or "a moment"
    number = f" (attempt {last.number})" if last.number > 1 else ""
    if found.state == "waiting":
        reason = last.waiting_reason or "it is being queued"
        head = f"{found.run} has been waiting for {since}{number}: {reason}"
    elif found.state == "running":
        head = f"{found.run} has been running for {since}{number} on {', '.join(last.machines)}"
    else:
        head = f"{found.run} ended {since} ago{number}: {last.outcome}: {last.cause}"
    return "\n".join(terminal.printable(line) for line in [head.rstrip(".") + ".", *lines])
