"""Spark on bought machines: each way computes what it should, and leaves nothing, whatever dies."""

from __future__ import annotations

import json
import os
import signal
import textwrap
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from piecework import clock
from piecework.errors import InputError, NoMachineError
from piecework.kube.client import POD, Kube, RefusedError
from piecework.ledger.events import Outcome
from piecework.ledger.occupancy import Machine
from piecework.machines import access
from piecework.plan import labels
from piecework.plan.choose import plan_job
from piecework.plan.followers import DRIVER_ACCOUNT
from piecework.plan.manifest import Launcher, PodRequest, pods_of
from piecework.plan.price import load_price_book
from piecework.runners.kubernetes import KubernetesRunner
from piecework.runners.pod_view import PodView
from piecework.runners.runner import AttemptRequest, AttemptStatus, Owner, run_id
from piecework.spec.job import Job
from testbed import images
from testbed.api import Api, Object
from testbed.certificates import write_kubeconfig
from testbed.place import Place
from tests.cluster.cluster_pools import ClusterPool, pool_from, settings_from
from tests.cluster.conftest import Cluster
from tests.cluster.ground import Ground

#: JVMs on two cores that others use as well.
PATIENCE_SECONDS = 300.0
#: How long after a run's end nothing of it may be left, machines included.
GONE_SECONDS = 120.0
#: The sum of the squares below a thousand.
SQUARES = 332_833_500

#: What tasks import: it must be where they run.
HELPER = "def square(number):\n    return number * number\n"
#: Waits for as many executors as its argument says, then has all of them compute.
PROGRAM = """
import json, os, socket, sys, time

import helper
from pyspark.sql import SparkSession

spark = SparkSession.builder.getOrCreate()
context = spark.sparkContext
wanted, seconds = int(sys.argv[1]), float(sys.argv[2])


def executors():
    return len(context._jsc.sc().statusTracker().getExecutorInfos()) - 1


began = time.monotonic()
while executors() < wanted:
    assert time.monotonic() - began < 200, f"{executors()} executors"
    time.sleep(0.5)
print("all executors are there", flush=True)


def squares(numbers):
    time.sleep(seconds / 20)
    return [(helper.square(number), socket.gethostname()) for number in numbers]


found = context.parallelize(range(1000), 20).mapPartitions(squares).collect()
rows = spark.range(1000).selectExpr("sum(id * id) as total").collect()[0].total
told = {
    "sum": sum(number for number, _ in found),
    "sql": rows,
    "hosts": len({host for _, host in found}),
    "master": context.master,
}
json.dump(told, open(os.environ["PIECEWORK_RESULT"], "w"))
"""


@dataclass
class Jobs:
    """A pool with a keeper, and whoever asks for jobs on it."""

    ground: Ground
    runner: KubernetesRunner
    code: Path

    @property
    def api(self) -> Api:
        return self.ground.api

    def start(self, program: str = PROGRAM, **job: Any) -> str:
        """Asks for a job; returns its attempt."""
        (self.code / "job.py").write_text(textwrap.dedent(program))
        (self.code / "helper.py").write_text(HELPER)
        ground = self.ground
        asked = Job.model_validate({"timeout": "10m", **job})
        plan = plan_job(
            "spark", asked, pool=ground.pool, prices=load_price_book(), settings=ground.settings
        )
        run = run_id("test", "spark", uuid.uuid4().hex)
        request = AttemptRequest(run, 1, plan, Owner("cli"), self.code, "", pipeline="test")
        return self.runner.start(request).attempt

    def status(self, attempt: str) -> AttemptStatus:
        found = self.runner.status(attempt)
        assert found is not None
        return found

    def ended(self, attempt: str) -> AttemptStatus:
        look: Callable[[], Any] = lambda: self.status(attempt).state == "ended"  # noqa: E731
        try:
            self.api.wait(f"the end of {attempt}", look, PATIENCE_SECONDS, 0.5)
        except BaseException:
            print(self.log(attempt))
            raise
        return self.status(attempt)

    def log(self, attempt: str) -> str:
        return self.runner.read_log(attempt, 0).decode(errors="replace")

    def wait_for_line(self, attempt: str, line: str) -> None:
        def look() -> bool:
            if self.status(attempt).state == "ended":
                raise AssertionError(f"{self.status(attempt)}: {self.log(attempt)}")
            return line in self.log(attempt)

        self.api.wait(f"{attempt} to say {line!r}", look, PATIENCE_SECONDS, 0.5)

    def pods(self, attempt: str, role: str | None = None) -> list[Object]:
        """Those of the attempt: its own, or with that role."""
        found = self.ground.pods(attempt)
        return [pod for pod in found if pod["metadata"]["labels"].get(labels.ROLE) == role]

    def nothing_left(self, attempt: str) -> list[Machine]:
        """No pod is left, no process, no machine; and all is billed as it was bought."""
        self.runner.acknowledge(attempt)
        ground = self.ground
        self.api.wait("no pod to be left", lambda: not ground.pods(attempt), GONE_SECONDS, 0.5)
        assert not processes("KubernetesExecutorBackend", attempt)
        machines = ground.machines_gone(GONE_SECONDS)
        ground.check_ledger()
        return machines


def processes(word: str, attempt: str) -> list[psutil.Process]:
    """The processes on this host, in whatever container, of the attempt's and with that word."""
    found = []
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
            if any(word in part for part in command) and (
                process.environ().get("PIECEWORK_ATTEMPT") == attempt
            ):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture
def jobs(
    one: Cluster,
    here: Place,
    api: Api,
    karpenter_cluster_pool: Callable[..., ClusterPool],
    tmp_path: Path,
) -> Iterator[Jobs]:
    image = images.shipped(here, "spark")
    # JVMs on this host's two cores may keep a kubelet from answering for a while.
    more = f'image = "{image}"\nmax_machines = 4\nlost_after = "10m"'
    made = karpenter_cluster_pool(types=("m6a.large",), more=more)
    ground = Ground(here, api, tmp_path / "keeper", one.shell, made)
    tables = settings_from(made.tables, tmp_path / "submitter")
    code = tmp_path / "code"
    code.mkdir()
    view = PodView(Kube.connect(made.submitter_kubeconfig), made.namespace)
    pool = pool_from(made.tables, made.name, tmp_path / "submitter")
    ground.start_keeper()
    yield Jobs(ground, KubernetesRunner(pool, tables, view=view), code)
    ground.stop_keepers()
    view.close()


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


def test_a_standalone_cluster_over_machines_lives_and_ends_with_the_run(jobs: Jobs) -> None:
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
