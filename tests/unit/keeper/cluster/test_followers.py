from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from piecework.keeper.cluster.actions import Admit, AdmitFollowers, EndAttempt, Release, TellWaiting
from piecework.keeper.cluster.admit import admit
from piecework.keeper.cluster.decide import decide
from piecework.keeper.cluster.give_back import FIRST_FOLLOWERS, NEXT_FOLLOWERS, give_back
from piecework.keeper.cluster.snapshot import AttemptSeen, PodSeen, Snapshot
from piecework.machines.provider import MachineSeen
from piecework.spec.team import Team
from tests.unit.keeper.cluster.worlds import (
    at,
    attempt,
    follower,
    groups_pool,
    machine,
    pod,
    pool,
    waiting,
    world,
)

#: A run of three machines, on each of which two executors fit.
_THREE: dict[str, Any] = {"machines": 3, "per_machine": 2, "beside_head": 2}


def _run(*followers: PodSeen, **more: Any) -> AttemptSeen:
    """A run whose driver works on machine d."""
    values = {"node": "node-d", "started": -20, "admitted": -60, **_THREE, **more}
    return attempt(pod("run", **values), *followers)


def _gated(*numbers: int, **more: Any) -> list[PodSeen]:
    return [follower("run", number, gated=True, **_THREE, **more) for number in numbers]


def _on(node: str, number: int, **more: Any) -> PodSeen:
    values = {"node": f"node-{node}", "bound": -10, "started": -8, "admitted": -15, **_THREE}
    return follower("run", number, **(values | more))


def _mine(name: str, **more: Any) -> MachineSeen:
    return machine(name, run="run-abc", attempt="run.abc.1", **more)


def _opened(snapshot: Snapshot) -> list[str]:
    actions = [a for a in admit(snapshot) if isinstance(a, AdmitFollowers)]
    return [each.key[1] for action in actions for each in action.pods]


def _admitted(snapshot: Snapshot) -> list[str]:
    return [a.attempt.id for a in admit(snapshot) if isinstance(a, Admit)]


def test_followers_are_admitted_at_once_past_whoever_queues() -> None:
    run = _run(*_gated(1, 2, 3))
    others = waiting("other", priority=9, queued_at="2026-11-24T10:00:00Z")
    snapshot = world([others, run], [_mine("d")], pools=[pool(max_machines=3)])
    assert _opened(snapshot) == ["run-exec-1", "run-exec-2", "run-exec-3"]
    assert _admitted(snapshot) == []


def test_followers_wait_until_their_runs_own_pods_have_machines() -> None:
    unbound = attempt(pod("run", admitted=-5, **_THREE), *_gated(1))
    assert _opened(world([unbound])) == []


def test_followers_never_get_more_than_the_machines_that_their_run_was_promised() -> None:
    run = _run(*[_on("d", number) for number in (1, 2)], *_gated(3, 4, 5, 6, 7))
    snapshot = world([run], [_mine("d")])
    assert _opened(snapshot) == [f"run-exec-{number}" for number in (3, 4, 5, 6)]
    (told,) = [a for a in admit(snapshot) if isinstance(a, TellWaiting)]
    assert (told.pod.key[1], told.reason) == (
        "run-exec-7",
        "its run may hold 3 machines, and 6 such pods fit on them",
    )


def test_what_was_told_a_follower_is_told_once() -> None:
    said = (
        '{"reason": "its run may hold 1 machine, and 0 such pods fit on them", '
        '"since": "2026-11-24T11:59:00Z", "number": 0}'
    )
    late = follower("run", 1, gated=True, annotations={"piecework.dev/waiting": said})
    run = attempt(pod("run", node="node-d", started=-20, admitted=-60), late)
    assert admit(world([run], [_mine("d")])) == []


def test_an_ended_follower_makes_room_for_another() -> None:
    ended = [_on("d", number, ended=-2) for number in range(1, 7)]
    assert _opened(world([_run(*ended, *_gated(7))], [_mine("d")])) == ["run-exec-7"]


def test_followers_take_over_idle_machines_before_any_is_bought() -> None:
    run = _run(*_gated(1, 2, 3, 4, 5))
    idle = [machine("a"), machine("b"), machine("c")]
    (action,) = admit(world([run], [_mine("d"), *idle]))
    assert isinstance(action, AdmitFollowers)
    assert [m.id for m in action.handed] == ["a", "b"]


