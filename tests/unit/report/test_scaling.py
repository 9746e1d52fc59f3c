"""The same work on other numbers of cores: what no schedule beats, and what any good one keeps."""

from __future__ import annotations

import heapq
import random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from piecework.report.scaling import Span, Tasks, Work, time_on


def test_on_as_many_cores_it_takes_as_long() -> None:
    assert time_on(Work(100, 4, 130), 4) == Span(100, 100)


def test_what_used_one_core_of_two_takes_as_long_on_one_or_half_as_long_again() -> None:
    """Either one core worked all the time, or two worked half of it."""
    assert time_on(Work(100, 2, 100), 1) == Span(100, 150)


def test_what_used_all_cores_takes_twice_as_long_on_half_of_them() -> None:
    assert time_on(Work(100, 4, 400), 2) == Span(200, 200)


def test_more_cores_help_at_most_what_used_all() -> None:
    assert time_on(Work(100, 2, 100), 4) == Span(75, 100)


def test_a_chain_of_tasks_is_not_shortened_by_slots() -> None:
    work = Work(110, 2, 0, Tasks(seconds=100, slots=2, busy_seconds=150, critical_seconds=60))
    assert time_on(work, 200).low == pytest.approx(10 + 60)


@st.composite
def works(draw: st.DrawFn) -> Work:
    """Anything that may have been measured, also what does not fit together."""
    share = st.floats(0, 1)
    seconds, cores = draw(st.floats(0, 1e5)), draw(st.integers(1, 64))
    busy = seconds * cores * draw(share) * draw(st.sampled_from([1.0, 1.5]))
    if not draw(st.booleans()):
        return Work(seconds, cores, busy)
    slots = draw(st.integers(1, 128))
    ran = seconds * draw(share)
    slot_seconds = ran * slots * draw(share)
    return Work(seconds, cores, busy, Tasks(ran, slots, slot_seconds, ran * draw(st.floats(0, 2))))


@given(works(), st.lists(st.integers(1, 500), min_size=2, max_size=6))
def test_more_cores_never_make_it_longer_and_the_range_is_one(work: Work, cores: list[int]) -> None:
    slack = 1e-6 * (1 + work.seconds)
    before = None
    for count in sorted({*cores, work.cores}):
        span = time_on(work, count)
        assert -slack <= span.low <= span.high + slack
        if count == work.cores:
            assert span.low == pytest.approx(work.seconds, abs=slack)
            assert span.high == pytest.approx(work.seconds, abs=slack)
        if before is not None:
            assert span.low <= before.low + slack
            assert span.high <= before.high + slack
        before = span


def run_stages(stages: list[list[float]], slots: int) -> float:
    """A schedule as Spark makes it: each task on the first free slot, one stage after the other."""
    now = 0.0
    for tasks in stages:
        free = [now] * slots
        for task in tasks:
            heapq.heappush(free, heapq.heappop(free) + task)
        now = max(free)
    return now


@given(st.integers(0, 10**6), st.integers(1, 16), st.integers(1, 16), st.floats(0, 30))
@settings(max_examples=150)
def test_simulated_stages_lie_in_the_range_on_any_number_of_slots(
    seed: int, slots: int, others: int, driver: float
) -> None:
    chance = random.Random(seed)
    stages = [
        [chance.uniform(0.1, 10) for _ in range(chance.randint(1, 40))]
        for _ in range(chance.randint(1, 5))
    ]
    ran, busy = run_stages(stages, slots), sum(map(sum, stages))
    tasks = Tasks(ran, slots, busy, sum(map(max, stages)))
    span = time_on(Work(driver + ran, slots, busy, tasks), others)
    took = driver + run_stages(stages, others)
    # A schedule of whole tasks may lose a little by more slots: Graham's anomalies.
    assert span.low * 0.9 <= took <= span.high * 1.1
    if others > slots:
        assert span.low <= took + 1e-6
    else:
        assert took <= span.high + 1e-6


@given(st.lists(st.integers(0, 8), min_size=1, max_size=50), st.integers(1, 8))
def test_any_use_of_cores_over_time_lies_in_the_range(used: list[int], others: int) -> None:
    assume(others < 8)
    work = Work(len(used), 8, sum(used))
    took = sum(max(1.0, cores / others) for cores in used)
    span = time_on(work, others)
    assert span.low - 1e-6 <= took <= span.high + 1e-6
