"""H2O on bought machines: its models are as good as they should be, and nothing is left of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from piecework.ledger.events import Outcome
from testbed import images
from testbed.api import Api
from testbed.place import Place
from tests.cluster.cluster_pools import ClusterPool
from tests.cluster.conftest import Cluster
from tests.cluster.spark_jobs import Jobs, jobs_on

EXAMPLE = Path(__file__).parents[2] / "examples" / "airports-h2o" / "jobs" / "train.py"


@pytest.fixture
def jobs(
    one: Cluster,
    here: Place,
    api: Api,
    karpenter_cluster_pool: Callable[..., ClusterPool],
    tmp_path: Path,
) -> Iterator[Jobs]:
    image = images.shipped(here, "spark-h2o")
    made = karpenter_cluster_pool(types=("m6a.large",), more=f'image = "{image}"\nmax_machines = 2')
    with jobs_on(made, here, api, one.shell, tmp_path) as found:
        yield found


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
