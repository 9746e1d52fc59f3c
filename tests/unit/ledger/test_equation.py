"""The equation of the ledger, for every history that hypothesis can invent."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from fractions import Fraction
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from piecework.ledger.charges import (
    HOUR,
    WASTES,
    Charge,
    Part,
    bill_machine,
    charge_machine,
    to_datetime,
    to_microseconds,
)
from piecework.ledger.events import Event
from piecework.ledger.occupancy import Machine, Timeline, read_timeline
from tests.unit.ledger.histories import histories, times


def _charges(timeline: Timeline, now: datetime) -> list[Charge]:
    return [
        charge
        for name in sorted(timeline.machines)
        for charge in charge_machine(timeline.machines[name], timeline.attempts, now)[1]
    ]


def _bills(timeline: Timeline, now: datetime) -> int:
    bills = [bill_machine(machine, now) for machine in timeline.machines.values()]
    return sum(bill.nanos for bill in bills if bill is not None)


@given(histories(), times)
def test_charges_and_wastes_are_the_bills_to_the_billionth(
    events: list[Event], now: datetime
) -> None:
    timeline = read_timeline(events)
    assert sum(charge.nanos for charge in _charges(timeline, now)) == _bills(timeline, now)


@given(histories(), times)
def test_every_paid_instant_of_a_machine_is_charged_once(
    events: list[Event], now: datetime
) -> None:
    timeline = read_timeline(events)
    for machine in timeline.machines.values():
        bill, charges = charge_machine(machine, timeline.attempts, now)
        if bill is None:
            assert charges == ()
            continue
        assert all(before.end == after.start for before, after in pairwise(charges))
        assert all(charge.start < charge.end for charge in charges)
        assert sum(c.end - c.start for c in charges) == bill.paid_until - bill.start
        assert sum(c.unpriced_microseconds for c in charges) == bill.unpriced_microseconds
        if charges:
            assert (charges[0].start, charges[-1].end) == (bill.start, bill.paid_until)


@given(histories(), times)
def test_only_known_attempts_are_charged_and_never_a_negative_amount(
    events: list[Event], now: datetime
) -> None:
    timeline = read_timeline(events)
    for charge in _charges(timeline, now):
        assert charge.nanos >= 0
        assert 0 <= charge.unpriced_microseconds <= charge.end - charge.start
        assert (charge.attempt is None) == (charge.part in WASTES)
        assert charge.attempt is None or charge.attempt in timeline.attempts
        assert charge.start // HOUR == (charge.end - 1) // HOUR


@given(histories(), times, st.randoms(use_true_random=False), st.data())
def test_order_and_repeats_of_events_change_nothing(
    events: list[Event], now: datetime, chance: random.Random, data: st.DataObject
) -> None:
    repeats = data.draw(st.lists(st.sampled_from(events), max_size=10)) if events else []
    shuffled = [*events, *repeats]
    chance.shuffle(shuffled)
    expected, found = read_timeline(events), read_timeline(shuffled)
    assert found == expected
    assert _charges(found, now) == _charges(expected, now)


@given(histories(), times, st.lists(times, max_size=4))
def test_cutting_charges_where_a_period_begins_loses_nothing(
    events: list[Event], now: datetime, cuts: list[datetime]
) -> None:
    timeline = read_timeline(events)
    for machine in timeline.machines.values():
        bill, charges = charge_machine(machine, timeline.attempts, now, cuts)
        assert sum(charge.nanos for charge in charges) == (bill.nanos if bill else 0)
        for cut in map(to_microseconds, cuts):
            assert not any(charge.start < cut < charge.end for charge in charges)


@given(histories(), times, st.lists(times, max_size=4))
def test_cutting_charges_moves_no_money_from_one_hour_to_another(
    events: list[Event], now: datetime, cuts: list[datetime]
) -> None:
    timeline = read_timeline(events)
    for machine in timeline.machines.values():
        _, whole = charge_machine(machine, timeline.attempts, now)
        _, cut = charge_machine(machine, timeline.attempts, now, cuts)
        assert _by_hour(cut) == _by_hour(whole)


def _by_hour(charges: Iterable[Charge]) -> Counter[tuple[str | None, Part, int]]:
    sums: Counter[tuple[str | None, Part, int]] = Counter()
    for charge in charges:
        sums[charge.attempt, charge.part, charge.start // HOUR] += charge.nanos
    return sums


def _reckon(machine: Machine, start: int, end: int, until: int) -> Fraction:
    """The price of an interval by another way: exact fractions, instant by instant of change."""
    marks = sorted({start, end, *(to_microseconds(price.at) for price in machine.prices)})
    total = Fraction(0)
    for left, right in pairwise(mark for mark in marks if start <= mark <= end):
        in_force = [p for p in machine.prices if p.at <= to_datetime(min(left, until))]
        if in_force and in_force[-1].usd_per_hour is not None:
            total += Fraction(in_force[-1].usd_per_hour) * (right - left) / HOUR
    return total * 10**9


@given(histories(), times)
def test_a_bill_is_its_exact_price_rounded_once(events: list[Event], now: datetime) -> None:
    for machine in read_timeline(events).machines.values():
        bill = bill_machine(machine, now)
        if bill is None or bill.free:
            continue
        exact = _reckon(machine, bill.start, bill.paid_until, bill.until)
        assert bill.nanos == round(exact)


@given(histories(), times)
def test_each_charge_is_within_a_billionth_of_its_exact_price(
    events: list[Event], now: datetime
) -> None:
    timeline = read_timeline(events)
    for machine in timeline.machines.values():
        bill, charges = charge_machine(machine, timeline.attempts, now)
        if bill is None or bill.free:
            assert not any(charge.nanos for charge in charges)
            continue
        for charge in charges:
            exact = _reckon(machine, charge.start, charge.end, bill.until)
            assert abs(charge.nanos - exact) <= 1


def _occupants(machine: Machine, instant: datetime) -> Sequence[str]:
    return [
        o.attempt
        for o in machine.occupancies
        if o.start <= instant and (o.end is None or instant < o.end)
    ]


@given(histories(), times)
def test_an_instant_of_a_machine_belongs_to_one_attempt_at_most(
    events: list[Event], instant: datetime
) -> None:
    for machine in read_timeline(events).machines.values():
        assert len(_occupants(machine, instant)) <= 1
        assert all(o.end is None or o.start <= o.end for o in machine.occupancies)
