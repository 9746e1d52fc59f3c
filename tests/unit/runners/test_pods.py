"""What pods tell: phases, times, and why an attempt ended."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piecework import clock
from piecework.ledger.events import Outcome
from piecework.plan import labels
from piecework.runners.outcome import Ending
from piecework.runners.pods import (
    attempt_status,
    bound_at,
    end_of,
    ended_at,
    ending_of,
    is_final,
    phase_of,
    queued_at,
    read_request,
    result_of,
    started_at,
    use_of,
    waiting_of,
)
from piecework.runners.runner import Owner
from piecework.units import Memory
from tests.unit.runners.pod_objects import IMAGE, T0, Pod, at, said, text

CANCELLED, INTERRUPTED, ERROR = Outcome.CANCELLED, Outcome.INTERRUPTED, Outcome.ERROR
ALL_ANNOTATIONS = (labels.END, labels.WAITING, labels.ADMITTED)
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


def _with_first(name: str, **state: Any) -> Pod:
    """A pod whose program has not started, because of a container that comes before it."""
    pod = Pod().bound().container(waiting={"reason": "PodInitializing"})
    return pod.status(initContainerStatuses=[{"name": name, "state": state}])


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
    pod = _with_first(name, terminated=ended).status(phase="Failed")
    assert ending_of(pod) == Ending(ERROR, cause)


def test_who_waits_for_a_container_that_comes_first_says_so() -> None:
    pod = _with_first(labels.MEETING, running={"startedAt": text(6)})
    assert waiting_of(pod)[0] == "waits for the other machines of its gang"
    pod = _with_first("fetch", running={"startedAt": text(6)})
    assert waiting_of(pod)[0] == "its container fetch comes first, and is at work on n1"


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


@given(st.dictionaries(st.sampled_from([labels.REQUEST, labels.END, labels.WAITING]), st.text()))
def test_broken_annotations_are_as_none(annotations: dict[str, str]) -> None:
    pod = Pod()
    pod["metadata"]["annotations"] = annotations
    assert end_of(pod) is None or labels.END in annotations
    status = attempt_status([pod], T0)
    assert status.state == "waiting"
    assert status.reason


values = st.none() | st.booleans() | st.floats() | st.text(max_size=3) | st.integers()
fields = st.sampled_from(
    ["run", "number", "count", "memory_bytes", "queued_at", "owner", "engine", "at", "since",
     "reason", "outcome", "cause"]
)  # fmt: skip


@given(
    st.dictionaries(fields, values | st.lists(values, max_size=2)),
    st.dictionaries(fields, values),
    st.sampled_from([Pod().running(), Pod().exited(0), Pod().exited(137, reason="OOMKilled")]),
)
def test_annotations_of_any_shape_are_survived(
    request: dict[str, object], other: dict[str, object], pod: Pod
) -> None:
    annotations = {labels.REQUEST: request, **dict.fromkeys(ALL_ANNOTATIONS, other)}
    pod["metadata"]["annotations"] = {name: json.dumps(v) for name, v in annotations.items()}
    status = attempt_status([pod], T0)
    assert status.state in ("running", "ended")
    assert status.attempt
    assert queued_at(pod)


def test_times_are_those_of_the_pod() -> None:
    pod = Pod().exited(0)
    times: list[datetime | None] = [queued_at(pod), bound_at(pod), started_at(pod), ended_at(pod)]
    assert times == [T0, at(5), at(10), at(20)]
    pod = Pod().admitted()
    assert [bound_at(pod), started_at(pod), ended_at(pod)] == [None, None, None]
    assert ended_at(Pod().ended(CANCELLED, "x", 7.5).deleted(8, 0)) == at(7.5)


def test_what_a_launcher_left_is_the_result_and_the_use() -> None:
    pod = Pod().exited(0, message=said({"rows": 3}))
    assert result_of(pod) == {"rows": 3}
    assert (use_of(pod) or {})["cpu_seconds"] == 1.5
    assert attempt_status([pod], T0).result == {"rows": 3}
    assert attempt_status([Pod().exited(1, message=said(5))], T0).result is None


@pytest.mark.parametrize(
    ("message", "result"), [('{"use": 1}', {"use": 1}), ("42", 42), ("no JSON", None), ("", None)]
)
def test_a_containers_message_is_its_result(message: str, result: object) -> None:
    pod = Pod(engine="container").exited(0, message=message)
    assert result_of(pod) == result
    assert use_of(pod) is None


@pytest.mark.parametrize(
    ("pod", "reason", "since"),
    [
        (Pod(), "waits for the keeper to admit it", 0),
        (
            Pod().annotated(labels.WAITING, reason="pool spot is full", since=text(3)),
            "pool spot is full",
            3,
        ),
        (Pod().admitted(), "waits for a machine", 1),
        (
            Pod().admitted(9).annotated(labels.WAITING, reason="pool spot is full", since=text(3)),
            "waits for a machine",
            9,
        ),
        (
            Pod().admitted().annotated(labels.WAITING, reason="no spot capacity", since=text(60)),
            "no spot capacity",
            60,
        ),
        (
            Pod().admitted().condition("PodScheduled", "False", 2, message="0/3 nodes fit\n"),
            "waits for a machine: 0/3 nodes fit",
            1,
        ),
        (Pod().bound(), "its image is being pulled on n1", 5),
        (
            Pod().bound().container(waiting={"reason": "ImagePullBackOff", "message": "not found"}),
            f"its image {IMAGE} cannot be pulled (ImagePullBackOff): not found",
            5,
        ),
        (
            Pod()
            .bound()
            .container(waiting={"reason": "CreateContainerConfigError", "message": "runs as root"}),
            "its container cannot be made on n1 (CreateContainerConfigError): runs as root",
            5,
        ),
    ],
)
def test_what_a_pod_waits_for_and_since_when(pod: Pod, reason: str, since: float) -> None:
    assert waiting_of(pod) == (reason, at(since))
    status = attempt_status([pod], at(100))
    assert (status.state, status.reason, status.since) == ("waiting", reason, at(since))


def test_kueue_comes_before_the_keeper() -> None:
    pod = Pod()
    pod["spec"]["schedulingGates"].append({"name": "kueue.x-k8s.io/admission"})
    pod["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "team-a"
    assert waiting_of(pod)[0] == "waits in Kueue's queue team-a"


def test_a_running_attempt_tells_who_asked_and_where_it_is() -> None:
    owner = {"kind": "airflow", "dag_id": "flights", "try_number": 2}
    status = attempt_status([Pod(owner=owner).running()], at(30))
    assert status.attempt == "flights.delays.7f3a9c1b04d2.1"
    assert (status.state, status.machines, status.reason) == ("running", ("n1",), None)
    assert status.owner == Owner("airflow", dag_id="flights", try_number=2)
    assert status.memory == Memory(2 * 2**30)
    assert (status.queued_at, status.started_at, status.ended_at) == (T0, at(10), None)


def test_a_gang_runs_when_one_does_and_ends_when_all_have() -> None:
    def gang(*pods: Pod) -> str:
        return attempt_status(pods, at(100)).state

    assert gang(Pod(0, count=2).running()) == "running"
    assert gang(Pod(0, count=2).bound(), Pod(1, count=2)) == "waiting"
    assert gang(Pod(0, count=2).bound(), Pod(1, count=2).running()) == "running"
    assert gang(Pod(0, count=2).exited(0), Pod(1, count=2).running()) == "running"
    assert gang(Pod(0, count=2).exited(0), Pod(1, count=2).exited(0)) == "ended"


def test_a_gang_waits_for_what_its_last_pod_waits_for() -> None:
    status = attempt_status([Pod(0, count=2).bound(), Pod(1, count=2)], at(9))
    assert status.reason == "waits for the keeper to admit it"
    assert attempt_status([Pod(0, count=2).bound()], at(9)).reason == "its pods are being made"


def test_a_gang_ends_as_the_first_that_failed_by_itself() -> None:
    driver = Pod(0, count=3).exited(143, 25).ended(INTERRUPTED, "a machine of its is gone", 24)
    lost = Pod(1, count=3).exited(137, 23).deleted(22)
    late = Pod(2, count=3).exited(1, 30)
    status = attempt_status([late, lost, driver], at(100))
    assert (status.outcome, status.cause) == (INTERRUPTED, "its pod was deleted by somebody")
    assert status.ended_at == at(30)
    done = [Pod(0, count=2).exited(0, message=said(7)), Pod(1, count=2).exited(0)]
    assert attempt_status(done, at(100)).result == 7


def test_a_gang_with_a_head_ends_as_its_head_did_when_all_have() -> None:
    failed = Pod(1, count=2, led=True).exited(1, 20)
    running = [failed, Pod(0, count=2, led=True).running()]
    assert attempt_status(running, at(100)).state == "running"
    late = Pod(2, count=3, led=True).exited(143, 45)
    done = [late, failed, Pod(0, count=3, led=True).exited(0, 40, message=said(7))]
    status = attempt_status(done, at(100))
    assert (status.outcome, status.result, status.ended_at) == (Outcome.SUCCESS, 7, at(40))
    broken = [Pod(1, count=2, led=True).exited(0, 20), Pod(0, count=2, led=True).exited(3, 30)]
    assert attempt_status(broken, at(100)).exit_code == 3


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


def test_what_an_engine_made_says_nothing_about_its_attempt() -> None:
    driver, executor = Pod().exited(0, 40), Pod().running()
    executor["metadata"]["labels"][labels.ROLE] = labels.FOLLOWER
    status = attempt_status([executor, driver], at(100))
    assert (status.state, status.outcome) == ("ended", Outcome.SUCCESS)


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


def test_while_a_run_goes_on_it_is_told_what_its_executors_wait_for() -> None:
    def executor(number: int) -> Pod:
        pod = Pod()
        pod["metadata"]["name"] += f"-exec-{number}"
        pod["metadata"]["labels"][labels.ROLE] = labels.FOLLOWER
        return pod

    told = {"reason": "no spot capacity", "since": clock.to_text(at(7)), "number": 1}
    waiting = executor(2).annotated(labels.WAITING, **told)
    status = attempt_status([Pod().running(), executor(1).running(), waiting], at(20))
    assert (status.state, status.since) == ("running", at(7))
    assert status.reason == "1 of its 2 executors wait: no spot capacity"
    assert attempt_status([Pod().running(), executor(1).running()], at(20)).reason is None