def test_their_runs_own_idle_machines_come_first() -> None:
    run = _run(_on("d", 1), _on("d", 2), *_gated(3, 4, 5))
    (action,) = admit(world([run], [_mine("d"), _mine("mine"), machine("other")]))
    assert isinstance(action, AdmitFollowers)
    assert [m.id for m in action.handed] == ["other"]


def test_a_run_is_admitted_only_when_all_machines_that_it_may_hold_fit() -> None:
    run = attempt(pod("run", gated=True, **_THREE))
    busy = attempt(pod("busy", node="node-m", started=-20, admitted=-60))
    there = [machine("m", run="busy-abc")]
    assert _admitted(world([run, busy], there, pools=[pool(max_machines=3)])) == []
    assert _admitted(world([run, busy], there, pools=[pool(max_machines=4)])) == ["run.abc.1"]


def test_what_a_run_may_still_ask_for_counts_from_its_admission_on() -> None:
    snapshot = world([_run(), waiting("next")], [_mine("d")], pools=[pool(max_machines=3)])
    assert _admitted(snapshot) == []
    snapshot = world([_run(), waiting("next")], [_mine("d")], pools=[pool(max_machines=4)])
    assert _admitted(snapshot) == ["next.abc.1"]


def test_machines_that_it_holds_already_count_once() -> None:
    run = _run(_on("e", 1), _on("e", 2))
    machines = [_mine("d"), _mine("e"), _mine("booting", node=None, joined_at=None, ready_at=None)]
    at_limit = world([run, waiting("next")], machines, pools=[pool(max_machines=4)])
    assert _admitted(at_limit) == ["next.abc.1"]


def test_its_team_is_charged_all_of_them_too() -> None:
    run = _run(team="few")
    more = waiting("more", team="few")
    for limit, admitted in ((3, []), (4, ["more.abc.1"])):
        teams = [Team(name="few", max_machines=limit)]
        assert _admitted(world([run, more], [_mine("d")], teams=teams)) == admitted


def test_money_per_hour_counts_all_of_them() -> None:
    run = attempt(pod("run", gated=True, **_THREE))
    assert _admitted(world([run], pools=[pool(max_usd_per_hour=Decimal("0.25"))])) == []
    assert _admitted(world([run], pools=[pool(max_usd_per_hour=Decimal("0.26"))])) != []


def test_an_idle_machine_of_a_run_that_may_need_it_is_handed_to_nobody_else() -> None:
    bought = _mine("bought-for-an-executor")
    (action,) = admit(world([_run(), waiting("next")], [_mine("d"), bought]))
    assert isinstance(action, Admit)
    assert (action.attempt.id, action.handed) == ("next.abc.1", ())


def test_on_groups_an_idle_machine_is_kept_for_what_a_run_may_still_ask_for() -> None:
    group = {"provider": "asg", "run": None, "attempt": None}
    machines = [machine("d", **group), machine("idle", **group), machine("third", **group)]
    snapshot = world([_run(), waiting("next")], machines, pools=[groups_pool()])
    (action,) = admit(snapshot)
    assert isinstance(action, Admit)
    assert action.handed == ()


def test_a_run_that_is_admitted_takes_over_idle_machines_for_its_followers_too() -> None:
    run = attempt(pod("run", gated=True, **_THREE))
    idle = [machine(name) for name in "abcd"]
    (action,) = admit(world([run], idle, pools=[pool(max_machines=4)]))
    assert isinstance(action, Admit)
    assert len(action.handed) == 3


def test_an_idle_machine_is_kept_until_its_runs_engine_can_have_asked_for_it() -> None:
    old = _mine("old", launched_at=at(-600), joined_at=at(-590), ready_at=at(-580))
    for started, released in (
        (-FIRST_FOLLOWERS.seconds + 1, []),
        (-FIRST_FOLLOWERS.seconds, [old]),
    ):
        snapshot = world([_run(started=started)], [_mine("d"), old])
        assert [a.machine for a in give_back(snapshot) if isinstance(a, Release)] == released


