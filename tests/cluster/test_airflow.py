"""Airflow on bought machines: a real platform on this host, a real cluster, a real autoscaler.

One platform, with the keeper that it brings up, serves all tests here: its start is what costs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from piecework.airflow import platform
from piecework.airflow.configuration import KEEPER
from piecework.ledger.events import Outcome
from piecework.runners.runner import run_id
from testbed import faults, wishes
from tests.cluster.bought import GONE_SECONDS, Bought, start_bought
from tests.cluster.conftest import Cluster
from tests.local.airflow_platform import PATIENCE_SECONDS
from tests.local.attempts import wait_for

pytestmark = pytest.mark.layer("airflow")


@pytest.fixture(scope="module")
def bought(whole_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bought]:
    if whole_cluster.place is None:
        pytest.skip("somebody's own cluster: machines are the testbed's")
    with start_bought(whole_cluster, tmp_path_factory.mktemp("bought")) as found:
        yield found


def test_a_pipeline_runs_on_bought_machines_with_results_and_logs(bought: Bought) -> None:
    dag, run = bought.check_pipeline("greetings", bought.ground.made.name)
    for task in ("first", "second"):
        bought.nothing_left(dag, task, run)


def test_status_shows_the_keeper(bought: Bought) -> None:
    found = platform.status(bought.world.settings)
    assert found.state == "up"
    assert {c.name: c.state for c in found.components}[KEEPER] == "healthy"


def test_a_task_that_fails_while_gated_waiting_or_running_leaves_nothing(bought: Bought) -> None:
    world, narrow = bought.world, bought.narrow
    on_narrow = f"pool: {narrow.made.name}\n"
    holder = bought.publish("holding", "sleep 600", on_narrow)
    held = world.request(holder)
    bought.wait_until("running", holder, "holding", held, narrow.made.name)

    gated = bought.publish("gated", "sleep 600", on_narrow)
    run = world.request(gated)
    bought.wait_until("waits: 1 machine", gated, "gated", run, narrow.made.name)
    world.client.mark_task(gated, run, "gated", "failed")
    bought.nothing_left(gated, "gated", run)

    world.client.mark_task(holder, held, "holding", "failed")
    bought.nothing_left(holder, "holding", held)

    here = narrow.here
    faults.never_join(here, narrow.made.name, -1)
    waiting = bought.publish("waiting", "sleep 600", on_narrow)
    run = world.request(waiting)
    wait_for(narrow.claims, "a machine to be bought", PATIENCE_SECONDS)
    assert world.task(waiting, run, "waiting").state == "deferred"
    world.client.mark_task(waiting, run, "waiting", "failed")
    bought.nothing_left(waiting, "waiting", run)
    wait_for(lambda: not narrow.claims(), "its machine to be given back", GONE_SECONDS)
    wishes.clear(here)


def test_an_error_is_retried_by_airflow_and_each_try_is_an_attempt_of_its_own(
    bought: Bought,
) -> None:
    script = 'case "$PIECEWORK_ATTEMPT" in *.1) exit 3;; esac'
    dag = bought.publish("again", script, "retries: 1")
    run = bought.world.request(dag)
    bought.world.expect("success", dag, run)
    assert bought.world.task(dag, run, "again").try_number == 2
    name = run_id(dag, "again", run)
    outcomes = [bought.ground.ended(f"{name}.{number}").outcome for number in (1, 1001)]
    assert outcomes == [Outcome.ERROR, Outcome.SUCCESS]
    bought.nothing_left(dag, "again", run)


def test_a_cleared_task_runs_anew_and_never_twice_at_once(bought: Bought) -> None:
    world = bought.world
    script = 'case "$PIECEWORK_ATTEMPT" in *.1) exec sleep 600;; esac; echo anew'
    dag = bought.publish("cleared", script)
    run = world.request(dag)
    bought.wait_until("running", dag, "cleared", run)
    world.client.clear_task(dag, run, "cleared")
    world.expect("success", dag, run)
    name = run_id(dag, "cleared", run)
    first, second = (bought.ground.ended(f"{name}.{number}") for number in (1, 1001))
    assert (first.outcome, second.outcome) == (Outcome.CANCELLED, Outcome.SUCCESS)
    assert first.ended_at is not None
    assert second.started_at is not None
    assert first.ended_at <= second.started_at


def test_a_killed_triggerer_keeper_and_scheduler_cost_nothing_and_lines_come_once(
    bought: Bought,
) -> None:
    world = bought.world
    dag = bought.publish("outliving", "for i in 1 2 3 4 5 6 7 8; do echo number $i; sleep 4; done")
    run = world.request(dag)
    bought.wait_until("running", dag, "outliving", run)
    wait_for(
        lambda: "number 2" in world.log(dag, run, "outliving"), "its first lines", PATIENCE_SECONDS
    )
    world.kill("triggerer", "scheduler", KEEPER)
    world.expect("success", dag, run)
    log = world.log(dag, run, "outliving")
    lines = [line for line in log if line.startswith("number ")]
    assert lines == [f"number {number}" for number in range(1, 9)]
    assert len(bought.pods(dag, "outliving", run)) <= 1
    assert bought.ground.ended(f"{run_id(dag, 'outliving', run)}.1").outcome == Outcome.SUCCESS


def test_ten_at_once_share_three_machines(bought: Bought) -> None:
    world = bought.world
    jobs = "\n".join(
        f"  j{number}: {{container: {{image: '{bought.image}', command: [sh, -c, 'sleep 1']}}}}"
        for number in range(10)
    )
    dag = world.publish(f"pipeline: ten\njobs:\n{jobs}\n")
    run = world.request(dag)
    world.expect("success", dag, run)
    attempts = [bought.ground.ended(f"{run_id(dag, f'j{n}', run)}.1") for n in range(10)]
    assert {attempt.outcome for attempt in attempts} == {Outcome.SUCCESS}
    used = {machine for attempt in attempts for machine in attempt.machines}
    assert len(used) < 10


_DAG_FILE = """
from datetime import datetime
from airflow.sdk import DAG, task
from airflow.providers.cncf.kubernetes.callbacks import KubernetesPodOperatorCallback
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.secret import Secret
from kubernetes.client import models as k8s
from piecework.airflow.on_machine import on_machine
from piecework.airflow.pod_operator import MachinePodOperator


