"""Pods, nodes, claims and snapshots for tests of the keeper, in a few words."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from piecework import clock
from piecework.keeper.cluster.snapshot import AttemptSeen, PodSeen, Snapshot, gather, read_pod
from piecework.machines.provider import MachineSeen, NodeSeen
from piecework.plan import labels
from piecework.spec.pool import Pool
from piecework.spec.team import Team

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
_versions = itertools.count(1)


def at(seconds: float) -> datetime:
    """So many seconds after (or, below zero, before) NOW."""
    return NOW + timedelta(seconds=seconds)


def text(seconds: float) -> str:
    """The same as Kubernetes writes it."""
    return at(seconds).strftime("%Y-%m-%dT%H:%M:%SZ")


def request_json(name: str, index: int = 0, **more: Any) -> str:
    """The annotation REQUEST of a run of that name."""
    return json.dumps(
        {
            "run": f"{name}.abc",
            "attempt": f"{name}.abc.1",
            "number": 1,
            "job": name,
            "pool": "spot",
            "priority": 0,
            "queued_at": clock.to_text(at(-100)),
            "count": 1,
            "index": index,
            "instance_type": "m6a.large",
            "alternatives": [],
            "spot": "never",
            "owner": {"kind": "cli"},
            "usd_per_hour": "0.0864",
            "timeout_seconds": 3600,
            **more,
        }
    )


def pod_json(
    name: str,
    index: int = 0,
    *,
    gated: bool = False,
    node: str | None = None,
    bound: float | None = None,
    started: float | None = None,
    ended: float | None = None,
    exit_code: int = 0,
    admitted: float | None = None,
    deleting: float | None = None,
    annotations: dict[str, str] | None = None,
    status: dict[str, Any] | None = None,
    pod_labels: dict[str, str] | None = None,
    pool: str = "spot",
    request: bool = True,
    **asked: Any,
) -> dict[str, Any]:
    """A pod as the API server has it. Times are seconds from NOW."""
    noted = dict(annotations or {})
    if request:
        noted[labels.REQUEST] = request_json(name, index, pool=pool, **asked)
    if admitted is not None:
        noted[labels.ADMITTED] = json.dumps({"at": clock.to_text(at(admitted)), "machine": None})
    conditions = []
    if node is not None:
        since = text(-50 if bound is None else bound)
        conditions.append({"type": "PodScheduled", "status": "True", "lastTransitionTime": since})
    phase = "Pending" if started is None else "Running"
    container: dict[str, Any] = {"name": "job", "image": "registry/image:1", "state": {}}
    if started is not None:
        container["state"] = {"running": {"startedAt": text(started)}}
    if ended is not None:
        phase = "Failed" if exit_code else "Succeeded"
        times = {"startedAt": text(started or ended), "finishedAt": text(ended)}
        container["state"] = {"terminated": {**times, "exitCode": exit_code}}
    metadata: dict[str, Any] = {
        "name": f"{name}-{index}",
        "namespace": "piecework",
        "uid": f"uid-{name}-{index}",
        "resourceVersion": str(next(_versions)),
        "creationTimestamp": text(-100),
        "labels": {labels.POOL: pool, labels.RUN: f"{name}-abc", **(pod_labels or {})},
        "annotations": noted,
        "finalizers": [labels.FINALIZER],
    }
    if deleting is not None:
        metadata["deletionTimestamp"] = text(deleting)
        metadata["deletionGracePeriodSeconds"] = 30
    return {
        "metadata": metadata,
        "spec": {
            "containers": [{"name": "job", "image": "registry/image:1"}],
            **({"schedulingGates": [{"name": labels.GATE}]} if gated else {}),
            **({"nodeName": node} if node else {}),
        },
        "status": {
            "phase": phase,
            "conditions": conditions,
            "containerStatuses": [container] if node else [],
            **(status or {}),
        },
    }


def follower_json(name: str, number: int, **more: Any) -> dict[str, Any]:
    """A pod that the engine of that run made: with its run's labels and request."""
    raw = pod_json(name, 0, **more)
    metadata = raw["metadata"]
    metadata["name"] = f"{name}-exec-{number}"
    metadata["uid"] = f"uid-{name}-exec-{number}"
    metadata["labels"][labels.ROLE] = labels.FOLLOWER
    metadata["finalizers"] = []
    return raw


def follower(name: str, number: int, **more: Any) -> PodSeen:
    """The same as the keeper sees it."""
    seen = read_pod(follower_json(name, number, **more))
    assert seen is not None
    return seen


def pod(name: str, index: int = 0, **more: Any) -> PodSeen:
    """The same as the keeper sees it."""
    seen = read_pod(pod_json(name, index, **more))
    assert seen is not None
    return seen


def attempt(*pods: PodSeen) -> AttemptSeen:
    """The attempt that these pods make up."""
    return gather(pods[0].attempt, pods)


def waiting(name: str, **more: Any) -> AttemptSeen:
    """A gated attempt of one pod."""
    return attempt(pod(name, gated=True, **more))


def machine(name: str, **more: Any) -> MachineSeen:
    """A machine that is ready since 30 s, for whose run there is no pod any more."""
    ready = MachineSeen(
        id=name,
        pool="spot",
        provider="karpenter",
        billing="aws-ec2-linux",
        node=f"node-{name}",
        instance_type="m6a.large",
        run=f"run-of-{name}",
        attempt="earlier.abc.1",
        requested_at=at(-40),
        launched_at=at(-38),
        joined_at=at(-32),
        ready_at=at(-30),
        held=True,
    )
    return replace(ready, **more)


def node(owner: MachineSeen, **more: Any) -> NodeSeen:
    """The node of a machine."""
    assert owner.node is not None
    ready = NodeSeen(
        name=owner.node,
        pool=owner.pool,
        run=owner.run,
        provider_id=f"aws:///zone/{owner.id}",
        instance_type=owner.instance_type,
        zone="zone",
        spot=owner.spot,
        joined_at=at(-32),
        ready_at=at(-30),
        silent_since=None,
        gpus=0,
        notice=False,
        released_at=None,
        release_reason=None,
        leaving_at=None,
    )
    return replace(ready, **more)


def pool(**more: Any) -> Pool:
    """The pool `spot`, of Karpenter."""
    return Pool.model_validate({"name": "spot", "provider": "karpenter", **more})


def groups_pool(**more: Any) -> Pool:
    """The pool `spot`, of Auto Scaling groups."""
    groups = [{"name": "group", "type": "m6a.large"}]
    return Pool.model_validate({"name": "spot", "provider": "asg", "groups": groups, **more})


def world(
    attempts: Iterable[AttemptSeen] = (),
    machines: Iterable[MachineSeen] = (),
    *,
    nodes: Iterable[NodeSeen] | None = None,
    pools: Iterable[Pool] | None = None,
    teams: Iterable[Team] = (),
    **more: Any,
) -> Snapshot:
    """A snapshot; machines have ready nodes unless other nodes are given."""
    machines = list(machines)
    if nodes is None:
        nodes = [node(each) for each in machines if each.node and each.joined_at]
    values: dict[str, Any] = {
        "now": NOW,
        "pools": {each.name: each for each in (pools or [pool()])},
        "teams": {team.name: team for team in teams},
        "attempts": {each.id: each for each in attempts},
        "machines": {each.id: each for each in machines},
        "nodes": {each.name: each for each in nodes},
        "prices": {each.id: Decimal("0.0864") for each in machines},
    }
    return Snapshot(**(values | more))
