"""What attempts did, from the ledger, and the advice that comes of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from piecework.ledger import lookup
from piecework.ledger.events import Event
from piecework.ledger.store import Ledger, open_ledger
from piecework.report.observed import JobAdvice, advise_job
from piecework.report.sizing import ENOUGH_ATTEMPTS, WIDE_MEMORY_MARGIN
from piecework.spec.pool import Pool
from tests.unit.ledger.histories import attempt_life, machine_life, tell

POOLS = {"local": Pool(name="local", types=("m6a.large", "m6a.xlarge", "m6a.2xlarge"))}
USE = {"cpu_seconds": 300.0, "peak_memory_bytes": 1 << 30}


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    with open_ledger("sqlite://") as opened:
        yield opened


def attempt(
    name: str,
    began: float = 0,
    use: dict[str, Any] | None = USE,
    outcome: str = "success",
    **asked: Any,
) -> list[Event]:
    """One of ten minutes on a machine of 8 cores."""
    told = {"cpu": "8", "memory_bytes": 32 << 30, "pool": "local", "engine": "python", **asked}
    end = began + 600
    return [
        *machine_life(f"m-{name}", began, end + 5, bought_for=name, had={name: (began, end + 5)}),
        *attempt_life(name, began, began, None, **told),
        tell(name, "attempt.admitted", began, machines=[f"m-{name}"], instance_type="m6a.2xlarge"),
        tell(name, "attempt.ended", end, outcome=outcome, use=use),
    ]


def ask(ledger: Ledger, job: str = "clean", pools: dict[str, Pool] | None = None) -> JobAdvice:
    return advise_job(ledger, "etl", job, POOLS if pools is None else pools, lambda _: None)


def test_a_jobs_attempts_in_the_ledger_are_what_advice_rests_on(ledger: Ledger) -> None:
    for number in range(3):
        ledger.append(attempt(f"etl.clean.a{number}.1", 1000 * number))
    found = ask(ledger)
    assert found.name == "etl.clean"
    assert found.advice.attempts == 3
    assert found.advice.now is not None
    assert found.advice.now.instance_type.name == "m6a.2xlarge"
    assert found.advice.better is not None
    assert found.advice.better.instance_type.name == "m6a.large"
    told = found.to_json()
    assert (told["verdict"], told["pool"], told["machines"]) == ("change", "local", 1)


def test_spark_with_much_driver_time_needs_few_cores(ledger: Ledger) -> None:
    spark = {
        "wall_seconds": 590, "driver_seconds": 560, "busy_seconds": 200, "idle_seconds": 4520,
        "critical_seconds": 10, "slots": 8, "cpu_seconds": 100.0,
    }  # fmt: skip
    ledger.append(attempt("etl.clean.aa.1", use={**USE, "spark": spark}, engine="spark"))
    found = ask(ledger).advice
    assert found.better is not None
    assert found.better.instance_type.name == "m6a.large"
    # 570 s of the driver and around it, then 200 s of tasks on two slots.
    assert 570 * 0.9 <= found.better.least_seconds <= (570 + 100) * 1.1
    assert found.better.most_seconds >= 570 + 100


def test_what_ran_out_of_memory_says_how_much_is_needed(ledger: Ledger) -> None:
    ledger.append(attempt("etl.clean.aa.1"))
    full = {"cpu_seconds": 1.0, "peak_memory_bytes": 8 << 30}
    ledger.append(attempt("etl.clean.ab.1", 1000, full, "out-of-memory"))
    found = ask(ledger).advice
    assert found.needed_memory is not None
    assert found.needed_memory.bytes == 12 << 30


def test_what_a_kubelet_counted_is_taken_for_the_whole_and_its_memory_is_less_sure(
    ledger: Ledger,
) -> None:
    for number in range(ENOUGH_ATTEMPTS):
        counted = {**USE, "counted_seconds": 450.0}
        ledger.append(attempt(f"etl.clean.a{number}.1", 1000 * number, counted, engine="container"))
    found = ask(ledger).advice
    assert found.peak_memory is not None
    assert found.needed_memory is not None
    assert found.needed_memory.bytes == found.peak_memory.bytes * WIDE_MEMORY_MARGIN
    with ledger.reading() as connection:
        runs = lookup.attempts_of(connection, ["etl.clean.a0"])
    (seen,) = ledger.timeline(runs).attempts.values()
    assert seen.counted_seconds == 450


def test_executors_in_pods_of_their_own_need_memory_beside_the_driver(ledger: Ledger) -> None:
    spark = {
        "wall_seconds": 590, "driver_seconds": 90, "busy_seconds": 4000, "idle_seconds": 0,
        "critical_seconds": 10, "slots": 8, "elsewhere": 1, "executors": 2, "jvm_bytes": 3 << 30,
        "python_bytes": 1 << 30,
    }  # fmt: skip
    ledger.append(attempt("etl.clean.aa.1", use={**USE, "spark": spark}, engine="spark"))
    found = ask(ledger).advice
    assert found.peak_memory is not None
    assert found.peak_memory.bytes == 9 << 30


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"outcome": "error"}, "no run of it has succeeded yet"),
        ({"use": None}, "nobody measured what it used"),
        ({"use": None, "engine": "container"}, "an image of the user's own has no launcher"),
        ({"cpu": None}, "when and where it ran is not known"),
        ({"pool": "gone"}, "its pool 'gone' is not configured here"),
        (
            {"use": {**USE, "spark": {"elsewhere": 1}}, "engine": "spark"},
            "the memory of Spark's executors, which had pods of their own, is not known",
        ),
    ],
)
def test_where_too_little_is_known_it_says_why(
    ledger: Ledger, change: dict[str, Any], why: str
) -> None:
    ledger.append(attempt("etl.clean.aa.1", **change))
    found = ask(ledger)
    assert found.advice.verdict == "none"
    assert found.advice.reason is not None
    assert why in found.advice.reason


def test_a_job_that_never_ran_has_no_advice(ledger: Ledger) -> None:
    assert ask(ledger).advice.reason == "no run of it has succeeded yet"


def test_the_jobs_there_are_come_by_name(ledger: Ledger) -> None:
    for name in ("ml.train.aa.1", "etl.load.ab.1", "etl.clean.ac.1", "etl.clean.ad.1"):
        ledger.append(attempt(name))
    with ledger.reading() as connection:
        assert lookup.find_jobs(connection) == [
            ("etl", "clean"), ("etl", "load"), ("ml", "train")
        ]  # fmt: skip
