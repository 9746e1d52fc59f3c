"""Jobs on a bought pool as submitters ask for them, and what must be left of them: nothing.

Enters: a pool on the testbed. Leaves: Jobs, with a keeper that is a real process. The program that
they run where nothing else is said computes a sum with Spark, on as many executors as it is told.
"""

from __future__ import annotations

import textwrap
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from piecework.kube.client import Kube
from piecework.ledger.occupancy import Machine
from piecework.plan import labels
from piecework.plan.choose import plan_job
from piecework.plan.price import load_price_book
from piecework.runners.kubernetes import KubernetesRunner
from piecework.runners.pod_view import PodView
from piecework.runners.runner import AttemptRequest, AttemptStatus, Owner, run_id
from piecework.spec.job import Job
from testbed.api import Api, Object
from testbed.place import Place
from tests.cluster.cluster_pools import ClusterPool, pool_from, settings_from
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


@contextmanager
def jobs_on(made: ClusterPool, here: Place, api: Api, shell: str, folder: Path) -> Iterator[Jobs]:
    """Jobs on a pool, with a submitter's rights; its keeper runs until then."""
    ground = Ground(here, api, folder / "keeper", shell, made)
    settings = settings_from(made.tables, folder / "submitter")
    code = folder / "code"
    code.mkdir()
    pool = pool_from(made.tables, made.name, folder / "submitter")
    view = PodView(Kube.connect(made.submitter_kubeconfig), made.namespace)
    try:
        ground.start_keeper()
        yield Jobs(ground, KubernetesRunner(pool, settings, view=view), code)
    finally:
        ground.stop_keepers()
        view.close()
