"""A job that asks for a GPU: on which machine it lands, and what it is told of the GPU there.

The testbed's GPUs are advertised and assigned as real ones, and do nothing: so XGBoost learns on
the CPUs of the machine, as `examples/delays-gpu` does wherever CUDA finds no GPU.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from piecework.ledger.events import Outcome
from testbed import images
from testbed.place import Place
from tests.cluster.cluster_pools import ClusterPool
from tests.cluster.spark_jobs import Jobs

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "delays-gpu" / "jobs" / "boost.py"
#: The same XGBoost without CUDA, which is a tenth of its size.
PACKAGES = "scipy==1.17.1\nxgboost-cpu==3.2.0\n"


def image_without_cuda(here: Place, folder: Path) -> str:
    """`images/xgboost` with that XGBoost in it."""
    shutil.copytree(ROOT / "images" / "xgboost", folder)
    (folder / "requirements.lock").write_text(PACKAGES)
    base = images.shipped(here, "python").partition("/")[2]
    return images.build(here, folder, "xgboost-cpu:1", base=base)


@pytest.fixture
def jobs(
    here: Place,
    karpenter_cluster_pool: Callable[..., ClusterPool],
    jobs_of: Callable[[ClusterPool], Jobs],
    tmp_path: Path,
) -> Jobs:
    image = image_without_cuda(here, tmp_path / "xgboost-cpu")
    types = ("m6a.large", "m6a.xlarge", "g5.xlarge")
    return jobs_of(karpenter_cluster_pool(types=types, more=f'image = "{image}"\nmax_machines = 1'))


def test_a_job_that_asks_for_a_gpu_gets_a_machine_with_one_and_is_told_which(jobs: Jobs) -> None:
    attempt = jobs.start(
        EXAMPLE.read_text(),
        python="job.py",
        args=["--months=6-6", "--trees=20"],
        machine={"gpu": 1, "memory": "4Gi"},
    )
    node = jobs.ground.wait_running(attempt)
    (pod,) = jobs.pods(attempt)
    assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    found = jobs.api.get("Node", node)
    assert found is not None
    assert found["metadata"]["labels"]["node.kubernetes.io/instance-type"] == "g5.xlarge"
    assert found["status"]["allocatable"]["nvidia.com/gpu"] == "1"
    status = jobs.ended(attempt)
    assert status.outcome is Outcome.SUCCESS, (status, jobs.log(attempt))
    assert status.result["visible_devices"] == "gpu-0"
    assert status.result["device"] == "cpu"
    assert "CUDA finds no GPU here (the machine has 1 for this job)" in jobs.log(attempt)
    assert 0.6 < status.result["auc"] < 0.9
    (machine,) = jobs.nothing_left(attempt)
    assert machine.instance_type == "g5.xlarge"
