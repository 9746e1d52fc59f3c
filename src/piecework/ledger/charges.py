"""A machine in, its bill and the bill's parts out. Pure, exact, and nothing is lost.

    sum of charges to attempts + idle + failed purchases + orphans = sum of machine bills

A machine's bill follows its provider's rule: the meter runs from launched to gone (to `now` while
it is not gone), in increments, with a minimum. The price is a step function of time; time without
a known price is counted as unpriced seconds, never as zero money. The bill is rounded once, half
to even, to whole billionths of a dollar, and split into its charges by the largest remainder.

Which part a machine's time is, from launched on:

    boot             until it is first occupied; the attempt's for which it was bought, if that
                     occupied it (or still waits for it), else a failed purchase
    setup            occupied, until the attempt starts
    work             from started to ended
    teardown         from ended to vacated, and from released to gone
    minimum          free, but within the minimum that is paid anyway, and what rounding up to
                     minimum and increment adds: the last attempt's
    idle             free beyond the minimum
    failed-purchase  nobody ever occupied it
    orphan           occupied by nobody known, asked for by nobody known, or kept after its
                     attempt ended without anybody seeing it vacated
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from itertools import pairwise

from piecework.ledger.occupancy import Attempt, Machine, Occupancy

MICROSECONDS = 1_000_000
HOUR = 3600 * MICROSECONDS
DAY = 24 * HOUR
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICK = timedelta(microseconds=1)


class Part(StrEnum):
    """What a machine's time was good for."""

    BOOT = "boot"
    SETUP = "setup"
    WORK = "work"
    TEARDOWN = "teardown"
    MINIMUM = "minimum"
    IDLE = "idle"
    FAILED_PURCHASE = "failed-purchase"
    ORPHAN = "orphan"


#: The parts that are charged to an attempt; the others are waste.
ATTEMPT_PARTS = (Part.BOOT, Part.SETUP, Part.WORK, Part.TEARDOWN, Part.MINIMUM)
WASTES = (Part.IDLE, Part.FAILED_PURCHASE, Part.ORPHAN)


@dataclass(frozen=True, slots=True)
class Rule:
    """How a provider bills. Seconds; what `machine.launched` itself says goes before.

    `free_if_interrupted_within`: a spot machine that the provider takes back sooner costs nothing.
    """

    minimum_seconds: int
    increment_seconds: int
    free_if_interrupted_within: int = 0


#: By the name that `machine.launched` gives as `billing`. Sources: the providers' pricing pages
#: (EC2 Linux: per second, at least 60 s, spot free when AWS interrupts in the first hour; Compute
#: Engine: per second, at least 60 s; Azure: per second while allocated).
RULES: Mapping[str, Rule] = {
    "aws-ec2-linux": Rule(60, 1, free_if_interrupted_within=3600),
    "gcp-compute-engine": Rule(60, 1),
    "azure-vm": Rule(0, 1),
    "per-second": Rule(0, 1),
}
_UNKNOWN_RULE = Rule(0, 1)


@dataclass(frozen=True, slots=True)
class Bill:
    """What the provider asks for one machine. Times are microseconds since 1970.

    `until` is where the meter stopped (or `now`), `paid_until` where minimum and increment end.
    """

    machine: str
    start: int
    until: int
    paid_until: int
    nanos: int
    unpriced_microseconds: int
    free: bool
    final: bool


@dataclass(frozen=True, slots=True)
class Charge:
    """Money for one interval of one machine, given to one attempt or (None) to a waste.

    Never crosses a full hour (UTC), so that charges add up to hours and days.
    """

    machine: str
    attempt: str | None
    part: Part
    start: int
    end: int
    nanos: int
    unpriced_microseconds: int


def to_microseconds(at: datetime) -> int:
    """Whole microseconds since 1970, UTC."""
    return (at - _EPOCH) // _TICK


def to_datetime(microseconds: int) -> datetime:
    """The inverse of `to_microseconds`."""
    return _EPOCH + timedelta(microseconds=microseconds)


