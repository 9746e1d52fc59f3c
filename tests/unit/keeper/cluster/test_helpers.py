from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from piecework.config import Settings
from piecework.errors import InputError
from piecework.keeper.cluster.actions import MarkRecorded, TellWaiting
from piecework.keeper.cluster.hints import Hints, choose_hint
from piecework.keeper.cluster.learned import Learning, left_for_jobs
from piecework.keeper.cluster.logs import LONGEST_SECONDS, Logs, log_name
from piecework.keeper.cluster.owners import Owners
from piecework.keeper.cluster.progress import explain
from piecework.keeper.cluster.snapshot import Snapshot
from piecework.keeper.cluster.start import choose_pools
from piecework.keeper.cluster.tending import MOST_AT_ONCE, in_portions
from piecework.kube.client import Kube
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
from tests.unit.kube.server import Server, Written, found, page, refused

_OWNER = {
    "kind": "airflow", "dag_id": "flights", "dag_run_id": "run/1", "task_id": "clean",
    "map_index": -1, "max_tries": 0,
}  # fmt: skip


_BELIEVED = {"status": {"allocatable": {"cpu": "1900m", "memory": "8182Mi"}}}


def _asks(answers: dict[str, tuple[int, Any]]) -> Callable[[str], tuple[int, Any]]:
    def ask(path: str) -> tuple[int, Any]:
        for part, answer in answers.items():
            if part in path:
                return answer
        raise OSError("away")

    return ask


def _judge(answers: dict[str, tuple[int, Any]]) -> dict[str, str]:
    owners = Owners(_asks(answers))
    owners.look(world([waiting("run", owner=_OWNER), waiting("cli")]))
    owners.round()
    return dict(owners.over)


def test_an_owner_is_over_only_when_airflow_says_so() -> None:
    failed = {"task_instances": [{"task_id": "clean", "map_index": -1, "state": "failed"}]}
    running = {"task_instances": [{"task_id": "clean", "map_index": -1, "state": "running"}]}
    assert _judge({"?limit": (200, failed)}) == {
        "run.abc.1": "the Airflow task flights.clean is failed"
    }
    assert _judge({"?limit": (200, running)}) == {}
    assert _judge({}) == {}
    assert _judge({"?limit": (500, None)}) == {}
    assert _judge({"?limit": (401, None)}) == {}


def test_a_task_that_its_run_does_not_list_is_asked_for_by_name() -> None:
    gone = {"detail": "The Task Instance was not found"}
    answers = {"?limit": (200, {"task_instances": []}), "taskInstances/clean": (404, gone)}
    assert "is gone" in _judge(answers)["run.abc.1"]
    answers["taskInstances/clean"] = (502, None)
    assert _judge(answers) == {}


def test_owners_of_runs_are_asked_for_by_their_dag_run() -> None:
    asked: list[str] = []

    def ask(path: str) -> tuple[int, Any]:
        asked.append(path)
        return 200, {"task_instances": [{"task_id": "clean", "map_index": -1, "state": "queued"}]}

    owners = Owners(ask)
    owners.look(world([waiting("a", owner=_OWNER), waiting("b", owner=_OWNER)]))
    owners.round()
    assert len(asked) == 1
    assert "dagRuns/run%2F1/taskInstances" in asked[0]


def test_mostly_only_tasks_that_have_changed_are_asked_for() -> None:
    asked: list[str] = []
    now = [at(0)]
    tasks = {"clean": "deferred"}

    def ask(path: str) -> tuple[int, Any]:
        asked.append(path.partition("offset=0")[2])
        return 200, {
            "task_instances": [
                {"task_id": task, "map_index": -1, "state": state} for task, state in tasks.items()
            ]
        }

    owners = Owners(ask, now=lambda: now[0])
    owners.look(world([waiting("a", owner=_OWNER)]))
    owners.round()
    tasks.clear()  # nothing has changed
    for seconds in (5, 10):
        now[0] = at(seconds)
        owners.round()
    assert owners.over == {}
    tasks["clean"] = "failed"
    now[0] = at(15)
    owners.round()
    assert owners.over == {"a.abc.1": "the Airflow task flights.clean is failed"}
    # By its own clock, which may be ahead of Airflow's by 15 s.
    since = [f"&updated_at_gte=2026-11-24T11%3A59%3A{second}.000000Z" for second in (45, 50, 55)]
    assert asked == ["", *since]


