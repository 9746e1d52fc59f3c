"""What did it cost? From the ledger, by job, pipeline, team, day or pool.

    sum of rows + idle + orphans + failed_purchases = total

`total` equals `machines_total`, the sum of the machines' bills, to the billionth. `since` and
`until` are exact: a machine that was paid for across one of them is cut there, its money shared
by time. Machines that still run are billed up to `now`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

from piecework import clock
from piecework.errors import InputError
from piecework.ledger.charges import Part
from piecework.ledger.occupancy import CURRENCY
from piecework.ledger.period import Amount, spent
from piecework.ledger.store import Ledger
from piecework.units import Money

By = Literal["job", "pipeline", "team", "day", "pool"]
#: The key of what belongs to no pipeline, team and so on.
NONE = "(none)"


@dataclass(frozen=True, slots=True)
class Spending:
    """Money and paid machine seconds. `cost` is None where no second of it has a price."""

    nanos: int
    machine_seconds: float
    unpriced_seconds: float

    @property
    def cost(self) -> Money | None:
        if self.unpriced_seconds and self.unpriced_seconds >= self.machine_seconds:
            return None
        return Money.from_nanos(self.nanos, CURRENCY)

    def cost_text(self) -> str | None:
        """The exact amount as JSON carries it."""
        cost = self.cost
        return None if cost is None else cost.decimal_text()


@dataclass(frozen=True, slots=True)
class CostRow:
    """What the attempts of one job, pipeline, team, day or pool cost."""

    key: str
    spending: Spending
    pipeline: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "cost": self.spending.cost_text(),
            "machine_seconds": self.spending.machine_seconds,
            "unpriced": self.spending.unpriced_seconds,
            "pipeline": self.pipeline,
        }


@dataclass(frozen=True, slots=True)
class CostReport:
    """Rows, the dearest first, the wastes, and the totals."""

    by: By
    since: datetime | None
    until: datetime | None
    rows: tuple[CostRow, ...]
    idle: Spending
    orphans: Spending
    failed_purchases: Spending
    machines_total: Money
    currency: str = CURRENCY

    @property
    def total(self) -> Money:
        return Money.from_nanos(sum(s.nanos for s in self._all()), self.currency)

    @property
    def unpriced_seconds(self) -> float:
        """Machine seconds whose price is unknown; no amount here holds anything for them."""
        return sum(round(s.unpriced_seconds * 1e6) for s in self._all()) / 1e6

    @property
    def machine_seconds(self) -> float:
        return sum(round(s.machine_seconds * 1e6) for s in self._all()) / 1e6

    def _all(self) -> list[Spending]:
        wastes = [self.idle, self.orphans, self.failed_purchases]
        return [*(row.spending for row in self.rows), *wastes]

    def to_json(self) -> dict[str, Any]:
        """As `piecework cost --json` prints it; money as decimal strings."""
        return {
            "by": self.by,
            "since": None if self.since is None else clock.to_text(self.since),
            "until": None if self.until is None else clock.to_text(self.until),
            "rows": [row.to_json() for row in self.rows],
            "idle": Money.from_nanos(self.idle.nanos).decimal_text(),
            "orphans": Money.from_nanos(self.orphans.nanos).decimal_text(),
            "failed_purchases": Money.from_nanos(self.failed_purchases.nanos).decimal_text(),
            "total": self.total.decimal_text(),
            "machines_total": self.machines_total.decimal_text(),
            "unpriced": self.unpriced_seconds,
            "currency": self.currency,
        }


def cost(
    ledger: Ledger,
    by: By = "job",
    since: datetime | None = None,
    until: datetime | None = None,
    now: datetime | None = None,
) -> CostReport:
    """What attempts and wastes cost from `since` to before `until`.

    By job, the key is the job's name, or PIPELINE.JOB where several pipelines have one of that
    name. Raises LedgerError, and InputError for another `by`.
    """
    if by not in get_args(By):
        raise InputError(f"cost by {by!r}: write one of {', '.join(get_args(By))}")
    with ledger.reading() as connection:
        found = spent(connection, by, since, until, now or clock.now())
    names = Counter(key[-1] for key in found.groups)
    rows = [
        CostRow(
            key=_name(key, names[key[-1]] == 1),
            spending=spending_of(amount),
            pipeline=(key[0] or None) if by in ("job", "pipeline") else None,
        )
        for key, amount in found.groups.items()
    ]
    wastes = {part: spending_of(amount) for part, amount in found.wastes.items()}
    nothing = Spending(0, 0.0, 0.0)
    return CostReport(
        by=by,
        since=since,
        until=until,
        rows=tuple(sorted(rows, key=lambda row: (-row.spending.nanos, row.key))),
        idle=wastes.get(Part.IDLE, nothing),
        orphans=wastes.get(Part.ORPHAN, nothing),
        failed_purchases=wastes.get(Part.FAILED_PURCHASE, nothing),
        machines_total=Money.from_nanos(found.bills_nanos),
    )


def spending_of(amount: Amount) -> Spending:
    """The amount, in seconds."""
    return Spending(amount.nanos, amount.microseconds / 1e6, amount.unpriced_microseconds / 1e6)


def _name(key: tuple[str, ...], unique: bool) -> str:
    if unique or len(key) == 1:
        return key[-1] or NONE
    return ".".join(part or NONE for part in key)
