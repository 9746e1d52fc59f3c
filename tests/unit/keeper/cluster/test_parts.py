from __future__ import annotations

from typing import Any

from piecework.keeper.cluster.actions import EndAttempt, MarkRecorded, RemovePod
from piecework.keeper.cluster.decide import decide
from piecework.keeper.cluster.finish import finish
from piecework.keeper.cluster.orphans import find_orphans
from piecework.keeper.cluster.parts import PARTING
from piecework.keeper.cluster.snapshot import AttemptSeen, PodSeen, Snapshot
from piecework.ledger.events import Outcome
from tests.unit.keeper.cluster.worlds import (
    at,
    attempt,
    follower,
    machine,
    node,
    pod,
    pool,
    world,
)

_MACHINES = [machine("d"), machine("e"), machine("f")]


def _driver(**more: Any) -> PodSeen:
    return pod("run", **{"node": "node-d", "started": -90, "admitted": -99, "machines": 3, **more})


def _executor(number: int, on: str = "e", **more: Any) -> PodSeen:
    return follower("run", number, **{"node": f"node-{on}", "started": -60, **more})


def _gang(*pods: dict[str, Any]) -> AttemptSeen:
    """A gang with a head; each pod is on a machine of its own."""
    names = "def"
    return attempt(
        *(
            pod("gang", index, count=len(pods), led=True, admitted=-99,
                **{"node": f"node-{names[index]}", "started": -60, **each})
            for index, each in enumerate(pods)
        )
    )  # fmt: skip


def _ends(snapshot: Snapshot) -> list[EndAttempt]:
    found = [action for finding in find_orphans(snapshot) for action in finding.actions]
    return [action for action in found if isinstance(action, EndAttempt)]


def _ended(snapshot: Snapshot) -> list[str]:
    return [pod.key[1] for end in _ends(snapshot) for pod in end.pods]


def test_followers_end_as_soon_as_their_driver_has_whatever_ended_it() -> None:
    for exit_code in (0, 1, 137):
        run = attempt(_driver(ended=-1, exit_code=exit_code), _executor(1), _executor(2, "f"))
        (end,) = _ends(world([run], _MACHINES))
        assert [pod.key[1] for pod in end.pods] == ["run-exec-1", "run-exec-2"]
        assert (end.force, end.cause) == (False, "pod run-0 of its run has ended")


def test_followers_behind_their_gates_end_with_the_rest() -> None:
    late = follower("run", 1, gated=True)
    assert _ended(world([attempt(_driver(ended=-1), late)], _MACHINES)) == ["run-exec-1"]


def test_followers_end_as_soon_as_somebody_ends_their_driver() -> None:
    run = attempt(_driver(deleting=20), _executor(1))
    (end,) = _ends(world([run], _MACHINES))
    assert [pod.key[1] for pod in end.pods] == ["run-exec-1"]
    assert end.cause == "pod run-0 of its run is being ended"


def test_followers_of_which_nothing_else_is_left_end() -> None:
    alone = attempt(_executor(1))
    (end,) = _ends(world([alone], _MACHINES))
    assert end.cause == "the pods of its run are gone"


def test_what_is_being_ended_already_is_ended_once() -> None:
    assert _ends(world([attempt(_driver(ended=-1), _executor(1, deleting=20))], _MACHINES)) == []


def test_a_run_that_is_to_end_ends_with_its_followers_in_one_step() -> None:
    run = attempt(_driver(), _executor(1))
    (end,) = _ends(world([run], _MACHINES, owners_over={"run.abc.1": "task x was failed"}))
    assert end.only == ()
    assert [pod.key[1] for pod in end.pods] == ["run-0", "run-exec-1"]


def test_a_lost_machine_with_followers_alone_does_not_end_the_run() -> None:
    lost = machine("e", gone_at=at(-2))
    run = attempt(_driver(), _executor(1, "e"), _executor(2, "f"))
    nodes = [node(machine("d")), node(machine("f"))]
    (end,) = _ends(world([run], [machine("d"), lost, machine("f")], nodes=nodes))
    assert [pod.key[1] for pod in end.only] == ["run-exec-1"]
    assert (end.outcome, end.force, end.cause) == (
        Outcome.INTERRUPTED,
        True,
        "its machine e is gone",
    )


