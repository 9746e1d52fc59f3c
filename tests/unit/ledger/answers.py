"""What the ledger's tables and reports should say, computed from events alone, in plain Python."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import select

from piecework.ledger.charges import WASTES, Part, bill_machine, charge_machine, to_microseconds
from piecework.ledger.events import Event
from piecework.ledger.occupancy import read_timeline
from piecework.ledger.schema import ATTEMPTS, MACHINES, SUMS
from piecework.ledger.store import Ledger
from piecework.ledger.sums import plain
from piecework.report.cost import NONE, CostReport

Sums = dict[tuple[str | Part, ...], int]


def expected_costs(
    events: Iterable[Event],
    now: datetime,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Sums:
    """Nanos by pipeline and job, and by waste."""
    timeline = read_timeline(events)
    cuts = [edge for edge in (since, until) if edge is not None]
    found: Counter[tuple[str | Part, ...]] = Counter()
    for machine in timeline.machines.values():
        for charge in charge_machine(machine, timeline.attempts, now, cuts)[1]:
            if since is not None and charge.start < to_microseconds(since):
                continue
            if until is not None and charge.start >= to_microseconds(until):
                continue
            if charge.part in WASTES:
                found[charge.part,] += charge.nanos
            else:
                attempt = timeline.attempts[charge.attempt or ""]
                found[plain(attempt.pipeline) or "", plain(attempt.job) or NONE] += charge.nanos
    return {key: nanos for key, nanos in found.items() if nanos}


def told_costs(report: CostReport) -> Sums:
    """The same from a report by job."""
    found: Counter[tuple[str | Part, ...]] = Counter()
    for row in report.rows:
        pipeline = row.pipeline or ""
        job = row.key.removeprefix(f"{pipeline or NONE}.")
        found[pipeline, job] += row.spending.nanos
    found[Part.IDLE,] = report.idle.nanos
    found[Part.ORPHAN,] = report.orphans.nanos
    found[Part.FAILED_PURCHASE,] = report.failed_purchases.nanos
    return {key: nanos for key, nanos in found.items() if nanos}


def expected_bills(events: Iterable[Event], now: datetime) -> int:
    """Nanos of all machines' bills."""
    bills = (bill_machine(machine, now) for machine in read_timeline(events).machines.values())
    return sum(bill.nanos for bill in bills if bill is not None)


def tables(ledger: Ledger) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of the tables of answers."""
    with ledger.reading() as connection:
        return {
            table.name: sorted((tuple(row) for row in connection.execute(select(table))), key=repr)
            for table in (ATTEMPTS, MACHINES, SUMS)
        }
