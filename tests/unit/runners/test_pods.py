"""What pods tell: phases, times, and why an attempt ended."""

from __future__ import annotations

import json
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piecework.ledger.events import Outcome
from piecework.plan import labels
from piecework.runners.outcome import Ending
from piecework.runners.pod_status import attempt_status
from piecework.runners.pods import (
    bound_at,
    ended_at,
    ending_of,
    is_final,
    phase_of,
    queued_at,
    read_request,
    started_at,
)
from tests.unit.runners.pod_objects import T0, Pod, at, said, text, with_first

CANCELLED, INTERRUPTED, ERROR = Outcome.CANCELLED, Outcome.INTERRUPTED, Outcome.ERROR
REFUSED = "Pod was rejected: Predicate TaintToleration failed"
#: What a kubelet says of a container of which it knows nothing.
FORGOTTEN = {"exitCode": 137, "reason": "ContainerStatusUnknown", "startedAt": None}
EVICTED = {"reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting"}
KILLED = Ending(ERROR, "exit code 137 (SIGKILL)", 137)


def taken(code: int | None) -> Ending:
    return Ending(INTERRUPTED, "its machine was taken away by its seller", code)


@pytest.mark.parametrize(
    ("pod", "phase"),
    [
        (Pod(), "gated"),
        (Pod().admitted(), "waiting"),
        (Pod().bound(), "pulling"),
        (Pod().bound().container(waiting={"reason": "ContainerCreating"}), "pulling"),
        (Pod().running(), "running"),
        (Pod().running().deleted(12), "running"),
        (Pod().exited(0), "ended"),
        (Pod().exited(1), "ended"),
        (Pod().deleted(3, grace=0), "ended"),
        (Pod().admitted().deleted(3), "ended"),
        (Pod().bound().deleted(3), "pulling"),
        (Pod().running().deleted(12, grace=0), "ended"),
        (Pod().exited(0, 15).deleted(12).status(phase="Running"), "ended"),
    ],
)
def test_phases(pod: Pod, phase: str) -> None:
    assert phase_of(pod) == phase
    assert is_final(pod) is (phase == "ended")
    assert (ending_of(pod) is not None) is (phase == "ended")
    assert (ended_at(pod) is not None) is (phase == "ended")


