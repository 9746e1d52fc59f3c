"""`piecework cost`: what was spent, on what, and what was wasted."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import click

from piecework.cli import options, terminal
from piecework.cli.table import Column, table
from piecework.errors import InputError

if TYPE_CHECKING:
    from piecework.report.cost import By, CostReport, Spending

_GROUPS = ("job", "pipeline", "team", "day", "pool")


@click.command()
@click.option(
    "--by", type=click.Choice(_GROUPS), default="job", show_default=True, help="What to sum up by."
)
@click.option(
    "--since",
    type=options.Moment(),
    help="From this time on: 30d, 12h (ago), 2026-11-23. Default: everything.",
)
@click.option("--until", type=options.Moment(), help="Before this time. Default: now.")
@options.json_option
def command(by: By, since: datetime | None, until: datetime | None, as_json: bool) -> None:
    """Sum up what was spent and what was wasted.

    The rows, idle machines, orphans and failed purchases add up to the bills of all machines.
    """
    from piecework import config
    from piecework.cli.reading import read_ledger
    from piecework.report.cost import cost

    if since is not None and until is not None and since >= until:
        raise InputError(f"--since {since:%Y-%m-%d %H:%M} is not before --until; swap them")
    with read_ledger(config.load()) as ledger:
        found = cost(ledger, by, since, until)
    if as_json:
        terminal.result_json(found.to_json())
    else:
        _print(found)


def _print(found: CostReport) -> None:
    columns = [
        Column(found.by.upper(), shrinks=True),
        Column("MACHINE TIME", right=True),
        Column("COST", right=True),
        Column("SHARE", right=True),
    ]
    total = found.total.nanos()
    rows = [_row(row.key, row.spending, total) for row in found.rows]
    wastes = [
        _row(name, spending, total)
        for name, spending in (
            ("(idle machines)", found.idle),
            ("(orphans)", found.orphans),
            ("(failed purchases)", found.failed_purchases),
        )
        if spending.machine_seconds
    ]
    seconds = timedelta(seconds=found.machine_seconds)
    sums: list[str | None] = ["total", _time(seconds.total_seconds()), str(found.total), ""]
    terminal.result(table(columns, [*rows, *wastes, sums], terminal.width()))
    if found.unpriced_seconds:
        terminal.warn(
            f"{_time(found.unpriced_seconds)} of machine time has no price; "
            "it is not in these amounts"
        )
    if found.total != found.machines_total:
        terminal.error(
            f"the machines' bills are {found.machines_total}, which is not the total; "
            "run `piecework ledger verify`"
        )


def _row(name: str, spending: Spending, total: int) -> list[str | None]:
    share = f"{100 * spending.nanos / total:.0f}%" if total else ""
    cost = spending.cost
    return [
        name,
        _time(spending.machine_seconds),
        "unpriced" if cost is None else str(cost),
        share,
    ]


def _time(seconds: float) -> str:
    from piecework.units import round_duration

    return round_duration(timedelta(seconds=seconds))
