"""What Auto Scaling groups and the cluster-autoscaler need, so that machines fit piecework's jobs.

What enters is a pool of provider `asg`; what leaves is data for the cloud (tags, user data,
settings of the groups) and the autoscaler's flags. Pure. Two places must agree, because a group is
scaled from zero: the tags only tell the autoscaler what a machine would look like, and the user
data makes it look so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

from piecework.machines.provider import AWS_NOTICES
from piecework.plan import labels
from piecework.plan.price import bought_at, load_price_book
from piecework.spec.pool import Group, Pool
from piecework.units import format_duration

TAG = "k8s.io/cluster-autoscaler/"
TEMPLATE = f"{TAG}node-template/"
GPU = "nvidia.com/gpu"
#: By this label the autoscaler knows that a machine's GPUs are yet to come: without it, it would
#: take a machine whose device plug-in is late for one that has none, and buy another.
ACCELERATOR = "k8s.amazonaws.com/accelerator"
#: Kills running jobs to spread machines over zones (kubernetes/autoscaler#1744).
REBALANCE = "AZRebalance"
#: How long a machine stands idle before the autoscaler gives it back.
UNNEEDED = timedelta(seconds=2)
#: The object by which the autoscaler's expander `priority` ranks groups, beside the autoscaler.
PRIORITIES = "cluster-autoscaler-priority-expander"

#: The flags that matter, with what is wrong about their defaults.
FLAGS = {
    "scan-interval": ("2s", "10s: a job's end is noticed at the next scan only"),
    "scale-down-delay-after-add": ("0s", "10m: nothing is given back after any purchase"),
    "scale-down-delay-after-delete": ("0s", "0s"),
    "scale-down-delay-after-failure": ("10s", "3m: one failure, and nothing is given back"),
    "scale-down-delay-type-local": ("true", "false: one group's purchase holds up all groups"),
    "node-delete-delay-after-taint": ("2s", "5s more of each machine are paid for"),
    "unremovable-node-recheck-timeout": ("2s", "5m: a machine seen busy is not looked at again"),
    "max-scale-down-parallelism": ("100", "10 machines are given back at a time"),
    "skip-nodes-with-local-storage": ("false", "true: a pod with a scratch folder holds a machine"),
    "skip-nodes-with-system-pods": ("false", "true: a daemon of kube-system holds a machine"),
    "ignore-daemonsets-utilization": ("true", "false: daemons make a small machine look busy"),
    "max-node-provision-time": ("5m", "15m until another group is tried"),
    "initial-node-group-backoff-duration": ("1m", "5m without a group that was out of stock once"),
    "max-node-group-backoff-duration": ("5m", "30m"),
    "ok-total-unready-count": ("1000", "3: a few lost machines stop the autoscaler for all"),
    "expander": ("priority,least-waste", "least-waste: a dear group may be taken for a cheap one"),
}


@dataclass(frozen=True, slots=True)
class GroupSettings:
    """All that an Auto Scaling group needs, by AWS's own names in `to_json`."""

    name: str
    max_size: int
    tags: dict[str, str]
    node_config: str
    kubelet_flags: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """For programs, and for the parameters of AWS's API."""
        return {
            "AutoScalingGroupName": self.name,
            "MinSize": 0,
            "MaxSize": self.max_size,
            "NewInstancesProtectedFromScaleIn": True,
            "CapacityRebalance": False,
            "SuspendedProcesses": [REBALANCE],
            "Tags": [
                {
                    "ResourceId": self.name,
                    "ResourceType": "auto-scaling-group",
                    "Key": key,
                    "Value": value,
                    "PropagateAtLaunch": False,
                }
                for key, value in self.tags.items()
            ],
            "UserData": self.node_config,
            "KubeletFlags": list(self.kubelet_flags),
        }


def settings_of(pool: Pool, group: Group, cluster: str) -> GroupSettings:
    """What one group of the pool needs. `cluster` is the cluster's name in the tags."""
    return GroupSettings(
        name=group.name,
        max_size=group.max,
        tags=tags_of(pool, group, cluster),
        node_config=_node_config(pool, group),
        kubelet_flags=_kubelet_flags(pool, group),
    )


