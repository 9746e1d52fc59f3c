"""The shipped price list, and prices that a pool states itself."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest

from piecework.errors import ConfigError
from piecework.plan.price import load_price_book
from piecework.spec.pool import Pool
from piecework.units import Memory


def test_the_shipped_list_says_where_it_is_from_and_of_when() -> None:
    book = load_price_book()
    assert len(book.types) == 1101
    assert {machine.source for machine in book.types.values()} == {
        "AWS price list, us-east-1, Linux, on demand"
    }
    assert {machine.as_of for machine in book.types.values()} == {date(2026, 7, 20)}


def test_a_row_is_read_exactly() -> None:
    machine = load_price_book().find("m3.medium")
    assert machine is not None
    assert (machine.vcpus, machine.memory, machine.gpus) == (1, Memory.parse("3840Mi"), 0)
    assert machine.usd_per_hour == Decimal("0.067")
    assert machine.architecture == "amd64"


def test_every_row_of_the_list_has_a_size_and_a_price() -> None:
    for machine in load_price_book().types.values():
        assert machine.vcpus > 0
        assert machine.memory.bytes > 0
        assert machine.architecture in {"amd64", "arm64"}
        assert machine.usd_per_hour is not None
        assert machine.usd_per_hour > 0


def test_the_list_is_read_once() -> None:
    assert load_price_book() is load_price_book(Pool(name="local"))


def test_burstable_are_the_t_families_and_no_others() -> None:
    types = load_price_book().types
    assert types["t3.micro"].burstable
    assert types["t4g.nano"].burstable
    assert not types["trn1.2xlarge"].burstable
    assert not types["m5.large"].burstable


def test_a_pool_that_states_prices_leaves_the_rest_unpriced() -> None:
    pool = Pool(name="own", prices={"m5.large": Decimal("0.05"), "m5.xlarge": Decimal(0)})
    book = load_price_book(pool)
    prices = {name: book.types[name].usd_per_hour for name in ("m5.large", "m5.xlarge", "c5.large")}
    assert prices == {"m5.large": Decimal("0.05"), "m5.xlarge": Decimal(0), "c5.large": None}
    assert book.types["m5.large"].as_of is None
    assert book.for_pool(pool) == book


@pytest.mark.parametrize(
    ("tables", "told"),
    [
        ({"prices": {"m5.lrge": Decimal(1)}}, "pool 'own': prices: found 'm5.lrge'"),
        ({"prices": {"m5.lrge": Decimal(1)}}, "did you mean m5.large?"),
        ({"types": ("zzz",)}, "instance types look like m6a.large"),
    ],
)
def test_a_type_that_nobody_knows_is_refused(tables: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_price_book(Pool.model_validate({"name": "own", **tables}))
    assert told in str(refused.value)


def test_a_price_below_zero_is_refused() -> None:
    pool = Pool.model_construct(name="own", types=None, prices={"m5.large": Decimal(-1)})
    with pytest.raises(ConfigError, match="found -1; a price is a number of USD per hour"):
        load_price_book(pool)