def test_a_lost_follower_of_a_run_that_is_over_is_ended_once_and_by_force() -> None:
    lost = machine("e", gone_at=at(-2))
    run = attempt(_driver(ended=-1), _executor(1, "e"))
    (end,) = _ends(world([run], [machine("d"), lost], nodes=[node(machine("d"))]))
    assert end.force


def test_the_drivers_lost_machine_ends_all() -> None:
    lost = machine("d", gone_at=at(-2))
    run = attempt(_driver(), _executor(1))
    (end,) = _ends(world([run], [lost, machine("e")], nodes=[node(machine("e"))]))
    assert (end.outcome, end.force) == (Outcome.INTERRUPTED, True)
    assert len(end.pods) == 2


def test_a_run_none_of_whose_followers_gets_a_machine_is_given_up() -> None:
    patient = [pool(start_timeout="1m")]
    for since, ended in ((-60, []), (-61, ["run-0", "run-exec-1"])):
        run = attempt(_driver(), follower("run", 1, admitted=since))
        assert _ended(world([run], _MACHINES, pools=patient)) == ended
    some = attempt(_driver(), _executor(2, admitted=-90), follower("run", 1, admitted=-90))
    assert _ended(world([some], _MACHINES, pools=patient)) == []


def test_workers_get_a_moment_to_end_after_their_head_has_succeeded() -> None:
    parting = PARTING.total_seconds()
    just = _gang({"ended": -parting}, {}, {})
    assert _ends(world([just], _MACHINES)) == []
    late = _gang({"ended": -parting - 1}, {"ended": -parting}, {})
    (end,) = _ends(world([late], _MACHINES))
    assert [pod.key[1] for pod in end.pods] == ["gang-2"]
    assert end.cause == "the program of its head, pod gang-0, has ended"


def test_workers_end_at_once_when_their_head_has_failed() -> None:
    (end,) = _ends(world([_gang({"ended": -1, "exit_code": 2}, {}, {})], _MACHINES))
    assert end.only == ()
    assert "gang-0 of its gang has ended" in end.cause


def test_a_head_that_runs_copes_with_a_worker_that_failed() -> None:
    assert _ends(world([_gang({}, {"ended": -9, "exit_code": 1}, {})], _MACHINES)) == []


def test_a_head_that_runs_copes_with_a_worker_that_its_machine_has_forgotten() -> None:
    told = {"exitCode": 137, "reason": "ContainerStatusUnknown", "startedAt": None}
    lost = {"name": "job", "state": {"terminated": {**told, "finishedAt": None}}}
    status = {"phase": "Failed", "containerStatuses": [lost]}
    gang = _gang({}, {"started": None, "status": status}, {})
    assert _ends(world([gang], _MACHINES)) == []


def test_a_head_that_runs_copes_with_a_workers_lost_machine() -> None:
    machines = [machine("d"), machine("e", gone_at=at(-2)), machine("f")]
    nodes = [node(machine("d")), node(machine("f"))]
    (end,) = _ends(world([_gang({}, {}, {})], machines, nodes=nodes))
    assert [pod.key[1] for pod in end.only] == ["gang-1"]
    assert (end.outcome, end.force) == (Outcome.INTERRUPTED, True)


def test_a_gang_of_which_one_never_ran_has_never_started_though_others_did() -> None:
    late = machine("f", ready_at=None, joined_at=at(-61), launched_at=at(-70))
    nodes = [node(machine("d")), node(machine("e")),
             node(late, ready_at=None, silent_since=at(-61))]  # fmt: skip
    snapshot = world(
        [_gang({}, {}, {"started": None})],
        [machine("d"), machine("e"), late],
        nodes=nodes,
        pools=[pool(join_timeout="1m")],
    )
    (end,) = _ends(snapshot)
    assert (end.outcome, len(end.pods)) == (Outcome.NEVER_STARTED, 3)
    assert "was not ready within 1m" in end.cause


