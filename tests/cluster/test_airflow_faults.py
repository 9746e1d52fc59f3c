"""Users and faults around tasks whose jobs wait for machines or run on them.

After each: no pod stays, nothing killed succeeds, no two attempts of a run ran at once; in the end
no machine stays.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from piecework.airflow.configuration import read_json
from piecework.ledger.events import Outcome
from piecework.ledger.occupancy import Attempt
from piecework.runners import owner
from piecework.runners.runner import run_id
from testbed import faults, wishes
from tests.cluster.bought import Bought, start_bought
from tests.cluster.conftest import Cluster
from tests.local.airflow_platform import PATIENCE_SECONDS
from tests.local.attempts import wait_for

pytestmark = pytest.mark.layer("airflow")


@pytest.fixture(scope="module")
def bought(whole_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bought]:
    if whole_cluster.place is None:
        pytest.skip("somebody's own cluster: machines are the testbed's")
    root = tmp_path_factory.mktemp("faults")
    with start_bought(whole_cluster, root, groups=True) as found:
        yield found


def attempts_of(bought: Bought, dag: str, task: str, run: str) -> list[Attempt]:
    """What the ledger knows of a run, once all of it is over; never two at a time."""
    name = run_id(dag, task, run)

    def over() -> list[Attempt] | None:
        known = bought.ground.timeline().attempts.values()
        mine = [one for one in known if one.id.rpartition(".")[0] == name]
        return mine if mine and all(one.ended_at for one in mine) else None

    found: list[Attempt] = wait_for(over, f"the end of {name}", PATIENCE_SECONDS)
    found.sort(key=lambda one: int(one.id.rpartition(".")[2]))
    ran = [one for one in found if one.started_at is not None]
    for before, after in itertools.pairwise(ran):
        assert before.ended_at is not None
        assert after.started_at is not None
        assert before.ended_at <= after.started_at, (before, after)
    return found


def outcomes(bought: Bought, dag: str, task: str, run: str) -> list[Outcome | None]:
    return [one.outcome for one in attempts_of(bought, dag, task, run)]


def hold(bought: Bought, name: str) -> tuple[str, str, str]:
    """A job that has the only machine of its pool: its DAG, its run, and the pool's line."""
    pool = bought.narrow.made.name
    on_narrow = f"pool: {pool}\n"
    dag = bought.publish(name, "sleep 600", on_narrow)
    run = bought.world.request(dag)
    bought.wait_until("running", dag, name, run, pool)
    return dag, run, on_narrow


def wait_gated(bought: Bought, dag: str, task: str, run: str) -> None:
    bought.wait_until("waits: 1 machine", dag, task, run, bought.narrow.made.name)


def test_a_task_that_is_cleared_while_its_machine_comes_runs_once(bought: Bought) -> None:
    """The first here: later there are machines that somebody may have left."""
    world, narrow = bought.world, bought.narrow
    faults.never_join(narrow.here, narrow.made.name, -1)
    dag = bought.publish("clear-waiting", "sleep 1", f"pool: {narrow.made.name}\n")
    run = world.request(dag)
    wait_for(narrow.claims, "a machine to be bought", PATIENCE_SECONDS)
    world.client.clear_task(dag, run, dag)
    wishes.clear(narrow.here)
    world.expect("success", dag, run)
    assert outcomes(bought, dag, dag, run) == [Outcome.CANCELLED, Outcome.SUCCESS]
    bought.no_pod_left(dag, dag, run)


