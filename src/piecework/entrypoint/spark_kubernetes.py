"""What Spark's driver in a pod is told, so that it makes its executors as pods of the same run.

Enters: what the launcher was told of them (`piecework.plan.followers`), and the job's conf. Leave:
Spark's properties. The driver is a client of Kubernetes' API from within its own pod. All executors
belong to that pod, so Kubernetes removes them with it; while it is there, piecework's keeper does.

    followers: {"template": {...}, "namespace": "...", "pod": "...", "image": "...",
                "local_folder": "...", "executors": {"instances": 4, "per_machine": 2, "cores": 4,
                "cpu": "3.9", "memory_mib": 14000}}
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .spark_sizes import heap_of, off_heap
from .start import CannotStart

MASTER = "k8s://https://kubernetes.default.svc"
#: The driver listens here, in its pod alone, so nobody else is in the way.
DRIVER_PORT, BLOCK_PORT = 7078, 7079
#: The container of the template that is the executor.
CONTAINER = "job"
#: Executors that are made in the place of lost ones count too; beyond this, something is wrong.
_MOST_TIMES = 10
#: An executor that nobody waits for but by the data that it shuffled goes after this time.
_SHUFFLE_SECONDS = 300


def is_dynamic(conf: Mapping[str, str]) -> bool:
    """Whether the job has Spark decide how many executors there are."""
    return conf.get("spark.dynamicAllocation.enabled", "").strip().lower() == "true"


def defaults(
    followers: Mapping[str, Any], conf: Mapping[str, str], driver_mib: float
) -> dict[str, str]:
    """What the job's conf may say otherwise. `driver_mib`: what the driver's pod may have."""
    most = int(followers["executors"]["instances"])
    cores = most * int(followers["executors"]["cores"])
    told = {
        "spark.driver.memory": f"{heap_of(driver_mib, off_heap(conf))}m",
        "spark.sql.shuffle.partitions": str(max(1, min(2000, 4 * cores))),
        # Executors of other runs that guess the address are no executors of this one.
        "spark.authenticate": "true",
        "spark.kubernetes.allocation.batch.size": str(max(10, min(most, 100))),
        "spark.kubernetes.allocation.maximum": str(_MOST_TIMES * most),
    }
    if is_dynamic(conf):
        told |= {
            "spark.dynamicAllocation.shuffleTracking.enabled": "true",
            # Without an end, an executor that ever shuffled stays as long as the driver.
            "spark.dynamicAllocation.shuffleTracking.timeout": f"{_SHUFFLE_SECONDS}s",
            "spark.kubernetes.allocation.maximum": str(100 * most),
        }
    return told


def fixed(
    followers: Mapping[str, Any], conf: Mapping[str, str], address: str, template: Path
) -> dict[str, str]:
    """What keeps the job on its machines; nothing that the job says is stronger.

    `address` is that of the driver's pod; `template` the file with the executors' pod.
    """
    executors = followers["executors"]
    most, memory = int(executors["instances"]), int(executors["memory_mib"])
    beside = off_heap(conf)
    heap = heap_of(memory, beside)
    told = {
        "spark.master": MASTER,
        "spark.driver.host": address,
        "spark.driver.bindAddress": address,
        "spark.driver.port": str(DRIVER_PORT),
        "spark.driver.blockManager.port": str(BLOCK_PORT),
        "spark.executor.cores": str(executors["cores"]),
        "spark.executor.memory": f"{heap}m",
        # Exactly what is left of the pod, whatever Spark would reckon.
        "spark.executor.memoryOverhead": f"{int(memory - heap - beside)}m",
        "spark.kubernetes.memoryOverheadFactor": "0.4",
        "spark.kubernetes.executor.request.cores": str(executors["cpu"]),
        "spark.kubernetes.namespace": followers["namespace"],
        "spark.kubernetes.driver.pod.name": followers["pod"],
        "spark.kubernetes.executor.podNamePrefix": followers["pod"],
        "spark.kubernetes.container.image": followers["image"],
        "spark.kubernetes.executor.podTemplateFile": str(template),
        "spark.kubernetes.executor.podTemplateContainerName": CONTAINER,
        # Else Spark asks for rights to ConfigMaps, Services and volume claims, and needs none.
        "spark.kubernetes.executor.disableConfigMap": "true",
        "spark.kubernetes.driver.service.deleteOnTermination": "false",
        "spark.kubernetes.driver.ownPersistentVolumeClaim": "false",
        "spark.kubernetes.driver.reusePersistentVolumeClaim": "false",
    }
    if is_dynamic(conf):
        wanted = _number(conf, "spark.dynamicAllocation.maxExecutors", most)
        told["spark.dynamicAllocation.maxExecutors"] = str(max(1, min(wanted, most)))
    else:
        wanted = _number(conf, "spark.executor.instances", most)
        told["spark.executor.instances"] = str(max(1, min(wanted, most)))
    return told


def _number(conf: Mapping[str, str], key: str, otherwise: int) -> int:
    text = conf.get(key, str(otherwise)).strip()
    if not text.isdecimal():
        raise CannotStart(f"{key} is {text!r}; a whole number is right here, like {otherwise}")
    return int(text)
