"""A standalone Spark over several machines: one launcher for each, all on this computer."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from piecework.entrypoint import tree
from tests.local.test_gangs import Pods

pytestmark = pytest.mark.layer("spark")

LAUNCH = {
    "engine": "spark",
    "starter": "spark",
    "program": {"file": "job.py", "mode": "standalone", "conf": {}},
}
SUM = """
    import json, os, time
    from pyspark.sql import SparkSession
    import rows

    def where(number):
        time.sleep(0.1)
        return rows.double(number), os.environ["PIECEWORK_INDEX"]

    spark = SparkSession.builder.getOrCreate()
    context = spark.sparkContext
    print("running", flush=True)
    found = context.parallelize(range(60), 20).map(where).collect()
    json.dump(
        {
            "total": sum(number for number, _ in found),
            "machines": sorted({index for _, index in found}),
            "secret": context.getConf().get("spark.authenticate"),
        },
        open(os.environ["PIECEWORK_RESULT"], "w"),
    )
    """


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Pods]:
    made = Pods(tmp_path, 2, LAUNCH, 3 * 2**30)
    yield made
    made.remove()


def test_executors_of_all_machines_compute_and_all_end_well(pods: Pods) -> None:
    for index in (1, 0):
        pods.start(SUM, index)
    head, other = (pods.end(index, 180) for index in range(2))
    assert head.code == 0, head.log
    assert head.message["result"] == {"total": 3540, "machines": ["0", "1"], "secret": "true"}
    assert other.code == 0, other.log
    assert head.message["use"]["spark"]["slots"] == 2


def test_a_machine_whose_head_is_killed_ends_soon_and_leaves_no_executor(pods: Pods) -> None:
    for index in (1, 0):
        pods.start(SUM.replace("sleep(0.1)", "sleep(600)"), index)
    pods.wait_for_log(0, "running")
    trees = tree.descendants(pods.running[1].pid)
    for process in tree.descendants(pods.running[0].pid):
        tree.send(process, signal.SIGKILL)
    other = pods.end(1, 60)
    assert other.code == 1, other.log
    assert "the first machine of the gang is gone" in other.log
    assert not [found for each in trees if (found := tree.read_process(each.pid)) == each]
    assert pods.end(0, 60).code != 0
