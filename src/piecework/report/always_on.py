"""What the same jobs would have cost on a cluster that runs day and night.

"A 24x7 cluster" means: the machines that were busy at the busiest moment of the period, paid for
the whole period (a day, if it was shorter). The sentence that goes with the numbers says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_DOWN, Decimal
from typing import Any

from piecework import clock
from piecework.ledger import lookup
from piecework.ledger.charges import charge_machine
from piecework.ledger.occupancy import CURRENCY, Machine, Timeline
from piecework.ledger.period import spent
from piecework.ledger.store import Ledger
from piecework.ledger.sums import batches
from piecework.units import Money, round_duration

_DAY = timedelta(days=1)
_EVER = clock.from_text("1970-01-01T00:00:00Z"), clock.from_text("9999-12-31T00:00:00Z")


@dataclass(frozen=True, slots=True)
class Comparison:
    """The bill beside that of a 24x7 cluster.

    `machines`: how many of which instance type were busy at the busiest moment. `paid_for`: the
    period, or a day. `cluster` is None where one of these machines has no price; `cost` is what
    was paid here. `saving` is the share of the cluster's cost that was not spent; it is negative
    where the cluster would have been cheaper.
    """

    since: datetime
    until: datetime
    busiest_at: datetime
    machines: dict[str, int]
    paid_for: timedelta
    cluster: Money | None
    cost: Money
    saving: Decimal | None
    as_if: bool

    @property
    def sentence(self) -> str:
        """For people: the comparison, and what is meant by a 24x7 cluster."""
        count = sum(self.machines.values())
        kinds = ", ".join(f"{n} x {name}" for name, n in sorted(self.machines.items()))
        one = "machine" if count == 1 else "machines"
        whole = "a whole day" if self.paid_for == _DAY else round_duration(self.paid_for)
        cluster = (
            f"a 24x7 cluster (the {count} {one} busy at the busiest moment, {kinds}, "
            f"paid for {whole})"
        )
        if self.cluster is None or self.saving is None:
            return f"What {cluster} would have cost is not known: a machine has no price."
        percent = abs(self.saving * 100)
        # Next to nothing is not nothing: 99.97% less is not told as 100%.
        places = Decimal(1) if percent < 99 or self.saving < 0 else Decimal("0.1")
        share = f"{percent.quantize(places, ROUND_DOWN):,f}".removesuffix(".0")
        compared = f"{share}% {'less' if self.saving >= 0 else 'more'}"
        return (
            f"The same jobs on {cluster} would have cost {self.cluster}; here they cost "
            f"{self.cost}, {compared}."
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "since": clock.to_text(self.since),
            "until": clock.to_text(self.until),
            "busiest_at": clock.to_text(self.busiest_at),
            "machines": dict(sorted(self.machines.items())),
            "paid_for_seconds": self.paid_for.total_seconds(),
            "cluster": None if self.cluster is None else self.cluster.decimal_text(),
            "cost": self.cost.decimal_text(),
            "saving": None if self.saving is None else f"{self.saving:.4f}",
            "currency": CURRENCY,
            "as_if": self.as_if,
            "sentence": self.sentence,
        }


def compare(
    ledger: Ledger,
    since: datetime | None = None,
    until: datetime | None = None,
    pipeline_run: str | None = None,
    now: datetime | None = None,
) -> Comparison | None:
    """The comparison for a period (default: all there is), or for one pipeline run.

    What was paid here: in a period, the bills of all machines; for a pipeline run, the bills of
    the machines that only its runs had, and its runs' charges on machines that others had too.
    None where no machine was busy. Raises LedgerError.
    """
    at = now or clock.now()
    if pipeline_run is not None:
        return _compare_run(ledger, pipeline_run, at)
    low, high = since or _EVER[0], min(until or at, at)
    with ledger.reading() as connection:
        names = lookup.machines_between(connection, low, high)
        found = spent(connection, "pool", since, until, at)
    intervals: list[_Busy] = []
    for portion in batches(names, 1000):
        timeline = ledger.timeline(machines=portion)
        wanted = (timeline.machines[name] for name in portion)
        intervals += _busy(wanted, None, low, high)
    if not intervals:
        return None
    began = since or min(busy.start for busy in intervals)
    return _comparison(intervals, began, high, found.bills_nanos)


def _compare_run(ledger: Ledger, pipeline_run: str, now: datetime) -> Comparison | None:
    with ledger.reading() as connection:
        runs = lookup.runs_of(connection, pipeline_run, None)
        attempts = lookup.attempts_of(connection, runs)
    timeline = ledger.timeline(attempts)
    intervals = list(_busy(timeline.machines.values(), set(attempts), _EVER[0], now))
    if not intervals:
        return None
    began = min(timeline.attempts[attempt].first_seen_at for attempt in attempts)
    ended = max(busy.end for busy in intervals)
    return _comparison(intervals, began, ended, _paid(timeline, set(attempts), now))


def _paid(timeline: Timeline, attempts: set[str], now: datetime) -> int:
    nanos = 0
    for machine in timeline.machines.values():
        bill, charges = charge_machine(machine, timeline.attempts, now)
        alone = {occupancy.attempt for occupancy in machine.occupancies} <= attempts
        if alone and bill is not None:
            nanos += bill.nanos
        else:
            nanos += sum(charge.nanos for charge in charges if charge.attempt in attempts)
    return nanos


@dataclass(frozen=True, slots=True)
class _Busy:
    start: datetime
    end: datetime
    machine: Machine


def _busy(
    machines: Iterable[Machine], attempts: set[str] | None, low: datetime, high: datetime
) -> Iterator[_Busy]:
    for machine in machines:
        for occupancy in machine.occupancies:
            start = max(occupancy.start, low)
            end = min(occupancy.end or high, high)
            if start < end and (attempts is None or occupancy.attempt in attempts):
                yield _Busy(start, end, machine)


def _price(machine: Machine, at: datetime) -> Decimal | None:
    price = None
    for step in machine.prices:
        if step.at > at:
            break
        price = step.usd_per_hour
    return price


def _busiest(intervals: list[_Busy]) -> tuple[datetime, list[Machine]]:
    """The moment whose busy machines cost the most per hour, the first of several; and these.

    By money, not by count, because a cluster must have the large machines, too. A moment with a
    machine of unknown price goes before all others: then nobody knows what the cluster costs.
    """
    steps = sorted(
        [(busy.start, 1, busy.machine.id, busy.machine) for busy in intervals]
        + [(busy.end, 0, busy.machine.id, busy.machine) for busy in intervals],
        key=lambda step: step[:3],
    )
    busy: dict[str, tuple[Machine, Decimal | None]] = {}
    best_at, best, most = steps[0][0], list[Machine](), (False, Decimal(0), 0)
    unpriced, hourly = 0, Decimal(0)
    for at, begins, name, machine in steps:
        _, left = busy.pop(name, (machine, Decimal(0)))
        unpriced, hourly = unpriced - (left is None), hourly - (left or 0)
        if begins:
            price = _price(machine, at)
            busy[name] = machine, price
            unpriced, hourly = unpriced + (price is None), hourly + (price or 0)
            rank = (unpriced > 0, hourly, len(busy))
            if rank > most:
                best_at, best, most = at, [machine for machine, _ in busy.values()], rank
    return best_at, best


def _comparison(
    intervals: list[_Busy], since: datetime, until: datetime, paid_nanos: int
) -> Comparison:
    busiest_at, machines = _busiest(intervals)
    paid_for = max(until - since, _DAY)
    prices = [_price(machine, busiest_at) for machine in machines]
    hours = Decimal(paid_for // timedelta(microseconds=1)) / Decimal(3_600_000_000)
    cost = Money.from_nanos(paid_nanos)
    cluster = saving = None
    known = [price for price in prices if price is not None]
    if len(known) == len(prices):
        cluster = Money.from_nanos(Money(sum(known, Decimal(0)) * hours).nanos())
        if cluster.amount:
            saving = 1 - cost.amount / cluster.amount
    return Comparison(
        since=since,
        until=until,
        busiest_at=busiest_at,
        machines=dict(Counter(machine.instance_type or "unknown type" for machine in machines)),
        paid_for=paid_for,
        cluster=cluster,
        cost=cost,
        saving=saving,
        as_if=any(machine.as_if for machine in machines),
    )