def charge_machine(
    machine: Machine,
    attempts: Mapping[str, Attempt],
    now: datetime,
    cuts: Iterable[datetime] = (),
) -> tuple[Bill | None, tuple[Charge, ...]]:
    """The machine's bill and the charges that it splits into, in order of time.

    `attempts` holds those that are known; `now` bills a machine that is not gone; charges are cut
    at the times in `cuts`, where a period begins or ends. No bill where no meter ever started.
    """
    bill = bill_machine(machine, now)
    if bill is None:
        return None, ()
    meter = _Meter(machine, bill.until)
    pieces = [
        _Piece(attempt, part, piece_start, piece_end)
        for attempt, part, start, end in _segments(machine, attempts, bill)
        for piece_start, piece_end in _split_at_hours(start, end)
    ]
    nanos = _share_price(bill.nanos, pieces, meter, bill.free)
    edges = sorted(to_microseconds(at) for at in cuts)
    return bill, tuple(
        charge
        for piece, amount in zip(pieces, nanos, strict=True)
        for charge in _charge(machine.id, piece, amount, edges, meter, bill.free)
    )


def _charge(
    machine: str, piece: _Piece, nanos: int, edges: Sequence[int], meter: _Meter, free: bool
) -> Iterator[Charge]:
    """A piece as charges, cut at the edges. Cutting moves no money out of the piece.

    So a sum over whole hours is the same whether a period begins somewhere else or not.
    """
    inner = [edge for edge in edges if piece.start < edge < piece.end]
    bounds = [piece.start, *inner, piece.end]
    parts = [
        _Piece(piece.attempt, piece.part, start, end)
        for start, end in pairwise(bounds)
        if start < end
    ]
    for part, amount in zip(parts, _share_price(nanos, parts, meter, free), strict=True):
        unpriced = 0 if free else meter.read(part.start, part.end)[1]
        yield Charge(machine, part.attempt, part.part, part.start, part.end, amount, unpriced)


