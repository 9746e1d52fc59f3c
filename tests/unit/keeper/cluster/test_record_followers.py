from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piecework.keeper.cluster.record import events_of_attempt, events_of_machine, price_steps
from piecework.keeper.cluster.snapshot import AttemptSeen, PodSeen
from piecework.keeper.cluster.state import State
from piecework.ledger.charges import charge_machine
from piecework.ledger.events import Event, Kind, Outcome
from piecework.ledger.occupancy import Timeline, read_timeline
from piecework.machines.provider import MachineSeen
from piecework.plan.price import load_price_book
from tests.unit.keeper.cluster.worlds import (
    NOW,
    at,
    attempt,
    follower,
    follower_json,
    machine,
    pod,
    pod_json,
    pool,
    world,
)

_RUN = "run.abc.1"


def _driver(**more: Any) -> PodSeen:
    values: dict[str, Any] = {
        "node": "node-d",
        "bound": -90,
        "started": -85,
        "admitted": -99,
        "machines": 3,
    }
    return pod("run", **(values | more))


def _executor(number: int, on: str, bound: float, **more: Any) -> PodSeen:
    return follower(
        "run", number, **{"node": f"node-{on}", "bound": bound, "started": bound, **more}
    )


def _timeline(
    run: AttemptSeen, machines: Sequence[MachineSeen], now: datetime = NOW
) -> tuple[Timeline, list[Event]]:
    events = events_of_attempt(run, world([run], machines).machine_on, now)
    for each in machines:
        events += events_of_machine(each, price_steps(each, pool(), load_price_book()), now)
    return read_timeline(events), events


def test_a_machine_is_the_runs_from_its_first_executor_there_to_its_last() -> None:
    run = attempt(
        _driver(ended=-10),
        _executor(1, "e", -60, ended=-50),
        _executor(2, "e", -40, ended=-12),
    )
    known, _ = _timeline(run, [machine("d"), machine("e")])
    (occupancy,) = known.machines["e"].occupancies
    assert (occupancy.attempt, occupancy.start, occupancy.end) == (_RUN, at(-60), at(-10))


def test_between_two_executors_a_machine_stays_the_runs() -> None:
    run = attempt(_driver(), _executor(1, "e", -60, ended=-50))
    known, events = _timeline(run, [machine("d"), machine("e")])
    assert known.machines["e"].occupancies[0].end is None
    assert Kind.MACHINE_VACATED not in [event.kind for event in events]


def test_a_machine_that_the_run_gave_back_is_its_no_more() -> None:
    run = attempt(_driver(), _executor(1, "e", -60, ended=-50))
    given = machine("e", released_at=at(-40), release_reason="done", leaving_at=at(-40))
    known, _ = _timeline(run, [machine("d"), given])
    assert known.machines["e"].occupancies[0].end == at(-40)


def test_executors_beside_the_driver_share_its_occupancy() -> None:
    run = attempt(_driver(ended=-10), _executor(1, "d", -60, ended=-4))
    known, events = _timeline(run, [machine("d")])
    (occupancy,) = known.machines["d"].occupancies
    assert (occupancy.start, occupancy.end) == (at(-90), at(-4))
    assert [event.kind for event in events].count(Kind.MACHINE_OCCUPIED) == 1


def test_a_run_has_ended_when_its_driver_has_and_a_machine_is_its_until_its_last_pod_ends() -> None:
    run = attempt(_driver(ended=-10), _executor(1, "e", -60, deleting=20))
    known, events = _timeline(run, [machine("d"), machine("e")])
    assert known.attempts[_RUN].outcome is Outcome.SUCCESS
    assert known.attempts[_RUN].ended_at == at(-10)
    vacated = [event.subject for event in events if event.kind is Kind.MACHINE_VACATED]
    assert vacated == ["d"]


def test_all_machines_of_a_run_are_told_as_given_to_it() -> None:
    run = attempt(_driver(), _executor(1, "d", -60), _executor(2, "e", -60), _executor(3, "f", -9))
    known, _ = _timeline(run, [machine("d"), machine("e"), machine("f")])
    assert known.attempts[_RUN].machines == ("d", "e", "f")
    assert known.attempts[_RUN].admitted_at == at(-99)


@pytest.mark.parametrize("count", [1, 2])
def test_a_machine_that_its_seller_lists_after_the_end_of_a_run_is_the_runs_too(count: int) -> None:
    known = {"count": count, "admitted": -99, "bound": -60, "started": -60, "ended": -10}
    names = ["d", "e"][-count:]
    run = attempt(*(pod("run", i, node=f"node-{n}", **known) for i, n in enumerate(names)))
    _, early = _timeline(run, [machine("d")])
    _, late = _timeline(run, [machine(name) for name in names])
    told = {(event.subject, event.kind, event.sequence): event for event in [*late, *early]}
    assert read_timeline(told.values()).attempts[_RUN].machines == tuple(names)


