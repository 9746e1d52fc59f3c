from __future__ import annotations

import json
import threading
from typing import Any

from piecework.keeper.cluster.actions import (
    Admit,
    AdmitFollowers,
    EndAttempt,
    GiveBack,
    MarkRecorded,
    Release,
    RemovePod,
    TellWaiting,
)
from piecework.keeper.cluster.apply import Done, Executor
from piecework.kube.client import Kube
from piecework.kube.transport import UnreachableError
from piecework.ledger.events import Outcome
from piecework.machines.karpenter import Karpenter
from piecework.plan import labels
from tests.unit.keeper.cluster.worlds import NOW, attempt, follower, machine, pod, pool
from tests.unit.kube.server import Asked, Reply, Server, found, refused

_ANY = {"metadata": {"name": "x", "uid": "uid-run-0", "resourceVersion": "9"}}


def _executor(*replies: Reply) -> tuple[Executor, Server]:
    server = Server(list(replies))
    kube = Kube(server)
    return Executor(kube, {"spot": Karpenter(kube, [pool()], dict)}), server


def _apply(executor: Executor, *actions: Any) -> list[Done]:
    try:
        return executor.apply(actions)
    finally:
        executor.threads.shutdown()
        executor.pod_threads.shutdown()


def _methods(server: Server) -> list[tuple[str, str]]:
    return [(asked.method, asked.path.rpartition("/")[2]) for asked in server.asked]


def test_an_admission_relabels_the_machine_before_it_opens_the_gate() -> None:
    executor, server = _executor(found(_ANY), found(_ANY))
    waiting = attempt(pod("run", gated=True))
    (done,) = _apply(executor, Admit(waiting, NOW, (machine("m"),)))
    assert done.error is None
    relabelled, opened = server.asked
    assert relabelled.body == {"metadata": {"labels": {labels.RUN: "run-abc"}}}
    operations = {operation["op"]: operation for operation in opened.body}
    assert operations["remove"]["path"] == "/spec/schedulingGates/0"
    admitted = json.loads(operations["add"]["value"])
    assert admitted == {"at": "2026-11-24T12:00:00.000000Z", "machine": "m"}
    tests = [operation for operation in opened.body if operation["op"] == "test"]
    assert {test["path"] for test in tests} == {"/metadata/uid", "/spec/schedulingGates/0/name"}


def test_an_admission_that_buys_says_what_it_waits_for_in_the_same_step() -> None:
    executor, server = _executor(found(_ANY))
    waiting = attempt(pod("run", gated=True))
    _apply(executor, Admit(waiting, NOW, told="no machine yet"))
    added = [operation["value"] for operation in server.asked[0].body if operation["op"] == "add"]
    assert json.loads(added[1])["reason"] == "no machine yet"
    assert json.loads(added[1])["since"] == json.loads(added[0])["at"]


def test_followers_gates_are_opened_after_machines_were_handed_over_to_their_run() -> None:
    executor, server = _executor(found(_ANY), found(_ANY))
    made = follower("run", 7, gated=True)
    run = attempt(pod("run", node="node-d", started=-20), made)
    _apply(executor, AdmitFollowers(run, (made,), NOW, (machine("m"),)))
    assert _methods(server) == [("PATCH", "node-m"), ("PATCH", "run-exec-7")]


def test_where_only_some_pods_are_to_end_the_others_are_left_alone() -> None:
    executor, server = _executor(found(_ANY), found(_ANY), found(_ANY), found(_ANY))
    made = follower("run", 7, node="node-e", started=-20)
    run = attempt(pod("run", node="node-d", started=-20), made)
    _apply(executor, EndAttempt(run, Outcome.CANCELLED, "over", NOW, only=(made,)))
    assert {name for _, name in _methods(server)} == {"run-exec-7"}


def test_a_machine_that_vanished_before_its_hand_over_opens_no_gate() -> None:
    executor, server = _executor(refused(404))
    (done,) = _apply(executor, Admit(attempt(pod("run", gated=True)), NOW, (machine("m"),)))
    assert done.error is not None
    assert len(server.asked) == 1


def test_a_gate_that_somebody_else_opened_is_no_error() -> None:
    executor, _ = _executor(refused(422, "Invalid"), found(_ANY))
    (done,) = _apply(executor, Admit(attempt(pod("run", gated=True)), NOW))
    assert done.error is None
    assert done.pods == (_ANY,)


def test_an_end_is_written_before_the_pod_is_deleted() -> None:
    executor, server = _executor(found(_ANY), found(_ANY), found(_ANY), found(_ANY))
    running = attempt(pod("run", node="node-m", started=-20))
    _apply(executor, EndAttempt(running, Outcome.CANCELLED, "its owner is over", NOW))
    assert [method for method, _ in _methods(server)] == ["GET", "PATCH", "DELETE", "GET"]
    end = json.loads(server.asked[1].body["metadata"]["annotations"][labels.END])
    assert (end["outcome"], end["cause"]) == ("cancelled", "its owner is over")
    assert "gracePeriodSeconds" not in server.asked[2].body


