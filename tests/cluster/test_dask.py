"""Dask over several bought machines: what it computes, and what is left when a part of it dies."""

from __future__ import annotations

import textwrap
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from piecework.config import Settings
from piecework.kube.client import Kube
from piecework.ledger.events import Outcome
from piecework.plan import labels
from piecework.plan.choose import plan_job
from piecework.plan.price import load_price_book
from piecework.runners.kubernetes import KubernetesRunner
from piecework.runners.pod_view import PodView
from piecework.runners.runner import AttemptRequest, AttemptStatus, Owner, run_id
from piecework.spec.job import Job
from piecework.spec.pool import load_pools
from testbed import faults, images
from testbed.api import Api, Object
from testbed.place import Place
from tests.cluster.cluster_pools import ClusterPool, settings_from
from tests.cluster.conftest import Cluster
from tests.cluster.ground import Ground

MACHINES = 3

PROGRAM = """
    import json, os, time
    from dask.distributed import Client
    import rows

    def compute(number):
        if number == 0:
            print("computes", flush=True)
        time.sleep({seconds})
        return rows.double(number), os.environ["PIECEWORK_INDEX"]

    client = Client()
    print("has", len(client.scheduler_info()["workers"]), "workers", flush=True)
    found = client.gather(client.map(compute, range(120)))
    result = {{
        "total": sum(number for number, _ in found),
        "machines": sorted({{index for _, index in found}}),
        "threads": sum(client.nthreads().values()),
    }}
    json.dump(result, open(os.environ["PIECEWORK_RESULT"], "w"))
    print("done", flush=True)
    """


@dataclass
class DaskPool:
    """A pool of Karpenter with a keeper, and a runner with a submitter's rights."""

    ground: Ground
    runner: KubernetesRunner
    code: Path
    settings: Settings

    def start(self, seconds: float) -> str:
        """Starts the program, whose 120 tasks take that long each."""
        (self.code / "rows.py").write_text("def double(number):\n    return number * 2\n")
        (self.code / "job.py").write_text(textwrap.dedent(PROGRAM.format(seconds=seconds)))
        machine = {"cpu": 2, "memory": "4Gi", "count": MACHINES}
        job = Job.model_validate({"dask": "job.py", "machine": machine, "timeout": "10m"})
        runner = self.runner
        plan = plan_job(
            "segments",
            job,
            pool=runner.pool,
            prices=load_price_book(runner.pool),
            settings=self.settings,
        )
        run = run_id("flights", "segments", uuid.uuid4().hex)
        request = AttemptRequest(run, 1, plan, Owner("cli"), self.code, "", pipeline="flights")
        return runner.start(request).attempt

    def pods(self, attempt: str) -> list[Object]:
        """In the order of their index."""
        found = self.ground.pods(attempt)
        return sorted(found, key=lambda pod: int(pod["metadata"]["labels"][labels.INDEX]))

    def log(self, attempt: str) -> str:
        """Without a store a machine takes it along; but the runner has followed it since it ran."""
        runner, data = self.runner, b""
        while chunk := runner.read_log(attempt, len(data)):
            data += chunk
        return data.decode()

    def wait_until_it_computes(self, attempt: str) -> list[str]:
        """The machines, in the order of their pods' indices."""
        api = self.ground.api

        def look() -> bool:
            log = self.log(attempt)
            assert "done" not in log
            return "workers" in log

        api.wait("the program to have its workers", look, 240, 0.5)
        return [pod["spec"]["nodeName"] for pod in self.pods(attempt)]

    def ended(self, attempt: str) -> AttemptStatus:
        found: AttemptStatus = self.ground.api.wait(
            f"the end of {attempt}",
            lambda: (s := self.runner.status(attempt)) and s.state == "ended" and s,
            240,
            0.5,
        )
        return found

    def nothing_left(self, attempt: str) -> None:
        """All machines are back and billed; no pod is there once its end was read."""
        self.runner.acknowledge(attempt)
        ground = self.ground
        machines = ground.machines_gone()
        assert len(machines) >= MACHINES
        ground.api.wait("its pods to be gone", lambda: not ground.pods(attempt), 60)
        ground.check_ledger()


