from __future__ import annotations

from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from piecework.keeper.cluster.actions import Admit, Release, TellWaiting
from piecework.keeper.cluster.admit import admit
from piecework.keeper.cluster.snapshot import AttemptSeen, Snapshot
from piecework.spec.team import Team
from tests.unit.keeper.cluster.worlds import (
    NOW,
    at,
    attempt,
    groups_pool,
    machine,
    node,
    pod,
    pool,
    waiting,
    world,
)


def _admitted(snapshot: Snapshot) -> list[str]:
    return [a.attempt.id for a in admit(snapshot) if isinstance(a, Admit)]


def _reasons(snapshot: Snapshot) -> dict[str, str]:
    return {a.pod.attempt: a.reason for a in admit(snapshot) if isinstance(a, TellWaiting)}


def test_a_run_is_admitted_at_once_where_nothing_limits_it() -> None:
    (action,) = admit(world([waiting("one")]))
    assert isinstance(action, Admit)
    assert action.at == NOW
    assert action.handed == ()


def test_priority_goes_before_age_and_age_before_the_rest() -> None:
    old = waiting("old", queued_at="2026-11-24T11:00:00Z")
    young = waiting("young", queued_at="2026-11-24T11:30:00Z")
    urgent = waiting("urgent", queued_at="2026-11-24T11:59:00Z", priority=1)
    assert _admitted(world([young, urgent, old])) == ["urgent.abc.1", "old.abc.1", "young.abc.1"]


def test_a_pool_at_its_limit_says_so_and_who_is_before() -> None:
    busy = attempt(pod("busy", node="node-m", started=-20, admitted=-60))
    runs = [waiting(name, queued_at=f"2026-11-24T11:0{i}:00Z") for i, name in enumerate("abc")]
    snapshot = world([busy, *runs], [machine("m")], pools=[pool(max_machines=1)])
    assert _admitted(snapshot) == []
    assert _reasons(snapshot) == {
        "a.abc.1": "pool spot is at its limit of 1 machine",
        "b.abc.1": "pool spot is at its limit of 1 machine; 1 run is before it",
        "c.abc.1": "pool spot is at its limit of 1 machine; 2 runs are before it",
    }


def test_what_is_admitted_and_not_bought_yet_counts() -> None:
    under_way = attempt(pod("under-way", admitted=-1))
    snapshot = world([under_way, waiting("next")], pools=[pool(max_machines=1)])
    assert _admitted(snapshot) == []


def test_a_machine_that_was_bought_for_a_run_counts_once_with_it() -> None:
    under_way = attempt(pod("under-way", admitted=-1))
    bought = machine("m", run="under-way-abc", node=None, joined_at=None, ready_at=None)
    snapshot = world([under_way, waiting("next")], [bought], pools=[pool(max_machines=2)])
    assert _admitted(snapshot) == ["next.abc.1"]


def test_money_per_hour_is_a_limit_too() -> None:
    runs = [waiting("a"), waiting("b", queued_at="2026-11-24T11:59:59Z")]
    snapshot = world(runs, pools=[pool(max_usd_per_hour=Decimal("0.1"))])
    assert _admitted(snapshot) == ["a.abc.1"]
    assert "0.1 USD per hour" in _reasons(snapshot)["b.abc.1"]


def test_an_unknown_price_is_not_bought_where_money_is_limited() -> None:
    snapshot = world([waiting("a", usd_per_hour=None)], pools=[pool(max_usd_per_hour=Decimal(1))])
    assert _admitted(snapshot) == []
    assert "price" in _reasons(snapshot)["a.abc.1"]


def test_a_team_at_its_limit_holds_up_nobody_else() -> None:
    busy = attempt(pod("busy", node="node-m", started=-20, admitted=-60, team="few"))
    mine = waiting("mine", team="few")
    others = waiting("others", team="many", queued_at="2026-11-24T11:59:59Z")
    snapshot = world([busy, mine, others], [machine("m")], teams=[Team(name="few", max_machines=1)])
    assert _admitted(snapshot) == ["others.abc.1"]
    assert _reasons(snapshot) == {"mine.abc.1": "team few is at its limit of 1 machine"}


