"""Which machine will do for a pod, for whom alone, and how much of it the pod takes.

Enters a plan with its pool. Leaves parts of a pod's spec, as JSON values, the same for pods that
piecework makes and for those that others make. Pure.

Only machines of its pool will do, and only for its own run. Where Karpenter buys, the pod selects
its run, and Karpenter stamps the machine with it. Machines of Auto Scaling groups cannot be stamped
at birth, so there the pod refuses to be with pods of any other run.
"""

from __future__ import annotations

from typing import Any

from piecework.plan import labels
from piecework.plan.executors import own_pods
from piecework.plan.plan import Plan
from piecework.spec.pool import Pool

Object = dict[str, Any]

#: The label of a node that names its type.
INSTANCE_TYPE = "node.kubernetes.io/instance-type"
_HOST_NAME = "kubernetes.io/hostname"
_KARPENTER_CAPACITY = "karpenter.sh/capacity-type"
_GPU = "nvidia.com/gpu"
_CAPACITY_TYPES = {"never": ["on-demand"], "prefer": ["spot", "on-demand"], "only": ["spot"]}
#: A node that does not answer is for the keeper to judge (`lost_after`); this long at most.
_SILENT_SECONDS = 86_400
#: Karpenter takes this taint off as it registers a machine. The scheduler may know that before the
#: kubelet and the taint manager do, who then refuse the pod, or delete it
#: (kubernetes/kubernetes#139992). What it is there for, the machine's labels, our pods ask for.
_UNREGISTERED = "karpenter.sh/unregistered"


def placement_of(plan: Plan, pool: Pool, run: str) -> Object:
    """The part of a pod's spec that says which machine will do, and for whom alone.

    `nodeSelector`, `tolerations`, `affinity`: the same for pods that are made elsewhere.
    """
    own = labels.run_label(run)
    selector = {labels.POOL: pool.name}
    machine = [{"key": INSTANCE_TYPE, "operator": "In", "values": _types_of(plan)}]
    if pool.provider == "karpenter":
        selector[labels.RUN] = own
        capacity = _CAPACITY_TYPES[plan.spot]
        machine.append({"key": _KARPENTER_CAPACITY, "operator": "In", "values": capacity})
    elif plan.spot == "never" and any(group.spot for group in pool.groups):
        machine.append({"key": labels.CAPACITY, "operator": "In", "values": ["on-demand"]})
    elif plan.spot == "only" and not all(group.spot for group in pool.groups):
        machine.append({"key": labels.CAPACITY, "operator": "In", "values": ["spot"]})
    affinity: Object = {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": machine}]
            }
        }
    }
    apart = _keep_apart(plan, pool, own)
    if apart:
        affinity["podAntiAffinity"] = {"requiredDuringSchedulingIgnoredDuringExecution": apart}
    return {"nodeSelector": selector, "tolerations": _tolerations(plan, pool), "affinity": affinity}


def _types_of(plan: Plan) -> list[str]:
    return [plan.instance_type.name, *plan.alternatives]


def _keep_apart(plan: Plan, pool: Pool, own: str) -> list[Object]:
    """Which pods this one refuses to share its machine with."""
    terms: list[Object] = []
    if pool.provider == "asg":
        terms.append(
            {
                "labelSelector": {
                    "matchExpressions": [{"key": labels.RUN, "operator": "Exists"}],
                },
                "mismatchLabelKeys": [labels.RUN],
                # Without this it would only see pods of its own namespace.
                "namespaceSelector": {},
                "topologyKey": _HOST_NAME,
            }
        )
    if own_pods(plan) > 1:
        # A larger machine may have room for two of a gang.
        terms.append(
            {"labelSelector": {"matchLabels": {labels.RUN: own}}, "topologyKey": _HOST_NAME}
        )
    return terms


def _tolerations(plan: Plan, pool: Pool) -> list[Object]:
    found: list[Object] = [
        {"key": labels.POOL, "operator": "Equal", "value": pool.name, "effect": "NoSchedule"}
    ]
    if pool.provider == "karpenter":
        found.append({"key": _UNREGISTERED, "operator": "Exists", "effect": "NoExecute"})
    if plan.gpus:
        found.append({"key": _GPU, "operator": "Exists", "effect": "NoSchedule"})
    found += [
        {
            "key": f"node.kubernetes.io/{condition}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": _SILENT_SECONDS,
        }
        for condition in ("not-ready", "unreachable")
    ]
    return found


def resources_of(plan: Plan) -> Object:
    """What the container asks for and is held to: the machine less what the system takes.

    There is no limit on CPU: nobody else is there to be protected, and a limit costs throttling.
    """
    memory = str(plan.memory)
    requests: dict[str, str] = {"cpu": f"{int(plan.cpus * 1000)}m", "memory": memory}
    limits: dict[str, str] = {"memory": memory}
    if plan.gpus:
        requests[_GPU] = limits[_GPU] = str(plan.gpus)
    return {"requests": requests, "limits": limits}
