from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from piecework.keeper.cluster.record import (
    events_of_attempt,
    events_of_machine,
    merge_use,
    price_steps,
)
from piecework.keeper.cluster.snapshot import AttemptSeen
from piecework.ledger.charges import charge_machine
from piecework.ledger.events import Event, Kind, Outcome
from piecework.ledger.occupancy import read_timeline
from piecework.ledger.store import open_ledger
from piecework.machines.provider import MachineSeen, PriceStep
from piecework.plan.price import load_price_book
from tests.unit.keeper.cluster.worlds import NOW, at, attempt, machine, pod, pool, world

_GONE = {"released_at": at(-4), "release_reason": "nobody needs it", "gone_at": at(2)}


def _events(
    *attempts: AttemptSeen, machines: Mapping[str, MachineSeen] | None = None
) -> list[Event]:
    known = {"m": machine("m")} if machines is None else machines
    on = world(attempts, known.values()).machine_on
    found = [event for each in attempts for event in events_of_attempt(each, on, NOW)]
    for each in known.values():
        steps = price_steps(each, pool(), load_price_book())
        found += events_of_machine(each, steps, NOW)
    return found


def _kinds(events: list[Event], subject: str) -> list[Kind]:
    return [event.kind for event in events if event.subject == subject]


def test_a_whole_life_is_told_with_the_objects_own_times() -> None:
    done = attempt(pod("run", node="node-m", bound=-29, started=-27, ended=-5, admitted=-60))
    events = _events(done, machines={"m": machine("m", attempt="run.abc.1", **_GONE)})
    timeline = read_timeline(events)
    known, bought = timeline.attempts["run.abc.1"], timeline.machines["m"]
    assert (known.queued_at, known.admitted_at) == (at(-100), at(-60))
    assert (known.started_at, known.ended_at) == (at(-27), at(-5))
    assert (known.outcome, known.exit_code) == (Outcome.SUCCESS, 0)
    assert known.machines == ("m",)
    assert (bought.launched_at, bought.joined_at, bought.ready_at) == (at(-38), at(-32), at(-30))
    assert (bought.released_at, bought.gone_at, bought.gone_cause) == (at(-4), at(2), "returned")
    (occupancy,) = bought.occupancies
    assert (occupancy.start, occupancy.end, occupancy.vacated) == (at(-29), at(-5), True)
    assert bought.bought_for == "run.abc.1"


def test_telling_it_again_later_changes_nothing() -> None:
    done = attempt(pod("run", node="node-m", started=-27, ended=-5, admitted=-60))
    bought = machine("m", attempt="run.abc.1", **_GONE)
    on = {"node-m": bought}
    first = events_of_attempt(done, on, NOW)
    again = events_of_attempt(done, on, at(3600))
    assert [event.identity for event in first] == [event.identity for event in again]
    assert [event.at for event in first] == [event.at for event in again]


def test_an_admission_is_told_when_its_machines_are_known() -> None:
    alone = attempt(pod("run", admitted=-5))
    assert Kind.ATTEMPT_ADMITTED not in _kinds(_events(alone), "run.abc.1")
    bound = attempt(pod("run", node="node-m", bound=-1, admitted=-5))
    assert Kind.ATTEMPT_ADMITTED in _kinds(_events(bound), "run.abc.1")


def test_an_admission_without_a_machine_is_told_at_the_end() -> None:
    end = '{"outcome": "never-started", "cause": "no machine", "at": "2026-11-24T11:59:59Z"}'
    ended = attempt(pod("run", admitted=-5, deleting=-1, annotations={"piecework.dev/end": end}))
    known = read_timeline(_events(ended)).attempts["run.abc.1"]
    assert known.outcome is Outcome.NEVER_STARTED
    assert known.admitted_at == at(-5)
    assert known.machines == ()


def test_a_handed_over_machine_has_two_occupancies_in_turn() -> None:
    first = attempt(pod("first", node="node-m", bound=-29, started=-28, ended=-20, admitted=-60))
    second = attempt(pod("second", node="node-m", bound=-15, started=-14, admitted=-16))
    (one, two) = read_timeline(_events(first, second)).machines["m"].occupancies
    assert (one.attempt, one.end) == ("first.abc.1", at(-20))
    assert (two.attempt, two.start, two.end) == ("second.abc.1", at(-15), None)


def test_pods_of_nobody_known_are_told_as_occupying_and_become_waste() -> None:
    stranger = attempt(pod("stranger", node="node-m", bound=-20, started=-19, request=False))
    events = _events(stranger, machines={"m": machine("m", attempt=None, run=None, gone_at=at(30))})
    timeline = read_timeline(events)
    assert timeline.attempts == {}
    _, charges = charge_machine(timeline.machines["m"], timeline.attempts, at(30))
    assert {charge.attempt for charge in charges} == {None}


def test_a_purchase_is_not_told_before_it_is_known_for_whom() -> None:
    unknown = machine("m", attempt=None, run="run-abc", requested_at=at(-2))
    kinds = [event.kind for event in events_of_machine(unknown, [], NOW)]
    assert Kind.MACHINE_REQUESTED not in kinds
    assert Kind.MACHINE_LAUNCHED in kinds  # its meter runs, whoever it is for
    old = machine("m", attempt=None, run="run-abc", requested_at=at(-11))
    assert _kinds(events_of_machine(old, [], NOW), "m")[0] is Kind.MACHINE_REQUESTED


def test_a_claim_that_never_became_a_machine_has_no_bill() -> None:
    failed = machine(
        "m", node=None, launched_at=None, joined_at=None, ready_at=None,
        leaving_at=at(-1), gone_at=at(-1),
    )  # fmt: skip
    timeline = read_timeline(events_of_machine(failed, [], NOW))
    bill, charges = charge_machine(timeline.machines["m"], {}, NOW)
    assert bill is None
    assert charges == ()


