"""What is there: the cluster, the cloud account, the autoscaler, as far as they may be looked at.

Enter: the pools of one cluster, and two doors: Kubernetes' API, and the cloud's. Leaves: a Survey,
from which `findings` tells what would hurt. Nothing is changed. What may not be looked at is a gap
of the survey, with its reason, and not an error: who sees half of it still wants to know that half.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol, TypeVar

from piecework.errors import ClusterError
from piecework.kube.client import (
    CONFIG_MAP,
    DEPLOYMENT,
    LEASE,
    NAMESPACE,
    NODE,
    NODE_POOL,
    POD,
    PRIORITY_CLASS,
    SERVICE,
    SERVICE_ACCOUNT,
    Kind,
    Listing,
    MissingKindError,
    Object,
)
from piecework.kube.transport import UnreachableError
from piecework.machines import groups
from piecework.machines.access import (
    KEEPER,
    METER,
    driver_rights,
    keeper_rights,
    namespaces_of,
    submitter_rights,
)
from piecework.machines.policies import PODS as POLICY
from piecework.machines.render import AUTOSCALER_NAMESPACE
from piecework.plan import labels
from piecework.plan.followers import DRIVER_ACCOUNT
from piecework.plan.manifest import GANG_SERVICE
from piecework.plan.manifest import PRIORITY_CLASS as PRIORITY
from piecework.spec.pool import Pool

T = TypeVar("T")

POLICIES = Kind(
    "admissionregistration.k8s.io",
    "v1",
    "mutatingadmissionpolicies",
    "MutatingAdmissionPolicy",
    namespaced=False,
)
_OWN_REVIEW = Kind(
    "authorization.k8s.io",
    "v1",
    "selfsubjectaccessreviews",
    "SelfSubjectAccessReview",
    namespaced=False,
)
_REVIEW = Kind(
    "authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", namespaced=False
)


class Part(StrEnum):
    """What is looked at, one by one; each may be forbidden to whoever looks."""

    NAMESPACES = "namespaces"
    PRIORITY_CLASS = "the priority class"
    GANG_SERVICES = "the Services of gangs"
    LEASE = "the keeper's lease"
    POLICIES = "admission policies"
    RIGHTS = "your own rights"
    KEEPER_RIGHTS = "the keeper's rights"
    DRIVER_RIGHTS = "the rights of Spark's drivers"
    METER_RIGHTS = "the rights to ask kubelets"
    NODE_POOLS = "NodePools"
    NODES = "nodes"
    PODS = "the pods on the pools' machines"
    GROUPS = "Auto Scaling groups"
    AUTOSCALER = "the cluster-autoscaler's Deployment"
    PRIORITIES = "the cluster-autoscaler's priorities"


class Reader(Protocol):
    """What is needed of a cluster's API; `Kube` has it."""

    def get(self, kind: Kind, name: str, namespace: str | None = None) -> Object | None:
        """The object; None where there is none."""

    def list(
        self, kind: Kind, namespace: str | None = None, *, labels: str = "", fields: str = ""
    ) -> Listing:
        """All objects of a kind."""

    def create(self, kind: Kind, obj: Object) -> Object:
        """Asks a question: reviews of rights are made, and kept nowhere."""


@dataclass(frozen=True, slots=True)
class GroupSeen:
    """An Auto Scaling group as the cloud has it. `user_data` is None where it can't be read."""

    name: str
    min_size: int
    max_size: int
    tags: Mapping[str, str]
    zones: tuple[str, ...]
    suspended: frozenset[str]
    instance_types: tuple[str, ...]
    protected: bool
    rebalances_capacity: bool
    spot: bool
    user_data: str | None


class Cloud(Protocol):
    """What is needed of a cloud account."""

    def groups(self, names: Sequence[str]) -> Mapping[str, GroupSeen]:
        """The groups of these names that exist. Raises ClusterError where it does not answer."""


@dataclass(frozen=True, slots=True)
class Right:
    """That somebody may do something: `verb` to `resource` of `group`; in one namespace, or all."""

    verb: str
    group: str
    resource: str
    namespace: str | None = None
    #: Where it is about one object alone.
    name: str = ""

    def __str__(self) -> str:
        where = "in the whole cluster" if self.namespace is None else f"in {self.namespace}"
        named = f"{self.resource}.{self.group}" if self.group else self.resource
        return f"{self.verb} {named} {f'of {self.name} ' if self.name else ''}{where}"


