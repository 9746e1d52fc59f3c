"""A period in, what was spent in it out: from the sums, and exactly up to its ends.

Whole days come from the sums by day, whole hours at the ends from the sums by hour. The hours in
which the period begins and ends are read machine by machine: charges inside count whole, charges
across an end are computed again, cut there. Machines whose meter runs are computed from their
events.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, and_, func, or_, select

from piecework.ledger import sums
from piecework.ledger.charges import (
    ATTEMPT_PARTS,
    DAY,
    HOUR,
    Part,
    charge_machine,
    to_datetime,
    to_microseconds,
)
from piecework.ledger.occupancy import Timeline
from piecework.ledger.schema import MACHINES, SUMS
from piecework.ledger.sums import StoredCharge

#: What sums can be grouped by, and the columns that make the key.
GROUPS = {
    "job": ("pipeline", "job"),
    "pipeline": ("pipeline",),
    "team": ("team",),
    "pool": ("pool",),
    "day": ("day",),
}
_START, _END = -(2**62), 2**62


@dataclass(slots=True)
class Amount:
    """Money and machine time; adds up."""

    nanos: int = 0
    microseconds: int = 0
    unpriced_microseconds: int = 0

    def add(self, nanos: int, microseconds: int, unpriced_microseconds: int) -> None:
        self.nanos += nanos
        self.microseconds += microseconds
        self.unpriced_microseconds += unpriced_microseconds


@dataclass(frozen=True, slots=True)
class Spent:
    """What was spent: on attempts by the key asked for, on wastes, and what machines were billed.

    `bills_nanos` is the sum of whole machine bills where the period has no ends, computed apart
    from the rest; else of the bills' shares of the period.
    """

    groups: dict[tuple[str, ...], Amount]
    wastes: dict[Part, Amount]
    bills_nanos: int


def spent(
    connection: Connection,
    by: str,
    since: datetime | None,
    until: datetime | None,
    now: datetime,
) -> Spent:
    """What was spent from `since` to before `until` (None: no end); `by` is a key of GROUPS."""
    low = _START if since is None else to_microseconds(since)
    high = max(low, _END if until is None else to_microseconds(until))
    groups: dict[tuple[str, ...], Amount] = defaultdict(Amount)
    wastes: dict[Part, Amount] = defaultdict(Amount)

    def add(key: tuple[str, ...], part: Part, amounts: tuple[int, int, int]) -> None:
        (groups[key] if part in ATTEMPT_PARTS else wastes[part]).add(*amounts)

    for key, part, amounts in _from_sums(connection, by, low, high):
        add(key, part, amounts)
    live = sums.timeline_of(connection, _open_machines(connection))
    bills = 0
    charges = list(_from_ends(connection, low, high))
    for machine in live.machines.values():
        bill, _ = charge_machine(machine, live.attempts, now)
        bills += 0 if bill is None else bill.nanos
    charges += _cut(live, live.machines, now, low, high)
    for charge in charges:
        amounts = (charge.nanos, charge.end - charge.start, charge.unpriced_microseconds)
        add(_key(by, charge), charge.part, amounts)
    if since is None and until is None:
        bills += _sum_of_bills(connection)
    else:
        bills = sum(amount.nanos for amount in (*groups.values(), *wastes.values()))
    return Spent(groups, wastes, bills)


def _key(by: str, charge: StoredCharge) -> tuple[str, ...]:
    if by == "day":
        return (_day(charge.start),)
    return tuple(getattr(charge.to, name) for name in GROUPS[by])


def _day(at: int) -> str:
    return to_datetime(at).date().isoformat()


def _open_machines(connection: Connection) -> list[str]:
    return list(connection.execute(select(MACHINES.c.id).where(MACHINES.c.open == 1)).scalars())


def _sum_of_bills(connection: Connection) -> int:
    total = select(func.coalesce(func.sum(MACHINES.c.nanos), 0)).where(MACHINES.c.open == 0)
    return int(connection.execute(total).scalar_one())


def _up(at: int, size: int) -> int:
    return -(-at // size) * size


def _down(at: int, size: int) -> int:
    return at // size * size


def _whole(low: int, high: int) -> list[tuple[str, int, int]]:
    """The grains that cover the whole hours of a period: days inside, hours at its ends."""
    first, last = _up(low, HOUR), _down(high, HOUR)
    first_day, last_day = _up(low, DAY), _down(high, DAY)
    if first_day >= last_day:
        return [("h", first, last)]
    return [("h", first, first_day), ("d", first_day, last_day), ("h", last_day, last)]


def _from_sums(
    connection: Connection, by: str, low: int, high: int
) -> Iterator[tuple[tuple[str, ...], Part, tuple[int, int, int]]]:
    names = ("start",) if by == "day" else GROUPS[by]
    columns = [*(SUMS.c[name] for name in names), SUMS.c.part]
    amounts = (SUMS.c.nanos, SUMS.c.microseconds, SUMS.c.unpriced_microseconds)
    for grain, first, last in _whole(low, high):
        if first >= last:
            continue
        query = (
            select(*columns, *(func.sum(amount) for amount in amounts))
            .where(SUMS.c.grain == grain, SUMS.c.start >= first, SUMS.c.start < last)
            .group_by(*columns)
        )
        for *names_found, part, nanos, microseconds, unpriced in connection.execute(query):
            key = [_day(names_found[0])] if by == "day" else names_found
            yield tuple(key), Part(part), (int(nanos), int(microseconds), int(unpriced))


def _from_ends(connection: Connection, low: int, high: int) -> Iterator[StoredCharge]:
    """Charges of machines that are gone, in the parts of hours at the ends of the period."""
    first, last = _up(low, HOUR), _down(high, HOUR)
    parts = [(low, high)] if first > last else [(low, first), (last, high)]
    for start, end in parts:
        if start >= end or start == _START or end == _END:
            continue
        across: set[str] = set()
        for machine, stored in _machines_between(connection, start, end):
            charges = sums.charges_of(stored)
            if any(_is_across(charge, start) or _is_across(charge, end) for charge in charges):
                across.add(machine)
            else:
                yield from (charge for charge in charges if start <= charge.start < end)
        timeline = sums.timeline_of(connection, across)
        yield from _cut(timeline, sorted(across), to_datetime(start), start, end)


def _is_across(charge: StoredCharge, at: int) -> bool:
    return charge.start < at < charge.end


def _machines_between(
    connection: Connection, start: int, end: int
) -> Iterator[tuple[str, str | None]]:
    """Machines that are gone and were paid for any time from `start` to `end`."""
    longest = connection.execute(select(func.max(MACHINES.c.reach))).scalar()
    if longest is None:
        return
    # A machine of reach r was paid for less than 2**r hours, so it began at most that much before.
    begins = (
        and_(
            MACHINES.c.reach == reach,
            MACHINES.c.start > start - (HOUR << reach),
            MACHINES.c.start < end,
        )
        for reach in range(longest + 1)
    )
    query = select(MACHINES.c.id, MACHINES.c.charges).where(
        or_(*begins), MACHINES.c.paid_until > start, MACHINES.c.open == 0
    )
    for row in connection.execute(query):
        yield row[0], row[1]


def _cut(
    timeline: Timeline, machines: Iterable[str], now: datetime, low: int, high: int
) -> Iterator[StoredCharge]:
    """The charges of machines within a period, cut at its ends."""
    cuts: Sequence[datetime] = [to_datetime(at) for at in (low, high) if _START < at < _END]
    for name in machines:
        machine = timeline.machines[name]
        for charge in charge_machine(machine, timeline.attempts, now, cuts)[1]:
            if low <= charge.start < high:
                to = sums.dimensions_of(machine, timeline.attempts.get(charge.attempt or ""))
                yield StoredCharge(
                    to,
                    charge.part,
                    charge.start,
                    charge.end,
                    charge.nanos,
                    charge.unpriced_microseconds,
                )
