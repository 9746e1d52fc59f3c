"""What to apply, so that an autoscaler buys machines for a cluster's pools: objects and settings.

Enter: the pools of one cluster. Leave: objects of Kubernetes, in an order in which they can be
applied, and for Auto Scaling groups what belongs to the cloud and to the autoscaler. Pure: nothing
is looked at and nothing is applied; `piecework pools render` prints it, `piecework pools check`
compares it with what is there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from piecework.errors import InputError
from piecework.machines import groups
from piecework.machines.access import (
    render_access,
    render_gang_services,
    render_keeper,
    render_namespaces,
    render_priority,
)
from piecework.machines.policies import render_policies
from piecework.plan import labels
from piecework.plan.estimate import MINIMUM
from piecework.spec.pool import Pool

Object = dict[str, Any]

#: The cluster-autoscaler looks for its priorities in its own namespace.
AUTOSCALER_NAMESPACE = "kube-system"
#: The name of a cluster in tags where none is given.
CLUSTER = "piecework"
#: When Karpenter itself removes an idle machine: if no keeper has given it back by then.
SAFETY = timedelta(minutes=10)
#: Budgets without which Karpenter removes a tenth of the idle machines at a time, and replaces
#: machines under running jobs when their configuration drifts.
BUDGETS = [{"nodes": "100%", "reasons": ["Empty"]}, {"nodes": "0", "reasons": ["Drifted"]}]
#: The requirement by which Karpenter stamps each machine with the run that it was bought for.
STAMP: Object = {"key": labels.RUN, "operator": "Exists"}


@dataclass(frozen=True, slots=True)
class Rendering:
    """What to apply: `objects` to the cluster, `groups` to the cloud, `flags` to its autoscaler."""

    objects: tuple[Object, ...]
    groups: tuple[groups.GroupSettings, ...] = ()
    flags: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "objects": list(self.objects),
            "groups": [group.to_json() for group in self.groups],
            "autoscaler_flags": list(self.flags),
        }


def render(
    pools: Sequence[Pool],
    *,
    cluster: str | None = None,
    keeper_image: str | None = None,
    secret: str | None = None,
    policies: bool = True,
) -> Rendering:
    """All that the pools of one cluster need.

    `cluster` is its name in the groups' tags, instead of that of the pools. `policies` are for
    Kubernetes from 1.36 on. Without `keeper_image` there is no Deployment of the keeper; `secret`
    names that of [data].
    Raises InputError where there is no pool on a cluster.
    """
    pools = [pool for pool in pools if pool.on_cluster]
    if not pools:
        raise InputError(
            "there is no pool on a cluster: a pool in piecework.toml says "
            'provider = "karpenter" or provider = "asg"'
        )
    scaled = [pool for pool in pools if pool.provider == "asg"]
    objects = [
        *render_namespaces(pools),
        render_priority(),
        *render_access(pools),
        *render_gang_services(pools),
        *(render_policies() if policies else ()),
        *(render_node_pool(pool) for pool in pools if pool.provider == "karpenter"),
        *([render_priorities(scaled)] if scaled else ()),
        *([render_keeper(pools, keeper_image, secret)] if keeper_image else ()),
    ]
    names = {cluster_of(pool, cluster): None for pool in scaled}
    return Rendering(
        objects=tuple(objects),
        groups=tuple(
            groups.settings_of(pool, group, cluster_of(pool, cluster))
            for pool in scaled
            for group in pool.groups
        ),
        flags=tuple(groups.flags_of(next(iter(names)))) if names else (),
    )


def cluster_of(pool: Pool, cluster: str | None = None) -> str:
    """The cluster's name in the tags of the pool's groups."""
    return cluster or pool.cluster or CLUSTER


def render_node_pool(pool: Pool) -> Object:
    """The pool as Karpenter knows it.

    Machines never expire under a job, and wait for the keeper to give them back; should there be
    no keeper, Karpenter removes idle ones itself after a while.
    """
    requirements = [
        dict(STAMP),
        _require("kubernetes.io/os", ["linux"]),
        _require("karpenter.sh/capacity-type", ["spot", "on-demand"]),
        _require("kubernetes.io/arch", ["amd64", "arm64"])
        if pool.types is None
        else _require("node.kubernetes.io/instance-type", list(pool.types)),
    ]
    spec: Object = {
        "template": {
            "metadata": {"labels": {labels.POOL: pool.name}},
            "spec": {
                "nodeClassRef": pool.node_class.model_dump(),
                "taints": [{"key": labels.POOL, "value": pool.name, "effect": "NoSchedule"}],
                "requirements": requirements,
                "expireAfter": "Never",
            },
        },
        "disruption": {
            "consolidationPolicy": "WhenEmpty",
            "consolidateAfter": _seconds(consolidate_after(pool)),
            "budgets": BUDGETS,
        },
    }
    if pool.max_machines is not None:
        # A fence against a keeper that is wrong; machines that are leaving still count here.
        spec["limits"] = {"nodes": str(2 * pool.max_machines)}
    return {
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodePool",
        "metadata": {
            "name": pool.name,
            "labels": {"app.kubernetes.io/managed-by": "piecework"},
        },
        "spec": spec,
    }


def consolidate_after(pool: Pool) -> timedelta:
    """How long Karpenter leaves an idle machine to the keeper."""
    kept = MINIMUM + (pool.keep or timedelta(0))
    return max(SAFETY, 2 * kept)


def render_priorities(pools: Sequence[Pool]) -> Object:
    """Which group is bought from first, where several will do."""
    lines = []
    for priority, names in sorted(groups.rank(pools).items(), reverse=True):
        lines.append(f"{priority}:")
        lines += [f"- {json.dumps(f'^{re.escape(name)}$')}" for name in names]
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": groups.PRIORITIES, "namespace": AUTOSCALER_NAMESPACE},
        "data": {"priorities": "\n".join(lines) + "\n"},
    }


def _require(key: str, values: list[str]) -> Object:
    return {"key": key, "operator": "In", "values": values}


def _seconds(duration: timedelta) -> str:
    return f"{round(duration.total_seconds())}s"
