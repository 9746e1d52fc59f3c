"""How long a job's last runs took."""

from __future__ import annotations

from decimal import Decimal

from piecework.ledger.store import Ledger, open_ledger
from piecework.report.history import history
from tests.unit.ledger.histories import attempt_life, machine_life


def _succeed(ledger: Ledger, attempt: str, begin: float, seconds: float, *machines: str) -> None:
    end = begin + seconds
    for machine in machines:
        ledger.append(
            machine_life(machine, begin, end, bought_for=attempt, had={attempt: (begin, end)})
        )
    ledger.append(attempt_life(attempt, begin, begin, end))


def test_a_job_that_never_ran_has_no_history() -> None:
    with open_ledger("sqlite://") as ledger:
        assert history(ledger, "etl", "clean") is None


def test_history_is_the_paid_time_of_all_machines_of_successful_attempts() -> None:
    with open_ledger("sqlite://") as ledger:
        _succeed(ledger, "etl.clean.aa.1", 0, 100, "m0", "m1")
        ledger.append(machine_life("m2", 0, 900, had={"etl.clean.bb.1": (0, 900)}))
        ledger.append(attempt_life("etl.clean.bb.1", 0, 0, 900, "error"))
        _succeed(ledger, "ml.clean.cc.1", 0, 5000, "m3")
        found = history(ledger, "etl", "clean")
    assert found is not None
    assert (found.runs, found.low_seconds, found.high_seconds) == (1, Decimal(200), Decimal(200))


def test_only_the_last_runs_count() -> None:
    with open_ledger("sqlite://") as ledger:
        for number in range(8):
            seconds = 1000 if number < 4 else 100
            _succeed(ledger, f"etl.clean.{number}.1", number * 2000, seconds, f"m{number}")
        found = history(ledger, "etl", "clean", last=4)
    assert found is not None
    assert (found.runs, found.high_seconds) == (4, Decimal(100))