def test_an_idle_machine_is_kept_a_moment_for_another_pod_in_the_place_of_one_that_ended() -> None:
    old = _mine("old", launched_at=at(-600), joined_at=at(-590), ready_at=at(-580))
    for ended, released in ((-NEXT_FOLLOWERS.seconds + 1, []), (-NEXT_FOLLOWERS.seconds, [old])):
        run = _run(_on("old", 1, ended=ended))
        snapshot = world([run], [_mine("d"), old])
        assert [a.machine for a in give_back(snapshot) if isinstance(a, Release)] == released


def test_a_machine_with_a_follower_on_it_is_not_free() -> None:
    held = _mine("held", launched_at=at(-600))
    actions = decide(world([_run(_on("held", 1))], [_mine("d"), held]))
    assert [a for a in actions if isinstance(a, Release)] == []


def test_followers_of_a_run_that_is_being_ended_are_not_admitted() -> None:
    end = '{"outcome": "cancelled", "cause": "enough", "at": "2026-11-24T11:59:59Z"}'
    ended = _run(*_gated(1), deleting=20, annotations={"piecework.dev/end": end})
    actions = decide(world([ended], [_mine("d")]))
    assert [a for a in actions if isinstance(a, AdmitFollowers)] == []
    (action,) = [a for a in actions if isinstance(a, EndAttempt)]
    assert [each.key[1] for each in action.pods] == ["run-exec-1"]


@settings(max_examples=60, deadline=None)
@given(
    machines=st.integers(1, 5),
    per_machine=st.integers(1, 4),
    beside=st.integers(0, 4),
    inside=st.integers(0, 8),
    gated=st.integers(0, 25),
    idle=st.integers(0, 4),
)
def test_a_run_never_holds_more_machines_than_it_may(
    machines: int, per_machine: int, beside: int, inside: int, gated: int, idle: int
) -> None:
    sizes = {"machines": machines, "per_machine": per_machine, "beside_head": beside}
    inside = min(inside, beside + per_machine * (machines - 1))

    def place(number: int) -> str:
        return "d" if number < beside else f"e{(number - beside) // per_machine}"

    run = attempt(
        pod("run", node="node-d", started=-20, admitted=-60, **sizes),
        *(
            follower("run", number, node=f"node-{place(number)}", admitted=-9, **sizes)
            for number in range(inside)
        ),
        *(follower("run", inside + number, gated=True, **sizes) for number in range(gated)),
    )
    taken = {place(number) for number in range(inside)} | {"d"}
    there = [_mine(name) for name in sorted(taken)] + [machine(f"i{n}") for n in range(idle)]
    snapshot = world([run], there)
    actions = [a for a in admit(snapshot) if isinstance(a, AdmitFollowers)]
    opened = sum(len(action.pods) for action in actions)
    handed = sum(len(action.handed) for action in actions)
    total = inside + opened
    assert opened == min(gated, beside + per_machine * (machines - 1) - inside)
    needed = 1 + math.ceil(max(0, total - beside) / per_machine)
    assert needed <= machines
    assert len(taken) + handed <= max(needed, len(taken))
    assert handed == min(idle, max(0, needed - len(taken)))


@settings(max_examples=60, deadline=None)
@given(
    limit=st.integers(1, 8),
    wants=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 2)), min_size=1, max_size=6),
    idle=st.integers(0, 3),
    groups=st.booleans(),
)
def test_no_admission_promises_more_machines_than_a_pool_may_have(
    limit: int, wants: list[tuple[int, int]], idle: int, groups: bool
) -> None:
    idle = min(idle, limit)
    provider = "asg" if groups else "karpenter"
    runs = [
        attempt(pod(f"run-{number}", gated=True, machines=machines, per_machine=each))
        for number, (machines, each) in enumerate(wants)
    ]
    there = [machine(f"i{number}", provider=provider) for number in range(idle)]
    limited = (groups_pool if groups else pool)(max_machines=limit)
    actions = admit(world(runs, there, pools=[limited]))
    admitted = [a for a in actions if isinstance(a, Admit)]
    released = [a for a in actions if isinstance(a, Release)]
    handed = [m.id for a in admitted for m in a.handed]
    assert len(handed) == len(set(handed))
    promised = sum(a.attempt.machines - len(a.handed) for a in admitted)
    assert idle - len(released) + promised <= limit
    assert sum(a.attempt.machines for a in admitted) <= limit
