"""How a run's machines are divided between Spark's driver and its executors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piecework.errors import InputError
from piecework.plan.executors import divide, has_executors, own_pods
from piecework.plan.plan import Plan
from piecework.units import GIBI, MEBI, Memory
from tests.unit.engines.plans import make_plan
from tests.unit.plan.manifests import KARPENTER, plan_of


def plan_for(
    cpus: str,
    mebibytes: int,
    count: int = 1,
    gpus: int = 0,
    conf: Mapping[str, str] | None = None,
) -> Plan:
    plan = make_plan(spark={"file": "a.py", "mode": "kubernetes", "conf": dict(conf or {})})
    return replace(
        plan,
        provider="karpenter",
        cpus=Decimal(cpus),
        memory=Memory(mebibytes * MEBI),
        count=count,
        gpus=gpus,
    )


def test_on_a_small_machine_one_executor_has_all_cores_and_what_the_driver_leaves() -> None:
    found = divide(plan_for("1.73", 6648, count=2))
    assert (found.executor_cores, found.per_machine, found.executors) == (2, 1, 2)
    assert found.driver_memory == Memory(1 * GIBI)
    assert found.executor_memory == Memory((6648 - 1024) * MEBI)
    assert (found.driver_cpus, found.executor_cpus) == (Decimal("0.216"), Decimal("1.513"))


def test_on_a_large_machine_several_executors_of_four_to_eight_cores_fill_it() -> None:
    found = divide(plan_for("31.5", 120_000, count=4))
    assert (found.executor_cores, found.per_machine, found.executors) == (8, 4, 16)
    assert found.driver_memory == Memory(8192 * MEBI)
    assert found.driver_cpus == 1


@given(
    st.integers(1, 192),
    st.integers(2, 1024),
    st.integers(1, 50),
    st.decimals("0.8", 1, places=2),
)
def test_a_machine_takes_its_executors_beside_a_driver_and_never_one_more(
    cores: int, gib: int, count: int, usable: Decimal
) -> None:
    plan = plan_for(str(cores * usable), gib * 1000, count)
    try:
        found = divide(plan)
    except InputError:
        assert gib / cores < 2.5  # too many executors for the memory
        return
    each, beside = found.executor_memory.bytes, found.driver_memory.bytes
    assert found.per_machine * each + beside <= plan.memory.bytes
    assert found.per_machine * found.executor_cpus + found.driver_cpus <= plan.cpus
    # The scheduler puts no more of them on a machine without a driver: a machine more is needed.
    assert (found.per_machine + 1) * found.executor_cpus > plan.cpus
    assert 1 <= found.executor_cores <= 8
    assert found.per_machine * found.executor_cores <= max(1, round(plan.cpus))


def test_the_job_may_say_how_large_executors_and_driver_are() -> None:
    conf = {"spark.executor.cores": "2", "spark.driver.memory": "4g"}
    found = divide(plan_for("15.8", 60_000, conf=conf))
    assert (found.executor_cores, found.per_machine) == (2, 8)
    assert found.driver_memory.bytes > 4 * GIBI * 1.4


@pytest.mark.parametrize("cores", ["0", "17", "many", "1.5", ""])
def test_cores_that_no_machine_has_are_refused(cores: str) -> None:
    with pytest.raises(InputError, match=r"a number from 1 to 16 is right here"):
        divide(plan_for("15.8", 60_000, conf={"spark.executor.cores": cores}))


def test_a_size_of_the_driver_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match=r"spark\.driver\.memory is 'much'; sizes are written"):
        divide(plan_for("4", 16_000, conf={"spark.driver.memory": "much"}))


def test_a_machine_too_small_for_both_is_refused_with_what_would_do() -> None:
    with pytest.raises(InputError, match=r"have 1500 MiB for it.*needs 1795 MiB.*mode: local"):
        divide(plan_for("2", 1500))


def test_what_is_still_a_template_is_not_judged() -> None:
    found = divide(plan_for("15.8", 60_000, conf={"spark.executor.cores": "{{ params.cores }}"}))
    assert found.executor_cores == 8


def test_a_plan_is_refused_where_its_executors_would_not_fit() -> None:
    job = {"spark": {"file": "a.py", "mode": "kubernetes", "conf": {"spark.driver.memory": "16g"}}}
    with pytest.raises(InputError, match="ask for more"):
        plan_of(KARPENTER, job, memory="8Gi")


def test_executors_that_compute_on_gpus_have_one_at_least() -> None:
    found = divide(plan_for("31.5", 120_000, gpus=1))
    assert (found.per_machine, found.executor_cores, found.executor_gpus) == (1, 32, 1)
    found = divide(plan_for("31.5", 120_000, gpus=8))
    assert (found.per_machine, found.executor_gpus) == (4, 2)


def test_only_the_driver_is_made_by_who_asks_and_only_on_a_cluster() -> None:
    plan = plan_for("4", 16_000, count=3)
    assert has_executors(plan)
    assert own_pods(plan) == 1
    here = replace(plan, provider="local")
    assert not has_executors(here)
    assert own_pods(here) == 3
    standalone = make_plan(spark={"file": "a.py", "mode": "standalone"})
    assert not has_executors(replace(standalone, provider="asg"))
