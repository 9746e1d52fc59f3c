"""What a machine's time is charged as, rule by rule. All machines cost 0.001 dollars a second."""

from __future__ import annotations

from decimal import Decimal

import pytest

from piecework.ledger.charges import Part, bill_machine, charge_machine, to_microseconds
from piecework.ledger.events import Event
from piecework.ledger.occupancy import read_timeline
from tests.unit.ledger.histories import at, attempt_life, machine_life, tell

A, B = "etl.clean.aa.1", "etl.load.bb.1"
SECOND = 1_000_000  # nanos: 0.001 dollars


def charged(events: list[Event], now: float = 10_000) -> dict[tuple[str | None, Part], float]:
    """Seconds' worth of money, by attempt and part."""
    timeline = read_timeline(events)
    sums: dict[tuple[str | None, Part], float] = {}
    for machine in timeline.machines.values():
        for charge in charge_machine(machine, timeline.attempts, at(now))[1]:
            key = charge.attempt, charge.part
            sums[key] = sums.get(key, 0) + charge.nanos / SECOND
    return sums


def one_attempt() -> list[Event]:
    """Launched 0, occupied 10, started 15, ended 115, vacated 117, released 120, gone 125."""
    life = machine_life("m0", 0, 125, bought_for=A, had={A: (10, 117)}, released=120)
    return life + attempt_life(A, 0, 15, 115)


def test_an_attempt_is_charged_from_the_purchase_to_the_end_of_the_meter() -> None:
    assert charged(one_attempt()) == {
        (A, Part.BOOT): 10,
        (A, Part.SETUP): 5,
        (A, Part.WORK): 100,
        (A, Part.TEARDOWN): 2 + 5,
        (None, Part.IDLE): 3,
    }


def test_what_a_provider_bills_at_least_is_the_last_attempts_minimum() -> None:
    events = machine_life("m0", 0, 20, bought_for=A, had={A: (0, 10)}, released=20)
    assert charged(events + attempt_life(A, 0, 0, 10)) == {
        (A, Part.WORK): 10,
        (A, Part.MINIMUM): 50,
    }


def test_a_machine_kept_within_its_minimum_is_not_idle() -> None:
    events = machine_life("m0", 0, 100, bought_for=A, had={A: (0, 10)})
    assert charged(events + attempt_life(A, 0, 0, 10)) == {
        (A, Part.WORK): 10,
        (A, Part.MINIMUM): 50,
        (None, Part.IDLE): 40,
    }


def test_time_is_rounded_up_to_the_providers_increment() -> None:
    events = machine_life(
        "m0", 0, 61.5, bought_for=A, had={A: (0, 61.5)}, minimum=0, increment_seconds=60
    )
    assert charged(events + attempt_life(A, 0, 0, 61.5)) == {
        (A, Part.WORK): 61.5,
        (A, Part.MINIMUM): 58.5,
    }


def test_a_machine_handed_over_is_charged_to_each_attempt_for_its_own_time() -> None:
    events = machine_life("m0", 0, 200, bought_for=A, had={A: (5, 30), B: (40, 140)}, released=200)
    events += attempt_life(A, 0, 5, 30) + attempt_life(B, 35, 40, 140)
    assert charged(events) == {
        (A, Part.BOOT): 5,
        (A, Part.WORK): 25,
        (A, Part.MINIMUM): 10,
        (B, Part.WORK): 100,
        (None, Part.IDLE): 60,
    }


def test_a_machine_that_its_buyer_never_had_was_booted_in_vain() -> None:
    events = machine_life("m0", 0, 100, bought_for=A, had={B: (30, 100)})
    events += attempt_life(A, 0) + attempt_life(B, 0, 30, 100)
    assert charged(events) == {(None, Part.FAILED_PURCHASE): 30, (B, Part.WORK): 70}


def test_a_machine_that_nobody_ever_had_is_a_failed_purchase_with_its_minimum() -> None:
    events = machine_life("m0", 0, 20, bought_for=A) + attempt_life(A, 0, None, 15)
    assert charged(events) == {(None, Part.FAILED_PURCHASE): 60}


