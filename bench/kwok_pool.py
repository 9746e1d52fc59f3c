"""A pool whose machines KWOK plays, so that this host can have as many as a bench likes.

In: a testbed with Karpenter's and KWOK's programs. Out: a pool as piecework renders it, whose
NodePool says that there are no kubelets, and a rule by which pods of a namespace end after a time.
"""

from __future__ import annotations

from pathlib import Path

from testbed import kwok
from testbed.api import Api
from testbed.place import Place
from testbed.provider import NO_KUBELET
from tests.cluster import cluster_pools
from tests.cluster.cluster_pools import ClusterPool

TYPE = "m6a.large"
_POLICIES = "admissionregistration.k8s.io/v1"


def make_pool(here: Place, api: Api, name: str, folder: Path, machines: int) -> ClusterPool:
    """A pool of Karpenter of at most so many machines, in a namespace of its own name."""
    more = f"max_machines = {machines}"
    pool = cluster_pools.make_karpenter_pool(here, api, name, folder, [TYPE], more)
    for item in pool.rendering.objects:
        if item["kind"] == "NodePool":
            item["spec"]["template"]["metadata"]["labels"][NO_KUBELET] = "true"
            api.apply(item)
    api.wait("its account", lambda: api.get("ServiceAccount", "default", name))
    return pool


def end_pods_after(api: Api, namespace: str, seconds: int) -> None:
    """Has every pod of a namespace succeed after so long, whoever makes it."""
    name = f"end-pods-of-{namespace}"
    change = (
        f'Object{{metadata: Object.metadata{{annotations: {{"{kwok.RUN_FOR}": "{seconds}s"}}}}}}'
    )
    pods = {
        "apiGroups": [""],
        "apiVersions": ["v1"],
        "operations": ["CREATE"],
        "resources": ["pods"],
    }
    here = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    api.apply(
        {
            "apiVersion": _POLICIES,
            "kind": "MutatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {
                "failurePolicy": "Fail",
                "reinvocationPolicy": "Never",
                "matchConstraints": {"namespaceSelector": here, "resourceRules": [pods]},
                "mutations": [
                    {
                        "patchType": "ApplyConfiguration",
                        "applyConfiguration": {"expression": change},
                    }
                ],
            },
        },
        {
            "apiVersion": _POLICIES,
            "kind": "MutatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {"policyName": name},
        },
    )
