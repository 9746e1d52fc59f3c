"""A cluster and a cloud account as APIs would tell of them: as rendered, until a test says not."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from piecework import clock
from piecework.errors import ClusterError
from piecework.kube.client import Kind, Listing, MissingKindError, Object, RefusedError
from piecework.machines import groups
from piecework.machines.check.finding import Finding, Severity
from piecework.machines.check.findings import findings
from piecework.machines.check.survey import Cloud, GroupSeen, survey
from piecework.machines.render import cluster_of, render
from piecework.plan import labels
from piecework.spec.pool import Group, Pool

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
BURST = Pool(name="burst", provider="karpenter", types=("m6a.large", "c6a.large"), max_machines=8)
GROUPS = Pool(
    name="groups",
    provider="asg",
    namespace="jobs",
    region="us-east-1",
    cluster="production",
    groups=(
        Group(name="jobs-large", type="m6a.large"),
        Group(name="jobs-spot", type="m6a.large", spot=True),
    ),
)


Objects = list[Object]


class FakeCluster:
    """Objects by kind, namespace and name. `refused` kinds may not be looked at."""

    def __init__(self, objects: Sequence[Object] = ()) -> None:
        self.objects = [copy.deepcopy(each) for each in objects]
        self.refused: set[str] = set()
        self.unknown: set[str] = set()
        self.forbidden: set[tuple[str, str]] = set()
        self.asked: list[Object] = []

    def of(self, kind: str, name: str) -> Object:
        return next(
            each
            for each in self.objects
            if each["kind"] == kind and each["metadata"]["name"] == name
        )

    def remove(self, kind: str, name: str) -> None:
        self.objects.remove(self.of(kind, name))

    def get(self, kind: Kind, name: str, namespace: str | None = None) -> Object | None:
        found = [e for e in self._of(kind, namespace) if e["metadata"]["name"] == name]
        return found[0] if found else None

    def create(self, kind: Kind, obj: Object) -> Object:
        self._refuse(kind)
        self.asked.append(obj["spec"])
        asked = obj["spec"]["resourceAttributes"]
        resource = asked["resource"]
        return {"status": {"allowed": (asked["verb"], resource) not in self.forbidden}}

    def _of(self, kind: Kind, namespace: str | None) -> Objects:
        self._refuse(kind)
        return [
            each
            for each in self.objects
            if each["kind"] == kind.kind
            and (namespace is None or each["metadata"].get("namespace") == namespace)
        ]

    def list(
        self, kind: Kind, namespace: str | None = None, *, labels: str = "", fields: str = ""
    ) -> Listing:
        if kind.kind in self.unknown:
            raise MissingKindError(f"the cluster does not know {kind.kind}", 404)
        return Listing(self._of(kind, namespace), "1")

    def _refuse(self, kind: Kind) -> None:
        if kind.kind in self.refused:
            raise RefusedError(f"list of {kind.plural}: forbidden", 403)


class FakeCloud:
    """Groups by name."""

    def __init__(self, seen: Mapping[str, GroupSeen], error: str | None = None) -> None:
        self.seen = seen
        self.error = error

    def groups(self, names: Sequence[str]) -> Mapping[str, GroupSeen]:
        if self.error:
            raise ClusterError(self.error)
        return {name: self.seen[name] for name in names if name in self.seen}


def lease(age: timedelta = timedelta(seconds=2), namespace: str = "piecework") -> Object:
    return {
        "kind": "Lease",
        "metadata": {"name": "piecework-keeper", "namespace": namespace},
        "spec": {"holderIdentity": "a", "renewTime": clock.to_text(NOW - age)},
    }


def autoscaler(*flags: str) -> Object:
    container = {
        "image": "registry.example.com/cluster-autoscaler:1.36",
        "command": ["./cluster-autoscaler", *flags],
    }
    return {
        "kind": "Deployment",
        "metadata": {"name": "cluster-autoscaler", "namespace": "kube-system"},
        "spec": {"template": {"spec": {"containers": [container]}}},
    }


def cluster_for(*pools: Pool) -> FakeCluster:
    """All as rendered, with a keeper that runs, and the autoscaler with its rendered flags."""
    rendering = render(pools)
    home = pools[0].namespace
    extra = [autoscaler(*rendering.flags)] if rendering.flags else []
    return FakeCluster([*rendering.objects, lease(namespace=home), *extra])


def seen_for(pool: Pool, **changes: Any) -> dict[str, GroupSeen]:
    """The pool's groups as rendered."""
    found = {}
    for group in pool.groups:
        wanted = groups.settings_of(pool, group, cluster_of(pool))
        found[group.name] = GroupSeen(
            name=group.name,
            min_size=0,
            max_size=group.max,
            tags=wanted.tags,
            zones=("us-east-1a",),
            suspended=frozenset({groups.REBALANCE}),
            instance_types=(group.type,),
            protected=True,
            rebalances_capacity=False,
            spot=group.spot,
            user_data=wanted.node_config,
        )
    name = pool.groups[0].name
    found[name] = replace(found[name], **changes)
    return found


def node(name: str, *, label: str | None = "burst", taint: str | None = "burst") -> Object:
    taints = [{"key": labels.POOL, "value": taint, "effect": "NoSchedule"}] if taint else []
    named = {labels.POOL: label} if label else {}
    return {"kind": "Node", "metadata": {"name": name, "labels": named}, "spec": {"taints": taints}}


def check(*pools: Pool, cluster: FakeCluster, cloud: Cloud | None = None) -> list[Finding]:
    return findings(survey(pools, cluster, cloud, NOW))


def hurting(found: Sequence[Finding]) -> list[Finding]:
    return [each for each in found if each.severity > Severity.NOTE]