def test_a_gang_is_admitted_only_when_all_of_it_fits() -> None:
    gang = attempt(*(pod("gang", index, gated=True, count=3) for index in range(3)))
    assert _admitted(world([gang], pools=[pool(max_machines=3)])) == ["gang.abc.1"]
    assert _admitted(world([gang], [machine("m", instance_type="c6a.large")],
                           nodes=[], pools=[pool(max_machines=3)])) == []  # fmt: skip


def test_a_gang_of_which_a_pod_is_missing_waits_and_holds_up_nobody() -> None:
    gang = attempt(*(pod("gang", index, gated=True, count=3) for index in range(2)))
    other = waiting("other", queued_at="2026-11-24T11:59:59Z")
    snapshot = world([gang, other])
    assert _admitted(snapshot) == ["other.abc.1"]
    assert _reasons(snapshot)["gang.abc.1"] == "2 of the 3 pods of its gang are there"


def test_a_gang_larger_than_the_pool_waits_and_holds_up_nobody() -> None:
    gang = attempt(*(pod("gang", index, gated=True, count=3) for index in range(3)))
    other = waiting("other", queued_at="2026-11-24T11:59:59Z")
    assert _admitted(world([gang, other], pools=[pool(max_machines=2)])) == ["other.abc.1"]


def test_an_idle_machine_that_fits_is_handed_over_even_at_the_limit() -> None:
    idle = machine("idle")
    (action,) = admit(world([waiting("next")], [idle], pools=[pool(max_machines=1)]))
    assert isinstance(action, Admit)
    assert action.handed == (idle,)


def test_a_machine_is_handed_to_one_run_only() -> None:
    runs = [waiting("a"), waiting("b", queued_at="2026-11-24T11:59:59Z")]
    actions = admit(world(runs, [machine("idle")]))
    assert [len(a.handed) for a in actions if isinstance(a, Admit)] == [1, 0]


def test_a_machine_on_its_way_to_a_run_is_not_handed_to_another() -> None:
    expected = machine("m", run="first-abc")
    first = attempt(pod("first", admitted=-5))
    (action,) = admit(world([first, waiting("next")], [expected]))
    assert isinstance(action, Admit)
    assert action.handed == ()


def test_machines_that_are_silent_leaving_or_about_to_be_taken_are_not_handed_over() -> None:
    idle = machine("m")
    nodes = [
        node(idle, ready_at=None, silent_since=at(-10)),
        node(idle, leaving_at=at(-1)),
        node(idle, notice=True),
    ]
    for bad in nodes:
        (action,) = admit(world([waiting("next")], [idle], nodes=[bad]))
        assert isinstance(action, Admit)
        assert action.handed == ()


def test_a_spot_machine_is_not_handed_to_a_run_that_wants_none() -> None:
    idle = machine("m", spot=True)
    (never,) = admit(world([waiting("never", spot="never")], [idle]))
    (prefer,) = admit(world([waiting("prefer", spot="prefer")], [idle]))
    assert isinstance(never, Admit)
    assert isinstance(prefer, Admit)
    assert (len(never.handed), len(prefer.handed)) == (0, 1)


def test_an_idle_machine_of_another_type_that_is_in_the_way_is_given_back() -> None:
    idle = machine("small", instance_type="c6a.large")
    actions = admit(world([waiting("next")], [idle], pools=[pool(max_machines=1)]))
    (release,) = [a for a in actions if isinstance(a, Release)]
    assert release.machine is idle
    assert _admitted(world([waiting("next")], [idle], pools=[pool(max_machines=1)])) == []


