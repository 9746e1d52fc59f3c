"""H2O on bought machines: its models are as good as they should be, and nothing is left of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from piecework.ledger.events import Outcome
from testbed import images
from testbed.place import Place
from tests.cluster.cluster_pools import ClusterPool
from tests.cluster.spark_jobs import Jobs, processes

EXAMPLE = Path(__file__).parents[2] / "examples" / "airports-h2o" / "jobs" / "train.py"


@pytest.fixture
def jobs(
    here: Place,
    karpenter_cluster_pool: Callable[..., ClusterPool],
    jobs_of: Callable[[ClusterPool], Jobs],
) -> Jobs:
    image = images.shipped(here, "spark-h2o")
    more = f'image = "{image}"\nmax_machines = 2'
    return jobs_of(karpenter_cluster_pool(types=("m6a.large",), more=more))


def start_example(jobs: Jobs, months: str, trees: int) -> str:
    args = [f"--months={months}", f"--trees={trees}"]
    machine = {"cpu": 2, "memory": "8Gi"}
    return jobs.start(EXAMPLE.read_text(), h2o="job.py", args=args, machine=machine)


def test_h2o_learns_on_a_machine_that_is_bought_for_it(jobs: Jobs) -> None:
    attempt = start_example(jobs, "6-6", 5)
    status = jobs.ended(attempt)
    assert status.outcome is Outcome.SUCCESS, (status, jobs.log(attempt))
    # June 2013: 28,243 flights left New York, of which 27,075 arrived.
    assert (status.result["learned_from"], status.result["held_out"]) == (21_618, 5_457)
    assert all(0.7 < auc < 0.85 for auc in status.result["auc"].values()), status.result
    jobs.nothing_left(attempt)


#: Learns what is there to see, again and again, and tells how often it was right.
LEARNS = """
import itertools

import h2o
from pyspark.sql import SparkSession
from pysparkling import H2OContext
from pysparkling.ml import H2OGBM

spark = SparkSession.builder.getOrCreate()
context = H2OContext.getOrCreate()
rows = spark.range(2000).selectExpr("id % 10 as x", "if(id % 10 > 4, 'late', 'early') as y").cache()
for number in itertools.count():
    model = H2OGBM(labelCol="y", featuresCols=["x"], ntrees=5, seed=1).fit(rows)
    right = model.transform(rows).where("prediction = y").count()
    nodes = h2o.cluster().cloud_size
    print(f"model {number} of {nodes} nodes is right {right} times", flush=True)
"""


def test_h2o_learns_over_two_machines_and_ends_with_an_executor_that_is_lost(jobs: Jobs) -> None:
    attempt = jobs.start(
        LEARNS,
        h2o={"file": "job.py", "mode": "kubernetes"},
        machine={"cpu": 2, "memory": "8Gi", "count": 2},
    )
    jobs.wait_for_line(attempt, "model 0 of 2 nodes is right 2000 times")
    # What H2O knows is in that executor's memory, so there is nothing to go on with.
    victim, *_ = processes("KubernetesExecutorBackend", attempt)
    victim.kill()
    status = jobs.ended(attempt)
    # Either H2O says so to the program, which fails, or waits for ever, and is ended: as
    # interrupted where Spark deleted the executor's pod within the second of its end.
    assert status.outcome in (Outcome.ERROR, Outcome.INTERRUPTED), (status, jobs.log(attempt))
    jobs.nothing_left(attempt)
