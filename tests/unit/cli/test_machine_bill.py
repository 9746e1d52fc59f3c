"""The machines of a pipeline run, as people read them."""

from __future__ import annotations

from pathlib import Path

from piecework.cli import bill, machine_bill
from piecework.config import load
from piecework.ledger.store import open_ledger
from piecework.report.runs import report_runs
from tests.unit.ledger.histories import attempt_life, machine_life

A = "etl.clean.aa.1"
RUNS = (
    {"job": "clean", "attempts": [{"attempt": A, "machines": ["m0"]}]},
    {"job": "never", "attempts": [{"attempt": "etl.never.bb.1", "machines": []}]},
)


def test_each_machine_says_when_it_was_bought_and_returned_for_whom_and_for_how_much(
    home: Path,
) -> None:
    home.mkdir()
    settings = load()
    with open_ledger(settings.ledger_url) as ledger:
        ledger.append(machine_life("m0", 0, 125, bought_for=A, had={A: (10, 117)}, released=120))
        ledger.append(attempt_life(A, 0, 15, 115))
    heading, line, _ = machine_bill.describe(settings, RUNS).splitlines()
    for word in ("MACHINE", "BOUGHT", "JOINED", "USED BY", "RETURNED", "AN HOUR", "COST"):
        assert word in heading
    for text in ("m0", "m5.large", "clean", "+2m 5s", "$3.60", "$0.12"):
        assert text in line


def test_the_machines_sum_is_that_of_the_jobs_and_of_what_no_job_is_charged_for(home: Path) -> None:
    home.mkdir()
    settings = load()
    with open_ledger(settings.ledger_url) as ledger:
        ledger.append(machine_life("m0", 0, 100, bought_for=A, had={A: (10, 80)}, released=80))
        ledger.append(machine_life("m1", 0, 100))
        ledger.append(attempt_life(A, 0, 15, 80))
        (run,) = [each.to_json() for each in report_runs(ledger, [A.rpartition(".")[0]])]
    runs = [*RUNS, {"job": "clean", "attempts": [{"attempt": A, "machines": ["m1"]}]}]
    *_, last = machine_bill.describe(settings, runs).splitlines()
    assert last.split() == ["sum", "$0.10", "$0.20"]
    assert bill.money(run["cost"]) == "$0.10"


def test_runs_without_machines_have_no_table(home: Path) -> None:
    home.mkdir()
    assert machine_bill.describe(load(), RUNS[1:]) == ""
    machine_bill.wait_until_returned(load(), RUNS[1:])
