"""What a run will cost, before it runs: from the job's past, else from its timeout."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from fractions import Fraction

from piecework.plan.plan import Estimate, History
from piecework.units import NANOS, Money

#: AWS charges Linux machines by the second, and for at least this long.
MINIMUM = timedelta(seconds=60)


def compute_cost(
    machine_seconds: Decimal, price_per_hour: Money, count: int, minimum: timedelta = MINIMUM
) -> Money:
    """The bill of `count` machines that took so many seconds together, each at least `minimum`.

    Exact, then rounded once to whole billionths, half to even, as the ledger does.
    """
    least = Fraction(minimum // timedelta(microseconds=1), 1_000_000) * count
    seconds = max(Fraction(machine_seconds), least)
    nanos = round(seconds * Fraction(price_per_hour.amount) * NANOS / 3600)
    return Money.from_nanos(nanos, price_per_hour.currency)


def estimate_cost(
    price_per_hour: Money | None, count: int, timeout: timedelta | None, history: History | None
) -> Estimate:
    """The cost of a run on `count` machines, as a range.

    `timeout` is what the job itself says, not a default: six hours that nobody meant would make
    a number that nobody believes.
    """
    if price_per_hour is None:
        return Estimate("price", None, None)
    if history is not None:
        return Estimate(
            "history",
            compute_cost(history.low_seconds, price_per_hour, count),
            compute_cost(history.high_seconds, price_per_hour, count),
            history.runs,
        )
    if timeout is not None:
        longest = Decimal(timeout // timedelta(microseconds=1)) / 1_000_000
        return Estimate(
            "timeout",
            compute_cost(Decimal(0), price_per_hour, count),
            compute_cost(longest * count, price_per_hour, count),
        )
    return Estimate("price", None, None)
