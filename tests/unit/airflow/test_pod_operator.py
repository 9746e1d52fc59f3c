"""MachinePodOperator in a worker: the pod that it hands over, and what ends the task at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from airflow.sdk.exceptions import TaskDeferred as Deferred

from piecework.airflow.pod_trigger import PodTrigger
from piecework.airflow.trigger import JobTrigger
from piecework.spec.job import Job

pytest.importorskip("airflow.providers.cncf.kubernetes", reason="needs the Kubernetes provider")

_SETTINGS = """
pool = "bought"
[pools.bought]
provider = "karpenter"
kubeconfig = "kubeconfig"
types = ["m6a.large", "m6a.xlarge", "m6a.2xlarge"]
"""
_KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: here
clusters: [{name: here, cluster: {server: "https://127.0.0.1:9"}}]
contexts: [{name: here, context: {cluster: here, user: me}}]
users: [{name: me, user: {token: none}}]
"""


@pytest.fixture(autouse=True)
def _cluster(home: Path) -> None:
    home.mkdir()
    (home / "piecework.toml").write_text(_SETTINGS)
    (home / "kubeconfig").write_text(_KUBECONFIG)


def make(**kwargs: Any) -> Any:
    from piecework.airflow.pod_operator import MachinePodOperator

    with DAG("reports", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)):
        return MachinePodOperator(
            task_id="score", image="score:1", kubernetes_conn_id=None, **kwargs
        )


def context_of(task: Any) -> Any:
    ti = SimpleNamespace(
        dag_id="reports", task_id="score", run_id="r", map_index=-1, try_number=1, max_tries=3, id=1
    )
    run = SimpleNamespace(run_after=datetime(2026, 11, 24, tzinfo=UTC), start_date=None)
    return {"ti": ti, "run_id": "r", "dag": task.dag, "dag_run": run, "params": {}}


def hand_over(**kwargs: Any) -> PodTrigger:
    task = make(**kwargs)
    context = context_of(task)
    task.render_template_fields(context)
    with pytest.raises(Deferred) as deferred:
        task.execute(context)
    trigger = deferred.value.trigger
    assert isinstance(trigger, PodTrigger)
    return trigger


def test_the_pod_is_kubernetespodoperators_own_in_the_pools_cluster_and_namespace() -> None:
    trigger = hand_over(
        cmds=["python", "score.py"], env_vars={"DAY": "{{ ds }}"}, machine={"cpu": 2}
    )
    (container,) = trigger.manifest["spec"]["containers"]
    assert (container["image"], container["command"]) == ("score:1", ["python", "score.py"])
    assert container["env"] == [{"name": "DAY", "value": "2026-11-24"}]
    assert trigger.namespace == trigger.manifest["metadata"]["namespace"] == "piecework"


def test_there_is_no_sidecar_for_the_result() -> None:
    trigger = hand_over(machine={"cpu": 2}, do_xcom_push=True)
    assert len(trigger.manifest["spec"]["containers"]) == 1
    job = SimpleNamespace(pool=None)
    written = trigger.written_pod(job)  # type: ignore[arg-type]  # all that is asked of it
    assert written.airflow_result
    assert written.restricted
    assert trigger.success_resumes is False


def test_a_namespace_of_theirs_is_not_restricted() -> None:
    trigger = hand_over(machine={"cpu": 2}, namespace="theirs")
    job = SimpleNamespace(pool=None)
    written = trigger.written_pod(job)  # type: ignore[arg-type]  # all that is asked of it
    assert (trigger.namespace, written.restricted) == ("theirs", False)


def test_without_a_machine_the_one_is_taken_that_has_what_the_containers_ask_for() -> None:
    from kubernetes.client import models as k8s

    from piecework.airflow.choice import choose_machine
    from piecework.config import load
    from piecework.spec.pool import load_pools

    asked = k8s.V1ResourceRequirements(requests={"cpu": "2", "memory": "8Gi"})
    trigger = hand_over(container_resources=asked)
    job = Job.model_validate({**trigger.document, "container": {"image": "score:1"}})
    plan = choose_machine("score", job, load_pools(load())["bought"], load()).plan
    # An m6a.large has two CPUs and 8 GiB by its nameplate, but not for a job.
    assert plan.instance_type.name == "m6a.xlarge"


def test_limits_of_kubernetespodoperator_are_the_jobs() -> None:
    trigger = hand_over(machine={"cpu": 2}, active_deadline_seconds=90, priority_weight=7)
    job = Job.model_validate({**trigger.document, "container": {"image": "score:1"}})
    assert job.timeout == timedelta(seconds=90)
    assert job.priority == 7


def test_airflows_clock_does_not_run_while_the_pod_waits_for_a_machine() -> None:
    task = make(execution_timeout=timedelta(minutes=5))
    assert task.execution_timeout is None
    assert task.document["timeout"] == "5m"


def test_mapped_pods_have_the_limits_of_others() -> None:
    from piecework.airflow.pod_operator import MachinePodOperator

    with DAG("d", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)):
        mapped = MachinePodOperator.partial(
            task_id="t",
            image="a:1",
            machine={"cpu": 2},
            kubernetes_conn_id=None,
            retries={"infrastructure": 5, "error": 2},
            execution_timeout=timedelta(minutes=5),
        ).expand(cmds=[["a"], ["b"]])
    one: Any = mapped.unmap({"cmds": ["a"]})
    assert (mapped.retries, one.retries, mapped.execution_timeout) == (5, 5, None)
    assert one.document["retries"] == {"infrastructure": 5, "error": 2}
    assert one.document["timeout"] == "5m"


def test_a_trigger_is_made_again_from_what_it_says_of_itself() -> None:
    trigger = hand_over(machine={"cpu": 2})
    _, kwargs = trigger.serialize()
    again: JobTrigger = PodTrigger(**kwargs)
    assert again.serialize() == trigger.serialize()


def test_what_no_other_try_would_mend_fails_for_good() -> None:
    task = make(machine={"cpu": 2}, env_vars={"DAY": "{{ nothing.at.all }}"})
    with pytest.raises(AirflowFailException, match="templates cannot be rendered"):
        task.render_template_fields(context_of(task))
    for pool, said in (("nowhere", "which is not configured"), ("local", "which is of this host")):
        task = make(machine_pool=pool)
        with pytest.raises(AirflowFailException, match=f"'{pool}', {said}"):
            task.execute(context_of(task))


@pytest.mark.parametrize(
    ("event", "raised"),
    [
        ({"outcome": "error", "final": True, "exit_code": 1}, AirflowFailException),
        ({"outcome": "error", "final": False, "exit_code": 1}, AirflowException),
        ({"outcome": "error", "final": True, "exit_code": 99}, AirflowSkipException),
    ],
)
def test_a_failure_is_told_to_airflow_as_what_it_is(
    event: dict[str, Any], raised: type[Exception]
) -> None:
    task = make(machine={"cpu": 2}, skip_on_exit_code=99)
    with pytest.raises(raised, match="the cause"):
        task.execute_complete({}, {"cause": "the cause", "pod": None, "result": None, **event})
