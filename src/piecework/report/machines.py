"""Which machines there were: their life, who had them, and their bill."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from piecework import clock
from piecework.ledger import lookup
from piecework.ledger.charges import Part, charge_machine
from piecework.ledger.occupancy import Machine
from piecework.ledger.period import Amount
from piecework.ledger.store import Ledger
from piecework.report.cost import Spending, spending_of


@dataclass(frozen=True, slots=True)
class MachineReport:
    """One machine. `bill` is what it has cost so far where it is not gone.

    `state`: "requested", "idle", "occupied", "released" (the meter still runs) or "gone".
    """

    machine: Machine
    state: str
    attempt: str | None
    bill: Spending
    parts: dict[Part, Spending]

    def to_json(self) -> dict[str, Any]:
        machine = self.machine
        times = {
            name: None if at is None else clock.to_text(at)
            for name, at in (
                ("requested_at", machine.requested_at),
                ("launched_at", machine.metered_from),
                ("joined_at", machine.joined_at),
                ("ready_at", machine.ready_at),
                ("released_at", machine.released_at),
                ("gone_at", machine.gone_at),
            )
        }
        last_price = machine.prices[-1] if machine.prices else None
        usd_per_hour = last_price.usd_per_hour if last_price else None
        return {
            "machine": machine.id,
            "state": self.state,
            "attempt": self.attempt,
            "pool": machine.pool,
            "provider": machine.provider,
            "instance_type": machine.instance_type,
            "as_if": machine.as_if,
            "spot": machine.spot,
            **times,
            "gone_cause": machine.gone_cause,
            "usd_per_hour": None if usd_per_hour is None else f"{usd_per_hour:f}",
            "price_source": last_price.source if last_price else None,
            "price_as_of": last_price.as_of if last_price else None,
            "cost": self.bill.cost_text(),
            "machine_seconds": self.bill.machine_seconds,
            "unpriced": self.bill.unpriced_seconds,
            "parts": {part.value: spending.cost_text() for part, spending in self.parts.items()},
            "occupancies": [
                {
                    "attempt": occupancy.attempt,
                    "start": clock.to_text(occupancy.start),
                    "end": None if occupancy.end is None else clock.to_text(occupancy.end),
                }
                for occupancy in machine.occupancies
            ],
        }


def list_machines(
    ledger: Ledger,
    *,
    limit: int = 50,
    pool: str | None = None,
    live: bool | None = None,
    since: datetime | None = None,
    now: datetime | None = None,
) -> list[MachineReport]:
    """Machines, the newest first. `live`: only those whose meter runs, or (False) does not."""
    with ledger.reading() as connection:
        found = lookup.find_machines(connection, limit=limit, pool=pool, is_open=live, since=since)
    return report_machines(ledger, found, now)


def report_machines(
    ledger: Ledger, machines: Sequence[str], now: datetime | None = None
) -> list[MachineReport]:
    """Reports on these machines, in this order; unknown ones are left out."""
    at = now or clock.now()
    timeline = ledger.timeline(machines=machines)
    reports = []
    for name in machines:
        machine = timeline.machines.get(name)
        if machine is None:
            continue
        bill, charges = charge_machine(machine, timeline.attempts, at)
        parts: dict[Part, Amount] = defaultdict(Amount)
        for charge in charges:
            parts[charge.part].add(
                charge.nanos, charge.end - charge.start, charge.unpriced_microseconds
            )
        total = Amount()
        if bill is not None:
            total.add(bill.nanos, bill.paid_until - bill.start, bill.unpriced_microseconds)
        state, attempt = _state(machine)
        spendings = {part: spending_of(amount) for part, amount in parts.items()}
        reports.append(MachineReport(machine, state, attempt, spending_of(total), spendings))
    return reports


def _state(machine: Machine) -> tuple[str, str | None]:
    if machine.gone_at is not None:
        return "gone", None
    if machine.released_at is not None:
        return "released", None
    if machine.occupancies and machine.occupancies[-1].end is None:
        return "occupied", machine.occupancies[-1].attempt
    if machine.metered_from is None:
        return "requested", machine.bought_for
    return "idle", None
