"""The choice of a machine, on the shipped price list and on whatever hypothesis invents."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piecework.config import Settings
from piecework.errors import ConfigError, NoMachineError
from piecework.plan.choose import plan_job
from piecework.plan.plan import History, Host, InstanceType, Plan
from piecework.plan.price import PriceBook, load_price_book
from piecework.plan.reserve import Usable, usable
from piecework.spec.job import Job
from piecework.spec.pool import Group, Pool
from piecework.units import GIBI, Memory, Money

SETTINGS = Settings(home=Path("/nowhere"), ledger_url="sqlite://")
LOCAL = Pool(name="local")
BOOK = load_price_book()


def plan(
    machine: dict[str, Any],
    *,
    pool: Pool = LOCAL,
    prices: PriceBook = BOOK,
    host: Host | None = None,
    history: History | None = None,
    memory_at_least: Memory | None = None,
    learned: Mapping[str, Usable] | None = None,
    **job: Any,
) -> Plan:
    return plan_job(
        "delays",
        Job.model_validate({"python": "jobs/delays.py", "machine": machine, **job}),
        pool=pool,
        prices=prices,
        settings=SETTINGS,
        host=host,
        history=history,
        memory_at_least=memory_at_least,
        learned=learned,
    )


def reason_of(found: Plan, name: str) -> str:
    return next(no.reason for no in found.rejected if no.instance_type == name)


def row(
    name: str,
    vcpus: int = 2,
    gibi: int = 4,
    usd: str | None = "1",
    architecture: str = "amd64",
    gpus: int = 0,
) -> InstanceType:
    price = None if usd is None else Decimal(usd)
    return InstanceType(name, architecture, vcpus, Memory(gibi * GIBI), gpus, price, "test", None)


def book(*rows: InstanceType) -> PriceBook:
    return PriceBook({machine.name: machine for machine in rows})


# ------------------------------------------------------------------ the rule


sizes = st.fixed_dictionaries(
    {
        "cpu": st.integers(1, 200),
        "memory": st.integers(1, 4000).map(lambda gibi: f"{gibi}Gi"),
        "arch": st.sampled_from(["amd64", "arm64"]),
        "burstable": st.booleans(),
        "gpu": st.sampled_from([0, 0, 0, 1, 2, 4, 8]),
    }
)


def fits(machine: InstanceType, asked: dict[str, Any]) -> bool:
    """The rule of the design, said a second time and in another way."""
    return (
        machine.architecture == asked["arch"]
        and machine.vcpus >= asked["cpu"]
        and machine.memory >= Memory.parse(asked["memory"])
        and machine.gpus >= asked["gpu"]
        and (machine.gpus > 0) == (asked["gpu"] > 0)
        and (asked["burstable"] or machine.name[0] != "t" or not machine.name[1].isdigit())
    )


@given(sizes)
def test_the_machine_fits_and_none_that_fits_is_cheaper(asked: dict[str, Any]) -> None:
    fitting = [machine for machine in BOOK.types.values() if fits(machine, asked)]
    if not fitting:
        with pytest.raises(NoMachineError):
            plan(asked)
        return
    found = plan(asked).instance_type
    assert fits(found, asked)
    assert found.usd_per_hour == min(machine.usd_per_hour or 0 for machine in fitting)
    twins = [machine.name for machine in fitting if machine.usd_per_hour == found.usd_per_hour]
    assert found.name == min(twins)


@given(sizes, sizes)
def test_asking_for_more_never_costs_less(one: dict[str, Any], other: dict[str, Any]) -> None:
    less = {**one, "gpu": 0}
    more = {**less, "cpu": max(one["cpu"], other["cpu"])}
    more["memory"] = max(one["memory"], other["memory"], key=lambda text: Memory.parse(text).bytes)
    try:
        dear = plan(more)
    except NoMachineError:
        return
    cheap = plan(less)
    assert cheap.price_per_hour is not None
    assert dear.price_per_hour is not None
    assert cheap.price_per_hour.amount <= dear.price_per_hour.amount


@given(sizes)
def test_the_same_question_gets_the_same_answer_in_any_order_of_the_list(
    asked: dict[str, Any],
) -> None:
    backwards = PriceBook(dict(reversed(list(BOOK.types.items()))))
    try:
        assert plan(asked) == plan(asked, prices=backwards)
    except NoMachineError:
        with pytest.raises(NoMachineError):
            plan(asked, prices=backwards)


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ({"cpu": 2, "memory": "4Gi"}, "c6a.large"),
        ({"cpu": 8, "memory": "32Gi"}, "m5a.2xlarge"),
        ({"cpu": "500m", "memory": "512Mi", "burstable": True}, "t3a.nano"),
        ({"gpu": 1}, "g4ad.xlarge"),
        ({"cpu": 2, "memory": "4Gi", "arch": "arm64"}, "a1.large"),
    ],
)
def test_these_requests_get_these_machines(asked: dict[str, Any], name: str) -> None:
    assert plan(asked).instance_type.name == name


def test_a_job_that_says_nothing_gets_one_vcpu_and_two_gib() -> None:
    found = plan({})
    assert found.instance_type.vcpus >= 1
    assert found.instance_type.memory >= Memory.parse("2Gi")
    assert "default" in found.reason
    assert found.instance_type == plan({"cpu": 1, "memory": "2Gi"}).instance_type


def test_a_machine_with_a_gpu_is_not_for_a_job_without() -> None:
    prices = book(row("cheap", usd="0.1", gpus=1), row("plain", usd="0.2"))
    assert plan({"cpu": 1}, prices=prices).instance_type.name == "plain"
    assert plan({"gpu": 1}, prices=prices).instance_type.name == "cheap"


def test_of_equal_prices_the_first_by_name_is_taken() -> None:
    prices = book(row("b"), row("a"), row("c"))
    found = plan({"cpu": 1}, prices=prices)
    assert found.instance_type.name == "a"
    assert reason_of(found, "b") == "fits and costs the same as a"


# ------------------------------------------------------------------ pinned types and pools


def test_a_pinned_type_is_taken_though_others_are_cheaper() -> None:
    found = plan({"type": "m5.large"})
    assert found.instance_type.name == "m5.large"
    assert found.reason == "which the job pins"
    assert reason_of(found, "m5a.large") == "$0.086/h, but the job pins m5.large"


@pytest.mark.parametrize("name", ["t3.micro", "g4dn.xlarge", "c5.metal"])
def test_a_pinned_type_may_be_of_any_kind(name: str) -> None:
    assert plan({"type": name}).instance_type.name == name


@pytest.mark.parametrize(
    ("machine", "told"),
    [
        ({"type": "m5.lrge"}, "not in the price list; did you mean m5.large?"),
        ({"type": "m6g.large"}, "is arm64, and the job is for amd64"),
        ({"type": "m6g.large"}, "set arch: arm64"),
        ({"type": "m5.large", "cpu": 8}, "has only 2 vCPUs"),
        ({"type": "m5.large", "gpu": 1}, "has no GPUs"),
    ],
)
def test_a_pinned_type_that_cannot_be_is_refused_with_the_reason(
    machine: dict[str, Any], told: str
) -> None:
    with pytest.raises(NoMachineError) as refused:
        plan(machine)
    assert told in str(refused.value)


def test_a_pool_with_types_gives_no_other() -> None:
    pool = Pool(name="own", types=("m5.xlarge", "m5.large"))
    found = plan({"cpu": 1}, pool=pool)
    assert found.instance_type.name == "m5.large"
    assert reason_of(found, "c7a.medium") == "$0.05132/h, but is not among the pool's types"
    with pytest.raises(NoMachineError, match="is not among the pool's types"):
        plan({"type": "c7a.medium"}, pool=pool)


def test_where_none_is_large_enough_the_largest_is_named() -> None:
    with pytest.raises(NoMachineError) as refused:
        plan({"cpu": 2000})
    assert "job 'delays' asks for 2000 vCPUs and 2 GiB" in str(refused.value)
    assert "u7in-32tb.224xlarge (896 vCPUs, 32 TiB)" in str(refused.value)


def test_the_largest_is_named_by_cpu_and_by_memory_where_these_are_two() -> None:
    prices = book(row("wide", vcpus=64, gibi=8), row("deep", vcpus=2, gibi=512))
    with pytest.raises(NoMachineError, match=r"wide \(64 vCPUs, 8 GiB\) and deep \(2 vCPUs, 512"):
        plan({"cpu": 64, "memory": "512Gi"}, prices=prices)


def test_the_refusal_says_when_there_is_nothing_of_the_kind() -> None:
    with pytest.raises(NoMachineError, match="nor any of that kind"):
        plan({"gpu": 1}, prices=book(row("plain")))


# ------------------------------------------------------------------ prices


def test_an_unpriced_machine_is_not_chosen_while_a_priced_one_fits() -> None:
    prices = book(row("unknown", usd=None), row("known", usd="9"))
    found = plan({"cpu": 1}, prices=prices)
    assert found.instance_type.name == "known"
    assert "unpriced" in reason_of(found, "unknown")
    assert found.warnings == ()


def test_the_smallest_unpriced_machine_is_chosen_where_none_has_a_price() -> None:
    prices = book(row("large", vcpus=64, usd=None), row("small", usd=None))
    found = plan({"cpu": 1}, prices=prices)
    assert found.instance_type.name == "small"
    assert found.price_per_hour is None
    assert (found.estimate.low, found.estimate.high) == (None, None)
    assert "no machine that fits has a price; its cost will be unknown" in found.warnings[0]


def test_an_unpriced_machine_may_be_pinned_and_the_plan_says_so() -> None:
    pool = Pool(name="own", prices={"m5.large": Decimal("0.05")})
    found = plan({"type": "m5.xlarge"}, pool=pool)
    assert found.price_per_hour is None
    assert "it is pinned" in found.warnings[0]


def test_the_prices_of_a_pool_stand_instead_of_the_list() -> None:
    pool = Pool(name="own", prices={"m5.large": Decimal("0.05"), "m5.xlarge": Decimal("0.04")})
    found = plan({"cpu": 2, "memory": "4Gi"}, pool=pool)
    assert found.instance_type.name == "m5.xlarge"
    assert found.price_per_hour == Money(Decimal("0.04"))
    assert found.instance_type.source == "prices of pool own"


def test_spot_is_priced_on_demand_and_the_plan_says_so() -> None:
    found = plan({"cpu": 2, "spot": "prefer"})
    assert found.price_per_hour == plan({"cpu": 2}).price_per_hour
    assert found.warnings == ("spot: prefer: there are no spot prices; it is priced on demand",)


# ------------------------------------------------------------------ this host


def test_a_host_that_is_too_small_caps_what_the_job_gets_and_not_its_price() -> None:
    asked = {"cpu": 8, "memory": "32Gi"}
    found = plan(asked, host=Host(2, Memory.parse("24Gi")))
    assert (found.cpus, found.memory) == (Decimal(2), Memory.parse("24Gi"))
    assert found.instance_type.vcpus == 8
    assert found.price_per_hour == plan(asked).price_per_hour
    assert found.as_if
    assert "gets 2 of 8 vCPUs, 24 GiB of 32 GiB, and is priced as the whole" in found.warnings[0]


def test_a_host_that_is_large_enough_gives_the_nameplate() -> None:
    found = plan({"cpu": 2, "memory": "4Gi"}, host=Host(64, Memory.parse("256Gi")))
    assert (found.cpus, found.memory) == (Decimal(2), Memory.parse("4Gi"))
    assert found.warnings == ()


def test_the_limits_of_the_pool_cap_the_host() -> None:
    pool = Pool(name="local", cpus=Decimal(1), memory=Memory.parse("1Gi"))
    found = plan({"cpu": 2, "memory": "4Gi"}, pool=pool, host=Host(2, Memory.parse("24Gi")))
    assert (found.cpus, found.memory) == (Decimal(1), Memory.parse("1Gi"))


def test_gpus_that_the_host_lacks_are_not_promised() -> None:
    found = plan({"gpu": 1}, host=Host(4, Memory.parse("24Gi")))
    assert found.gpus == 0
    assert "0 of 1 GPUs" in found.warnings[0]
    assert plan({"gpu": 1}, host=Host(4, Memory.parse("24Gi"), gpus=1)).gpus == 1


@given(st.integers(1, 12), st.integers(1, 16), st.integers(1, 64))
def test_the_machines_of_a_gang_fit_on_the_host_together(count: int, cores: int, gibi: int) -> None:
    host = Host(cores, Memory(gibi * GIBI))
    found = plan({"cpu": 4, "memory": "8Gi", "count": count}, host=host)
    assert 1 <= found.count <= count
    assert found.cpus >= 1
    assert found.cpus * found.count <= cores
    assert found.memory.bytes * found.count <= host.memory.bytes
    assert (found.count < count) == any("only these are billed" in text for text in found.warnings)


# ------------------------------------------------------------------ memory, times, cost


def test_a_retry_after_out_of_memory_gets_a_machine_with_more() -> None:
    found = plan({"cpu": 2, "memory": "4Gi"}, memory_at_least=Memory.parse("8Gi"))
    assert found.instance_type.memory >= Memory.parse("8Gi")
    assert "after more memory was needed" in found.reason
    same = plan({"cpu": 2, "memory": "16Gi"}, memory_at_least=Memory.parse("8Gi"))
    assert same.instance_type == plan({"cpu": 2, "memory": "16Gi"}).instance_type


def test_times_come_from_the_job_else_from_the_settings() -> None:
    found = plan({}, timeout="45m", deadline="2h")
    assert (found.timeout, found.deadline) == (timedelta(minutes=45), timedelta(hours=2))
    found = plan({})
    assert (found.timeout, found.deadline) == (SETTINGS.timeout, SETTINGS.deadline)


def test_the_estimate_comes_from_history_then_from_the_timeout_then_there_is_none() -> None:
    history = History.of([120, 3600])
    past = plan({"type": "m5.large"}, history=history, timeout="1h").estimate
    assert (past.basis, past.runs) == ("history", 2)
    assert (past.low, past.high) == (Money(Decimal("0.0032")), Money(Decimal("0.096")))
    bound = plan({"type": "m5.large", "count": 3}, timeout="1h").estimate
    assert bound.basis == "timeout"
    assert (bound.low, bound.high) == (Money(Decimal("0.0048")), Money(Decimal("0.288")))
    assert plan({"type": "m5.large"}).estimate.basis == "price"


# ------------------------------------------------------------------ why not


@given(sizes)
def test_few_others_are_named_and_all_others_are_counted(asked: dict[str, Any]) -> None:
    try:
        found = plan(asked)
    except NoMachineError:
        return
    named = [no.instance_type for no in found.rejected if no.instance_type in BOOK.types]
    counted = int(found.rejected[-1].instance_type.removesuffix(" others"))
    assert found.instance_type.name not in named
    assert len(set(named)) == len(named) <= 12
    assert len(named) + counted + 1 == len(BOOK.types)


def test_the_telling_ones_are_named_with_their_reason() -> None:
    found = plan({"cpu": 2, "memory": "4Gi"})
    assert reason_of(found, "r7a.medium") == "$0.07608/h, but has only 1 vCPU"
    assert "is burstable" in reason_of(found, "t3a.medium")
    assert "is arm64" in reason_of(found, "a1.large")
    assert reason_of(found, "c5a.large") == "fits, but costs $0.0005/h more"


# ------------------------------------------------------------------ on a cluster


BURST = Pool(name="burst", provider="karpenter", image="registry.example.com/python:3.11")
GROUPS = Pool(
    name="groups",
    provider="asg",
    image="registry.example.com/python:3.11",
    groups=(
        Group(name="a", type="m6a.large"),
        Group(name="b", type="m5.large"),
        Group(name="c", type="c6a.xlarge", spot=True),
    ),
)


@given(sizes)
def test_on_a_cluster_a_job_gets_what_the_system_leaves(asked: dict[str, Any]) -> None:
    try:
        found = plan(asked, pool=BURST)
    except NoMachineError:
        return
    left = usable(found.instance_type, BURST)
    assert (found.cpus, found.memory) == (left.cpus, left.memory)
    assert found.gpus == found.instance_type.gpus
    assert not found.as_if


@given(sizes)
def test_alternatives_take_the_same_pod_and_cost_little_more(asked: dict[str, Any]) -> None:
    try:
        found = plan(asked, pool=BURST)
    except NoMachineError:
        return
    others = [BOOK.types[name] for name in found.alternatives]
    assert len(others) <= 8
    assert found.instance_type not in others
    prices = [other.usd_per_hour or Decimal(0) for other in others]
    dearest = (found.instance_type.usd_per_hour or Decimal(0)) * Decimal("1.5")
    assert prices == sorted(prices)
    for other, price in zip(others, prices, strict=True):
        assert fits(other, asked)
        assert price <= dearest
        left = usable(other, BURST)
        assert left.cpus >= found.cpus
        assert left.memory >= found.memory


def test_what_was_learned_of_one_type_rules_out_no_other() -> None:
    asked = {"cpu": 2, "memory": "8Gi"}
    before = plan(asked, pool=BURST)
    name = before.instance_type.name
    learned = {name: Usable(Decimal("1.99"), Memory(before.instance_type.memory.bytes))}
    after = plan(asked, pool=BURST, learned=learned)
    assert after.memory > before.memory
    assert after.alternatives == before.alternatives
    small = {other: Usable(Decimal(1), Memory(GIBI)) for other in before.alternatives}
    assert not set(small) & set(plan(asked, pool=BURST, learned=small).alternatives)


def test_a_pinned_type_has_no_alternatives() -> None:
    assert plan({"type": "m6a.large"}, pool=BURST).alternatives == ()
    assert plan({"cpu": 2}).alternatives == ()


def test_groups_offer_their_own_types_alone() -> None:
    found = plan({"cpu": 2}, pool=GROUPS)
    assert (found.instance_type.name, found.alternatives) == ("m6a.large", ("m5.large",))
    found = plan({"cpu": 2, "spot": "only"}, pool=GROUPS)
    assert (found.instance_type.name, found.alternatives) == ("c6a.xlarge", ())
    assert found.spot == "only"


def test_spot_only_needs_a_group_of_spot_capacity() -> None:
    pool = GROUPS.model_copy(update={"groups": GROUPS.groups[:2]})
    with pytest.raises(NoMachineError, match="set spot = true on a group of the pool"):
        plan({"spot": "only"}, pool=pool)


def test_spot_prices_of_the_pool_are_those_of_jobs_that_take_spot_capacity() -> None:
    pool = BURST.model_copy(update={"spot_prices": {"m6a.xlarge": Decimal("0.05")}})
    found = plan({"cpu": 2, "spot": "prefer"}, pool=pool)
    assert found.instance_type.name == "m6a.xlarge"
    assert found.price_per_hour == Money(Decimal("0.05"))
    assert found.warnings == ()
    assert plan({"cpu": 2}, pool=pool).price_per_hour == plan({"cpu": 2}).price_per_hour


def test_a_type_that_the_system_fills_is_not_taken() -> None:
    asked = {"cpu": 1, "memory": "512Mi", "burstable": True}
    assert plan(asked).instance_type.memory < Memory(GIBI)
    assert plan(asked, pool=BURST).instance_type.memory > Memory(GIBI)
    with pytest.raises(NoMachineError, match="too small for the system of a cluster and a job"):
        plan({"type": "t3.nano"}, pool=BURST)


def test_a_python_job_on_a_cluster_needs_an_image() -> None:
    pool = BURST.model_copy(update={"image": None})
    with pytest.raises(ConfigError, match=r"set image in \[pools\.burst\], or in the job"):
        plan({}, pool=pool)
    assert plan({}, pool=pool, image="registry.example.com/own:1").job.image is not None
