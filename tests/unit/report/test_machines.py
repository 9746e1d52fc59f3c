"""Reports on machines: their life, who had them, and their bill."""

from __future__ import annotations

from piecework.ledger.store import open_ledger
from piecework.report.machines import list_machines, report_machines
from tests.unit.ledger.histories import at, attempt_life, machine_life, tell

A = "etl.clean.aa.1"


def test_a_machine_tells_its_life_and_its_bill() -> None:
    with open_ledger("sqlite://") as ledger:
        ledger.append(machine_life("m0", 0, 125, bought_for=A, had={A: (10, 117)}, released=120))
        ledger.append(attempt_life(A, 0, 15, 115))
        (report,) = list_machines(ledger)
    told = report.to_json()
    assert (told["machine"], told["state"], told["instance_type"]) == ("m0", "gone", "m5.large")
    assert (told["usd_per_hour"], told["cost"]) == ("3.6", "0.125000000")
    assert told["gone_cause"] == "returned"
    assert told["parts"] == {
        "boot": "0.010000000",
        "setup": "0.005000000",
        "work": "0.100000000",
        "teardown": "0.007000000",
        "idle": "0.003000000",
    }
    assert [occupancy["attempt"] for occupancy in told["occupancies"]] == [A]


def test_machines_say_what_they_are_doing() -> None:
    with open_ledger("sqlite://") as ledger:
        ledger.append([tell("asked", "machine.requested", 0, attempt=A)])
        ledger.append(machine_life("boots", 1))
        ledger.append(machine_life("busy", 2, had={A: (5, None)}))
        ledger.append(machine_life("free", 3, had={A: (5, 6)}))
        ledger.append(machine_life("leaving", 4, had={A: (5, 6)}, released=7))
        ledger.append(machine_life("left", 5, 9, had={A: (6, 7)}, released=8))
        reports = list_machines(ledger, now=at(100))
        assert [(r.machine.id, r.state, r.attempt) for r in reports] == [
            ("left", "gone", None),
            ("leaving", "released", None),
            ("free", "idle", None),
            ("busy", "occupied", A),
            ("boots", "idle", None),
            ("asked", "requested", A),
        ]
        assert [r.machine.id for r in list_machines(ledger, live=False)] == ["left"]
        assert len(list_machines(ledger, live=True)) == 5
        assert len(list_machines(ledger, pool="local", since=at(3))) == 3
        assert [r.machine.id for r in list_machines(ledger, limit=1)] == ["left"]
        assert report_machines(ledger, ["nowhere"]) == []
