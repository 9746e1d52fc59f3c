"""What a driver is told about executors that are pods, and how such an executor starts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piecework.entrypoint import spark, spark_executor, spark_kubernetes
from piecework.entrypoint.start import CannotStart, Machine

FOLLOWERS: dict[str, Any] = {
    "template": {"kind": "Pod"},
    "namespace": "jobs",
    "pod": "delays-7f3a-1",
    "image": "registry.example.com/spark:1",
    "local_folder": "/piecework/spark",
    "executors": {
        "instances": 6,
        "per_machine": 2,
        "cores": 4,
        "cpu": "3.4",
        "memory_mib": 14_000,
    },
}
ENVIRON = {
    "PATH": os.environ["PATH"],
    "PIECEWORK_CPUS": "0.5",
    "PIECEWORK_MEMORY_BYTES": str(2 * 2**30),
    "PIECEWORK_ARTIFACTS": "/work/artifacts",
    "PIECEWORK_POD_IP": "10.1.2.3",
}
WORK = Path("/work")


def told(**conf: str) -> dict[str, str]:
    machine = Machine.from_environ(ENVIRON)
    return spark.properties(machine, conf, ENVIRON, WORK, None, FOLLOWERS)


def test_the_driver_is_a_client_in_its_pod_and_executors_are_the_runs() -> None:
    found = told()
    assert found["spark.master"] == "k8s://https://kubernetes.default.svc"
    assert found["spark.driver.host"] == found["spark.driver.bindAddress"] == "10.1.2.3"
    assert found["spark.kubernetes.driver.pod.name"] == "delays-7f3a-1"
    assert found["spark.kubernetes.executor.podNamePrefix"] == "delays-7f3a-1"
    assert found["spark.kubernetes.executor.podTemplateFile"] == "/work/.piecework/executor.json"
    assert found["spark.executor.instances"] == "6"
    assert found["spark.executor.cores"] == "4"
    assert found["spark.kubernetes.executor.request.cores"] == "3.4"
    assert found["spark.kubernetes.memoryOverheadFactor"] == "0.4"
    assert found["spark.kubernetes.allocation.maximum"] == "60"
    assert found["spark.eventLog.dir"] == "file:///work/artifacts/spark-events"
    for role in ("driver", "executor"):
        assert "ExitOnOutOfMemoryError" in found[f"spark.{role}.extraJavaOptions"]


@given(st.integers(1000, 500_000), st.integers(0, 300))
def test_heap_and_overhead_and_off_heap_are_the_executors_pod_exactly(
    memory: int, off: int
) -> None:
    executors = {**FOLLOWERS["executors"], "memory_mib": memory}
    conf = {"spark.memory.offHeap.enabled": "true", "spark.memory.offHeap.size": f"{off}m"}
    found = spark_kubernetes.fixed({**FOLLOWERS, "executors": executors}, conf, "", Path("/t"))
    heap, overhead = (
        int(found[f"spark.executor.{name}"].removesuffix("m"))
        for name in ("memory", "memoryOverhead")
    )
    assert heap + overhead + off == memory
    assert overhead >= 0.4 * heap


def test_the_job_may_have_fewer_executors_and_never_more() -> None:
    assert told(**{"spark.executor.instances": "2"})["spark.executor.instances"] == "2"
    assert told(**{"spark.executor.instances": "60"})["spark.executor.instances"] == "6"
    with pytest.raises(CannotStart, match=r"spark\.executor\.instances is 'all'; a whole number"):
        told(**{"spark.executor.instances": "all"})


def test_dynamic_allocation_keeps_to_the_machines_and_lets_executors_go() -> None:
    found = told(**{"spark.dynamicAllocation.enabled": "true"})
    assert found["spark.dynamicAllocation.maxExecutors"] == "6"
    assert found["spark.dynamicAllocation.shuffleTracking.enabled"] == "true"
    assert found["spark.dynamicAllocation.shuffleTracking.timeout"] == "300s"
    assert "spark.executor.instances" not in found
    fewer = {
        "spark.dynamicAllocation.enabled": "true",
        "spark.dynamicAllocation.maxExecutors": "2",
        "spark.dynamicAllocation.shuffleTracking.timeout": "30s",
    }
    assert told(**fewer).items() >= fewer.items()


def test_the_driver_asks_for_no_right_but_that_to_pods() -> None:
    found = told()
    assert found["spark.kubernetes.executor.disableConfigMap"] == "true"
    for name in ("service.deleteOnTermination", "ownPersistentVolumeClaim"):
        assert found[f"spark.kubernetes.driver.{name}"] == "false"


def test_what_spark_numbers_is_put_in_order() -> None:
    environ = {f"SPARK_JAVA_OPT_{n}": f"-Dn={n}" for n in (10, 9, 0)} | {"SPARK_JAVA_OPTS": "-Dx"}
    assert spark_executor.java_options(environ) == ["-Dn=0", "-Dn=9", "-Dn=10"]


@pytest.mark.layer("spark")
def test_an_executor_is_started_as_sparks_own_images_would() -> None:
    environ = {
        **ENVIRON,
        "PIECEWORK_CPUS": "3.4",
        "SPARK_DRIVER_URL": "spark://CoarseGrainedScheduler@10.1.2.3:7078",
        "SPARK_EXECUTOR_ID": "7",
        "SPARK_EXECUTOR_CORES": "4",
        "SPARK_EXECUTOR_MEMORY": "9000m",
        "SPARK_APPLICATION_ID": "spark-1",
        "SPARK_EXECUTOR_POD_IP": "10.1.2.4",
        "SPARK_EXECUTOR_POD_NAME": "delays-7f3a-1-exec-7",
        "SPARK_RESOURCE_PROFILE_ID": "0",
        "SPARK_JAVA_OPT_0": "-Dspark.driver.port=7078",
        "SPARK_LOCAL_DIRS": "/piecework/spark",
    }
    launch = {"starter": "spark_executor", "program": {}, "code": "/code", "env": {"A": "b"}}
    start = spark_executor.prepare(launch, environ, WORK)
    argv = list(start.argv)
    assert argv[0].endswith("/bin/java")
    assert argv[1:4] == ["-Dspark.driver.port=7078", "-Xmx9000m", "-cp"]
    assert argv[argv.index("--podName") + 1] == "delays-7f3a-1-exec-7"
    assert argv[argv.index("--executor-id") + 1] == "7"
    assert start.env["OMP_NUM_THREADS"] == "1"
    assert start.env["PIECEWORK_CPUS"] == "3.4"
    assert start.env["PYTHONPATH"].startswith("/code")
    assert start.env["A"] == "b"
    assert "/work/.piecework/log4j2.properties" in start.files


def test_an_executor_that_no_driver_has_made_says_so() -> None:
    with pytest.raises(CannotStart, match=r"which says SPARK_DRIVER_URL.*nobody did"):
        spark_executor.prepare({}, ENVIRON, WORK)
