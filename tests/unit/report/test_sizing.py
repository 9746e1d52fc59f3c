"""Advice on sizes: cheaper by its own numbers, never with too little memory, and why not."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piecework.plan.estimate import compute_cost
from piecework.plan.plan import Host
from piecework.plan.price import load_price_book
from piecework.report.scaling import Work
from piecework.report.sizing import MEMORY_MARGIN, Advice, Observed, Terms, advise
from piecework.spec.pool import Group, Pool
from piecework.units import GIBI, Memory, Money

TYPES = ("m6a.large", "m6a.xlarge", "m6a.2xlarge", "m6a.4xlarge", "c6a.large", "r6a.large")
POOL = Pool(name="local", types=TYPES)
PRICES = load_price_book()


def seen(
    seconds: float = 600,
    cores: int = 4,
    busy: float = 600,
    peak: float = 3,
    name: str = "m6a.xlarge",
    **more: Any,
) -> Observed:
    """An attempt; `peak` in GiB."""
    return Observed("a.1", name, more.pop("count", 1), Work(seconds, cores, busy),
                    more.pop("fixed", 20.0), int(peak * GIBI), **more)  # fmt: skip


def ask(*observed: Observed, pool: Pool = POOL, **more: Any) -> Advice:
    return advise(list(observed), pool, PRICES, **more)


def test_a_job_that_used_one_core_of_four_gets_half_the_machine() -> None:
    found = ask(seen(), seen(), seen())
    assert found.verdict == "change"
    assert found.now is not None
    assert found.better is not None
    assert found.better.instance_type.name == "c6a.large"  # 4 GiB: enough for 3 GiB by 1.25
    assert found.needed_memory == Memory(int(3 * GIBI * MEMORY_MARGIN))
    assert found.saving == found.now.cost - found.better.cost
    assert found.least_saving is not None
    assert found.most_saving is not None
    assert found.least_saving.amount < found.saving.amount < found.most_saving.amount
    assert [other.instance_type.name for other in found.others] == ["m6a.large", "r6a.large"]


def test_a_job_that_uses_all_of_its_cores_keeps_them() -> None:
    """Half of the cores take twice as long and cost the same."""
    found = ask(*[seen(busy=2400, peak=6)] * 3, pool=Pool(name="local", types=TYPES[:3]))
    assert found.verdict == "keep"
    assert found.reason is not None
    assert "no other type would be cheaper by 5%" in found.reason


def test_a_short_job_takes_the_cheapest_machine_since_a_minute_is_paid_anyway() -> None:
    found = ask(seen(seconds=10, busy=40, peak=1, name="m6a.4xlarge", cores=16, fixed=2))
    assert found.better is not None
    assert found.better.instance_type.name == "c6a.large"
    price = found.better.instance_type.usd_per_hour
    assert price is not None
    assert found.better.most_cost == compute_cost(Decimal(60), Money(price), 1)


def test_few_attempts_widen_the_range_and_the_margin() -> None:
    one, three = ask(seen()), ask(seen(), seen(), seen())
    assert one.needed_memory is not None
    assert three.needed_memory is not None
    assert one.needed_memory > three.needed_memory
    assert one.now is not None
    assert three.now is not None
    assert one.now.most_cost.amount > three.now.most_cost.amount
    assert one.now.least_cost.amount < three.now.least_cost.amount


def test_memory_that_ran_out_once_is_never_advised_again() -> None:
    failed = seen(peak=7.9, name="m6a.large", cores=2, succeeded=False)
    found = ask(seen(), seen(), seen(), failed)
    assert found.needed_memory is not None
    assert found.needed_memory.bytes > 7.9 * GIBI
    names = [each.instance_type.name for each in (found.better, *found.others) if each]
    assert names == ["r6a.large"]


def test_a_job_whose_memory_is_nearly_full_is_told_so() -> None:
    found = ask(*[seen(peak=15)] * 3, pool=Pool(name="local", types=("m6a.large", "m6a.xlarge")))
    assert found.verdict == "keep"
    assert found.reason is not None
    assert "its memory was nearly full" in found.reason


def test_on_a_cluster_what_its_system_takes_is_no_memory_of_the_job() -> None:
    groups = tuple(Group(name=name, type=name) for name in ("c6a.large", "m6a.xlarge"))
    pool = Pool(name="work", provider="asg", groups=groups)
    found = ask(*[seen(peak=3.1)] * 3, pool=pool)  # 3.9 GiB, and c6a.large has 4 by its name
    assert found.verdict == "keep"
    found = ask(*[seen(peak=2.0)] * 3, pool=pool)
    assert found.better is not None
    assert found.better.memory.bytes < 4 * GIBI


def test_a_type_on_which_it_might_time_out_is_not_advised() -> None:
    fast = [seen(busy=1200, peak=2)] * 3
    assert ask(*fast).verdict == "change"
    found = ask(*fast, terms=Terms(timeout_seconds=700))
    assert found.better is None or found.better.most_seconds < 700


def test_a_host_that_is_smaller_than_its_types_is_no_faster_for_larger_ones() -> None:
    host = Host(2, Memory(8 * GIBI))
    work = seen(seconds=1000, cores=2, busy=2000, peak=1, name="m6a.large")
    found = ask(work, work, work, host=host)
    assert found.better is None or found.better.cores <= 2


def test_older_generations_are_not_advised() -> None:
    pool = Pool(name="local", types=("m4.large", "m6a.xlarge"))
    assert ask(*[seen(busy=300, peak=1)] * 3, pool=pool).verdict == "keep"


def test_a_job_with_a_gpu_keeps_its_kind_of_gpu() -> None:
    types = ("g5.4xlarge", "g5.xlarge", "g4dn.xlarge", "g6.xlarge", "m6a.large")
    job = seen(cores=16, busy=700, name="g5.4xlarge")
    found = ask(job, job, job, pool=Pool(name="local", types=types), terms=Terms(gpus=1))
    assert found.better is not None
    assert found.better.instance_type.name == "g5.xlarge"
    assert found.others == ()


def test_machines_of_a_gang_stay_as_many() -> None:
    found = ask(*[seen(cores=12, busy=700, count=3)] * 3)
    assert found.better is not None
    price = found.better.instance_type.usd_per_hour
    assert price is not None
    assert found.better.least_cost.amount >= price * 3 / 60


@pytest.mark.parametrize(
    ("observed", "pool", "why"),
    [
        ([], POOL, "no run of it has succeeded"),
        ([seen(succeeded=False)], POOL, "no run of it has succeeded"),
        ([seen(name="none.large")], POOL, "none.large, on which it ran, has no known price"),
        (
            [seen()],
            Pool(name="local", prices={"m6a.large": Decimal("0.1")}),
            "m6a.xlarge, on which it ran, has no known price",
        ),
    ],
)
def test_where_there_is_no_advice_it_says_why(
    observed: list[Observed], pool: Pool, why: str
) -> None:
    found = advise(observed, pool, PRICES)
    assert found.verdict == "none"
    assert found.reason is not None
    assert why in found.reason


def test_a_type_without_a_price_is_never_advised() -> None:
    pool = Pool(name="local", types=TYPES, prices={"m6a.xlarge": Decimal("0.2")})
    assert ask(*[seen()] * 3, pool=pool).verdict == "keep"


def test_spot_machines_are_compared_with_spot_prices() -> None:
    spot = {name: Decimal("0.01") * (index + 1) for index, name in enumerate(TYPES)}
    pool = Pool(name="local", types=TYPES, spot_prices=spot)
    found = ask(*[seen()] * 3, pool=pool, terms=Terms(spot=True))
    assert found.better is not None
    assert found.better.instance_type.usd_per_hour == spot["m6a.large"]


@st.composite
def jobs(draw: st.DrawFn) -> list[Observed]:
    """Attempts on machines of the pool, each with what may have been measured there."""
    count = draw(st.integers(1, 3))
    found = []
    for _ in range(draw(st.integers(1, 6))):
        name = draw(st.sampled_from(TYPES))
        machine = PRICES.types[name]
        cores = machine.vcpus * count
        seconds = draw(st.floats(0.1, 20_000))
        peak = draw(st.floats(0.01, 1)) * machine.memory.bytes
        work = Work(seconds, cores, seconds * cores * draw(st.floats(0, 1.1)))
        fixed = draw(st.floats(0, 300))
        ended = draw(st.booleans())
        found.append(Observed("a.1", name, count, work, fixed, int(peak), ended))
    return found


@given(jobs())
def test_advice_holds_what_it_promises(observed: list[Observed]) -> None:
    found = ask(*observed)
    json.dumps(found.to_json())
    if found.now is None:
        assert not any(each.succeeded for each in observed)
        return
    now, peak = found.now, max(each.peak_memory_bytes for each in observed)
    assert now.least_cost.amount <= now.cost.amount <= now.most_cost.amount
    for other in (found.better, *found.others):
        if other is None:
            continue
        assert other.memory.bytes >= peak * MEMORY_MARGIN
        assert other.least_cost.amount <= other.cost.amount <= other.most_cost.amount
        assert other.least_seconds <= other.seconds <= other.most_seconds
        price = other.instance_type.usd_per_hour
        assert price is not None
        minimum = compute_cost(Decimal(0), Money(price), observed[0].count)
        assert other.least_cost.amount >= minimum.amount
        assert other.cost.amount < now.cost.amount
    if found.better is not None:
        assert found.saving is not None
        assert found.least_saving is not None
        assert found.most_saving is not None
        assert found.saving.amount > 0
        assert found.least_saving.amount <= found.saving.amount <= found.most_saving.amount


@given(jobs(), st.floats(1, 4))
def test_a_job_that_needs_more_memory_never_gets_a_cheaper_machine(
    observed: list[Observed], factor: float
) -> None:
    hungry = [
        replace(each, peak_memory_bytes=int(each.peak_memory_bytes * factor)) for each in observed
    ]
    less, more = ask(*observed), ask(*hungry)
    if more.better is not None:
        assert less.better is not None
        assert less.better.cost.amount <= more.better.cost.amount
