"""The pods that Spark's driver makes: executors, which follow the pod that makes them.

Enters: the driver's pod, and how its machines are divided. Leaves: the template that Spark makes
executors from, and what the launcher in the driver's pod is told of it, as JSON values. Pure.

An executor is a pod of the same attempt: its labels, gate, placement, image and code are those of
the driver's pod. Its role says that it decides nothing. It gets no token: only the driver may make
pods. piecework's launcher starts it, as it starts everything, so the image needs nothing of Spark's
own scripts, and what an executor used is told as anything else is.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from piecework.plan import labels
from piecework.plan.executors import Division
from piecework.units import MEBI, format_cpu

Object = dict[str, Any]

#: The account of Spark's drivers, which may make the pods of their executors, and no more.
DRIVER_ACCOUNT = "piecework-driver"
#: Where executors keep what they shuffle and spill. Spark knows the volume by the name's beginning.
LOCAL_FOLDER = "/piecework/spark"
_LOCAL_VOLUME = "spark-local-dir-1"
_GPU = "nvidia.com/gpu"
#: What is the driver's alone.
_DRIVERS_ALONE = "PIECEWORK_INDEX"
_ALONE = ("serviceAccountName", "hostname", "subdomain")


def be_driver(spec: Object, division: Division) -> None:
    """Leaves room for executors beside the driver, and gives it an account to make them with."""
    spec.setdefault("serviceAccountName", DRIVER_ACCOUNT)
    spec["automountServiceAccountToken"] = True
    container, memory = spec["containers"][0], str(division.driver_memory)
    container["resources"] = {
        "requests": {"cpu": f"{int(division.driver_cpus * 1000)}m", "memory": memory},
        "limits": {"memory": memory},
    }
    own = {
        "PIECEWORK_CPUS": format_cpu(division.driver_cpus),
        "PIECEWORK_MEMORY_BYTES": str(division.driver_memory.bytes),
        "PIECEWORK_GPUS": "0",
    }
    _tell(container, own)
    address: Object = {"fieldRef": {"fieldPath": "status.podIP"}}
    container["env"].append({"name": "PIECEWORK_POD_IP", "valueFrom": address})


def followers_of(driver: Object, division: Division, launch: Mapping[str, Any]) -> Object:
    """What the launcher is told of the executors that its driver is to make.

    `driver` is the driver's pod without its own order; `launch` the order of an executor.
    """
    return {
        "template": template_of(driver, division, launch),
        "namespace": driver["metadata"]["namespace"],
        "pod": driver["metadata"]["name"],
        "image": driver["spec"]["containers"][0]["image"],
        "local_folder": LOCAL_FOLDER,
        "executors": {
            "instances": division.executors,
            "per_machine": division.per_machine,
            "cores": division.executor_cores,
            "cpu": format_cpu(division.executor_cpus),
            "memory_mib": division.executor_memory.bytes // MEBI,
        },
    }


def template_of(driver: Object, division: Division, launch: Mapping[str, Any]) -> Object:
    """The pod that each executor is made from; Spark adds name, owner, size and arguments."""
    metadata, spec = copy.deepcopy(driver["metadata"]), copy.deepcopy(driver["spec"])
    found = {key: text for key, text in metadata["labels"].items() if key != labels.INDEX}
    for name in _ALONE:
        spec.pop(name, None)
    spec["automountServiceAccountToken"] = False
    container = spec["containers"][0]
    own = {
        "PIECEWORK_CPUS": format_cpu(division.executor_cpus),
        "PIECEWORK_MEMORY_BYTES": str(division.executor_memory.bytes),
        "PIECEWORK_GPUS": str(division.executor_gpus),
        "PIECEWORK_ORDER": json.dumps(launch, separators=(",", ":")).replace("$", "$$"),
    }
    _tell(container, own)
    container["env"] = [each for each in container["env"] if each["name"] != _DRIVERS_ALONE]
    container["resources"] = {}
    if division.executor_gpus:
        gpus = {_GPU: str(division.executor_gpus)}
        container["resources"] = {"requests": gpus, "limits": gpus}
    spec.setdefault("volumes", []).append({"name": _LOCAL_VOLUME, "emptyDir": {}})
    mount = {"name": _LOCAL_VOLUME, "mountPath": LOCAL_FOLDER}
    container.setdefault("volumeMounts", []).append(mount)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "labels": {**found, labels.ROLE: labels.FOLLOWER},
            "annotations": metadata["annotations"],
        },
        "spec": spec,
    }


def _tell(container: Object, own: Mapping[str, str]) -> None:
    """Variables instead of those of the same names."""
    kept = [each for each in container["env"] if each["name"] not in own]
    container["env"] = [*kept, *({"name": name, "value": text} for name, text in own.items())]