@dataclass(frozen=True)
class Survey:
    """What was found at one moment. What is in `gaps` could not be looked at; the value says why.

    `node_pools` are None where Karpenter is not installed, `has_policies` where the cluster is too
    old for them, `missing_keeper_rights` where the keeper has no service account, `flags` where no
    Deployment runs the cluster-autoscaler. `pods` are those on `nodes`, by the node's name.
    """

    pools: tuple[Pool, ...]
    at: datetime
    namespaces: Mapping[str, Object | None] = field(default_factory=dict)
    priority_class: Object | None = None
    gang_services: Mapping[str, Object | None] = field(default_factory=dict)
    lease: Object | None = None
    has_policies: bool | None = None
    missing_rights: tuple[Right, ...] = ()
    missing_keeper_rights: tuple[Right, ...] | None = None
    missing_driver_rights: tuple[Right, ...] = ()
    missing_meter_rights: tuple[Right, ...] = ()
    node_pools: Mapping[str, Object] | None = None
    nodes: tuple[Object, ...] = ()
    pods: Mapping[str, Sequence[Object]] = field(default_factory=dict)
    groups: Mapping[str, GroupSeen] = field(default_factory=dict)
    flags: Mapping[str, str] | None = None
    has_priorities: bool = False
    gaps: Mapping[Part, str] = field(default_factory=dict)

    def saw(self, part: Part) -> bool:
        """Whether this could be looked at."""
        return part not in self.gaps


class _Look:
    """Looks, and notes what may not be looked at."""

    def __init__(self) -> None:
        self.gaps: dict[Part, str] = {}

    def at(self, part: Part, look: Callable[[], T], otherwise: T) -> T:
        try:
            return look()
        except UnreachableError:
            raise  # then nothing else can be looked at either
        except ClusterError as error:
            self.gaps[part] = str(error)
            return otherwise


def survey(pools: Sequence[Pool], kube: Reader, cloud: Cloud | None, now: datetime) -> Survey:
    """Looks at everything once. `cloud` is None where no pool is of Auto Scaling groups.

    Raises UnreachableError where the cluster does not answer.
    """
    look = _Look()
    names = namespaces_of(pools)
    found = Survey(
        pools=tuple(pools),
        at=now,
        namespaces=look.at(
            Part.NAMESPACES, lambda: {name: kube.get(NAMESPACE, name) for name in names}, {}
        ),
        priority_class=look.at(
            Part.PRIORITY_CLASS, lambda: kube.get(PRIORITY_CLASS, PRIORITY), None
        ),
        gang_services=look.at(
            Part.GANG_SERVICES,
            lambda: {name: kube.get(SERVICE, GANG_SERVICE, name) for name in names},
            {},
        ),
        lease=look.at(Part.LEASE, lambda: kube.get(LEASE, KEEPER, names[0]), None),
        has_policies=look.at(Part.POLICIES, lambda: _has_policies(kube), None),
        missing_rights=look.at(Part.RIGHTS, lambda: _missing_own(kube, pools), ()),
        missing_keeper_rights=look.at(
            Part.KEEPER_RIGHTS, lambda: _missing_of_keeper(kube, pools, names[0]), None
        ),
        missing_driver_rights=look.at(
            Part.DRIVER_RIGHTS, lambda: _missing_of_drivers(kube, pools), ()
        ),
        missing_meter_rights=look.at(
            Part.METER_RIGHTS, lambda: _missing_of_meter(kube, names[0]), ()
        ),
        nodes=look.at(Part.NODES, lambda: _nodes(kube), ()),
    )
    found = replace(found, pods=look.at(Part.PODS, lambda: _pods_on(kube, found.nodes), {}))
    if any(pool.provider == "karpenter" for pool in pools):
        found = replace(found, node_pools=look.at(Part.NODE_POOLS, lambda: _node_pools(kube), None))
    if cloud is not None:
        scaled = [group.name for pool in pools for group in pool.groups]
        found = replace(
            found,
            groups=look.at(Part.GROUPS, lambda: cloud.groups(scaled), {}),
            flags=look.at(Part.AUTOSCALER, lambda: _flags(kube), None),
            has_priorities=look.at(Part.PRIORITIES, lambda: _has_priorities(kube), False),
        )
    return replace(found, gaps=look.gaps)


def _node_pools(kube: Reader) -> dict[str, Object] | None:
    """By name; None where Karpenter is not installed."""
    try:
        return {found["metadata"]["name"]: found for found in kube.list(NODE_POOL).items}
    except MissingKindError:
        return None


def _nodes(kube: Reader) -> tuple[Object, ...]:
    """Those that belong to a pool, or claim to: by the label, or by the taint."""
    return tuple(node for node in kube.list(NODE).items if pool_label(node) or pool_taint(node))


