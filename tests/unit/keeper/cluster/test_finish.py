from __future__ import annotations

import json
from typing import Any

from piecework.keeper.cluster.actions import (
    ForgetMachine,
    MarkRecorded,
    NoteDeletion,
    RemovePod,
    StampMachine,
)
from piecework.keeper.cluster.decide import decide
from piecework.keeper.cluster.finish import find_buyer, finish, note_deletions, stamp
from tests.unit.keeper.cluster.worlds import at, attempt, machine, node, pod, waiting, world

_RECORDED = {"piecework.dev/recorded": "true"}
_READ = {**_RECORDED, "piecework.dev/seen": "true"}
_ENDED: dict[str, Any] = {"node": "node-m", "started": -30, "ended": -5}


def test_a_pod_is_kept_until_its_end_is_in_the_ledger() -> None:
    snapshot = world([attempt(pod("run", **_ENDED))], [machine("m")])
    assert finish(snapshot, set()) == []
    (mark,) = finish(snapshot, {"run.abc.1"})
    assert isinstance(mark, MarkRecorded)


def test_a_pod_waits_for_its_log_to_be_kept_but_not_for_ever() -> None:
    waits = world([attempt(pod("run", **_ENDED))], keeps_logs=True)
    assert finish(waits, {"run.abc.1"}) == []
    kept = attempt(pod("run", **_ENDED))
    snapshot = world([kept], keeps_logs=True, logs=frozenset({kept.first.uid}))
    assert isinstance(finish(snapshot, {"run.abc.1"})[0], MarkRecorded)
    late = attempt(pod("run", node="node-m", started=-30, ended=-11))
    assert isinstance(finish(world([late], keeps_logs=True), {"run.abc.1"})[0], MarkRecorded)


def test_a_recorded_pod_goes_when_it_was_read() -> None:
    unread = world([attempt(pod("run", **_ENDED, annotations=_RECORDED))])
    assert finish(unread, {"run.abc.1"}) == []
    read = world([attempt(pod("run", **_ENDED, annotations=_READ))])
    assert isinstance(finish(read, {"run.abc.1"})[0], RemovePod)


def test_a_pod_that_was_read_stays_until_its_machine_is_known_but_not_for_ever() -> None:
    """Else nobody could say any more whose the machine was."""
    sold = machine("m")
    read = attempt(pod("run", **_ENDED, annotations=_READ))
    assert finish(world([read], nodes=[node(sold)]), {"run.abc.1"}) == []
    (removal,) = finish(world([read], [sold]), {"run.abc.1"})
    assert isinstance(removal, RemovePod)
    late = attempt(pod("run", node="node-m", started=-90, ended=-76, annotations=_READ))
    (removal,) = finish(world([late], nodes=[node(sold)]), {"run.abc.1"})
    assert isinstance(removal, RemovePod)


def test_a_recorded_pod_goes_when_nobody_waits_for_it() -> None:
    over = world(
        [attempt(pod("run", **_ENDED, annotations=_RECORDED))],
        owners_over={"run.abc.1": "the task is gone"},
    )
    (removal,) = finish(over, {"run.abc.1"})
    assert isinstance(removal, RemovePod)
    old: dict[str, Any] = {"node": "node-m", "started": -4000, "ended": -3601}
    late = world([attempt(pod("run", **old, annotations=_RECORDED))])
    assert isinstance(finish(late, {"run.abc.1"})[0], RemovePod)


def test_a_recorded_pod_that_its_operator_deletes_goes_at_once() -> None:
    leaving = pod("run", **_ENDED, annotations=_RECORDED, deleting=-1)
    (removal,) = finish(world([attempt(leaving)]), {"run.abc.1"})
    assert isinstance(removal, RemovePod)


def test_that_somebody_deletes_a_pod_is_written_down_with_the_time_of_that() -> None:
    leaving = attempt(pod("run", node="node-m", started=-20, deleting=25))
    (note,) = note_deletions(world([leaving]))
    assert isinstance(note, NoteDeletion)
    # The object has the time at which the grace of 30 s will be over.
    assert note.at == at(-5)
    assert note.cause == "its pod was deleted by somebody"
    end = {"outcome": "interrupted", "cause": note.cause, "at": "2026-11-24T11:59:55Z"}
    noted = {"piecework.dev/end": json.dumps(end)}
    known = attempt(pod("run", started=-20, deleting=25, annotations=noted))
    assert note_deletions(world([known])) == []
    told = {**noted, **_RECORDED}
    done = attempt(pod("run", node="node-m", started=-20, ended=-4, deleting=-1, annotations=told))
    (removal,) = finish(world([done]), {"run.abc.1"})
    assert isinstance(removal, RemovePod)


def test_that_kubernetes_itself_deletes_a_pod_is_not_put_down_to_somebody() -> None:
    disruption = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "DeletionByTaintManager",
        "message": "deleting due to NoExecute taint",
    }
    evicted = attempt(
        pod("run", node="node-m", deleting=25, status={"conditions": [disruption]}),
    )
    (note,) = note_deletions(world([evicted]))
    assert isinstance(note, NoteDeletion)
    assert note.cause == (
        "its pod was disrupted (DeletionByTaintManager: deleting due to NoExecute taint)"
    )
    end = {"outcome": "interrupted", "cause": note.cause, "at": "2026-11-24T11:59:55Z"}
    told = {"piecework.dev/end": json.dumps(end), **_RECORDED}
    done = attempt(pod("run", node="node-m", started=-20, ended=-4, deleting=-1, annotations=told))
    (removal,) = finish(world([done]), {"run.abc.1"})
    assert isinstance(removal, RemovePod)


def test_a_machine_is_let_go_when_its_end_is_in_the_ledger() -> None:
    gone = machine("m", gone_at=at(-1))
    assert finish(world(machines=[gone]), set()) == []
    assert finish(world(machines=[gone]), {"m"}) == [ForgetMachine(gone)]


def test_a_new_machine_is_stamped_with_the_attempt_that_it_was_bought_for() -> None:
    bought = machine("m", run="run-abc", attempt=None, held=False, requested_at=at(-1))
    first = attempt(pod("run", admitted=-2))
    assert stamp(world([first], [bought])) == [StampMachine(bought, "run.abc.1")]
    held = machine("m", run="run-abc", attempt="run.abc.1")
    assert stamp(world([first], [held])) == []


def test_a_machine_was_bought_for_the_attempt_that_was_admitted_before_it() -> None:
    bought = machine("m", run="run-abc", attempt=None, requested_at=at(-10))
    later = attempt(pod("run", admitted=-2))
    assert find_buyer(world([later], [bought]), bought) is None


def test_what_ends_is_not_admitted_and_what_is_admitted_is_not_given_back() -> None:
    idle = machine("m", launched_at=at(-500))
    over = waiting("over")
    snapshot = world([over, waiting("next")], [idle], owners_over={"over.abc.1": "it is over"})
    assert [str(action) for action in decide(snapshot)] == [
        "end over.abc.1 (cancelled): it is over",
        "admit next.abc.1: it takes over m",
    ]
