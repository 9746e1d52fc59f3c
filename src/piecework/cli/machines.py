"""`piecework machines`: which machines there are and were, who had them, what they cost."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import click

from piecework.cli import bill, options, terminal
from piecework.cli.table import Column, table

if TYPE_CHECKING:
    from piecework.report.machines import MachineReport


@click.command()
@click.option("--live", is_flag=True, help="Only machines that are still paid for.")
@click.option("--pool", metavar="NAME", help="Only machines of this pool.")
@click.option("--since", type=options.Moment(), help="Only machines from this time on.")
@click.option(
    "-n", "--limit", type=click.IntRange(1, 100_000), default=20, show_default=True, help="At most."
)
@options.json_option
def command(
    live: bool, pool: str | None, since: datetime | None, limit: int, as_json: bool
) -> None:
    """List machines, live and past, the newest first."""
    from piecework import clock, config
    from piecework.cli.reading import read_ledger
    from piecework.report.machines import list_machines

    with read_ledger(config.load()) as ledger:
        found = list_machines(
            ledger, limit=limit, pool=pool, live=True if live else None, since=since
        )
    if as_json:
        terminal.result_json({"machines": [machine.to_json() for machine in found]})
        return
    if not found:
        terminal.say("No machine is live." if live else "There are no such machines.")
        return
    _print(found, clock.now())
    if len(found) >= limit:
        terminal.say(f"These are the newest {limit}; --limit shows more.")


def _print(found: list[MachineReport], now: datetime) -> None:
    columns = [
        Column("MACHINE"),
        Column("STATE"),
        Column("POOL"),
        Column("TYPE"),
        Column("AGE", right=True),
        Column("PAID", right=True),
        Column("IDLE", right=True),
        Column("COST", right=True),
        Column("ATTEMPTS", shrinks=True),
    ]
    rows = [_row(report, now) for report in found]
    terminal.result(table(columns, rows, terminal.width()))


def _row(report: MachineReport, now: datetime) -> list[str | None]:
    from piecework.ledger.charges import Part
    from piecework.units import round_duration

    machine = report.to_json()
    idle = report.parts.get(Part.IDLE)
    attempts = dict.fromkeys(occupancy["attempt"] for occupancy in machine["occupancies"])
    return [
        machine["machine"],
        report.state,
        machine["pool"],
        machine["instance_type"],
        bill.age(machine["launched_at"] or machine["requested_at"], now),
        round_duration(timedelta(seconds=report.bill.machine_seconds)),
        None if idle is None else round_duration(timedelta(seconds=idle.machine_seconds)),
        bill.money(machine["cost"]),
        ", ".join(attempts),
    ]