@pytest.mark.parametrize(
    ("pod", "ending"),
    [
        (Pod().exited(0), Ending(Outcome.SUCCESS, "exit code 0", 0)),
        (Pod().exited(3), Ending(ERROR, "exit code 3", 3)),
        (Pod().exited(137), Ending(ERROR, "exit code 137 (SIGKILL)", 137)),
        (Pod().exited(0, reason="OOMKilled"), Ending(Outcome.SUCCESS, "exit code 0", 0)),
        (
            Pod().exited(137, reason="OOMKilled"),
            Ending(Outcome.OUT_OF_MEMORY, "used all of its memory of 2 GiB", 137),
        ),
        (
            Pod().exited(1, message=said(out_of_memory=True)),
            Ending(Outcome.OUT_OF_MEMORY, "used all of its memory of 2 GiB", 1),
        ),
        (Pod().exited(1, message=said(failed="no such file")), Ending(ERROR, "no such file")),
        (
            Pod().exited(128, reason="StartError", message="exec: not found", started=-1e9 * 2),
            Ending(ERROR, "its command cannot be started: exec: not found", 128),
        ),
        (
            Pod().exited(143).status(reason="DeadlineExceeded"),
            Ending(Outcome.TIMEOUT, "ran longer than its timeout", 143),
        ),
        (
            Pod().exited(0).status(reason="DeadlineExceeded", phase="Failed"),
            Ending(Outcome.TIMEOUT, "ran longer than its timeout", 0),
        ),
        # Ended from outside, said so.
        (Pod().exited(143).ended(CANCELLED, "by hand", 19), Ending(CANCELLED, "by hand", 143)),
        (Pod().exited(0).ended(CANCELLED, "by hand", 19), Ending(CANCELLED, "by hand", 0)),
        (Pod().exited(0).ended(CANCELLED, "by hand", 20.9), Ending(CANCELLED, "by hand", 0)),
        (Pod().ended(CANCELLED, "by hand", 2).deleted(2, 0), Ending(CANCELLED, "by hand")),
        (
            Pod().bound().ended(Outcome.NEVER_STARTED, "no image", 90).deleted(90, 0),
            Ending(Outcome.NEVER_STARTED, "no image"),
        ),
        # Its end came before somebody ended it.
        (Pod().exited(0).ended(CANCELLED, "late", 21), Ending(Outcome.SUCCESS, "exit code 0", 0)),
        (Pod().exited(2).ended(CANCELLED, "late", 21.5), Ending(ERROR, "exit code 2", 2)),
        (Pod().exited(0).deleted(21, 0), Ending(Outcome.SUCCESS, "exit code 0", 0)),
        (Pod().exited(2).deleted(21, 0), Ending(ERROR, "exit code 2", 2)),
        (
            Pod().exited(0).deleted(22, 0).known_to_kubelet(False),
            Ending(Outcome.SUCCESS, "exit code 0", 0),
        ),
        # Deleted by somebody who said nothing, and 1.36 moved the time of that behind its end.
        (
            Pod().exited(0).deleted(22, 0).known_to_kubelet(),
            Ending(INTERRUPTED, "its pod was deleted by somebody", 0),
        ),
        (
            Pod().exited(143).deleted(22, 0).known_to_kubelet(),
            Ending(INTERRUPTED, "its pod was deleted by somebody", 143),
        ),
        (
            Pod().exited(0).ended(CANCELLED, "by hand", 19).deleted(22, 0).known_to_kubelet(),
            Ending(CANCELLED, "by hand", 0),
        ),
        # Deleted by somebody who said nothing.
        (Pod().exited(0).deleted(20), Ending(INTERRUPTED, "its pod was deleted by somebody", 0)),
        (Pod().exited(0).deleted(18, 0), Ending(INTERRUPTED, "its pod was deleted by somebody", 0)),
        (
            Pod().exited(143).deleted(19),
            Ending(INTERRUPTED, "its pod was deleted by somebody", 143),
        ),
        (
            Pod().running().deleted(19, 0),
            Ending(INTERRUPTED, "its pod was deleted by somebody"),
        ),
        (
            Pod().admitted().deleted(19),
            Ending(INTERRUPTED, "its pod was deleted by somebody before its program had started"),
        ),
        # Kubernetes gave it up.
        (
            Pod().exited(143).deleted(19).condition("DisruptionTarget", "True", 19, **EVICTED),
            Ending(
                INTERRUPTED,
                "its pod was disrupted (EvictionByEvictionAPI: Eviction API: evicting)",
                143,
            ),
        ),
        (
            Pod().exited(4).condition("DisruptionTarget", "True", 30, **EVICTED),
            Ending(ERROR, "exit code 4", 4),
        ),
        (
            Pod().exited(137).status(reason="Evicted", message="The node was low on memory"),
            Ending(
                INTERRUPTED, "its machine ended the pod (Evicted: The node was low on memory)", 137
            ),
        ),
        # Its machine was taken away, of which it had notice.
        (Pod().exited(137).annotated(labels.NOTICE, at=text(15)), taken(137)),
        (Pod().running().status(phase="Failed").annotated(labels.NOTICE, at=text(15)), taken(None)),
        (Pod().bound().status(phase="Failed").annotated(labels.NOTICE, at=text(15)), taken(None)),
        (Pod().exited(137).annotated(labels.NOTICE, at=text(25)), KILLED),
        (Pod().exited(2).annotated(labels.NOTICE, at=text(15)), Ending(ERROR, "exit code 2", 2)),
        (
            Pod().exited(0).annotated(labels.NOTICE, at=text(15)),
            Ending(Outcome.SUCCESS, "exit code 0", 0),
        ),
        (
            Pod().bound().status(phase="Failed", reason="OutOfcpu", message="too little"),
            Ending(Outcome.NEVER_STARTED, "its machine refused the pod: OutOfcpu: too little"),
        ),
        # Refused at the door, and what its kubelet makes of it afterwards.
        *(
            (
                pod.status(phase="Failed", reason="TaintToleration", message=REFUSED),
                Ending(
                    Outcome.NEVER_STARTED,
                    f"its machine refused the pod: TaintToleration: {REFUSED}",
                ),
            )
            for pod in (
                Pod().bound(),
                Pod().bound().container(terminated=FORGOTTEN),
                Pod().bound().container(terminated=FORGOTTEN).deleted(20, 0),
            )
        ),
        (
            Pod().running().status(phase="Failed"),
            Ending(INTERRUPTED, "its pod failed: nobody saw its program end"),
        ),
    ],
)
def test_why_a_pod_ended(pod: Pod, ending: Ending) -> None:
    assert ending_of(pod) == ending


def test_a_pod_that_was_refused_did_not_end_before_it_was_admitted() -> None:
    refused = Pod().admitted(9).status(phase="Failed", reason="TaintToleration", message=REFUSED)
    refused["spec"]["nodeName"] = "n1"
    assert ended_at(refused) == at(9)
    assert started_at(refused) is None


def test_a_pod_whose_sidecar_failed_names_it() -> None:
    pod = Pod().exited(0).status(phase="Failed")
    beside = {"name": "proxy", "state": {"terminated": {"exitCode": 9}}}
    pod["status"]["containerStatuses"].append(beside)
    assert ending_of(pod) == Ending(ERROR, "exit code 9 of its container proxy", 9)