def bill_machine(machine: Machine, now: datetime) -> Bill | None:
    """The machine's bill so far, or its last one once it is gone; None where no meter started."""
    metered_from = machine.metered_from
    if metered_from is None:
        return None
    start = to_microseconds(metered_from)
    until = max(start, to_microseconds(machine.gone_at or now))
    rule = RULES.get(machine.billing or "", _UNKNOWN_RULE)
    minimum = _microseconds(machine.minimum_seconds, rule.minimum_seconds)
    increment = _microseconds(machine.increment_seconds, rule.increment_seconds)
    paid = until - start
    if increment:
        paid = -(-paid // increment) * increment
    paid_until = start + max(paid, minimum)
    free = (
        machine.spot
        and machine.gone_cause == "interrupted"
        and until - start < rule.free_if_interrupted_within * MICROSECONDS
    )
    meter = _Meter(machine, until)
    amount, unpriced = meter.read(start, paid_until)
    nanos = 0 if free else _round_half_even(amount, meter.divisor)
    return Bill(
        machine.id,
        start,
        until,
        paid_until,
        nanos,
        0 if free else unpriced,
        free,
        machine.gone_at is not None,
    )


@dataclass(frozen=True, slots=True)
class _Piece:
    attempt: str | None
    part: Part
    start: int
    end: int


class _Meter:
    """Reads the exact price of an interval, in whole units of which `divisor` make one nano."""

    def __init__(self, machine: Machine, until: int) -> None:
        known = [price.usd_per_hour for price in machine.prices if price.usd_per_hour is not None]
        places = max((-int(amount.as_tuple().exponent) for amount in known), default=0)
        places = max(places, 9)
        self.divisor = HOUR * 10 ** (places - 9)
        self._steps: list[tuple[int, int | None]] = []
        for price in machine.prices:
            at = to_microseconds(price.at)
            # A price that comes when the meter has stopped says nothing about what was paid.
            if at <= until:
                amount = price.usd_per_hour
                self._steps.append((at, None if amount is None else int(amount.scaleb(places))))

    def read(self, start: int, end: int) -> tuple[int, int]:
        """Money in units, and the microseconds that have no price."""
        money, unpriced = 0, 0
        price: int | None = None
        cursor = start
        for at, following in self._steps:
            if at >= end:
                break
            if at > cursor:
                if price is None:
                    unpriced += at - cursor
                else:
                    money += (at - cursor) * price
                cursor = at
            price = following
        if price is None:
            unpriced += end - cursor
        else:
            money += (end - cursor) * price
        return money, unpriced


def _segments(
    machine: Machine, attempts: Mapping[str, Attempt], bill: Bill
) -> Iterator[tuple[str | None, Part, int, int]]:
    """The machine's paid time, without gaps or overlaps. Empty intervals are left out."""
    cursor = bill.start
    for attempt, part, until in _marks(machine, attempts, bill):
        end = min(max(until, cursor), bill.paid_until)
        if end > cursor:
            if attempt is not None and part not in WASTES and attempt not in attempts:
                yield None, Part.ORPHAN, cursor, end
            else:
                yield (None if part in WASTES else attempt), part, cursor, end
        cursor = end


def _marks(
    machine: Machine, attempts: Mapping[str, Attempt], bill: Bill
) -> Iterator[tuple[str | None, Part, int]]:
    """Whose the time is and what it is, each up to a mark; the marks may be out of order."""
    occupancies = machine.occupancies
    if not occupancies:
        yield *_unoccupied(machine, attempts), bill.paid_until
        return
    first = occupancies[0]
    occupants = {occupancy.attempt for occupancy in occupancies}
    booted = min(to_microseconds(first.start), bill.until)
    if machine.bought_for is None:
        yield first.attempt, Part.BOOT, booted
    elif machine.bought_for in occupants:
        yield machine.bought_for, Part.BOOT, booted
    else:
        yield None, Part.FAILED_PURCHASE, booted
    rule = RULES.get(machine.billing or "", _UNKNOWN_RULE)
    minimum_until = bill.start + _microseconds(machine.minimum_seconds, rule.minimum_seconds)
    for index, occupancy in enumerate(occupancies):
        following = occupancies[index + 1].start if index + 1 < len(occupancies) else None
        free_until = bill.until if following is None else to_microseconds(following)
        free_until = min(free_until, bill.until)
        yield from _occupied(occupancy, attempts.get(occupancy.attempt), bill.until)
        yield from _free(machine, occupancy, minimum_until, free_until)
    yield occupancies[-1].attempt, Part.MINIMUM, bill.paid_until


def _unoccupied(machine: Machine, attempts: Mapping[str, Attempt]) -> tuple[str | None, Part]:
    if machine.requested_at is None:
        return None, Part.ORPHAN
    buyer = attempts.get(machine.bought_for or "")
    given_back = machine.released_at is not None or machine.gone_at is not None
    if buyer is not None and buyer.ended_at is None and not given_back:
        return buyer.id, Part.BOOT
    return None, Part.FAILED_PURCHASE


def _occupied(
    occupancy: Occupancy, attempt: Attempt | None, limit: int
) -> Iterator[tuple[str, Part, int]]:
    end = limit if occupancy.end is None else min(to_microseconds(occupancy.end), limit)
    ended = end
    if attempt is not None and attempt.ended_at is not None:
        ended = min(to_microseconds(attempt.ended_at), end)
    if attempt is not None and attempt.started_at is not None:
        yield occupancy.attempt, Part.SETUP, min(to_microseconds(attempt.started_at), ended)
        yield occupancy.attempt, Part.WORK, ended
    else:
        yield occupancy.attempt, Part.SETUP, ended
    yield occupancy.attempt, Part.TEARDOWN, end


def _free(
    machine: Machine, last: Occupancy, minimum_until: int, free_until: int
) -> Iterator[tuple[str | None, Part, int]]:
    """From the end of an occupancy to the next one, or to where the meter stops."""
    held_until = free_until
    if machine.released_at is not None:
        held_until = min(to_microseconds(machine.released_at), free_until)
    yield last.attempt, Part.MINIMUM, min(minimum_until, held_until)
    yield None, Part.IDLE if last.vacated else Part.ORPHAN, held_until
    yield last.attempt, Part.TEARDOWN, free_until


def _split_at_hours(start: int, end: int) -> Iterator[tuple[int, int]]:
    while start < end:
        stop = min(end, (start // HOUR + 1) * HOUR)
        yield start, stop
        start = stop


def _share_price(total: int, pieces: Sequence[_Piece], meter: _Meter, free: bool) -> list[int]:
    """Splits a total over pieces by what each of them costs."""
    exact = [0 if free else meter.read(piece.start, piece.end)[0] for piece in pieces]
    return _share(total, exact, meter.divisor)


def _share(total: int, exact: Sequence[int], divisor: int) -> list[int]:
    """Splits a total over its exact parts by the largest remainder; on a tie the earlier part."""
    shares = [amount // divisor for amount in exact]
    left = total - sum(shares)
    if left:
        order = sorted(range(len(exact)), key=lambda index: (-(exact[index] % divisor), index))
        for index in order[:left]:
            shares[index] += 1
    return shares


def _round_half_even(amount: int, divisor: int) -> int:
    whole, rest = divmod(amount, divisor)
    if 2 * rest > divisor or (2 * rest == divisor and whole % 2):
        whole += 1
    return whole


def _microseconds(stated: Decimal | None, otherwise: int) -> int:
    seconds = Decimal(otherwise) if stated is None else stated
    return int(seconds * MICROSECONDS)
