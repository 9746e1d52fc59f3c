"""Spark on bought machines: each way computes what it should, and leaves nothing, whatever dies."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from piecework import clock
from piecework.errors import InputError, NoMachineError
from piecework.kube.client import POD, Kube, RefusedError
from piecework.ledger.events import Outcome
from piecework.machines import access
from piecework.plan import labels
from piecework.plan.choose import plan_job
from piecework.plan.followers import DRIVER_ACCOUNT
from piecework.plan.manifest import Launcher, PodRequest, pods_of
from piecework.plan.price import load_price_book
from piecework.runners.runner import run_id
from piecework.spec.job import Job
from testbed import images
from testbed.api import Api, Object
from testbed.certificates import write_kubeconfig
from testbed.place import Place
from tests.cluster.cluster_pools import ClusterPool, pool_from, settings_from
from tests.cluster.spark_jobs import SQUARES, Jobs, processes


@pytest.fixture
def jobs(
    here: Place,
    karpenter_cluster_pool: Callable[..., ClusterPool],
    jobs_of: Callable[[ClusterPool], Jobs],
) -> Jobs:
    return jobs_of(karpenter_cluster_pool(types=("m6a.large",), more=settings_of_pool(here)))


@pytest.fixture
def jobs_on_groups(
    here: Place,
    asg_cluster_pool: Callable[..., ClusterPool],
    jobs_of: Callable[[ClusterPool], Jobs],
) -> Jobs:
    return jobs_of(asg_cluster_pool(types=("m6a.large",), more=settings_of_pool(here)))


def settings_of_pool(here: Place) -> str:
    image = images.shipped(here, "spark")
    # JVMs on this host's two cores may keep a kubelet from answering for a while.
    return f'image = "{image}"\nmax_machines = 4\nlost_after = "10m"'


def on_machines(seconds: float, mode: str = "kubernetes", machines: int = 2) -> dict[str, Any]:
    return {
        "spark": {"file": "job.py", "mode": mode},
        "args": [str(machines), str(seconds)],
        "machine": {"cpu": 2, "memory": "8Gi", "count": machines},
    }


def test_with_kubernetes_as_scheduler_executors_fill_the_machines_of_the_run(jobs: Jobs) -> None:
    attempt = jobs.start(**on_machines(2))
    jobs.wait_for_line(attempt, "all executors are there")
    executors = jobs.pods(attempt, labels.FOLLOWER)
    (driver,) = jobs.pods(attempt)
    nodes = {pod["spec"]["nodeName"] for pod in executors}
    assert len(nodes) == len(executors) == 2
    assert driver["spec"]["nodeName"] in nodes
    for pod in executors:
        assert pod["spec"]["automountServiceAccountToken"] is False
    status = jobs.ended(attempt)
    assert status.outcome is Outcome.SUCCESS, (status, jobs.log(attempt))
    assert status.result == {
        "sum": SQUARES,
        "sql": SQUARES,
        "hosts": 2,
        "master": "k8s://https://kubernetes.default.svc",
    }
    assert len(jobs.nothing_left(attempt)) == 2
    recorded = jobs.ground.ended(attempt)
    assert recorded.outcome is Outcome.SUCCESS
    assert len(recorded.machines) == 2
    used = recorded.spark
    assert (used["executors"], used["elsewhere"]) == (2, 1)
    assert 0 < used["busy_seconds"] < used["slots"] * used["wall_seconds"]
    assert used["jvm_bytes"] > 0


def test_a_job_bears_the_loss_of_an_executor(jobs: Jobs) -> None:
    attempt = jobs.start(**on_machines(30))
    jobs.wait_for_line(attempt, "all executors are there")
    victim, *_ = processes("KubernetesExecutorBackend", attempt)
    os.kill(victim.pid, signal.SIGKILL)
    status = jobs.ended(attempt)
    assert status.outcome is Outcome.SUCCESS, (status, jobs.log(attempt))
    assert status.result["sum"] == status.result["sql"] == SQUARES
    jobs.nothing_left(attempt)


#: Has work for four executors, then none for so long that they go, then a little once more.
WAVES = """
import json, os, time

from pyspark.sql import SparkSession

spark = SparkSession.builder.getOrCreate()
context = spark.sparkContext


def executors():
    return len(context._jsc.sc().statusTracker().getExecutorInfos()) - 1


def wait(seconds):
    def sleep(number):
        time.sleep(seconds)
        return os.environ["PIECEWORK_ATTEMPT"]
    return sleep


most = 0
while most < 4:
    done = context.parallelize(range(40), 40).map(wait(0.5)).collect()
    most = max(most, executors())
print("grown", flush=True)
while executors():
    time.sleep(0.5)
