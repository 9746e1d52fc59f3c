"""How much of the machines that were paid for an attempt used."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piecework.ledger.occupancy import read_timeline
from piecework.ledger.store import Ledger, open_ledger
from piecework.report.runs import find_run
from piecework.report.use import use_of as shares
from tests.unit.ledger.histories import at, attempt_life, machine_life, tell

ONE = "etl.clean.aa.1"
SPARK = {
    "wall_seconds": 40,
    "driver_seconds": 10,
    "busy_seconds": 60,
    "idle_seconds": 100,
    "slots": 4,
    "tasks": 12,
}


def use_of(use: dict[str, Any] | None, **asked: Any) -> dict[str, Any]:
    """The use, as `show --json` has it, of an attempt on a machine that was paid for 100 s."""
    with open_ledger("sqlite://") as ledger:
        _tell(ledger, use, {"cpu": "3.9", "memory_bytes": 8 << 30, **asked})
        report = find_run(ledger, "etl.clean.aa", now=at(500))
        assert report is not None
        found: dict[str, Any] = report.to_json()["attempts"][0]["use"]
        return found


def _tell(ledger: Ledger, use: dict[str, Any] | None, asked: dict[str, Any]) -> None:
    ledger.append(machine_life("m0", 0, 100, bought_for=ONE, had={ONE: (10, 100)}))
    ledger.append(attempt_life(ONE, 0, 20, None, **asked))
    ledger.append([tell(ONE, "attempt.ended", 70, outcome="success", use=use)])


def test_the_share_of_the_cpus_is_of_all_that_was_paid_for() -> None:
    found = use_of({"cpu_seconds": 100.0, "peak_memory_bytes": 2 << 30})
    assert found["cores"] == 4
    assert found["cpu_share"] == 0.25
    assert found["running_share"] == 0.5
    assert found["memory_share"] == 0.25


def test_the_shares_of_sparks_slots_add_up() -> None:
    found = use_of({"cpu_seconds": 1.0, "spark": SPARK})["spark"]
    assert (found["busy_share"], found["driver_share"]) == (0.375, 0.25)
    assert found["busy_share"] + found["driver_share"] + found["idle_share"] == 1


def test_executors_that_nobody_measured_count_by_what_spark_tells() -> None:
    assert use_of({"cpu_seconds": 1.0, "spark": {**SPARK, "cpu_seconds": 50.0}})["cpu_share"] == (
        0.125
    )


def test_busy_threads_of_dask_are_counted_on_average() -> None:
    told = {"threads": 4, "busy_seconds": 30, "wall_seconds": 20}
    found = use_of({"cpu_seconds": 1.0, "dask": told})["dask"]
    assert (found["busy_threads"], found["busy_share"]) == (1.5, 0.375)


@pytest.mark.parametrize("asked", [{"cpu": None}, {"cpu": "many"}, {"cpu": []}, {"cpu": "0"}])
def test_what_the_machine_had_may_be_unknown(asked: dict[str, Any]) -> None:
    found = use_of({"cpu_seconds": 1.0}, memory_bytes="8Gi", **asked)
    assert (found["cores"], found["cpu_share"], found["memory_share"]) == (None, None, None)


def test_without_a_measure_there_is_no_share() -> None:
    found = use_of(None)
    assert (found["cpu_share"], found["spark"], found["dask"]) == (None, None, None)


_anything: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.text(max_size=4), st.integers(), st.floats(),
        st.sampled_from(["1e999", "NaN", 10**400, 0.5, 7]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)  # fmt: skip
_names = st.sampled_from([*SPARK, "threads", "cpu_seconds", "partial"])
_told = st.one_of(_anything, st.dictionaries(_names, _anything, max_size=8))


@given(st.fixed_dictionaries({}, optional={"spark": _told, "dask": _told, "cpu_seconds": _told}))
def test_whatever_a_pod_tells_the_ledger_holds_finite_numbers_from_0_on(
    use: dict[str, Any],
) -> None:
    events = [
        *attempt_life(ONE, 0, 20, None, cpu="2"),
        tell(ONE, "attempt.ended", 70, outcome="success", use=use),
    ]
    attempt = read_timeline(events).attempts[ONE]
    for numbers in (attempt.spark, attempt.dask):
        assert all(math.isfinite(value) and value >= 0 for value in numbers.values())
    found = shares(attempt, 100, 50).to_json()
    for told in (found["spark"] or {}, found["dask"] or {}):
        assert all(math.isfinite(value) and value >= 0 for value in told.values())