@pytest.fixture
def dask_pool(
    one: Cluster,
    here: Place,
    api: Api,
    karpenter_cluster_pool: Callable[..., ClusterPool],
    tmp_path: Path,
) -> Iterator[DaskPool]:
    image = images.shipped(here, "dask")
    made = karpenter_cluster_pool(("m6a.large",), f'image = "{image}"\nlost_after = "45s"')
    home, code = tmp_path / "keeper", tmp_path / "code"
    home.mkdir()
    code.mkdir()
    ground = Ground(here, api, home, one.shell, made)
    settings = settings_from(made.tables, tmp_path / "home")
    view = PodView(Kube.connect(made.submitter_kubeconfig), made.namespace)
    runner = KubernetesRunner(load_pools(settings)[made.name], settings, view=view)
    ground.start_keeper()
    yield DaskPool(ground, runner, code, settings)
    ground.stop_keepers()
    view.close()


def test_a_dask_job_computes_on_all_its_machines_and_is_one_attempt_in_the_ledger(
    dask_pool: DaskPool,
) -> None:
    attempt = dask_pool.start(seconds=0.25)
    status = dask_pool.ended(attempt)
    log = dask_pool.log(attempt)
    assert status.outcome is Outcome.SUCCESS, (status.cause, log)
    assert "has 3 workers" in log
    assert status.result == {"total": 14280, "machines": ["0", "1", "2"], "threads": 6}
    assert len(set(status.machines)) == MACHINES
    for pod in dask_pool.pods(attempt):
        (container,) = pod["status"]["containerStatuses"]
        assert container["state"]["terminated"]["exitCode"] == 0
    told = dask_pool.ground.ended(attempt)
    assert told.outcome is Outcome.SUCCESS
    assert told.dask["threads"] == 6
    assert 30 <= told.dask["busy_seconds"] <= 6 * told.dask["wall_seconds"]
    assert told.cpu_seconds is not None
    dask_pool.nothing_left(attempt)
    occupied = [
        (machine.id, occupancy.attempt)
        for machine in dask_pool.ground.timeline().machines.values()
        for occupancy in machine.occupancies
    ]
    assert len(occupied) == MACHINES
    assert {name for _, name in occupied} == {attempt}


def test_a_dask_job_that_loses_a_machine_of_workers_still_ends_right(
    dask_pool: DaskPool, here: Place
) -> None:
    attempt = dask_pool.start(seconds=1)
    machines = dask_pool.wait_until_it_computes(attempt)
    faults.kill_machine(here, machines[2])
    status = dask_pool.ended(attempt)
    log = dask_pool.log(attempt)
    assert status.outcome is Outcome.SUCCESS, (status.cause, log)
    assert status.result is not None
    assert status.result["total"] == 14280
    assert "machine 2 of the gang is lost" in log
    assert dask_pool.ground.ended(attempt).outcome is Outcome.SUCCESS
    dask_pool.nothing_left(attempt)


def test_a_dask_job_whose_first_machine_dies_is_no_success_and_leaves_nothing(
    dask_pool: DaskPool, here: Place
) -> None:
    attempt = dask_pool.start(seconds=1)
    machines = dask_pool.wait_until_it_computes(attempt)
    faults.kill_machine(here, machines[0])
    status = dask_pool.ended(attempt)
    assert status.outcome is Outcome.INTERRUPTED, status
    assert dask_pool.ground.ended(attempt).outcome is Outcome.INTERRUPTED
    dask_pool.nothing_left(attempt)


def test_a_dask_job_that_is_cancelled_leaves_nothing(dask_pool: DaskPool) -> None:
    attempt = dask_pool.start(seconds=1)
    dask_pool.wait_until_it_computes(attempt)
    dask_pool.runner.cancel(attempt, "by the test")
    status = dask_pool.ended(attempt)
    assert (status.outcome, status.cause) == (Outcome.CANCELLED, "by the test")
    dask_pool.nothing_left(attempt)