print("shrunk", flush=True)
time.sleep(45)
again = context.parallelize(range(4), 4).map(wait(0.1)).count()
json.dump({"most": most, "again": again}, open(os.environ["PIECEWORK_RESULT"], "w"))
"""


def test_executors_come_and_go_with_the_work_and_their_machines_with_them(jobs: Jobs) -> None:
    conf = {
        "spark.executor.cores": "1",
        "spark.dynamicAllocation.enabled": "true",
        "spark.dynamicAllocation.executorIdleTimeout": "20s",
    }
    attempt = jobs.start(
        WAVES,
        spark={"file": "job.py", "mode": "kubernetes", "conf": conf},
        machine={"cpu": 2, "memory": "8Gi", "count": 2},
    )
    jobs.wait_for_line(attempt, "grown")
    # Others may be on their way to take the place of some.
    nodes = [pod["spec"].get("nodeName") for pod in jobs.pods(attempt, labels.FOLLOWER)]
    assert sorted(nodes.count(node) for node in set(nodes) - {None}) == [2, 2]
    jobs.wait_for_line(attempt, "shrunk")
    api, ground = jobs.api, jobs.ground
    api.wait("a machine to go", lambda: any(m.gone_at for m in ground.timeline().machines.values()))
    assert jobs.status(attempt).state == "running"
    status = jobs.ended(attempt)
    assert status.outcome is Outcome.SUCCESS, (status, jobs.log(attempt))
    assert status.result == {"most": 4, "again": 4}
    jobs.nothing_left(attempt)


def test_no_executor_outlives_a_driver_whose_container_is_killed(jobs: Jobs) -> None:
    attempt = jobs.start(**on_machines(600))
    jobs.wait_for_line(attempt, "all executors are there")
    (driver,) = [
        process
        for process in processes("launcher.pyz", attempt)
        if "SPARK_EXECUTOR_ID" not in process.environ()
    ]
    os.kill(driver.pid, signal.SIGKILL)
    status = jobs.ended(attempt)
    assert status.outcome is Outcome.ERROR, status
    assert status.exit_code == 137
    jobs.nothing_left(attempt)


def test_a_standalone_cluster_over_machines_lives_and_ends_with_the_run(
    jobs_on_groups: Jobs,
) -> None:
    jobs = jobs_on_groups
    attempt = jobs.start(**on_machines(2, "standalone"))
    jobs.wait_for_line(attempt, "all executors are there")
    nodes = {pod["spec"]["nodeName"] for pod in jobs.pods(attempt)}
    assert len(nodes) == 2
    status = jobs.ended(attempt)
    assert status.outcome is Outcome.SUCCESS, (status, jobs.log(attempt))
    assert status.result["sum"] == status.result["sql"] == SQUARES
    assert status.result["hosts"] == 2
    assert status.result["master"].startswith("spark://10.")
    assert len(jobs.nothing_left(attempt)) == 2
    recorded = jobs.ground.ended(attempt)
    assert recorded.outcome is Outcome.SUCCESS
    assert recorded.spark["executors"] == 2
    assert recorded.cpu_seconds is not None
    assert recorded.cpu_seconds > recorded.spark["cpu_seconds"] > 0


def test_a_standalone_cluster_whose_driver_is_killed_fails_and_leaves_nothing(jobs: Jobs) -> None:
    attempt = jobs.start(**on_machines(600, "standalone"))
    jobs.wait_for_line(attempt, "all executors are there")
    (driver,) = processes("job.py", attempt)
    os.kill(driver.pid, signal.SIGKILL)
    status = jobs.ended(attempt)
    assert (status.outcome, status.exit_code) == (Outcome.ERROR, 137), status
    jobs.nothing_left(attempt)


def test_a_program_that_does_not_compile_is_refused_before_a_machine_is_bought(jobs: Jobs) -> None:
    with pytest.raises(InputError, match=r"job spark: job\.py, line 2: invalid syntax"):
        jobs.start("x = 1\nan error\n", **on_machines(1))
    with pytest.raises(NoMachineError, match=r"asks for 2 vCPUs and 64 GiB; .*the largest is m6a"):
        jobs.start(**{**on_machines(1), "machine": {"cpu": 2, "memory": "64Gi"}})
    assert not jobs.api.list("Pod", jobs.ground.made.namespace)
    assert not jobs.ground.claims()


def test_the_account_of_drivers_makes_executors_and_opens_no_gate_and_makes_nothing_else(
    here: Place, api: Api, karpenter_cluster_pool: Callable[..., ClusterPool], tmp_path: Path
) -> None:
    made = karpenter_cluster_pool(types=("m6a.large",), more='image = "any"')
    pool = pool_from(made.tables, made.name, tmp_path)
    settings = settings_from(made.tables, tmp_path)
    job = Job.model_validate(on_machines(1) | {"args": []})
    plan = plan_job("spark", job, pool=pool, prices=load_price_book(), settings=settings)
    request = PodRequest(run_id("test", "spark", "1"), 1, plan, {"kind": "cli"})
    launch = {"engine": "spark", "starter": "spark", "program": {}}
    (driver,) = pods_of(request, pool, launch, clock.now(), Launcher("l", {"launch": launch}, "c"))
    order = next(
        e for e in driver["spec"]["containers"][0]["env"] if e["name"] == "PIECEWORK_ORDER"
    )
    template = json.loads(order["value"].replace("$$", "$"))["followers"]["template"]
    namespace, account = made.namespace, f"system:serviceaccount:{made.namespace}:{DRIVER_ACCOUNT}"
    groups = ["system:serviceaccounts", "system:authenticated"]
    file = write_kubeconfig(here, tmp_path / "driver.kubeconfig", account, groups, namespace)
    kube = Kube.connect(file)

    def make(name: str, **changes: Any) -> Object:
        metadata = {**template["metadata"], "name": name, "namespace": namespace}
        pod = {**template, "metadata": metadata, "spec": {**template["spec"], **changes}}
        return kube.create(POD, pod)

    found = make("executor")
    assert {"name": labels.GATE} in found["spec"]["schedulingGates"]
    with pytest.raises(RefusedError, match="forbidden"):
        kube.patch(POD, "executor", {"spec": {"schedulingGates": None}}, namespace)
    refused: list[dict[str, Any]] = [
        {"serviceAccountName": access.KEEPER},
        {"automountServiceAccountToken": True},
    ]
    for change in refused:
        with pytest.raises(RefusedError, match="makes executors alone"):
            make("other", **change)
    with pytest.raises(RefusedError, match="nodeName"):
        make("other", nodeName="somewhere")
    del template["metadata"]["labels"][labels.ROLE]
    with pytest.raises(RefusedError, match="makes executors alone"):
        make("other")
    kube.delete(POD, "executor", namespace)
