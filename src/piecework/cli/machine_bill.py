"""The machines of a pipeline run: when they were bought and returned, for whom, for how much.

Enters runs as the bill has them; leaves a table. A bought machine stays until its minimum is used
up, so its bill is known some time after the last job has ended.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from piecework.cli import bill, terminal
from piecework.cli.table import Column, table
from piecework.config import Settings
from piecework.ledger.charges import WASTES

if TYPE_CHECKING:
    from piecework.report.machines import MachineReport

#: Longer than the minimum of any provider and a quick return.
_RETURN_SECONDS = 180.0
_PAUSE_SECONDS = 1.0


def machines_of(runs: Sequence[bill.Run]) -> dict[str, None]:
    """The machines that the runs had, in order."""
    attempts = [attempt for run in runs for attempt in run["attempts"]]
    return dict.fromkeys(machine for attempt in attempts for machine in attempt["machines"])


def wait_until_returned(settings: Settings, runs: Sequence[bill.Run]) -> None:
    """Waits until the machines of these runs are given back; says so where one is not."""
    names = list(machines_of(runs))
    if not names:
        return
    terminal.step("waiting for the machines to be given back")
    end = time.monotonic() + _RETURN_SECONDS
    while left := [each.machine.id for each in _read(settings, names) if each.state != "gone"]:
        if time.monotonic() > end:
            terminal.warn(f"not given back yet: {', '.join(left)}; see `piecework machines --live`")
            return
        time.sleep(_PAUSE_SECONDS)


def describe(settings: Settings, runs: Sequence[bill.Run]) -> str:
    """The machines as a table, a line for each, and their sum; empty where there were none.

    The part of it that no job is charged for is told apart: the jobs' bill is less by it.
    """
    found = _read(settings, list(machines_of(runs)))
    if not found:
        return ""
    jobs = {attempt["attempt"]: run["job"] for run in runs for attempt in run["attempts"]}
    columns = [
        Column("MACHINE", shrinks=True),
        Column("TYPE"),
        Column("BOUGHT"),
        Column("JOINED", right=True),
        Column("USED BY", shrinks=True),
        Column("RETURNED", right=True),
        Column("AN HOUR", right=True),
        Column("NO JOB'S", right=True),
        Column("COST", right=True),
    ]
    machines = [report.to_json() for report in found]
    rows = [_row(machine, jobs) for machine in machines]
    wasted, cost = bill.add(map(_waste, machines)), bill.add(each["cost"] for each in machines)
    rows.append(["sum", *[""] * 6, bill.money(wasted), bill.money(cost)])
    return table(columns, rows, terminal.width())


def _read(settings: Settings, names: list[str]) -> list[MachineReport]:
    from piecework.cli.reading import read_ledger
    from piecework.report.machines import report_machines

    with read_ledger(settings) as ledger:
        return report_machines(ledger, names)


def _row(machine: Mapping[str, Any], jobs: Mapping[str, str]) -> list[str | None]:
    bought = machine["launched_at"] or machine["requested_at"]
    users = dict.fromkeys(
        jobs.get(occupancy["attempt"], occupancy["attempt"]) for occupancy in machine["occupancies"]
    )
    return [
        machine["machine"],
        f"{machine['instance_type']}{' (spot)' if machine['spot'] else ''}",
        (bill.local_time(bought) or "-").partition(" ")[2],
        _after(bought, machine["ready_at"] or machine["joined_at"]),
        ", ".join(users),
        _after(bought, machine["gone_at"]),
        bill.money(machine["usd_per_hour"]),
        bill.money(_waste(machine)),
        bill.money(machine["cost"]),
    ]


def _waste(machine: Mapping[str, Any]) -> Decimal | None:
    """What of a machine's cost is charged to no job; None where a price is missing."""
    return bill.add(cost for part, cost in machine["parts"].items() if part in WASTES)


def _after(start: str | None, at: str | None) -> str | None:
    """How long after its purchase something happened to a machine."""
    seconds = bill.span(start, at)
    return None if seconds is None else f"+{bill.span_text(seconds)}"