def test_a_release_of_a_groups_machine_is_told_only_once_it_is_gone() -> None:
    released = {"provider": "asg", "released_at": at(-4), "attempt": None, "run": None}
    waiting = machine("i-1", **released)
    assert Kind.MACHINE_RELEASED not in _kinds(events_of_machine(waiting, [], NOW), "i-1")
    gone = machine("i-1", **released, gone_at=at(-1))
    assert Kind.MACHINE_RELEASED in _kinds(events_of_machine(gone, [], NOW), "i-1")


def test_causes_of_an_end_are_told_apart() -> None:
    causes = {
        machine("m", **_GONE).gone_cause: "returned",
        machine("m", gone_at=NOW).gone_cause: "lost",
        machine("m", gone_at=NOW, interrupted_at=at(-9)).gone_cause: "interrupted",
        machine("m", gone_at=NOW, joined_at=None).gone_cause: "never-joined",
    }
    assert {found: expected for found, expected in causes.items() if found != expected} == {}
    assert len(causes) == 4


def test_a_spot_machine_without_a_known_price_is_unpriced_and_never_free() -> None:
    (step,) = price_steps(machine("m", spot=True), pool(), load_price_book())
    assert step.usd_per_hour is None
    stated = pool(spot_prices={"m6a.large": "0.03"})
    (step,) = price_steps(machine("m", spot=True), stated, load_price_book())
    assert step.usd_per_hour == Decimal("0.03")


def test_the_sellers_own_prices_go_before_the_list() -> None:
    own = (PriceStep(at(-38), Decimal("0.02"), "spot"), PriceStep(at(-9), Decimal("0.03"), "spot"))
    known = machine("m", spot=True, prices=own)
    events = events_of_machine(known, price_steps(known, pool(), load_price_book()), NOW)
    prices = [event for event in events if event.kind is Kind.MACHINE_PRICE]
    assert [(event.sequence, event.data["usd_per_hour"]) for event in prices] == [
        (0, "0.02"),
        (1, "0.03"),
    ]


def test_what_a_gang_used_is_added_up_and_its_peak_is_the_highest() -> None:
    used = {"cpu_seconds": 1.5, "peak_memory_bytes": 10, "read_bytes": 5, "written_bytes": None}
    more = {**used, "peak_memory_bytes": 30}
    assert merge_use([used, None, more]) == {
        "cpu_seconds": 3.0,
        "peak_memory_bytes": 30,
        "read_bytes": 10,
        "written_bytes": None,
    }
    assert set(merge_use([None]).values()) == {None}


def test_what_an_engine_tells_of_its_whole_cluster_is_taken_once() -> None:
    head = {"cpu_seconds": 1.5, "dask": {"threads": 8, "busy_seconds": 9.5, "wall_seconds": 4.0}}
    worker = {"cpu_seconds": 2.0, "dask": {"threads": 2, "wall_seconds": 3.5}, "spark": "none"}
    merged = merge_use([worker, head])
    assert merged["cpu_seconds"] == 3.5
    assert merged["dask"] == head["dask"]
    assert "spark" not in merged


def test_rubbish_in_a_pods_last_message_stops_nobody() -> None:
    rubbish = {"cpu_seconds": "many", "peak_memory_bytes": [], "dask": {"wall_seconds": "long"}}
    odd = {"cpu_seconds": float("nan"), "read_bytes": -1, "dask": {"wall_seconds": 1}}
    merged = merge_use([rubbish, {"cpu_seconds": 2, "peak_memory_bytes": 7}, odd])
    assert (merged["cpu_seconds"], merged["peak_memory_bytes"]) == (2, 7)
    assert merged["read_bytes"] is None
    assert merged["dask"] == {"wall_seconds": 1}


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    pauses=st.lists(st.integers(0, 30), min_size=4, max_size=4),
    boot=st.integers(0, 60),
    leave=st.integers(0, 20),
    order=st.randoms(use_true_random=False),
)
def test_the_equation_holds_whatever_machines_and_runs_do(
    lengths: list[int], pauses: list[int], boot: int, leave: int, order: object
) -> None:
    attempts, cursor = [], boot
    for number, (length, pause) in enumerate(zip(lengths, pauses, strict=False)):
        start, end = cursor + pause, cursor + pause + length
        attempts.append(
            attempt(pod(f"run-{number}", node="node-m", bound=start, started=start, ended=end,
                        admitted=start - 1))
        )  # fmt: skip
        cursor = end
    bought = machine(
        "m", attempt="run-0.abc.1", requested_at=at(-1), launched_at=at(0), joined_at=at(boot),
        ready_at=at(boot), released_at=at(cursor), gone_at=at(cursor + leave),
    )  # fmt: skip
    events = _events(*attempts, machines={"m": bought})
    order.shuffle(events)  # type: ignore[attr-defined]  # hypothesis' own Random
    timeline = read_timeline(events)
    bill, charges = charge_machine(timeline.machines["m"], timeline.attempts, at(10_000))
    assert bill is not None
    assert sum(charge.nanos for charge in charges) == bill.nanos
    assert (bill.until - bill.start) // 1_000_000 == cursor + leave
    assert bill.unpriced_microseconds == 0


def test_a_real_ledger_takes_it_and_finds_it_right(tmp_path: Path) -> None:
    done = attempt(pod("run", node="node-m", started=-27, ended=-5, admitted=-60))
    events = _events(done, machines={"m": machine("m", attempt="run.abc.1", **_GONE)})
    with open_ledger(f"sqlite:///{tmp_path}/ledger.sqlite") as ledger:
        assert ledger.append(events) == len(events)
        assert ledger.append(events) == 0
        assert ledger.verify().ok
