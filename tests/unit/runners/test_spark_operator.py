"""An attempt whose driver the Spark operator makes: what is told of it while there is no pod."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piecework.errors import RunnerError
from piecework.kube.client import POD, Kube, Object
from piecework.ledger.events import Outcome
from piecework.plan import labels
from piecework.plan.spark_application import DRIVER
from piecework.runners.kubernetes import KubernetesRunner
from piecework.runners.pod_status import attempt_status
from piecework.runners.pod_view import PodView
from piecework.runners.spark_operator import is_over, is_stand_in, stand_in
from tests.unit.kube.server import refused
from tests.unit.runners.pod_objects import Pod
from tests.unit.runners.test_kubernetes import NOW, RUN, Cluster, eventually

SPARK = {"spark": {"file": "clean.py", "mode": "operator"}, "machine": {"cpu": 4, "memory": "8Gi"}}
NAME = "clean-7f3a9c1b04d2-1"
SUBMITTED_AT = "2026-11-24T12:20:00Z"
#: As Spark 4.2 says it.
REFUSAL = (
    "failed to submit spark application: failed to run spark-submit: 26/11/24 WARN Utils: x\n"
    'Exception in thread "main" io.fabric8.KubernetesClientException: Failure executing: POST. '
    'Message: pods "x" is forbidden: exceeded quota. Received status: Status(code=403)\n\tat io.x'
)


class Operated(Cluster):
    """The same in a namespace that the Spark operator looks after."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.pool = self.pool.model_copy(update={"spark_operator": True})

    def runner(self, view: PodView | None = None) -> KubernetesRunner:
        if view is None:
            view = PodView(Kube(self.objects), self.pool.namespace, applications=True)
            self.views.append(view)
        return super().runner(view)

    def applications(self) -> list[Object]:
        return [obj for path, obj in self.objects.kept.items() if "/sparkapplications/" in path]

    def say(self, state: str, **status: Any) -> None:
        """What the operator does."""
        told = {"applicationState": {"state": state, **status.pop("more", {})}, **status}
        self.objects.change(NAME, lambda obj: obj.update(status=told), "sparkapplications")

    def make_driver(self) -> None:
        """What spark-submit does, in the operator."""
        (application,) = self.applications()
        template = application["spec"]["driver"]["template"]
        pod = {**template, "kind": "Pod", "metadata": {**template["metadata"], "name": NAME}}
        pod["metadata"]["namespace"] = "piecework"
        pod["metadata"]["labels"] = {
            **pod["metadata"]["labels"], "sparkoperator.k8s.io/app-name": NAME
        }  # fmt: skip
        Kube(self.objects).create(POD, pod)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Operated]:
    made = Operated(tmp_path)
    yield made
    for view in made.views:
        view.close()


def test_an_application_is_made_once_and_waits_for_the_operator(cluster: Operated) -> None:
    runner = cluster.runner()
    first = runner.start(cluster.request(job=SPARK))
    assert (first.attempt, first.state) == (f"{RUN}.1", "waiting")
    assert "waits for the Spark operator" in str(first.reason)
    assert runner.start(cluster.request(job=SPARK)).attempt == first.attempt
    assert len(cluster.applications()) == 1
    assert not cluster.objects.pods()
    assert cluster.runner().find(RUN)[0].state == "waiting"


def test_the_drivers_pod_alone_decides_once_it_is_there(cluster: Operated) -> None:
    runner = cluster.runner()
    runner.start(cluster.request(job=SPARK))
    cluster.make_driver()
    cluster.say("FAILED", executionAttempts=1, more={"errorMessage": "driver pod not found"})
    eventually(lambda: runner.status(f"{RUN}.1"), reason="waits for the keeper to admit it")
    cluster.run(NAME)
    cluster.objects.change(NAME, lambda pod: pod.update(status=of_driver(Pod().running())))
    eventually(lambda: runner.status(f"{RUN}.1"), state="running")
    cluster.objects.change(NAME, lambda pod: pod.update(status=of_driver(Pod().exited(0))))
    ended = eventually(lambda: runner.status(f"{RUN}.1"), state="ended")
    assert ended.outcome is Outcome.SUCCESS
    runner.acknowledge(f"{RUN}.1")
    (application,) = cluster.applications()
    assert application["metadata"]["annotations"] == {labels.SEEN: "true"}
    cluster.objects.vanish(NAME)
    later = cluster.runner()
    assert later.attempts(RUN) == []


def of_driver(pod: Object) -> Object:
    """The status of a pod whose container has the name that the operator wants."""
    status: Object = pod["status"]
    status["containerStatuses"][0]["name"] = DRIVER
    return status


def test_a_vanished_driver_is_a_failure_whatever_the_operator_says(cluster: Operated) -> None:
    cluster.runner().start(cluster.request(job=SPARK))
    cluster.say("COMPLETED", executionAttempts=1)
    found = cluster.runner().status(f"{RUN}.1")
    assert found is not None
    assert (found.state, found.outcome) == ("ended", Outcome.INTERRUPTED)
    assert "nobody saw it end" in str(found.cause)