@pytest.mark.parametrize(
    ("name", "message", "cause"),
    [
        ("fetch", "", "exit code 3 of its container fetch, which comes first"),
        ("fetch", "no net", "exit code 3 of its container fetch, which comes first: no net"),
        (labels.MEETING, "machine 1 never came", "machine 1 never came"),
    ],
)
def test_a_container_that_comes_first_and_fails_is_an_error_and_no_refusal(
    name: str, message: str, cause: str
) -> None:
    ended = {"exitCode": 3, "message": message, "finishedAt": text(20)}
    pod = with_first(name, terminated=ended).status(phase="Failed")
    assert ending_of(pod) == Ending(ERROR, cause)


outcomes = st.sampled_from([o for o in Outcome if o is not Outcome.SUCCESS])
seconds = st.floats(0, 40, allow_nan=False)


@given(
    code=st.sampled_from([0, 0, 0, 1, 137, 143]),
    phase=st.sampled_from(["Succeeded", "Failed", "Running"]),
    end=st.none() | seconds,
    deleted=st.none() | seconds,
    grace=st.sampled_from([0, 1, 30]),
    outcome=outcomes,
    finished=seconds,
)
def test_a_killed_pod_is_never_a_success(
    code: int,
    phase: str,
    end: float | None,
    deleted: float | None,
    grace: int,
    outcome: Outcome,
    finished: float,
) -> None:
    pod = Pod().exited(code, finished).status(phase=phase)
    if end is not None:
        pod.ended(outcome, "from outside", end)
    if deleted is not None:
        pod.deleted(deleted, grace)
    ending = ending_of(pod)
    if ending is None:
        assert phase == "Running"
        assert deleted is None
        return
    first = min((cut for cut in (end, deleted) if cut is not None), default=None)
    if ending.outcome is Outcome.SUCCESS:
        assert code == 0
        assert first is None or finished < first
    elif code == 0 and phase == "Succeeded":
        assert first is not None
        assert first < int(finished) + 1  # only where it may have been first
    status = attempt_status([pod], at(100))
    assert status.outcome is ending.outcome
    assert status.ended_at is not None


@given(
    code=st.sampled_from([0, 1, 137, 143]),
    finished=seconds,
    end=seconds,
    later=st.floats(0, 5),
    outcome=outcomes,
)
def test_what_is_read_of_a_pod_stays_true_when_its_kubelet_has_let_it_go(
    code: int, finished: float, end: float, later: float, outcome: Outcome
) -> None:
    def pod() -> Pod:
        return Pod().exited(code, finished).ended(outcome, "from outside", end)

    before = pod().deleted(end + later).known_to_kubelet()
    # The API server moves the deletion to its last step then, and its grace is over.
    after = pod().deleted(max(finished, end + later) + 1, 0).known_to_kubelet()
    assert ending_of(after) == ending_of(before)


def test_times_are_those_of_the_pod() -> None:
    pod = Pod().exited(0)
    times: list[datetime | None] = [queued_at(pod), bound_at(pod), started_at(pod), ended_at(pod)]
    assert times == [T0, at(5), at(10), at(20)]
    pod = Pod().admitted()
    assert [bound_at(pod), started_at(pod), ended_at(pod)] == [None, None, None]
    assert ended_at(Pod().ended(CANCELLED, "x", 7.5).deleted(8, 0)) == at(7.5)


@pytest.mark.parametrize("state", ["terminated", "waiting, terminated before"])
def test_a_program_that_its_machine_has_forgotten_was_interrupted_and_did_not_fail(
    state: str,
) -> None:
    told = {"exitCode": 137, "reason": "ContainerStatusUnknown", "startedAt": None}
    pod = Pod().bound().container(terminated={**told, "finishedAt": None}).status(phase="Failed")
    if state != "terminated":
        pod.container(waiting={"reason": "ContainerCreating"})
        pod["status"]["containerStatuses"][0]["lastState"] = {"terminated": told}
    ending = ending_of(pod)
    assert ending is not None
    assert (ending.outcome, ending.exit_code) == (INTERRUPTED, None)


def test_the_main_container_is_the_one_that_the_pod_names() -> None:
    pod = Pod().exited(0)
    pod["spec"]["containers"].insert(0, {"name": "proxy"})
    beside = {"name": "proxy", "state": {"terminated": {"exitCode": 9}}}
    pod["status"]["containerStatuses"].insert(0, beside)
    assert (ending_of(pod) or Ending(ERROR, "")).exit_code == 9
    pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"] = "job"
    assert ending_of(pod) == Ending(Outcome.SUCCESS, "exit code 0", 0)


def test_a_request_is_read_back() -> None:
    assert read_request(Pod(pool="spot"))["pool"] == "spot"
    assert json.loads(json.dumps(read_request(Pod()))) == read_request(Pod())