def test_telling_it_again_without_executors_that_are_gone_changes_nothing() -> None:
    machines = [machine("d"), machine("e")]
    _, before = _timeline(attempt(_driver(), _executor(1, "e", -60)), machines)
    _, after = _timeline(attempt(_driver(ended=-5)), machines)
    known = read_timeline({event.identity: event for event in [*after, *before]}.values())
    assert known.attempts[_RUN].machines == ("d", "e")
    (occupancy,) = known.machines["e"].occupancies
    assert (occupancy.start, occupancy.end, occupancy.vacated) == (at(-60), at(-5), False)


def test_of_followers_alone_only_their_machines_are_told() -> None:
    _, events = _timeline(attempt(_executor(1, "e", -60, ended=-5)), [])
    assert events == []
    events = events_of_attempt(
        attempt(_executor(1, "e", -60, ended=-5)), {"node-e": machine("e")}, NOW
    )
    assert [event.kind for event in events] == [Kind.MACHINE_OCCUPIED, Kind.MACHINE_VACATED]


def _state(*pods: dict[str, Any]) -> State:
    state = State(["spot"])
    for each in pods:
        state.take_pod(each, now=NOW)
    return state


def test_a_runs_own_pod_is_its_first_though_a_follower_was_seen_before() -> None:
    state = _state(follower_json("run", 1), pod_json("run"))
    (seen,) = state.attempts.values()
    assert seen.first.key[1] == "run-0"
    assert [each.key[1] for each in seen.followers] == ["run-exec-1"]
    assert seen.count == 1


def test_a_follower_that_ends_after_its_run_was_recorded_is_told_before_it_is_forgotten() -> None:
    executor = follower_json("run", 1, node="node-e", bound=-60, started=-60)
    driver = pod_json("run", node="node-d", started=-80, ended=-10)
    state = _state(driver, executor)
    state.changed_attempts.clear()
    state.forget_attempts({_RUN})
    state.take_pod(executor, deleted=True, now=NOW)
    state.forget_attempts({_RUN})
    assert state.changed_attempts == {_RUN}
    assert [each.over for each in state.attempts[_RUN].followers] == [NOW]
    state.changed_attempts.clear()
    state.forget_attempts({_RUN})
    assert state.attempts[_RUN].followers == ()
    state.take_pod(driver, deleted=True, now=NOW)
    assert state.attempts == {}


def test_followers_of_which_nothing_else_is_left_are_forgotten_once_they_are_gone() -> None:
    executor = follower_json("run", 1, node="node-e", bound=-60, started=-60)
    state = _state(executor)
    state.changed_attempts.clear()
    state.forget_attempts(frozenset())
    assert _RUN in state.attempts
    state.take_pod(executor, deleted=True, now=NOW)
    state.changed_attempts.clear()
    state.forget_attempts(frozenset())
    assert state.attempts == {}


@settings(max_examples=60, deadline=None)
@given(
    executors=st.lists(
        st.tuples(st.sampled_from("def"), st.integers(12, 50), st.integers(1, 60)), max_size=8
    ),
    end=st.integers(60, 120),
    released=st.one_of(st.none(), st.integers(40, 130)),
    seen=st.lists(st.booleans(), min_size=8, max_size=8),
    order=st.randoms(use_true_random=False),
)
def test_the_equation_holds_whatever_followers_do_and_whoever_sees_them(
    executors: list[tuple[str, int, int]],
    end: int,
    released: int | None,
    seen: list[bool],
    order: Any,
) -> None:
    driver = _driver(bound=10, started=11, ended=end)
    pods = [
        _executor(number, on, bound, ended=bound + length)
        for number, (on, bound, length) in enumerate(executors)
    ]
    pods = [each for each, there in zip(pods, seen, strict=False) if there]
    on = {"requested_at": at(0), "launched_at": at(1), "joined_at": at(9), "ready_at": at(10)}
    gone = {"released_at": at(200), "gone_at": at(206), "attempt": _RUN, **on}
    machines = [machine(name, **gone) for name in "de"]
    early = gone if released is None else {**gone, "released_at": at(max(released, 111))}
    machines.append(machine("f", **early))
    _, events = _timeline(attempt(driver, *pods), machines, at(300))
    order.shuffle(events)
    known = read_timeline(events)
    for each in machines:
        bill, charges = charge_machine(known.machines[each.id], known.attempts, at(10_000))
        assert bill is not None
        assert sum(charge.nanos for charge in charges) == bill.nanos
        occupancies = known.machines[each.id].occupancies
        assert len(occupancies) <= 1
        mine = [pod for pod in pods if pod.node == each.node and pod.bound_at is not None]
        for occupancy in occupancies:
            starts = [pod.bound_at for pod in mine if pod.bound_at is not None]
            starts += [at(10)] if each.id == "d" else []
            assert occupancy.start == min(starts)
            last = max([pod.over for pod in mine if pod.over is not None], default=at(end))
            assert each.released_at is not None
            assert occupancy.end == min(max(last, at(end)), each.released_at)