def labels_of(pool: Pool, group: Group) -> dict[str, str]:
    """The labels of the group's machines."""
    found = {labels.POOL: pool.name, labels.CAPACITY: "spot" if group.spot else "on-demand"}
    if _gpus(group):
        found[ACCELERATOR] = "nvidia"
    return found


def taints_of(pool: Pool) -> dict[str, str]:
    """The taint of the group's machines, VALUE:EFFECT by key."""
    return {labels.POOL: f"{pool.name}:NoSchedule"}


def options_of(pool: Pool) -> dict[str, str]:
    """The autoscaler's own options for a group, in place of its flags for all groups."""
    return {
        "scaledownunneededtime": _duration(max(UNNEEDED, pool.keep or UNNEEDED)),
        "scaledownunreadytime": _duration(pool.lost_after),
        "ignoredaemonsetsutilization": "true",
        "maxnodeprovisiontime": _duration(min(pool.start_timeout, pool.join_timeout)),
    }


def tags_of(pool: Pool, group: Group, cluster: str) -> dict[str, str]:
    """The tags by which the autoscaler finds the group and knows its machines without one."""
    found = {f"{TAG}enabled": "true", f"{TAG}{cluster}": "owned"}
    found |= {f"{TEMPLATE}label/{key}": value for key, value in labels_of(pool, group).items()}
    found |= {f"{TEMPLATE}taint/{key}": value for key, value in taints_of(pool).items()}
    options = options_of(pool)
    found |= {f"{TEMPLATE}autoscaling-options/{key}": value for key, value in options.items()}
    if _gpus(group):
        found[f"{TEMPLATE}resources/{GPU}"] = str(_gpus(group))
    return found


def _gpus(group: Group) -> int:
    machine = load_price_book().find(group.type)
    return 0 if machine is None else machine.gpus


def flags_of(cluster: str) -> list[str]:
    """The cluster-autoscaler's flags for the groups of a cluster."""
    return [
        "--cloud-provider=aws",
        f"--node-group-auto-discovery=asg:tag={TAG}enabled,{TAG}{cluster}",
        *(f"--{name}={value}" for name, (value, _) in FLAGS.items()),
        # Else what is about to leave would be taken for what its group's new machines will be like.
        *(f"--status-taint={taint}" for taint in AWS_NOTICES),
    ]


def rank(pools: Sequence[Pool]) -> dict[int, list[str]]:
    """The groups of all pools by the priority at which they are bought from: the cheapest first.

    Of a pool whose spot prices are unknown its spot groups come first.
    """
    ranked: dict[tuple[bool, bool, Decimal], list[str]] = {}
    for pool in pools:
        for group in pool.groups:
            ranked.setdefault(_rank_of(pool, group), []).append(group.name)
    ordered = sorted(ranked)
    return {10 * (len(ordered) - place): ranked[each] for place, each in enumerate(ordered)}


def _rank_of(pool: Pool, group: Group) -> tuple[bool, bool, Decimal]:
    """Spot capacity first, as whoever takes it prefers it; then by price, the unknown last."""
    machine = bought_at(pool, group.type, spot=group.spot)
    price = None if machine is None else machine.usd_per_hour
    if price is None and group.spot:
        machine = bought_at(pool, group.type, spot=False)  # dear types are dear as spot, too
        price = None if machine is None else machine.usd_per_hour
    return not group.spot, price is None, price or Decimal(0)


def _kubelet_flags(pool: Pool, group: Group) -> tuple[str, ...]:
    written = ",".join(f"{key}={value}" for key, value in labels_of(pool, group).items())
    tainted = ",".join(f"{key}={value}" for key, value in taints_of(pool).items())
    return f"--node-labels={written}", f"--register-with-taints={tainted}"


def _node_config(pool: Pool, group: Group) -> str:
    """User data for Amazon Linux 2023; EKS and `nodeadm` merge it with their own."""
    flags = "\n".join(f"    - {flag}" for flag in _kubelet_flags(pool, group))
    return f"""\
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="piecework"

--piecework
Content-Type: application/node.eks.aws

apiVersion: node.eks.aws/v1alpha1
kind: NodeConfig
spec:
  kubelet:
    flags:
{flags}

--piecework--
"""


def _duration(duration: timedelta) -> str:
    """As Go reads it: it knows no days."""
    if duration >= timedelta(days=1):
        return f"{duration // timedelta(hours=1)}h"
    return format_duration(duration)
