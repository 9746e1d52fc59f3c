"""Spark by its operator: the same machines, bills and ends, whatever becomes of the operator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from piecework.ledger.events import Outcome
from piecework.plan import labels
from piecework.runners.kubernetes import KubernetesRunner
from testbed import charts, images
from testbed.api import Api, Object
from testbed.errors import MissingProgramError
from testbed.place import Place
from tests.cluster.cluster_pools import ClusterPool, pool_from, settings_from
from tests.cluster.conftest import Cluster, StartMachine
from tests.cluster.ground import Ground
from tests.cluster.spark_jobs import SQUARES, Jobs

_SPARK = "sparkoperator.k8s.io/v1beta2"
_NAMESPACE, _CONTROLLER = "spark-operator", "spark-operator-controller"
#: A controller that starts is the leader once the one before has been silent for this long.
_LEADING_SECONDS = 60.0


@pytest.fixture
def make_jobs(
    one: Cluster,
    here: Place,
    api: Api,
    start_machine: StartMachine,
    karpenter_cluster_pool: Callable[..., ClusterPool],
    tmp_path: Path,
) -> Iterator[Callable[..., Jobs]]:
    """A pool whose namespace the Spark operator looks after; it runs on a machine of its own."""
    start_machine("m6a.xlarge")
    grounds: list[Ground] = []

    def make(more: str = "") -> Jobs:
        image = images.shipped(here, "spark")
        lines = f'image = "{image}"\nspark_operator = true\nmax_machines = 2\n{more}'
        made = karpenter_cluster_pool(types=("m6a.large",), more=lines)
        try:
            charts.install(here, "spark-operator", [made.namespace])
        except MissingProgramError as error:
            pytest.skip(str(error))  # with the autoscaler, all that CI may skip
        ground = Ground(here, api, tmp_path / "keeper", one.shell, made)
        grounds.append(ground)
        settings = settings_from(made.tables, tmp_path / "submitter")
        (tmp_path / "code").mkdir()
        pool = pool_from(made.tables, made.name, tmp_path / "submitter")
        ground.start_keeper()
        return Jobs(ground, KubernetesRunner(pool, settings), tmp_path / "code")

    yield make
    for ground in grounds:
        ground.stop_keepers()
    charts.uninstall(here, "spark-operator")


def by_operator(seconds: float) -> dict[str, Any]:
    """A driver, and beside it on its one machine an executor."""
    return {
        "spark": {"file": "job.py", "mode": "operator"},
        "args": ["1", str(seconds)],
        "machine": {"cpu": 2, "memory": "8Gi"},
    }


def applications(jobs: Jobs) -> list[Object]:
    return jobs.api.list("SparkApplication", jobs.ground.pool.namespace, _SPARK)


def run_controllers(api: Api, count: int) -> None:
    """So many controllers of the operator; its admission stays."""
    change = {"spec": {"replicas": count}}
    api.patch("Deployment", _CONTROLLER, change, _NAMESPACE, api_version="apps/v1")
    chosen = "app.kubernetes.io/component=controller"
    api.wait(
        f"{count} controllers",
        lambda: len(api.list("Pod", _NAMESPACE, selector=chosen)) == count,
    )


def nothing_left(jobs: Jobs, attempt: str) -> None:
    """Nor is anything of the operator's."""
    jobs.nothing_left(attempt)
    jobs.api.wait("no application to be left", lambda: not applications(jobs), 60)
    namespace = jobs.ground.pool.namespace
    jobs.api.wait(
        "no service to be left",
        lambda: (
            not [
                found
                for found in jobs.api.list("Service", namespace)
                if attempt.split(".")[-2] in found["metadata"]["name"]
            ]
        ),
        60,
    )


def test_a_job_outlives_its_operator_and_is_billed_like_any_other(
    make_jobs: Callable[..., Jobs],
) -> None:
    jobs = make_jobs()
    run_controllers(jobs.api, 0)
    attempt = jobs.start(**by_operator(20))
    waiting = jobs.status(attempt)
    assert waiting.state == "waiting"
    assert "waits for the Spark operator" in str(waiting.reason)
    assert not jobs.ground.claims()  # what waits buys nothing
    run_controllers(jobs.api, 1)
    jobs.wait_for_line(attempt, "all executors are there")
    (driver,), (executor,) = jobs.pods(attempt), jobs.pods(attempt, labels.FOLLOWER)
    assert driver["metadata"]["name"] == labels.pod_name(attempt)
    assert driver["spec"]["nodeName"] == executor["spec"]["nodeName"]
    for controller in jobs.api.list("Pod", _NAMESPACE):
        jobs.api.delete("Pod", controller["metadata"]["name"], _NAMESPACE, grace_seconds=0)
    status = jobs.ended(attempt)
    assert status.outcome is Outcome.SUCCESS, (status, jobs.log(attempt))
    assert (status.result["sum"], status.result["sql"]) == (SQUARES, SQUARES)
    nothing_left(jobs, attempt)
    recorded = jobs.ground.ended(attempt)
    assert recorded.outcome is Outcome.SUCCESS
    assert len(recorded.machines) == 1


def test_a_driver_that_vanishes_is_a_failure(make_jobs: Callable[..., Jobs]) -> None:
    jobs = make_jobs()
    attempt = jobs.start(**by_operator(600))
    jobs.wait_for_line(attempt, "all executors are there")
    (driver,) = jobs.pods(attempt)
    jobs.api.delete("Pod", driver["metadata"]["name"], driver["metadata"]["namespace"])
    status = jobs.ended(attempt)
    assert status.outcome is Outcome.INTERRUPTED, status
    nothing_left(jobs, attempt)
    assert jobs.ground.ended(attempt).outcome is Outcome.INTERRUPTED


def test_an_operator_that_never_comes_is_waited_for_as_long_as_the_pool_says(
    make_jobs: Callable[..., Jobs],
) -> None:
    jobs = make_jobs('start_timeout = "20s"')
    run_controllers(jobs.api, 0)
    attempt = jobs.start(**by_operator(1))
    status = jobs.ended(attempt)
    assert status.outcome is Outcome.NEVER_STARTED, status
    assert "there was no driver after 20s" in str(status.cause)
    run_controllers(jobs.api, 1)  # which finds that it is to be left alone
    jobs.runner.acknowledge(attempt)
    jobs.api.wait("no application to be left", lambda: not applications(jobs), 60)
    assert not jobs.ground.pods(attempt)
    assert jobs.ground.ended(attempt).outcome is Outcome.NEVER_STARTED
    assert not jobs.ground.claims()