def test_the_first_end_that_was_written_stays() -> None:
    ended = {"metadata": {**_ANY["metadata"], "annotations": {labels.END: "{}"}}}
    executor, server = _executor(found(ended), found(_ANY), found(_ANY))
    running = attempt(pod("run", node="node-m", started=-20))
    _apply(executor, EndAttempt(running, Outcome.CANCELLED, "too late", NOW))
    assert "PATCH" not in [method for method, _ in _methods(server)]


def test_a_pod_on_a_lost_machine_is_deleted_by_force() -> None:
    executor, server = _executor(found(_ANY), found(_ANY), found(_ANY), found(_ANY))
    running = attempt(pod("run", node="node-m", started=-20))
    _apply(executor, EndAttempt(running, Outcome.INTERRUPTED, "lost", NOW, force=True))
    assert server.asked[2].body["gracePeriodSeconds"] == 0
    assert server.asked[2].body["preconditions"] == {"uid": "uid-run-0"}


def test_a_recorded_pod_is_deleted_and_loses_its_finalizer() -> None:
    held = {"metadata": {**_ANY["metadata"], "finalizers": ["other", labels.FINALIZER]}}
    executor, server = _executor(found(_ANY), found(held), found(_ANY))
    _apply(executor, RemovePod(pod("run", node="node-m", started=-20, ended=-5), "read"))
    assert [method for method, _ in _methods(server)] == ["DELETE", "GET", "PATCH"]
    assert server.asked[2].body[1] == {"op": "remove", "path": "/metadata/finalizers/1"}


def test_a_gang_is_taken_from_kueue_which_would_keep_its_pods() -> None:
    gang = {"kueue.x-k8s.io/pod-group-name": "run-1"}
    executor, server = _executor(found(_ANY), found(_ANY), found({}))
    ended = pod("run", node="node-m", started=-20, ended=-5, pod_labels=gang)
    _apply(executor, RemovePod(ended, "read"))
    workload = server.asked[-1]
    assert (workload.method, workload.path.rpartition("/")[2]) == ("DELETE", "run-1")
    assert "/workloads/" in workload.path


def test_another_pod_of_the_same_name_keeps_its_finalizer() -> None:
    other = {"metadata": {"name": "x", "uid": "another", "finalizers": [labels.FINALIZER]}}
    executor, server = _executor(found(_ANY), found(other))
    _apply(executor, RemovePod(pod("run", node="node-m", started=-20, ended=-5), "read"))
    assert "PATCH" not in [method for method, _ in _methods(server)]


def test_annotations_are_written_on_the_pod_that_was_meant() -> None:
    executor, server = _executor(found(_ANY), found(_ANY))
    seen = pod("run")
    _apply(executor, TellWaiting(seen, "the pool is full", NOW, 3), MarkRecorded(seen))
    told = server.asked[0].body["metadata"]
    assert told["uid"] == "uid-run-0"
    assert json.loads(told["annotations"][labels.WAITING])["number"] == 3
    assert server.asked[1].body["metadata"]["annotations"] == {labels.RECORDED: "true"}


def test_what_fails_stops_what_follows_about_the_same_thing_and_nothing_else() -> None:
    def reply(asked: Asked) -> Any:
        if asked.path.endswith("/a"):
            raise UnreachableError("away")
        return found(_ANY)

    executor, server = _executor()
    server.otherwise = reply
    first, second = machine("a"), machine("b")
    done = _apply(
        executor,
        Release(first, NOW, "why"), GiveBack(first), Release(second, NOW, "why"), GiveBack(second),
    )  # fmt: skip
    assert sorted(result.action.kind for result in done) == ["give-back", "release", "release"]
    assert [result.error is None for result in done].count(False) == 1


def test_a_keeper_that_has_lost_its_lease_does_nothing_more() -> None:
    executor, server = _executor()
    executor.may_act = lambda: False
    assert _apply(executor, MarkRecorded(pod("run"))) == []
    assert server.asked == []


def test_an_answer_that_takes_long_holds_up_nothing_but_what_follows_about_the_same() -> None:
    slow_asked, others_done = threading.Event(), threading.Semaphore(0)

    def reply(asked: Asked) -> Any:
        if asked.path.endswith("/slow-0"):
            slow_asked.set()
            for _ in range(20):
                assert others_done.acquire(timeout=10)
        else:
            assert slow_asked.wait(10)
            others_done.release()
        return found(_ANY)

    executor, server = _executor()
    server.otherwise = reply
    executor.longest_seconds = 30
    names = ["slow", *(f"quick-{number}" for number in range(20))]
    done = _apply(executor, *(MarkRecorded(pod(name)) for name in names))
    assert [result.error for result in done] == [None] * 21


def test_the_pods_of_a_gang_are_ended_at_the_same_time() -> None:
    together = threading.Barrier(4, timeout=10)

    def reply(asked: Asked) -> Any:
        if asked.method == "DELETE":
            together.wait()
        return found(_ANY)

    executor, server = _executor()
    server.otherwise = reply
    gang = attempt(*(pod("run", n, count=4, node=f"node-{n}", started=-9) for n in range(4)))
    (done,) = _apply(executor, EndAttempt(gang, Outcome.CANCELLED, "enough", NOW))
    assert done.error is None