def test_a_task_that_is_removed_is_found_when_all_are_listed_again() -> None:
    now = [at(0)]
    answers: dict[str, tuple[int, Any]] = {
        "?limit": (200, {"task_instances": [{"task_id": "clean", "map_index": -1, "state": None}]}),
        "/clean": (404, {"detail": "the task instance was not found"}),
    }
    owners = Owners(_asks(answers), now=lambda: now[0])
    owners.look(world([waiting("a", owner=_OWNER)]))
    owners.round()
    answers["?limit"] = (200, {"task_instances": []})
    now[0] = at(30)
    owners.round()
    assert owners.over == {}
    now[0] = at(60)
    owners.round()
    assert "is gone" in owners.over["a.abc.1"]


def _event(reason: str, message: str, second: int, component: str = "") -> dict[str, Any]:
    return {
        "reason": reason,
        "message": message,
        "lastTimestamp": f"2026-11-24T12:00:{second:02}Z",
        "reportingComponent": component,
    }


def test_the_autoscalers_word_goes_before_the_schedulers() -> None:
    events = [
        _event("FailedScheduling", "0/3 nodes are available", 9, "default-scheduler"),
        _event("NotTriggerScaleUp", "max node group size reached", 3, "cluster-autoscaler"),
        _event("Scheduled", "all is well", 30),
    ]
    said = choose_hint(events, "asg")
    assert said == "the autoscaler buys nothing: max node group size reached"
    assert choose_hint(events[:1], "asg") == "0/3 nodes are available"
    assert choose_hint(events[2:], "asg") is None


def test_where_both_autoscalers_are_the_one_counts_that_buys_for_the_pool() -> None:
    events = [
        _event("FailedScheduling", "no instance type fits", 1, "karpenter"),
        _event("NotTriggerScaleUp", "untolerated taints", 9, "cluster-autoscaler"),
    ]
    assert choose_hint(events, "karpenter") == "no instance type fits"
    assert choose_hint(events, "asg") == "the autoscaler buys nothing: untolerated taints"
    assert choose_hint(events[1:], "karpenter") is None


def test_only_pods_that_have_waited_for_a_while_are_asked_about() -> None:
    told = _event("FailedScheduling", "no instance type fits", 1, "karpenter")
    server = Server([page(told)])
    hints = Hints(Kube(server))
    hints.look(world([attempt(pod("early", admitted=-2)), attempt(pod("late", admitted=-20))]))
    hints.round()
    assert hints.found == {"late.abc.1": "no instance type fits"}
    assert "involvedObject.name=late-0" in server.asked[0].query["fieldSelector"]


def _reasons(snapshot: Snapshot) -> list[str]:
    return [told.reason for told in explain(snapshot)]


def test_what_an_admitted_run_waits_for_is_told_step_by_step() -> None:
    run = attempt(pod("run", admitted=-5))
    bought = {"run": "run-abc", "node": None, "joined_at": None, "ready_at": None}
    steps = [
        (world([attempt(pod("run", admitted=-2))]), []),
        (world([run]), ["no machine yet: Karpenter is to buy an m6a.large"]),
        (world([run], [machine("m", **bought, launched_at=None)]),
         ["no machine yet: Karpenter is buying an m6a.large"]),
        (world([run], [machine("m", **bought, launched_at=None, problem="no capacity")]),
         ["no machine yet: no capacity"]),
        (world([run], [machine("m", **bought)]), ["its machine m (m6a.large) is booting"]),
        (world([run], hints={"run.abc.1": "no type fits"}), ["no machine yet: no type fits"]),
        (world([run], pools=[groups_pool()], failures={"spot": "no spot capacity, trying more"}),
         ["no spot capacity, trying more"]),
    ]  # fmt: skip
    for snapshot, expected in steps:
        assert _reasons(snapshot) == expected


def test_an_image_that_cannot_be_pulled_is_told() -> None:
    container = {
        "name": "job",
        "image": "registry/no:1",
        "state": {"waiting": {"reason": "ErrImagePull", "message": "manifest unknown: not found"}},
    }
    run = pod("run", admitted=-9, node="node-m", status={"containerStatuses": [container]})
    assert _reasons(world([attempt(run)], [machine("m")])) == [
        "image pull: not found: registry/no:1"
    ]


class _Store:
    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def open(self, name: str) -> IO[bytes]:
        files = self.files

        class File(io.BytesIO):
            def close(self) -> None:
                files[name] = self.getvalue()
                super().close()

        return File()