def test_a_submission_that_fails_never_started_and_says_what_was_refused(cluster: Operated) -> None:
    runner = cluster.runner()
    runner.start(cluster.request(job=SPARK))
    cluster.say("SUBMISSION_FAILED", more={"errorMessage": REFUSAL})
    ended = eventually(lambda: runner.status(f"{RUN}.1"), state="ended")
    assert ended.outcome is Outcome.NEVER_STARTED
    assert ended.cause == (
        'the Spark operator could not submit it: pods "x" is forbidden: exceeded quota'
    )


def test_where_spark_submit_takes_its_pod_back_the_operator_says_why(cluster: Operated) -> None:
    runner = cluster.runner()
    runner.start(cluster.request(job=SPARK))
    cluster.make_driver()
    Kube(cluster.objects).delete(POD, NAME, "piecework")
    cluster.say("FAILED", more={"errorMessage": REFUSAL})
    ended = eventually(lambda: runner.status(f"{RUN}.1"), outcome=Outcome.NEVER_STARTED)
    assert "exceeded quota" in str(ended.cause)
    runner.acknowledge(f"{RUN}.1")
    for obj in (*cluster.objects.pods(), *cluster.applications()):
        assert obj["metadata"]["annotations"][labels.SEEN] == "true"


def test_what_waits_for_the_operator_is_cancelled_at_once(cluster: Operated) -> None:
    runner = cluster.runner()
    runner.start(cluster.request(job=SPARK))
    runner.cancel(f"{RUN}.1", "somebody said so")
    ended = eventually(lambda: runner.status(f"{RUN}.1"), state="ended")
    assert (ended.outcome, ended.cause) == (Outcome.CANCELLED, "somebody said so")
    assert not cluster.applications()
    other = eventually(lambda: runner.status(f"{RUN}.1"), state="ended")
    assert other.outcome is Outcome.CANCELLED


def test_another_attempt_waits_until_the_first_is_over(cluster: Operated) -> None:
    cluster.runner().start(cluster.request(job=SPARK))
    with pytest.raises(RunnerError, match="has not ended"):
        cluster.runner().start(cluster.request(2, job=SPARK))
    cluster.say("SUBMISSION_FAILED", more={"errorMessage": "no"})
    assert cluster.runner().start(cluster.request(2, job=SPARK)).state == "waiting"


def test_a_cluster_without_the_operator_is_told_with_what_to_do(cluster: Operated) -> None:
    runner = cluster.runner()
    cluster.objects.refuse = {"sparkapplications": refused(404, "NotFound", "no such resource")}
    with pytest.raises(RunnerError, match=r"SparkApplication .* was refused.*no such resource"):
        runner.start(cluster.request(job=SPARK))


def application(state: str, attempts: int, message: str = "") -> Object:
    metadata = {"labels": {labels.RUN: "r"}, "annotations": {}}
    return {
        "metadata": {
            "name": NAME,
            "namespace": "piecework",
            "uid": "1",
            "creationTimestamp": "2026-11-24T12:00:00Z",
            "labels": {},
        },
        "spec": {
            "driver": {
                "podName": NAME,
                "template": {
                    "metadata": metadata,
                    "spec": {"schedulingGates": [{"name": "g"}], "containers": [{"name": "job"}]},
                },
            }
        },
        "status": {
            "applicationState": {"state": state, "errorMessage": message},
            "executionAttempts": attempts,
            "lastSubmissionAttemptTime": SUBMITTED_AT,
        },
    }


STATES = (
    "", "NEW", "SUBMITTED", "RUNNING", "COMPLETED", "FAILED", "SUBMISSION_FAILED", "PENDING_RERUN",
    "INVALIDATING", "SUCCEEDING", "FAILING", "UNKNOWN", "SUSPENDING", "SUSPENDED", "RESUMING",
)  # fmt: skip


@given(st.sampled_from(STATES) | st.text(), st.integers(0, 3), st.text())
def test_without_a_pod_nothing_is_ever_a_success(state: str, attempts: int, message: str) -> None:
    made = application(state, attempts, message)
    pod = stand_in(made)
    assert is_stand_in(pod)
    status = attempt_status([pod], NOW)
    assert status.state in ("waiting", "ended")
    assert status.outcome is not Outcome.SUCCESS
    assert (status.state == "ended") is is_over(made)
    assert status.reason or status.cause


def test_a_rerun_is_an_end_for_a_second_driver_would_be_a_second_attempt() -> None:
    status = attempt_status([stand_in(application("PENDING_RERUN", 0))], NOW)
    assert status.outcome is Outcome.INTERRUPTED
    assert "retries are piecework's" in str(status.cause)
