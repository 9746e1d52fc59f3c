"""What a machine costs: the shipped price list, or the prices that a pool states itself.

What enters is the snapshot beside this file (a CSV of instance types with its source and date in
a JSON file of the same name) and, where a pool states prices, those; what leaves is a PriceBook.
It exists so that a plan needs no network and no account. A type without a price is unpriced
(None): never zero, and never chosen by price while a priced one fits.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from difflib import get_close_matches
from functools import cache, cached_property
from pathlib import Path

from piecework.errors import ConfigError
from piecework.plan.plan import InstanceType
from piecework.spec.pool import Pool
from piecework.units import MEBI, Memory

_SNAPSHOT = Path(__file__).parent / "prices" / "aws_us_east_1_on_demand.csv"


@dataclass(frozen=True)
class PriceBook:
    """Instance types by name, each with its size, and its price where one is known."""

    types: Mapping[str, InstanceType]

    @cached_property
    def cheapest_first(self) -> tuple[InstanceType, ...]:
        """Priced before unpriced, then by price, then by name; unpriced ones by size, then name."""
        return tuple(sorted(self.types.values(), key=_rank))

    def find(self, name: str) -> InstanceType | None:
        """The type of this name; None where the book has none."""
        return self.types.get(name)

    def suggest(self, name: str) -> str:
        """What to do about a name that the book does not have: "did you mean c6a.large?"."""
        close = get_close_matches(name, self.types, n=1)
        return f"did you mean {close[0]}?" if close else "instance types look like m6a.large"

    def for_pool(self, pool: Pool) -> PriceBook:
        """The book as a pool sees it: with the prices that it states, if it states any.

        Stated prices stand instead of the list's: a type that the pool does not price is then
        unpriced. Doing it twice changes nothing. Raises ConfigError for a type nobody knows.
        """
        named = {
            "types": pool.types or (),
            "groups": [group.type for group in pool.groups],
            "prices": pool.prices or (),
            "spot_prices": pool.spot_prices or (),
        }
        for setting, names in named.items():
            for name in names:
                if name not in self.types:
                    raise ConfigError(
                        f"pool {pool.name!r}: {setting}: found {name!r}, which is no instance type "
                        f"of the price list; {self.suggest(name)}"
                    )
        if pool.prices is None:
            return self
        stated = {name: _checked(pool, name, price) for name, price in pool.prices.items()}
        source = f"prices of pool {pool.name}"
        return PriceBook(
            {
                name: replace(machine, usd_per_hour=stated.get(name), source=source, as_of=None)
                for name, machine in self.types.items()
            }
        )

    def for_spot(self, pool: Pool) -> PriceBook:
        """The book with the pool's spot prices; a type without one keeps that on demand."""
        if not pool.spot_prices:
            return self
        stated = {name: _checked(pool, name, price) for name, price in pool.spot_prices.items()}
        source = f"spot prices of pool {pool.name}"
        spot = {
            name: replace(self.types[name], usd_per_hour=price, source=source, as_of=None)
            for name, price in stated.items()
            if name in self.types
        }
        return PriceBook({**self.types, **spot})


def bought_at(pool: Pool, instance_type: str, *, spot: bool) -> InstanceType | None:
    """The type with the price of a machine of it that was bought for the pool; None: no such type.

    The price of spot capacity that the pool does not state is unknown, never that on demand.
    """
    book = load_price_book(pool)
    machine = book.find(instance_type)
    if machine is None or not spot:
        return machine
    if instance_type in (pool.spot_prices or {}):
        return book.for_spot(pool).find(instance_type)
    return replace(machine, usd_per_hour=None, source="no spot price is known", as_of=None)


def _rank(machine: InstanceType) -> tuple[bool, Decimal, str]:
    if machine.usd_per_hour is None:
        return True, Decimal(machine.memory.bytes) * machine.vcpus, machine.name
    return False, machine.usd_per_hour, machine.name


def _checked(pool: Pool, name: str, price: Decimal) -> Decimal:
    if not price.is_finite() or price < 0:
        raise ConfigError(
            f"pool {pool.name!r}: prices: {name}: found {price}; a price is a number of USD per "
            "hour, like 0.0765; leave the type out where its price is unknown"
        )
    return price


@cache
def _read_snapshot(path: Path) -> PriceBook:
    about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    source, as_of = about["source"], date.fromisoformat(about["as_of"])
    types = {}
    with path.open(newline="", encoding="utf-8") as stream:
        rows = csv.reader(stream)
        next(rows)
        for name, architecture, vcpus, memory_mib, gpus, price in rows:
            types[name] = InstanceType(
                name=name,
                architecture=architecture,
                vcpus=int(vcpus),
                memory=Memory(int(memory_mib) * MEBI),
                gpus=int(gpus),
                usd_per_hour=Decimal(price) if price else None,
                source=source,
                as_of=as_of,
            )
    return PriceBook(types)


def load_price_book(pool: Pool | None = None) -> PriceBook:
    """The shipped price list, with the pool's own prices where it states any.

    The list is read once a process. Raises ConfigError where the pool's tables are wrong.
    """
    book = _read_snapshot(_SNAPSHOT)
    return book if pool is None else book.for_pool(pool)