def pool_label(node: Object) -> str | None:
    """The pool that a node's label names."""
    value: str | None = node["metadata"].get("labels", {}).get(labels.POOL)
    return value


def pool_taint(node: Object) -> str | None:
    """The pool that a node's taint names."""
    taints = node.get("spec", {}).get("taints") or ()
    return next((str(t.get("value", "")) for t in taints if t["key"] == labels.POOL), None)


def _pods_on(kube: Reader, nodes: Iterable[Object]) -> dict[str, list[Object]]:
    names = {node["metadata"]["name"] for node in nodes}
    found: dict[str, list[Object]] = {}
    for pod in kube.list(POD).items if names else ():
        node = pod.get("spec", {}).get("nodeName")
        if node in names:
            found.setdefault(node, []).append(pod)
    return found


def _has_policies(kube: Reader) -> bool | None:
    """None where the cluster is too old for them."""
    try:
        return any(each["metadata"]["name"] == POLICY for each in kube.list(POLICIES).items)
    except MissingKindError:
        return None


def _has_priorities(kube: Reader) -> bool:
    return kube.get(CONFIG_MAP, groups.PRIORITIES, AUTOSCALER_NAMESPACE) is not None


def _missing_own(kube: Reader, pools: Sequence[Pool]) -> tuple[Right, ...]:
    wanted = [Right(*right) for right in submitter_rights(pools)]
    return tuple(right for right in wanted if not _may(kube, _OWN_REVIEW, right, {}))


def _missing_of_keeper(kube: Reader, pools: Sequence[Pool], home: str) -> tuple[Right, ...] | None:
    if kube.get(SERVICE_ACCOUNT, KEEPER, home) is None:
        return None
    wanted = [Right(*right) for right in keeper_rights(pools)]
    who = {"user": f"system:serviceaccount:{home}:{KEEPER}"}
    return tuple(right for right in wanted if not _may(kube, _REVIEW, right, who))


def _missing_of_meter(kube: Reader, home: str) -> tuple[Right, ...]:
    """What is missing for kubelets to be asked, where the keeper has a service account."""
    if kube.get(SERVICE_ACCOUNT, KEEPER, home) is None:
        return ()
    wanted = {
        Right("create", "", "serviceaccounts/token", home, METER): KEEPER,
        Right("get", "", "nodes/metrics"): METER,
    }
    return tuple(
        right
        for right, account in wanted.items()
        if not _may(kube, _REVIEW, right, {"user": f"system:serviceaccount:{home}:{account}"})
    )


def _missing_of_drivers(kube: Reader, pools: Sequence[Pool]) -> tuple[Right, ...]:
    """Of the accounts that Spark's drivers have, one in each namespace or the pool's own."""
    accounts = {(pool.namespace, pool.service_account or DRIVER_ACCOUNT): None for pool in pools}
    return tuple(
        right
        for namespace, account in accounts
        for right in (Right(*each, namespace) for each in driver_rights())
        if not _may(kube, _REVIEW, right, {"user": f"system:serviceaccount:{namespace}:{account}"})
    )


def _may(kube: Reader, kind: Kind, right: Right, who: Mapping[str, str]) -> bool:
    resource, _, subresource = right.resource.partition("/")
    asked: Object = {"verb": right.verb, "group": right.group, "resource": resource}
    if subresource:
        asked["subresource"] = subresource
    if right.namespace:
        asked["namespace"] = right.namespace
    if right.name:
        asked["name"] = right.name
    spec = {**who, "resourceAttributes": asked}
    answer = kube.create(kind, {"metadata": {}, "spec": spec})
    return bool(answer.get("status", {}).get("allowed"))


def _flags(kube: Reader) -> dict[str, str] | None:
    """Of the Deployment that runs the cluster-autoscaler; None where there is none."""
    for deployment in kube.list(DEPLOYMENT, AUTOSCALER_NAMESPACE).items:
        for container in deployment["spec"]["template"]["spec"].get("containers", ()):
            command = [*(container.get("command") or ()), *(container.get("args") or ())]
            image = str(container.get("image", "")).rpartition("/")[2]
            if "cluster-autoscaler" in image or any("cluster-autoscaler" in c for c in command[:1]):
                return read_flags(command)
    return None


def read_flags(command: Iterable[Any]) -> dict[str, str]:
    """A program's flags by name: `--name=value`, `--name value`, or `--name` alone (true)."""
    found: dict[str, str] = {}
    waiting: str | None = None
    for part in map(str, command):
        if part.startswith("-"):
            name, equals, value = part.lstrip("-").partition("=")
            found[name] = value if equals else "true"
            waiting = None if equals else name
        elif waiting is not None:
            found[waiting], waiting = part, None
    return found
