"""Plans as JSON, and the history that an estimate is made from."""

from __future__ import annotations

import json
from datetime import date, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piecework.plan.plan import (
    Estimate,
    History,
    InstanceType,
    Plan,
    Rejection,
    plan_from_json,
    plan_to_json,
)
from piecework.spec.job import Job
from piecework.units import LONGEST, MOST_MEMORY, Memory, Money

texts = st.text(max_size=20)
memories = st.integers(0, MOST_MEMORY).map(Memory)
amounts = st.decimals(0, 10**6, places=9)
money = st.none() | st.builds(Money, amounts, st.sampled_from(["USD", "EUR"]))
durations = st.timedeltas(timedelta(microseconds=1), LONGEST)
machines = st.builds(
    InstanceType,
    name=texts,
    architecture=st.sampled_from(["amd64", "arm64"]),
    vcpus=st.integers(1, 1000),
    memory=memories,
    gpus=st.integers(0, 16),
    usd_per_hour=st.none() | amounts,
    source=texts,
    as_of=st.none() | st.dates(date(2020, 1, 1)),
)
jobs = st.sampled_from(
    [
        {"python": "a.py"},
        {"python": "package:function", "args": ["{{ ds }}"], "machine": {"memory": "1536Mi"}},
        {"spark": {"file": "a.py", "mode": "standalone", "conf": {"a": "b"}}, "timeout": "45m"},
        {"dask": "a.py", "machine": {"cpu": "500m", "count": 3}, "retries": {"error": 2}},
        {"container": {"image": "debian", "command": ["true"]}, "env": {"A": "ä"}, "priority": -3},
    ]
).map(Job.model_validate)
plans = st.builds(
    Plan,
    job_name=texts,
    job=jobs,
    pool=texts,
    provider=texts,
    instance_type=machines,
    count=st.integers(1, 1000),
    cpus=st.decimals(Decimal("0.001"), 1000, places=3),
    memory=memories,
    gpus=st.integers(0, 16),
    price_per_hour=money,
    minimum=durations,
    timeout=durations,
    deadline=durations,
    estimate=st.builds(
        Estimate,
        basis=st.sampled_from(["history", "timeout", "price"]),
        low=money,
        high=money,
        runs=st.integers(0, 100),
    ),
    rejected=st.lists(st.builds(Rejection, texts, texts), max_size=3).map(tuple),
    warnings=st.lists(texts, max_size=3).map(tuple),
    as_if=st.booleans(),
    reason=texts,
)


@given(plans)
def test_a_plan_survives_json_unchanged(plan: Plan) -> None:
    assert plan_from_json(json.loads(json.dumps(plan_to_json(plan)))) == plan


@given(plans)
def test_no_money_in_the_json_is_a_float(plan: Plan) -> None:
    raw = plan_to_json(plan)
    for amount in (raw["price_per_hour"], raw["estimate"]["low"], raw["estimate"]["high"]):
        assert amount is None or isinstance(amount["amount"], str)
    assert isinstance(raw["instance_type"]["usd_per_hour"], str | None)


def test_a_broken_plan_is_refused() -> None:
    with pytest.raises(KeyError):
        plan_from_json({"job_name": "x"})


@given(st.lists(st.decimals(0, 10**6, places=3), min_size=1, max_size=100))
def test_a_history_lies_within_what_happened(seconds: list[Decimal]) -> None:
    history = History.of(seconds)
    assert history is not None
    assert history.runs == len(seconds)
    assert history.low_seconds in seconds
    assert history.high_seconds in seconds
    below = sum(taken <= history.high_seconds for taken in seconds)
    assert below * 10 >= len(seconds) * 9


def test_one_odd_run_of_twenty_does_not_widen_the_range() -> None:
    assert History.of([100.0] * 19 + [9000.0]) == History(20, Decimal(100), Decimal(100))


def test_no_past_runs_are_no_history() -> None:
    assert History.of([]) is None


@pytest.mark.parametrize(("runs", "low", "high"), [(0, 1, 2), (1, 2, 1), (1, -1, 1)])
def test_an_impossible_history_is_refused(runs: int, low: int, high: int) -> None:
    with pytest.raises(ValueError, match="are no history"):
        History(runs, Decimal(low), Decimal(high))