def test_a_machine_that_still_boots_is_charged_to_the_attempt_that_waits_for_it() -> None:
    events = machine_life("m0", 0, None, bought_for=A, minimum=0) + attempt_life(A, 0)
    assert charged(events, now=40) == {(A, Part.BOOT): 40}


def test_a_machine_that_boots_for_an_attempt_that_is_over_is_a_failed_purchase() -> None:
    events = machine_life("m0", 0, None, bought_for=A, minimum=0)
    events += attempt_life(A, 0, None, 10, outcome="cancelled")
    assert charged(events, now=40) == {(None, Part.FAILED_PURCHASE): 40}


def test_a_machine_that_nobody_asked_for_is_an_orphan() -> None:
    events = [e for e in machine_life("m0", 0, 100) if e.kind != "machine.requested"]
    assert charged(events) == {(None, Part.ORPHAN): 100}


def test_a_machine_of_an_attempt_that_nobody_knows_is_an_orphan() -> None:
    events = machine_life("m0", 0, 100, bought_for=A, had={A: (10, 100)})
    assert charged(events) == {(None, Part.ORPHAN): 100}


def test_a_machine_that_outlives_its_attempt_unseen_is_an_orphan_beyond_its_minimum() -> None:
    events = machine_life("m0", 0, 500, bought_for=A, had={A: (0, None)})
    assert charged(events + attempt_life(A, 0, 0, 50)) == {
        (A, Part.WORK): 50,
        (A, Part.MINIMUM): 10,
        (None, Part.ORPHAN): 440,
    }


def test_a_machine_without_an_end_is_billed_up_to_now() -> None:
    events = machine_life("m0", 0, None, bought_for=A, had={A: (0, None)})
    assert charged(events + attempt_life(A, 0, 10), now=100) == {
        (A, Part.SETUP): 10,
        (A, Part.WORK): 90,
    }


def test_overlapping_occupancies_are_charged_to_the_later_one() -> None:
    events = machine_life("m0", 0, 100, bought_for=A, had={A: (0, 80), B: (50, 100)})
    events += attempt_life(A, 0, 0, 80) + attempt_life(B, 0, 50, 100)
    assert charged(events) == {(A, Part.WORK): 50, (B, Part.WORK): 50}


def test_a_gang_is_charged_for_all_of_its_machines() -> None:
    events = attempt_life(A, 0, 10, 100)
    for machine in ("m0", "m1", "m2"):
        events += machine_life(machine, 0, 100, bought_for=A, had={A: (5, 100)})
    assert charged(events) == {(A, Part.BOOT): 15, (A, Part.SETUP): 15, (A, Part.WORK): 270}


def test_clocks_that_step_back_never_make_a_negative_amount() -> None:
    events = machine_life("m0", 100, 50, bought_for=A, had={A: (90, 20)})
    events += attempt_life(A, 0, 95, 30)
    assert charged(events) == {(A, Part.MINIMUM): 60}


def test_a_price_that_changes_counts_from_its_time_on() -> None:
    events = machine_life("m0", 0, 100, bought_for=A, had={A: (0, 100)})
    dearer = tell("m0", "machine.price", 40, source="spot", usd_per_hour="7.2", currency="USD")
    assert charged([*events, dearer, *attempt_life(A, 0, 0, 100)]) == {(A, Part.WORK): 40 + 120}


@pytest.mark.parametrize("price", [None, "NaN", "-1", "dear", "1e99"])
def test_time_without_a_price_is_unpriced_seconds_and_not_zero_money(price: str | None) -> None:
    events = machine_life("m0", 0, 100, bought_for=A, had={A: (0, 100)}, price=price)
    later = tell("m0", "machine.price", 70, source="late", usd_per_hour="3.6", currency="USD")
    timeline = read_timeline([*events, later, *attempt_life(A, 0, 0, 100)])
    bill = bill_machine(timeline.machines["m0"], at(0))
    assert bill is not None
    assert (bill.nanos, bill.unpriced_microseconds) == (30 * SECOND, 70_000_000)


