"""Estimates: exact, ordered, and never below what a machine costs at least."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from piecework.plan.estimate import MINIMUM, compute_cost, estimate_cost
from piecework.plan.plan import History
from piecework.units import Money

prices = st.decimals(0, 500, places=6).map(Money)
seconds = st.decimals(0, 10_000_000, places=6)
counts = st.integers(1, 1000)
histories = st.lists(seconds, min_size=1, max_size=50).map(History.of)


@given(seconds, prices, counts)
def test_a_bill_is_exact_to_a_billionth(taken: Decimal, price: Money, count: int) -> None:
    bill = compute_cost(taken, price, count)
    paid = max(Fraction(taken), Fraction(60 * count))
    exact = paid * Fraction(price.amount) / 3600
    assert abs(Fraction(bill.amount) - exact) <= Fraction(1, 2 * 10**9)


@given(
    prices,
    counts,
    st.none() | st.timedeltas(timedelta(seconds=1), timedelta(days=366)),
    st.none() | histories,
)
def test_an_estimate_is_ordered_and_at_least_the_minimum(
    price: Money, count: int, timeout: timedelta | None, history: History | None
) -> None:
    estimate = estimate_cost(price, count, timeout, history)
    if history is None and timeout is None:
        assert (estimate.basis, estimate.low, estimate.high) == ("price", None, None)
        return
    assert estimate.low is not None
    assert estimate.high is not None
    least = compute_cost(Decimal(0), price, count).amount
    assert least <= estimate.low.amount <= estimate.high.amount


@given(st.none() | histories)
def test_without_a_price_there_is_no_estimate(history: History | None) -> None:
    estimate = estimate_cost(None, 1, timedelta(hours=1), history)
    assert (estimate.low, estimate.high) == (None, None)


def test_ten_seconds_cost_a_minute() -> None:
    assert timedelta(seconds=60) == MINIMUM
    assert compute_cost(Decimal(10), Money(Decimal("3.6")), 1) == Money(Decimal("0.06"))
    assert compute_cost(Decimal(90), Money(Decimal("3.6")), 1) == Money(Decimal("0.09"))


def test_a_timeout_below_the_minimum_costs_the_minimum() -> None:
    estimate = estimate_cost(Money(Decimal("3.6")), 2, timedelta(seconds=5), None)
    assert estimate.low == estimate.high == Money(Decimal("0.12"))