_WORKERS_FILE = """
import os
import time
from datetime import datetime
from pathlib import Path
from airflow.sdk import DAG
from airflow.providers.cncf.kubernetes.callbacks import KubernetesPodOperatorCallback
from kubernetes.client import models as k8s
from piecework.airflow.pod_operator import MachinePodOperator

FOLDER = Path("FOLDER")


def wait(name):
    # The first process that comes here says who it is, and waits for its signal.
    try:
        with open(FOLDER / name, "x") as stream:
            stream.write(str(os.getpid()))
    except FileExistsError:
        return
    while not (FOLDER / (name + ".sent")).exists():
        time.sleep(0.1)


class Wait(KubernetesPodOperatorCallback):
    @staticmethod
    def on_pod_creation(*, pod, operator, **kwargs):
        wait(operator.task_id + ".starting")

    @staticmethod
    def on_pod_completion(*, pod, operator, **kwargs):
        wait(operator.task_id + ".ending")


with DAG("workers", schedule=None, start_date=datetime(2024, 1, 1)):
    for name in ("terminated", "killed"):
        MachinePodOperator(
            task_id=name,
            image="SHELL",
            cmds=["sh", "-c"],
            arguments=["sleep 3; mkdir -p /airflow/xcom; echo 7 > /airflow/xcom/return.json"],
            machine={"cpu": 1, "memory": "2Gi"},
            security_context=k8s.V1PodSecurityContext(
                run_as_user=65532, run_as_non_root=True,
                seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
            ),
            do_xcom_push=True,
            callbacks=Wait,
        )
"""


def test_a_worker_that_dies_before_or_after_its_job_leaves_it_to_the_next(
    bought: Bought, tmp_path: Path
) -> None:
    world, signals = bought.world, {"terminated": signal.SIGTERM, "killed": signal.SIGKILL}
    text = _WORKERS_FILE.replace('FOLDER")', f'{tmp_path}")').replace("SHELL", bought.ground.shell)
    (world.folder.root / "dags" / "workers.py").write_text(text)
    world.client.wait_for_dag("workers", timeout_seconds=PATIENCE_SECONDS)
    run = world.request("workers")
    for when in ("starting", "ending"):
        for task, number in signals.items():
            pid = wait_for(reader(tmp_path / f"{task}.{when}"), f"{task}: {when}", PATIENCE_SECONDS)
            os.kill(pid, number)
            (tmp_path / f"{task}.{when}.sent").touch()  # who bears SIGTERM goes on with its work
    world.expect("success", "workers", run)
    for task in signals:
        assert outcomes(bought, "workers", task, run) == [Outcome.SUCCESS]
        assert world.client.result("workers", run, task) == 7
        bought.no_pod_left("workers", task, run)
    assert world.task("workers", run, "killed").try_number == 3


def reader(file: Path) -> Callable[[], int | None]:
    return lambda: int(file.read_text() or 0) or None if file.exists() else None


def test_an_api_server_that_is_killed_costs_neither_what_runs_nor_what_waits(
    bought: Bought,
) -> None:
    world = bought.world
    pool = f"pool: {bought.narrow.made.name}\n"
    runs = {}
    for name in ("during", "next"):
        dag = bought.publish(name, "sleep 12", pool)
        runs[name] = world.request(dag)
        if name == "during":
            bought.wait_until("running", dag, name, runs[name], bought.narrow.made.name)
    wait_gated(bought, "next", "next", runs["next"])
    before = world.component("api-server")
    world.kill("api-server")
    wait_for(lambda: world.component("api-server") != before, "another one", PATIENCE_SECONDS)
    world.wait_until_up()
    for name, run in runs.items():
        world.expect("success", name, run)
        assert outcomes(bought, name, name, run) == [Outcome.SUCCESS]
        assert world.task(name, run, name).try_number == 1


def test_dags_that_are_deleted_while_their_jobs_wait_and_run_leave_nothing(bought: Bought) -> None:
    holder, held, on_narrow = hold(bought, "deleted-running")
    gated = bought.publish("deleted-gated", "sleep 600", on_narrow)
    run = bought.world.request(gated)
    wait_gated(bought, gated, gated, run)
    for dag, its_run in ((gated, run), (holder, held)):
        delete(bought, dag)
        bought.no_pod_left(dag, dag, its_run)
        assert outcomes(bought, dag, dag, its_run) == [Outcome.CANCELLED]