def test_a_price_in_another_currency_is_no_price() -> None:
    events = [e for e in one_attempt() if e.kind != "machine.price"]
    euros = tell("m0", "machine.price", 0, usd_per_hour="3.6", currency="EUR")
    timeline = read_timeline([*events, euros])
    bill = bill_machine(timeline.machines["m0"], at(0))
    assert bill is not None
    assert (bill.nanos, bill.unpriced_microseconds) == (0, 125_000_000)


@pytest.mark.parametrize(
    ("gone", "cause", "spot", "billed"),
    [
        (3599, "interrupted", True, 0),
        (3600, "interrupted", True, 3600),
        (3599, "returned", True, 3599),
        (3599, "interrupted", False, 3599),
    ],
)
def test_a_spot_machine_taken_back_in_its_first_hour_is_free_on_aws(
    gone: float, cause: str, spot: bool, billed: int
) -> None:
    events = machine_life("m0", 0, None, had={A: (0, gone)}, billing="aws-ec2-linux", spot=spot)
    events += [*attempt_life(A, 0, 0, gone), tell("m0", "machine.gone", gone, cause=cause)]
    assert sum(charged(events).values()) == billed


def test_the_rule_by_name_counts_where_the_purchase_states_no_minimum() -> None:
    events = [
        tell("m0", "machine.requested", 0, pool="p"),
        tell("m0", "machine.launched", 0, billing="gcp-compute-engine"),
        tell("m0", "machine.price", 0, usd_per_hour="3.6"),
        tell("m0", "machine.gone", 5),
    ]
    assert charged(events) == {(None, Part.FAILED_PURCHASE): 60}


def test_a_bill_starts_at_the_first_sign_of_life_where_the_launch_is_lost() -> None:
    events = [e for e in one_attempt() if e.kind != "machine.launched"]
    bill = bill_machine(read_timeline(events).machines["m0"], at(0))
    assert bill is not None
    assert bill.start == to_microseconds(at(10))


def test_a_machine_that_never_launched_has_no_bill() -> None:
    events = [
        tell("m0", "machine.requested", 0, pool="local", attempt=A),
        tell("m0", "machine.gone", 9, cause="never-joined"),
    ]
    assert charged(events) == {}


def test_a_bill_is_split_so_that_no_billionth_is_lost() -> None:
    events = machine_life(
        "m0", 0, 3, bought_for=A, had={A: (1, 2)}, price="0.0000012", minimum=0, released=2
    )
    timeline = read_timeline(events + attempt_life(A, 0, 1, 2))
    bill, charges = charge_machine(timeline.machines["m0"], timeline.attempts, at(0))
    assert bill is not None
    assert bill.nanos == 1
    assert [charge.nanos for charge in charges] == [1, 0, 0]


def test_of_two_sources_the_earliest_end_counts() -> None:
    events = one_attempt()
    late = tell("m0", "machine.gone", 500, source="sweep", cause="lost")
    timeline = read_timeline([late, *events])
    assert timeline.machines["m0"].gone_at == at(125)
    assert timeline.machines["m0"].gone_cause == "returned"


def test_an_end_that_does_not_say_what_it_was_is_no_success() -> None:
    events = attempt_life(A, 0, 1, 2, outcome="splendid")
    assert read_timeline(events).attempts[A].outcome == "error"


def test_the_price_of_a_machine_is_exact_beyond_billionths() -> None:
    events = machine_life("m0", 0, 36_000, had={A: (0, 36_000)}, price="0.00000000015")
    bill = bill_machine(read_timeline(events).machines["m0"], at(0))
    assert bill is not None
    # Ten hours cost 1.5 nanos, rounded half to even.
    assert bill.nanos == 2
    assert read_timeline(events).machines["m0"].prices[0].usd_per_hour == Decimal("1.5e-10")
