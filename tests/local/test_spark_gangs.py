"""A standalone Spark over several machines: one launcher for each, all on this computer."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from piecework.entrypoint import tree
from tests.local.attempts import PATIENCE_SECONDS
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


def wait_for_executor(pods: Pods, index: int) -> tree.Process:
    """The executor's JVM on one of the machines, once it runs."""
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        for process in tree.descendants(pods.running[index].pid):
            command = Path(f"/proc/{process.pid}/cmdline").read_bytes()
            if b"CoarseGrainedExecutorBackend" in command and b"java" in command.split(b"\0")[0]:
                return process
        assert time.monotonic() < until, pods.log(index)
        time.sleep(0.2)


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


#: A job of H2O, as far as Spark's daemons see it.
FIXED = {**LAUNCH, "engine": "h2o"}


@pytest.fixture
def fixed_pods(tmp_path: Path) -> Iterator[Pods]:
    made = Pods(tmp_path, 2, FIXED, 3 * 2**30)
    yield made
    made.remove()


def test_a_job_whose_data_is_in_its_executors_ends_with_the_first_that_is_lost(
    fixed_pods: Pods,
) -> None:
    for index in (1, 0):
        fixed_pods.start(SUM.replace("sleep(0.1)", "sleep(600)"), index)
    fixed_pods.wait_for_log(0, "running")
    victim = wait_for_executor(fixed_pods, 1)
    tree.send(victim, signal.SIGKILL)
    head = fixed_pods.end(0, 120)
    assert head.code != 0
    assert "H2O cannot go on without its executor" in head.log
    assert fixed_pods.end(1, 60).code == 0


def test_a_job_that_stops_spark_before_it_ends_has_lost_nothing(fixed_pods: Pods) -> None:
    program = SUM + "spark.stop()\n    time.sleep(15)\n"
    for index in (1, 0):
        fixed_pods.start(program, index)
    head = fixed_pods.end(0, 180)
    assert head.code == 0, head.log
