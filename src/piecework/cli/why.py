"""`piecework why RUN`: what a run waits for and since when, or why it ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import click

from piecework.cli import bill, options, terminal
from piecework.errors import InputError, PieceworkError

if TYPE_CHECKING:
    from piecework.cli.runners import Runners
    from piecework.report.runs import RunReport
    from piecework.runners.runner import AttemptStatus


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a run is as it is: times as text. `reason_since` is when it began to wait for just that.

    `earlier` are the attempts before the last, each with how it ended.
    """

    run: str
    state: str
    number: int
    since: str | None
    reason: str | None
    reason_since: str | None = None
    outcome: str | None = None
    machines: tuple[str, ...] = ()
    earlier: tuple[str, ...] = ()


@click.command()
@click.argument("run", metavar="RUN")
@options.json_option
def command(run: str, as_json: bool) -> None:
    """Say why a run waits, or why it ended."""
    from piecework import clock, config
    from piecework.cli.finding import find
    from piecework.cli.reading import read_ledger
    from piecework.cli.runners import Runners, run_of

    settings = config.load()
    runners = Runners(settings)
    try:
        with read_ledger(settings) as ledger:
            found = find(ledger, run)
    except InputError:
        unrecorded = runners.find_unrecorded(run)
        if unrecorded is None:
            raise
        attempts = unrecorded[1]
        reasons = [reason_of_status(run_of(attempts), attempts[-1], attempts[:-1])]
    else:
        runs = found if isinstance(found, list) else [found]
        reasons = [_look(each, runners) or reason_of_report(each) for each in runs]
        if as_json and isinstance(found, list):
            terminal.result_json({"runs": [to_json(each) for each in reasons]})
            return
    if as_json:
        terminal.result_json(to_json(reasons[0]))
        return
    for each in reasons:
        terminal.result(explain(each, clock.now()))


def _look(found: RunReport, runners: Runners) -> Reason | None:
    """What the cluster says of a run that goes on; None where it is on none, or over.

    The pods know more than the ledger: what an admitted run still waits for, and since when.
    """
    pool = runners.pools.get(found.last.pool or "")
    if found.state == "ended" or pool is None or not pool.on_cluster:
        return None
    try:
        status = runners.of(pool.name, found.run).status(found.last.attempt)
    except PieceworkError as error:
        terminal.warn(f"the cluster of pool {pool.name} cannot be asked: {error}")
        return None
    if status is None:
        return None
    earlier = reason_of_report(found).earlier
    return reason_of_status(found.run, status, (), earlier)


def reason_of_report(found: RunReport) -> Reason:
    """What the ledger knows."""
    run = found.to_json()
    last = run["attempts"][-1]
    since = {"waiting": "queued_at", "running": "started_at", "ended": "ended_at"}[found.state]
    return Reason(
        run=found.run,
        state=found.state,
        number=found.last.number,
        since=last[since],
        reason=run["waiting_reason"] or run["cause"],
        outcome=run["outcome"],
        machines=found.last.machines,
        earlier=tuple(
            f"Attempt {attempt.number} ended: {attempt.outcome}: {attempt.cause}."
            for attempt in found.attempts[:-1]
        ),
    )


def reason_of_status(
    run: str,
    status: AttemptStatus,
    before: Sequence[AttemptStatus] = (),
    earlier: tuple[str, ...] = (),
) -> Reason:
    """What the run's pods tell."""
    from piecework import clock

    times = {
        "waiting": status.queued_at,
        "running": status.started_at,
        "ended": status.ended_at,
    }
    since = times[status.state]
    told = tuple(f"Attempt {_number(each)} ended: {each.outcome}: {each.cause}." for each in before)
    return Reason(
        run=run,
        state=status.state,
        number=_number(status),
        since=clock.to_text(since) if since else None,
        reason=status.reason or status.cause,
        reason_since=clock.to_text(status.since) if status.since else None,
        outcome=str(status.outcome) if status.outcome else None,
        machines=status.machines,
        earlier=earlier or told,
    )


def _number(status: AttemptStatus) -> int:
    return int(status.attempt.rpartition(".")[2])


def to_json(reason: Reason) -> dict[str, str | None]:
    """As `why --json` prints it."""
    return {
        "run": reason.run,
        "state": reason.state,
        "since": reason.since,
        "outcome": reason.outcome,
        "reason": reason.reason,
        "reason_since": reason.reason_since,
    }


def explain(reason: Reason, now: datetime) -> str:
    """Why the run is as it is: a sentence for it, and one for each attempt before the last."""
    since = bill.age(reason.since, now) or "a moment"
    number = f" (attempt {reason.number})" if reason.number > 1 else ""
    if reason.state == "waiting":
        for_this = bill.age(reason.reason_since, now)
        why = reason.reason or "it is being queued"
        head = f"{reason.run} has been waiting for {since}{number}: {why.rstrip('.')}"
        head += f", for {for_this}" if for_this else ""
    elif reason.state == "running":
        machines = ", ".join(reason.machines)
        head = f"{reason.run} has been running for {since}{number} on {machines}"
        head += f"; {reason.reason}" if reason.reason else ""
    else:
        head = f"{reason.run} ended {since} ago{number}: {reason.outcome}: {reason.reason}"
    lines = [head.rstrip(".") + ".", *(f"  {line}" for line in reason.earlier)]
    return "\n".join(terminal.printable(line) for line in lines)
