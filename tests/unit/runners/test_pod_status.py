"""What an attempt's pods tell of it: its state, what it waits for, its result."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piecework import clock
from piecework.ledger.events import Outcome
from piecework.plan import labels
from piecework.runners.pod_status import attempt_status, result_of, waiting_of
from piecework.runners.pods import end_of, queued_at, use_of
from piecework.runners.runner import Owner
from piecework.units import Memory
from tests.unit.runners.pod_objects import IMAGE, T0, Pod, at, said, text, with_first

ALL_ANNOTATIONS = (labels.END, labels.WAITING, labels.ADMITTED)


def test_who_waits_for_a_container_that_comes_first_says_so() -> None:
    pod = with_first(labels.MEETING, running={"startedAt": text(6)})
    assert waiting_of(pod)[0] == "waits for the other machines of its gang"
    pod = with_first("fetch", running={"startedAt": text(6)})
    assert waiting_of(pod)[0] == "its container fetch comes first, and is at work on n1"


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
    driver = Pod(0, count=3).exited(143, 25).ended(Outcome.INTERRUPTED, "a machine is gone", 24)
    lost = Pod(1, count=3).exited(137, 23).deleted(22)
    late = Pod(2, count=3).exited(1, 30)
    status = attempt_status([late, lost, driver], at(100))
    assert (status.outcome, status.cause) == (
        Outcome.INTERRUPTED,
        "its pod was deleted by somebody",
    )
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


def test_what_an_engine_made_says_nothing_about_its_attempt() -> None:
    driver, executor = Pod().exited(0, 40), Pod().running()
    executor["metadata"]["labels"][labels.ROLE] = labels.FOLLOWER
    status = attempt_status([executor, driver], at(100))
    assert (status.state, status.outcome) == ("ended", Outcome.SUCCESS)


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