def delete(bought: Bought, dag: str) -> None:
    """Removes a DAG as people do: its file, and all that Airflow knows of it."""
    folder = bought.world.folder
    (folder.published / f"{dag}.yaml").unlink()
    access = read_json(folder.access)
    headers = {"Authorization": f"Bearer {owner.fetch_token(access)}"}
    status, said = owner.request(access["url"], "DELETE", f"/api/v2/dags/{dag}", headers)
    assert status == 204, (status, said)


def test_a_task_that_is_cleared_while_gated_waits_anew_and_runs_once(bought: Bought) -> None:
    world = bought.world
    holder, held, on_narrow = hold(bought, "clear-holder")
    gated = bought.publish("clear-gated", "sleep 1", on_narrow)
    run = world.request(gated)
    wait_gated(bought, gated, gated, run)
    world.client.clear_task(gated, run, gated)
    second = f"{run_id(gated, gated, run)}.1001"
    wait_for(lambda: bought.narrow.attempt(second), "the next attempt", PATIENCE_SECONDS)
    world.client.mark_task(holder, held, holder, "failed")
    world.expect("success", gated, run)
    assert outcomes(bought, gated, gated, run) == [Outcome.CANCELLED, Outcome.SUCCESS]
    bought.no_pod_left(gated, gated, run)


def test_a_task_that_fails_while_no_triggerer_listens_leaves_nothing(bought: Bought) -> None:
    world = bought.world
    dag = bought.publish("unheard", "sleep 600")
    run = world.request(dag)
    bought.wait_until("running", dag, dag, run)
    triggerer = world.component("triggerer")
    os.killpg(triggerer.pid, signal.SIGSTOP)
    try:
        world.client.mark_task(dag, run, dag, "failed")
        bought.no_pod_left(dag, dag, run)
    finally:
        os.killpg(triggerer.pid, signal.SIGCONT)
    assert outcomes(bought, dag, dag, run) == [Outcome.CANCELLED]
    world.wait_until_up()


def test_ten_operators_that_ask_for_the_same_run_at_once_get_one_pod(bought: Bought) -> None:
    from piecework.airflow.trigger import JobTrigger

    world, script = bought.world, "sleep 6"
    dag = bought.publish("same", script)

    def ask(_: int) -> str:
        run = world.client.trigger(dag, {}, "the-same")
        trigger = JobTrigger(
            job_name=dag, document={}, engine="container",
            program={"image": bought.image, "command": ["sh", "-c", script]}, args=[], env={},
            code=str(world.code), pipeline=dag, params_spec=None, values={}, max_tries=0,
            resume=True,
        )  # fmt: skip
        trigger.settings = world.settings
        task: Any = SimpleNamespace(
            dag_id=dag, run_id=run, task_id=dag, map_index=-1, try_number=1, id="1"
        )
        return trigger.begin(task)

    with ThreadPoolExecutor(10) as askers:
        found = set(askers.map(ask, range(10)))
    assert found == {f"{run_id(dag, dag, 'the-same')}.1"}
    assert len(bought.pods(dag, dag, "the-same")) == 1
    world.expect("success", dag, "the-same")
    assert outcomes(bought, dag, dag, "the-same") == [Outcome.SUCCESS]
    bought.no_pod_left(dag, dag, "the-same")


def test_the_same_pipeline_runs_on_groups(bought: Bought) -> None:
    if bought.groups is None:
        pytest.skip("the cluster-autoscaler is not here")  # the one skip that CI allows
    dag, run = bought.check_pipeline("grouped", bought.groups.made.name)
    for task in ("first", "second"):
        bought.no_pod_left(dag, task, run)


def test_in_the_end_every_second_is_billed_and_every_machine_is_back(bought: Bought) -> None:
    bought.check_bills()