def test_on_groups_ready_machines_belong_to_those_who_were_admitted_first() -> None:
    idle = machine("i-1", provider="asg", run=None, attempt=None)
    first = attempt(pod("first", admitted=-1))
    snapshot = world([first, waiting("next")], [idle], pools=[groups_pool(max_machines=1)])
    assert _admitted(snapshot) == []


def test_kueues_gate_goes_before_ours() -> None:
    raw = waiting("queued")
    gate = {"name": "kueue.x-k8s.io/admission"}
    spec = raw.first.raw["spec"]
    spec["schedulingGates"] = [gate, *spec["schedulingGates"]]
    from piecework.keeper.cluster.snapshot import read_pod

    raw.first.raw["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "team-a"
    seen = read_pod(raw.first.raw)
    assert seen is not None
    snapshot = world([attempt(seen)])
    assert _admitted(snapshot) == []
    assert _reasons(snapshot) == {"queued.abc.1": "waiting for Kueue's queue team-a"}


def test_what_was_ended_or_is_deleted_is_not_admitted() -> None:
    ended = waiting("deleted", deleting=-1)
    assert _admitted(world([ended])) == []


def test_a_gang_that_was_admitted_in_part_is_admitted_whole() -> None:
    gang = attempt(
        pod("gang", 0, count=2, admitted=-3),
        pod("gang", 1, count=2, gated=True),
    )
    snapshot = world([gang], pools=[pool(max_machines=1)])
    (action,) = admit(snapshot)
    assert isinstance(action, Admit)
    assert action.at == at(-3)


def test_a_reason_is_told_once_and_keeps_its_time_while_only_the_place_changes() -> None:
    busy = attempt(pod("busy", node="node-m", started=-20, admitted=-60))
    first = waiting("a", queued_at="2026-11-24T11:00:00Z")
    said = '{"reason": "pool spot is at its limit of 1 machine; 2 runs are before it", '
    said += '"since": "2026-11-24T11:50:00Z", "number": 4}'
    known = waiting(
        "b", queued_at="2026-11-24T11:01:00Z", annotations={"piecework.dev/waiting": said}
    )
    snapshot = world([busy, first, known], [machine("m")], pools=[pool(max_machines=1)])
    (told,) = [
        a for a in admit(snapshot) if isinstance(a, TellWaiting) and a.pod.attempt == "b.abc.1"
    ]
    assert told.reason.endswith("1 run is before it")
    assert told.number == 5
    assert told.since == at(-600)


def test_a_retry_waits_until_the_lost_machine_of_the_attempt_before_is_gone() -> None:
    lost = machine("m", run="run-abc")
    retry = waiting("run", number=2)
    silent = node(lost, ready_at=None, silent_since=at(-200))
    snapshot = world([retry], [lost], nodes=[silent])
    assert _admitted(snapshot) == []
    assert "has not ended yet" in _reasons(snapshot)[retry.id]
    gone = machine("m", run="run-abc", gone_at=at(-1))
    assert _admitted(world([retry], [gone], nodes=[])) == [retry.id]


@settings(max_examples=60)
@given(
    limit=st.integers(1, 6),
    sizes=st.lists(st.integers(1, 4), max_size=8),
    idle=st.integers(0, 4),
)
def test_no_tick_ever_admits_beyond_the_limit(limit: int, sizes: list[int], idle: int) -> None:
    runs = [_gang(f"run-{number}", size) for number, size in enumerate(sizes)]
    machines = [machine(f"m-{number}") for number in range(min(idle, limit))]
    actions = admit(world(runs, machines, pools=[pool(max_machines=limit)]))
    bought = sum(a.attempt.count - len(a.handed) for a in actions if isinstance(a, Admit))
    handed = [m.id for a in actions if isinstance(a, Admit) for m in a.handed]
    assert len(machines) + bought <= limit
    assert len(handed) == len(set(handed))


def _gang(name: str, size: int) -> AttemptSeen:
    return attempt(*(pod(name, index, gated=True, count=size) for index in range(size)))
