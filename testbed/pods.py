"""Pods for tests, in a few words.

What enters is what a test cares about; what leaves is a manifest that Pod Security's "restricted"
would not refuse for its own sake, and answers to the questions that tests ask of a pod.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from testbed.api import Object


def make(
    name: str,
    namespace: str,
    image: str,
    script: str,
    *,
    cpu: str = "50m",
    memory: str = "32Mi",
    gpus: int = 0,
    node: str | None = None,
    select: Mapping[str, str] | None = None,
    tolerate: Collection[str] = (),
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    grace_seconds: int = 0,
) -> Object:
    """A pod that runs a shell script once. `tolerate` are keys of taints."""
    resources = {"cpu": cpu, "memory": memory}
    limits = {"nvidia.com/gpu": str(gpus)} if gpus else {}
    spec: Object = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": grace_seconds,
        "containers": [
            {
                "name": "main",
                "image": image,
                "command": ["sh", "-c", script],
                "resources": {"requests": {**resources, **limits}, "limits": limits},
            }
        ],
        "tolerations": [{"key": key, "operator": "Exists"} for key in tolerate],
    }
    if node:
        spec["nodeName"] = node
    if select:
        spec["nodeSelector"] = dict(select)
    metadata = {
        "name": name,
        "namespace": namespace,
        "labels": dict(labels or {}),
        "annotations": dict(annotations or {}),
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def apart(pod: Object, key: str) -> Object:
    """The same pod, refusing machines with pods that have another value of the label `key`."""
    term = {
        "topologyKey": "kubernetes.io/hostname",
        "namespaceSelector": {},
        "labelSelector": {"matchExpressions": [{"key": key, "operator": "Exists"}]},
        "mismatchLabelKeys": [key],
    }
    required = {"requiredDuringSchedulingIgnoredDuringExecution": [term]}
    return {**pod, "spec": {**pod["spec"], "affinity": {"podAntiAffinity": required}}}


def phase(pod: Object | None) -> str:
    """Pending, Running, Succeeded or Failed; empty where there is no pod."""
    found: str = (pod or {}).get("status", {}).get("phase", "")
    return found


def is_over(pod: Object | None) -> bool:
    return phase(pod) in ("Succeeded", "Failed")


def exit_code(pod: Object) -> int | None:
    """The exit code of the pod's container, once it has ended."""
    for status in pod.get("status", {}).get("containerStatuses", ()):
        ended = status.get("state", {}).get("terminated")
        if ended:
            code: int = ended["exitCode"]
            return code
    return None


def waiting_reason(pod: Object) -> str:
    """Why the pod's container waits, in Kubernetes' words."""
    for status in pod.get("status", {}).get("containerStatuses", ()):
        reason: str = status.get("state", {}).get("waiting", {}).get("reason", "")
        return reason
    return ""