def test_a_gang_that_has_not_all_started_does_without_none_of_its_pods() -> None:
    machines = [machine("d"), machine("e", gone_at=at(-2)), machine("f")]
    nodes = [node(machine("d")), node(machine("f"))]
    (end,) = _ends(world([_gang({}, {}, {"started": None})], machines, nodes=nodes))
    assert end.only == ()
    failed = _gang({}, {"ended": -9, "exit_code": 1}, {"started": None})
    (end,) = _ends(world([failed], _MACHINES))
    assert end.only == ()


def test_a_gang_of_which_one_never_gets_a_machine_gives_all_back() -> None:
    slow = _gang({}, {}, {"node": None, "started": None})
    (end,) = _ends(world([slow], _MACHINES, pools=[pool(start_timeout="1m")]))
    assert end.outcome is Outcome.NEVER_STARTED
    assert len(end.pods) == 3


def test_a_gang_whose_head_vanished_ends() -> None:
    rest = attempt(
        *(
            pod("gang", index, count=3, led=True, node=f"node-{name}", started=-9)
            for index, name in ((1, "e"), (2, "f"))
        )
    )
    (end,) = _ends(world([rest], _MACHINES))
    assert end.cause == "the head of its gang is gone"


def test_a_followers_object_is_removed_once_its_run_is_over_and_not_before() -> None:
    done = _executor(1, ended=-1)
    assert finish(world([attempt(_driver(), done)], _MACHINES), ()) == []
    over = attempt(_driver(ended=-1), done)
    (removal,) = finish(world([over], _MACHINES), ())
    assert isinstance(removal, RemovePod)
    assert removal.pod is done


def test_the_end_of_a_run_is_recorded_though_followers_still_end() -> None:
    run = attempt(_driver(ended=-1), _executor(1, deleting=20))
    actions = decide(world([run], _MACHINES), frozenset({"run.abc.1"}))
    assert [a.pod.key[1] for a in actions if isinstance(a, MarkRecorded)] == ["run-0"]


def _h2o(*executors: PodSeen) -> AttemptSeen:
    return attempt(_driver(engine="h2o"), *executors)


def test_h2o_ends_as_the_first_executor_that_it_loses_did() -> None:
    late = -PARTING.total_seconds() - 1
    # Spark deletes what has failed: 30 seconds of grace from then on.
    for deleting, outcome in (
        (None, Outcome.ERROR),
        (late + 2 + 30, Outcome.ERROR),
        (late + 30, Outcome.INTERRUPTED),  # in the same second: who was first is not known
    ):
        broken = _executor(1, ended=late, exit_code=137, deleting=deleting, engine="h2o")
        (end,) = _ends(world([_h2o(broken, _executor(2, "f", engine="h2o"))], _MACHINES))
        assert (end.outcome, end.only) == (outcome, ())
        assert end.cause.startswith("H2O cannot go on without executor run-exec-1: ")
    # What was told to go is not lost.
    for told in ({"exit_code": 0}, {"exit_code": 143, "deleting": late + 30}):
        gone = _executor(1, ended=late, engine="h2o", **told)
        assert not _ends(world([_h2o(gone)], _MACHINES))
    # Spark copes, and a program that is over may end a moment after its executors.
    assert not _ends(world([attempt(_driver(), _executor(1, ended=late, exit_code=1))], _MACHINES))
    just = _executor(1, ended=-1, exit_code=1, engine="h2o")
    assert not _ends(world([_h2o(just)], _MACHINES))


def test_h2o_is_interrupted_by_the_loss_of_an_executors_machine() -> None:
    lost = machine("e", gone_at=at(-1))
    run = _h2o(_executor(1, engine="h2o"))
    found = _ends(world([run], [machine("d"), lost], nodes=[node(machine("d"))]))
    whole = [end for end in found if not end.only]
    assert [end.outcome for end in whole] == [Outcome.INTERRUPTED]
