from __future__ import annotations

from piecework.keeper.cluster.actions import GiveBack, NoteInterruption, Release
from piecework.keeper.cluster.give_back import give_back
from piecework.keeper.cluster.snapshot import Snapshot
from piecework.machines.provider import MachineSeen
from tests.unit.keeper.cluster.worlds import (
    NOW,
    at,
    attempt,
    groups_pool,
    machine,
    node,
    pod,
    pool,
    world,
)

_READ = {"piecework.dev/seen": "true"}


def _released(snapshot: Snapshot) -> list[str]:
    return [a.machine.id for a in give_back(snapshot) if isinstance(a, Release)]


def _returned(snapshot: Snapshot) -> list[str]:
    return [a.machine.id for a in give_back(snapshot) if isinstance(a, GiveBack)]


def test_a_machine_within_its_minimum_is_kept_for_the_next_run() -> None:
    assert give_back(world(machines=[machine("m", launched_at=at(-50))])) == []


def test_it_goes_so_that_its_meter_stops_at_the_end_of_the_minimum() -> None:
    # Karpenter takes 6 s to drain and end it.
    assert _released(world(machines=[machine("m", launched_at=at(-53.9))])) == []
    assert _released(world(machines=[machine("m", launched_at=at(-54))])) == ["m"]


def test_one_whose_run_ended_after_the_minimum_goes_at_once() -> None:
    ended = attempt(pod("run", node="node-m", started=-100, ended=-0, annotations=_READ))
    snapshot = world([ended], [machine("m", launched_at=at(-120))])
    actions = give_back(snapshot)
    assert [type(action) for action in actions] == [Release, GiveBack]
    assert isinstance(actions[0], Release)
    assert actions[0].at == NOW
    assert actions[0].reason == "its run has ended, and nobody needs it"


def test_a_busy_machine_stays() -> None:
    busy = attempt(pod("run", node="node-m", started=-100))
    assert give_back(world([busy], [machine("m", launched_at=at(-500))])) == []


def test_a_machine_whose_pod_is_on_its_way_stays() -> None:
    coming = attempt(pod("run", admitted=-3))
    snapshot = world([coming], [machine("m", run="run-abc", launched_at=at(-500))])
    assert give_back(snapshot) == []


def test_a_machine_that_was_just_handed_over_stays() -> None:
    snapshot = world(machines=[machine("m", launched_at=at(-500))])
    assert give_back(snapshot, ["m"]) == []


def test_keep_lets_it_wait_longer_after_its_last_run() -> None:
    patient = [pool(keep="5m")]
    ended = attempt(pod("run", node="node-m", started=-100, ended=-60, annotations=_READ))
    idle = machine("m", launched_at=at(-300))
    assert _released(world([ended], [idle], pools=patient)) == []
    assert _released(world([], [idle], pools=patient, idle_since={"m": at(-301)})) == ["m"]


def test_a_log_that_nobody_has_read_keeps_its_machine_for_ten_seconds() -> None:
    idle = machine("m", launched_at=at(-500))
    unread = attempt(pod("run", node="node-m", started=-100, ended=-9))
    assert _released(world([unread], [idle])) == []
    late = attempt(pod("run", node="node-m", started=-100, ended=-10))
    assert _released(world([late], [idle])) == ["m"]


def test_a_log_that_is_kept_in_the_store_keeps_no_machine() -> None:
    idle = machine("m", launched_at=at(-500))
    unread = attempt(pod("run", node="node-m", started=-100, ended=-1))
    kept = frozenset({unread.first.uid})
    assert _released(world([unread], [idle], keeps_logs=True, logs=kept)) == ["m"]


def test_a_machine_that_was_released_is_returned_even_by_a_keeper_that_did_not_decide_it() -> None:
    snapshot = world(machines=[machine("m", released_at=at(-5))])
    assert _returned(snapshot) == ["m"]
    assert _released(snapshot) == []


def test_what_is_leaving_or_gone_is_left_alone() -> None:
    leaving = machine("leaving", released_at=at(-5), leaving_at=at(-4))
    gone = machine("gone", launched_at=at(-500), gone_at=at(-1))
    assert give_back(world(machines=[leaving, gone])) == []


def test_a_machine_that_was_bought_for_a_run_that_ended_meanwhile_goes_at_its_minimum() -> None:
    booting = machine("m", node=None, joined_at=None, ready_at=None, launched_at=at(-60))
    (release, _) = give_back(world(machines=[booting]))
    assert isinstance(release, Release)
    assert release.reason == "the run that it was bought for does not need it any more"


def test_a_notice_of_the_seller_is_written_down() -> None:
    busy = attempt(pod("run", node="node-m", started=-100))
    taken = machine("m")
    snapshot = world([busy], [taken], nodes=[node(taken, notice=True)])
    assert give_back(snapshot) == [NoteInterruption(taken, NOW, busy.pods)]


def _of_group(**more: object) -> MachineSeen:
    return machine("i-1", provider="asg", run=None, attempt=None, **more)


def test_the_autoscaler_has_ten_seconds_to_give_a_groups_machine_back() -> None:
    groups = [groups_pool()]
    ended = attempt(pod("run", node="node-i-1", started=-100, ended=-9, annotations=_READ))
    assert _released(world([ended], [_of_group(launched_at=at(-500))], pools=groups)) == []
    late = attempt(pod("run", node="node-i-1", started=-100, ended=-10, annotations=_READ))
    snapshot = world([late], [_of_group(launched_at=at(-500))], pools=groups)
    assert _released(snapshot) == ["i-1"]
    assert _returned(snapshot) == []


def test_a_groups_machine_is_returned_after_a_pause() -> None:
    groups = [groups_pool()]
    assert _returned(world(machines=[_of_group(released_at=at(-1.5))], pools=groups)) == []
    assert _returned(world(machines=[_of_group(released_at=at(-2))], pools=groups)) == ["i-1"]


def test_a_groups_machine_stays_a_while_when_a_run_comes_that_may_be_bound_to_it() -> None:
    groups, coming = [groups_pool()], attempt(pod("next", admitted=-1))
    for seconds, returned in ((-2, []), (-9, []), (-10, ["i-1"])):
        leaving = _of_group(released_at=at(seconds))
        assert _returned(world([coming], [leaving], pools=groups)) == returned
    boots = _of_group(released_at=at(-2), node=None, joined_at=None, ready_at=None)
    assert _returned(world([coming], [boots], pools=groups)) == ["i-1"]