def test_a_log_is_kept_and_one_that_cannot_be_read_is_given_up() -> None:
    done = attempt(pod("run", node="node-m", started=-20, ended=-5))
    store = _Store()
    logs = Logs(Kube(Server([Written(200, [b"one\n", b"two\n"])])), store)
    logs.copy(done.first)
    assert store.files == {"logs/run.abc.1.log": b"one\ntwo\n"}
    failing = Logs(Kube(Server([refused(404)])), store)
    failing.look(world([done]))
    failing._threads.shutdown()
    assert failing.kept == {done.first.uid}
    assert LONGEST_SECONDS < 10


def test_each_pod_of_a_gang_has_a_log_of_its_own() -> None:
    assert log_name(pod("gang", 0, count=2)) == "logs/gang.abc.1.log"
    assert log_name(pod("gang", 1, count=2)) == "logs/gang.abc.1.1.log"


def test_what_a_machine_has_for_jobs_is_less_what_its_daemons_ask_for() -> None:
    daemon = {
        "metadata": {"ownerReferences": [{"kind": "DaemonSet"}]},
        "spec": {"containers": [{"resources": {"requests": {"cpu": "100m", "memory": "128Mi"}}}]},
    }
    job = {"metadata": {}, "spec": {"containers": [{"resources": {"requests": {"cpu": "1"}}}]}}
    left = left_for_jobs({"cpu": "1930m", "memory": "7000Mi"}, [daemon, job])
    assert left == {"cpu": "1830m", "memory_bytes": (7000 - 128) * 2**20}


def test_what_karpenter_believed_counts_where_it_is_less() -> None:
    offers = {"cpu": "1930m", "memory": "7000Mi"}
    left = left_for_jobs(offers, [], {"cpu": "1900m", "memory": "8182Mi"})
    assert left == {"cpu": "1900m", "memory_bytes": 7000 * 2**20}
    # Karpenter writes parts of a byte at times.
    left = left_for_jobs(offers, [], {"cpu": "2", "memory": "6442450944500m"})
    assert left == {"cpu": "1930m", "memory_bytes": 6 * 2**30}
    assert left_for_jobs(offers, [], {"memory": "plenty"})["memory_bytes"] == 7000 * 2**20


def test_what_was_learned_is_written_once_a_type() -> None:
    server = Server([page(), found(_BELIEVED), refused(404), found({})])
    learning = Learning(Kube(server), {"spot": pool()})
    known = machine("m")
    ready = node(known, allocatable={"cpu": "2", "memory": "8Gi"}, ready_at=at(-60))
    snapshot = world(machines=[known], nodes=[ready])
    learning.look(snapshot)
    learning.look(snapshot)
    learning._thread.shutdown()
    assert [asked.method for asked in server.asked] == ["GET", "GET", "PATCH", "POST"]
    assert server.asked[1].path.endswith("/nodeclaims/m")
    assert server.asked[3].body["metadata"]["name"] == "piecework-learned"
    assert json.loads(server.asked[3].body["data"]["m6a.large"])["cpu"] == "1900m"


def test_what_can_wait_is_done_in_portions_and_what_cannot_is_not() -> None:
    telling = [TellWaiting(pod(f"run-{number}"), "why", NOW, 0) for number in range(100)]
    marking = [MarkRecorded(pod("done"))]
    taken = in_portions([*telling, *marking])
    assert len(taken) == MOST_AT_ONCE["tell-waiting"] + 1


def _settings(**pools: Any) -> Settings:
    return Settings(home=Path("/home"), ledger_url="sqlite://", pools=pools)


def test_a_keeper_is_for_the_pools_of_one_cluster() -> None:
    one = {"provider": "karpenter", "context": "one"}
    other = {"provider": "karpenter", "context": "other"}
    assert list(choose_pools(_settings(a=one, b=one))) == ["a", "b"]
    assert list(choose_pools(_settings(a=one, b=other), ["b"])) == ["b"]
    with pytest.raises(InputError, match="of 2 clusters"):
        choose_pools(_settings(a=one, b=other))
    with pytest.raises(InputError, match="no such pool"):
        choose_pools(_settings(a=one), ["c"])
    with pytest.raises(InputError, match="slices of this host"):
        choose_pools(_settings(a=one), ["local"])
    with pytest.raises(InputError, match="no pool on a cluster"):
        choose_pools(_settings())
