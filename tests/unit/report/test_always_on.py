"""The comparison with a cluster that runs day and night."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import pytest

from piecework.ledger.store import Ledger, open_ledger
from piecework.report.always_on import compare
from tests.unit.ledger.histories import at, attempt_life, machine_life

DAY = 86400
A, B, C = "etl.clean.aa.1", "etl.load.bb.1", "ml.train.cc.1"


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    """Two machines busy together for 50 s, and one alone for 1,000 s; 0.001 dollars a second."""
    with open_ledger("sqlite://") as opened:
        opened.append(machine_life("m0", 0, 100, bought_for=A, had={A: (0, 100)}))
        opened.append(machine_life("m1", 50, 150, bought_for=B, had={B: (50, 150)}))
        opened.append(machine_life("m2", 200, 1200, bought_for=C, had={C: (200, 1200)}))
        opened.append(attempt_life(A, 0, 0, 100, pipeline_run="monday"))
        opened.append(attempt_life(B, 0, 50, 150, pipeline_run="monday"))
        opened.append(attempt_life(C, 0, 200, 1200, pipeline_run="tuesday"))
        yield opened


def test_a_cluster_is_as_large_as_the_busiest_moment_and_paid_for_a_day_at_least(
    ledger: Ledger,
) -> None:
    found = compare(ledger, now=at(2000))
    assert found is not None
    assert found.machines == {"m5.large": 2}
    assert found.busiest_at == at(50)
    assert found.cluster is not None
    assert found.cluster.amount == Decimal(2 * DAY) / 1000
    assert found.cost.amount == Decimal("1.2")
    assert found.saving == 1 - Decimal("1.2") / Decimal("172.8")


def test_a_longer_period_is_paid_in_whole(ledger: Ledger) -> None:
    found = compare(ledger, since=at(-DAY), until=at(2 * DAY), now=at(9 * DAY))
    assert found is not None
    assert found.cluster is not None
    assert found.cluster.amount == Decimal(2 * 3 * DAY) / 1000


def test_one_pipeline_run_is_compared_by_itself(ledger: Ledger) -> None:
    found = compare(ledger, pipeline_run="tuesday", now=at(2000))
    assert found is not None
    assert found.machines == {"m5.large": 1}
    assert found.cost.amount == Decimal(1)
    assert found.saving == 1 - Decimal(1) / Decimal("86.4")


def test_idle_time_of_a_machine_of_its_own_counts_against_a_pipeline_run(ledger: Ledger) -> None:
    attempt = "ml.train.dd.1"
    ledger.append(machine_life("m3", 0, 300, bought_for=attempt, had={attempt: (0, 100)}))
    ledger.append(attempt_life(attempt, 0, 0, 100, pipeline_run="friday"))
    found = compare(ledger, pipeline_run="friday", now=at(2000))
    assert found is not None
    assert found.cost.amount == Decimal("0.3")


def test_the_sentence_says_what_a_24x7_cluster_is(ledger: Ledger) -> None:
    found = compare(ledger, now=at(2000))
    assert found is not None
    assert found.sentence == (
        "The same jobs on a 24x7 cluster (the 2 machines busy at the busiest moment, 2 x m5.large, "
        "paid for a whole day) would have cost $172.80; here they cost $1.20, 99.3% less."
    )
    assert found.to_json()["sentence"] == found.sentence


def test_a_cluster_that_would_have_been_cheaper_is_told() -> None:
    with open_ledger("sqlite://") as ledger:
        ledger.append(
            machine_life("m0", 0, 4 * DAY, bought_for=A, had={A: (2 * DAY, 2 * DAY + 100)})
        )
        ledger.append(attempt_life(A, 0, 2 * DAY, 2 * DAY + 100, pipeline_run="slow"))
        found = compare(ledger, pipeline_run="slow", now=at(5 * DAY))
    assert found is not None
    assert found.saving is not None
    assert found.saving < 0
    assert found.sentence.endswith("% more.")


def test_a_machine_without_a_price_makes_the_comparison_unknown() -> None:
    with open_ledger("sqlite://") as ledger:
        ledger.append(machine_life("m0", 0, 100, had={A: (0, 100)}, price=None))
        ledger.append(attempt_life(A, 0, 0, 100))
        found = compare(ledger, now=at(200))
    assert found is not None
    assert (found.cluster, found.saving) == (None, None)
    assert "not known" in found.sentence


def test_the_busiest_moment_is_the_dearest_not_the_one_with_the_most_machines(
    ledger: Ledger,
) -> None:
    big = "ml.train.ee.1"
    ledger.append(machine_life("m4", 300, 400, bought_for=big, had={big: (300, 400)}, price="36"))
    ledger.append(attempt_life(big, 0, 300, 400, pipeline_run="sunday"))
    found = compare(ledger, now=at(2000))
    assert found is not None
    assert found.busiest_at == at(300)
    assert found.cluster is not None
    # m4 at 0.01 dollars a second beside m2 at 0.001, against two at 0.001 each at the start.
    assert found.cluster.amount == Decimal(DAY) * Decimal("0.011")


def test_nothing_that_was_busy_is_nothing_to_compare(ledger: Ledger) -> None:
    assert compare(ledger, since=at(5000), now=at(9000)) is None
    assert compare(ledger, pipeline_run="sunday", now=at(9000)) is None
