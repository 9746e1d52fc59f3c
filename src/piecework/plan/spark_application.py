"""The SparkApplication of an attempt: what Kubeflow's Spark operator makes its driver's pod from.

What enters is the pod that the driver is to be, and how its machines are divided; what leaves is
an object for the operator, of the pod's name. Pure. The whole pod goes in as the driver's template:
gate, finalizer, labels, placement and launcher are those of any attempt. Spark writes its own
names, images and sizes over a template, so these are said once more in the operator's words.

piecework's launcher is the template's command, to which Spark adds arguments that it has no use
for: the driver's code, its use, its result and its end are those of any attempt, too.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from piecework.plan import labels
from piecework.plan.executors import Division
from piecework.plan.manifest import GRACE_SECONDS, WORK_FOLDER
from piecework.units import MEBI, Memory, parse_cpu

Object = dict[str, Any]

#: The operator looks for the driver's container by this name.
DRIVER = "spark-kubernetes-driver"
#: The operator only asks whether it is 3.0 or later; the image decides which Spark it is.
_SPARK = "4.2.1"
#: Of a pod's memory, what the operator is told to be heap; the launcher sizes it by itself.
_HEAP_SHARE = Decimal("0.65")
#: From 4.2 on Spark makes a NetworkPolicy for the executors that it would make itself; ours are not
#: among them, and the operator has no right to make any.
_LEFT_OUT = "org.apache.spark.deploy.k8s.features.NetworkPolicyFeatureStep"
_MAIN_CONTAINER = "kubectl.kubernetes.io/default-container"


def application_of(driver: Object, division: Division, file: str) -> Object:
    """The SparkApplication whose driver is this pod.

    `division` says what its executors are; the driver makes them, from a template that its launcher
    was given. `file` is the job's program, in its code's folder.
    """
    metadata, pod = driver["metadata"], driver["spec"]
    asked: Mapping[str, str] = pod["containers"][0]["resources"]["requests"]
    account = pod.get("serviceAccountName")
    return {
        "apiVersion": "sparkoperator.k8s.io/v1beta2",
        "kind": "SparkApplication",
        "metadata": {
            "name": _name(metadata["name"]),
            "namespace": metadata["namespace"],
            "labels": {k: text for k, text in metadata["labels"].items() if k != labels.INDEX},
        },
        "spec": {
            "type": "Python",
            "mode": "cluster",
            "sparkVersion": _SPARK,
            "image": pod["containers"][0]["image"],
            "mainApplicationFile": f"local://{WORK_FOLDER}/{file}",
            # Retries are piecework's: a second driver would be a second attempt.
            "restartPolicy": {"type": "Never"},
            "sparkConf": {"spark.kubernetes.driver.pod.excludedFeatureSteps": _LEFT_OUT},
            "driver": {
                "podName": metadata["name"],
                "coreRequest": asked["cpu"],
                "cores": max(1, int(parse_cpu(asked["cpu"]))),
                **_memory(Memory.parse(asked["memory"])),
                "terminationGracePeriodSeconds": GRACE_SECONDS,
                **({"serviceAccount": account} if account else {}),
                "template": _template(driver),
            },
            "executor": {
                "instances": division.executors,
                "cores": division.executor_cores,
                **_memory(division.executor_memory),
            },
        },
    }


def _name(pod: str) -> str:
    """The pod's name; the operator wants one that begins with a letter."""
    return pod if pod[0].isalpha() else f"spark-{pod}"


def _memory(memory: Memory) -> dict[str, str]:
    """A pod's memory in the operator's words, which become heap and overhead, in whole MiB."""
    whole = memory.bytes // MEBI
    heap = int(whole * _HEAP_SHARE)
    return {"memory": f"{heap}m", "memoryOverhead": f"{whole - heap}m"}


def _template(driver: Object) -> Object:
    """The pod as a template: its container has the name by which the operator finds it."""
    metadata, spec = copy.deepcopy(driver["metadata"]), copy.deepcopy(driver["spec"])
    spec["containers"][0]["name"] = DRIVER
    metadata["annotations"][_MAIN_CONTAINER] = DRIVER
    del metadata["name"], metadata["namespace"]
    return {"metadata": metadata, "spec": spec}