class Tell(KubernetesPodOperatorCallback):
    @staticmethod
    def on_pod_creation(*, pod, **kwargs):
        print("created", pod.metadata.name)

    @staticmethod
    def on_pod_completion(*, pod, **kwargs):
        print("completed", pod.status.phase)


AS_USER = k8s.V1PodSecurityContext(
    run_as_user=65532, run_as_non_root=True,
    seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
)
with DAG("pods", schedule=None, start_date=datetime(2024, 1, 1)):
    @task.piecework(machine={"cpu": 1})
    def add(left, right):
        return {"sum": left + right}

    add(2, 3)
    MachinePodOperator(
        task_id="written",
        image="SHELL",
        cmds=["sh", "-c"],
        arguments=["cat /data/word; echo $MODE $KEY; mkdir -p /airflow/xcom;"
                   "echo '{\\"n\\": 7}' > /airflow/xcom/return.json"],
        machine={"cpu": 1, "memory": "2Gi"},
        env_vars={"MODE": "{{ ds_nodash }}"},
        secrets=[Secret("env", "KEY", "word", "key")],
        init_containers=[k8s.V1Container(
            name="fetch", image="SHELL", command=["sh", "-c", "echo fetched > /data/word"],
            volume_mounts=[k8s.V1VolumeMount(name="data", mount_path="/data")],
        )],
        volumes=[k8s.V1Volume(name="data", empty_dir=k8s.V1EmptyDirVolumeSource())],
        volume_mounts=[k8s.V1VolumeMount(name="data", mount_path="/data")],
        security_context=AS_USER,
        do_xcom_push=True,
        callbacks=Tell,
    )
    KubernetesPodOperator(
        task_id="unchanged",
        image="SHELL",
        cmds=["sh", "-c", "echo hello from $(hostname); sleep 2"],
        **on_machine(cpu=1, memory="2Gi", security_context=AS_USER),
    )
"""


def test_pods_that_people_write_get_machines_of_their_own(bought: Bought) -> None:
    world, ground = bought.world, bought.ground
    namespace = ground.pool.namespace
    secret: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "word", "namespace": namespace},
        "stringData": {"key": "opensesame"},
    }
    ground.api.apply(secret)
    file = world.folder.root / "dags" / "pods.py"
    file.write_text(_DAG_FILE.replace("SHELL", ground.shell))
    world.client.wait_for_dag("pods", timeout_seconds=PATIENCE_SECONDS)
    run = world.request("pods")
    world.expect("success", "pods", run)
    log = world.log("pods", run, "written")
    assert "fetched" in log
    assert any(line.endswith(" opensesame") for line in log)
    assert any("created written-" in line for line in log)
    assert any("completed Succeeded" in line for line in log)
    assert world.client.result("pods", run, "written") == {"n": 7}
    assert any("hello from" in line for line in world.log("pods", run, "unchanged"))
    assert world.client.result("pods", run, "add") == {"sum": 5}

    def unchanged() -> list[Any]:
        attempts = ground.timeline().attempts.values()
        return [a for a in attempts if ".unchanged." in a.id and a.ended_at is not None]

    (attempt,) = wait_for(unchanged, "the unchanged operator's attempt", PATIENCE_SECONDS)
    assert attempt.outcome == Outcome.SUCCESS
    assert attempt.machines


def test_in_the_end_every_second_is_billed_and_every_machine_is_back(bought: Bought) -> None:
    bought.check_bills()
