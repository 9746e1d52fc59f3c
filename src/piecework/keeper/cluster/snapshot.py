"""What the keeper knows at one moment: pods, attempts, nodes, machines, owners, limits.

Enters: objects of Kubernetes and what providers tell. Leaves: frozen views that hold only what is
decided upon, so that decisions need no cluster, and tests none either.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import Any

from piecework.kube.client import Object
from piecework.machines.provider import MachineSeen, NodeSeen, time_of
from piecework.plan import labels
from piecework.runners import pods as pod_facts
from piecework.runners.pod_fields import container_statuses
from piecework.runners.pods import End
from piecework.spec.pool import Pool
from piecework.spec.team import Team

KUEUE_GATE = "kueue.x-k8s.io/admission"
KUEUE_QUEUE = "kueue.x-k8s.io/queue-name"
KUEUE_GROUP = "kueue.x-k8s.io/pod-group-name"
#: Namespace and name.
PodKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Request:
    """What a pod asks for, from its annotation REQUEST; `raw` is all of it."""

    attempt: str
    run: str
    number: int
    pool: str
    team: str | None
    priority: int
    queued_at: datetime | None
    count: int
    index: int
    #: Of a gang that works for the program of its first pod, its head, whose end is the attempt's.
    led: bool
    #: How many machines it may hold in all, with those that its followers need.
    machines: int
    #: How many followers fit on a machine of their own, and how many beside the attempt's head.
    per_machine: int
    beside_head: int
    instance_type: str | None
    alternatives: tuple[str, ...]
    usd_per_hour: Decimal | None
    deadline_seconds: float | None
    on_deadline: str | None
    timeout_seconds: float | None
    owner: Mapping[str, Any]
    raw: Mapping[str, Any]

    @property
    def types(self) -> tuple[str, ...]:
        """Instance types that the pod may run on; empty: any."""
        return tuple(t for t in (self.instance_type, *self.alternatives) if t)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why a pod is not admitted, or does not run; as it is written on it."""

    reason: str
    since: datetime
    number: int


@dataclass(frozen=True, slots=True)
class PodSeen:
    """One pod. `over` is when it ended for good; None while it may still do anything."""

    key: PodKey
    uid: str
    pool: str
    run: str
    attempt: str
    request: Request | None
    created_at: datetime
    gated: bool
    kueue: str | None
    admitted_at: datetime | None
    admitted_machine: str | None
    waiting: Waiting | None
    end: End | None
    seen: bool
    recorded: bool
    held: bool
    #: When it will be removed by force, and when that was asked for.
    deleting_at: datetime | None
    deleted_at: datetime | None
    node: str | None
    bound_at: datetime | None
    sandbox_at: datetime | None
    started_at: datetime | None
    over: datetime | None
    #: Its kubelet has forgotten it, and when it started.
    forgotten: bool
    #: What the kubelet says about an image or a container that does not start.
    pull_problem: str | None
    #: Made by its attempt's engine while that runs; see labels.ROLE.
    follower: bool
    #: The pods that it is an executor of, where Spark made it.
    drivers: tuple[str, ...]
    raw: Object = field(repr=False, compare=False)

    @property
    def is_live(self) -> bool:
        return self.over is None

    @property
    def waits_for_kueue(self) -> bool:
        return self.kueue is not None


@dataclass(frozen=True, slots=True)
class AttemptSeen:
    """The pods of one attempt that are there: its own by index, and those that its engine made.

    Its own pods alone say whether it lives, and how it ended.
    """

    id: str
    own: tuple[PodSeen, ...]
    followers: tuple[PodSeen, ...] = ()

    @property
    def pods(self) -> tuple[PodSeen, ...]:
        """All of them, its own first."""
        return (*self.own, *self.followers) if self.followers else self.own

    @property
    def first(self) -> PodSeen:
        """Its own pod with the lowest index; a follower where none of its own is there any more."""
        return (self.own or self.followers)[0]

    @property
    def head(self) -> PodSeen | None:
        """The pod whose end is the attempt's, of a gang that has one, while it is there."""
        request = self.own[0].request if self.own else None
        return self.own[0] if request is not None and request.led and request.index == 0 else None

    @property
    def vital(self) -> tuple[PodSeen, ...]:
        """The pods that it cannot lose: all of its own.

        Of a gang with a head the head alone, once all have started: it copes with the rest.
        """
        head = None if len(self.own) == 1 else self.head
        if head is None or not all(pod.started_at or pod.forgotten for pod in self.own):
            return self.own
        return (head,)

    @property
    def request(self) -> Request | None:
        return self.first.request

    @property
    def count(self) -> int:
        """How many pods of its own it is to have, each on a machine."""
        return max(len(self.own), 1 if self.request is None else self.request.count)

    @property
    def machines(self) -> int:
        """How many machines it may hold in all."""
        return max(self.count, 0 if self.request is None else self.request.machines)

    @property
    def may_grow(self) -> bool:
        """Whether its engine may ask for machines beside those of its own pods, now."""
        request = self.request
        if not self.followers and (request is None or request.machines <= request.count):
            return False
        return self.is_live and self.end is None and self.admitted_at is not None

    @property
    def queued_at(self) -> datetime:
        request = self.request
        at = None if request is None else request.queued_at
        return at or self.first.created_at

    @property
    def is_live(self) -> bool:
        return any(pod.is_live for pod in self.own)

    @property
    def admitted_at(self) -> datetime | None:
        return min((p.admitted_at for p in self.own if p.admitted_at), default=None)

    @property
    def end(self) -> End | None:
        """The first one that was written on a pod that it cannot lose."""
        found = [pod.end for pod in self.vital if pod.end is not None]
        return min(found, key=lambda end: end.at, default=None)


@dataclass(frozen=True)
class Snapshot:
    """All that decisions are made from, at `now`.

    `prices` are USD per hour of a machine by its id, None where unknown; `idle_since` says since
    when machines have had no pod, where that was seen; `owners_over` why an attempt's owner is
    over; `hints` what scheduler and autoscaler said about a pod that finds no machine, by attempt;
    `failures` why nothing can be bought, by pool; `logs` the uids of pods whose log is kept.
    """

    now: datetime
    pools: Mapping[str, Pool]
    teams: Mapping[str, Team]
    attempts: Mapping[str, AttemptSeen]
    machines: Mapping[str, MachineSeen]
    nodes: Mapping[str, NodeSeen]
    prices: Mapping[str, Decimal | None] = field(default_factory=dict)
    idle_since: Mapping[str, datetime] = field(default_factory=dict)
    owners_over: Mapping[str, str] = field(default_factory=dict)
    hints: Mapping[str, str] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    keeps_logs: bool = False
    logs: frozenset[str] = frozenset()
    expected_gpus: Mapping[str, int] = field(default_factory=dict)
    #: What kubelets counted of containers in which no launcher measures, by their pods' uids.
    counted: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: Since when the API server has answered without a break. While it does not, nodes cannot say
    #: that they are well, so their silence before says nothing.
    reachable_since: datetime | None = None

    def silence_of(self, node: NodeSeen) -> timedelta:
        """How long a node has been silent although it could have spoken; zero where it speaks."""
        if node.silent_since is None:
            return timedelta(0)
        since = max(filter(None, (node.silent_since, self.reachable_since)))
        return max(timedelta(0), self.now - since)

    @cached_property
    def pods(self) -> Mapping[PodKey, PodSeen]:
        """All pods by namespace and name."""
        return {pod.key: pod for attempt in self.attempts.values() for pod in attempt.pods}

    @cached_property
    def machine_on(self) -> Mapping[str, MachineSeen]:
        """The machines by the name of their node."""
        return {m.node: m for m in self.machines.values() if m.node is not None}

    @cached_property
    def by_run(self) -> Mapping[str, tuple[AttemptSeen, ...]]:
        """The attempts that there are of each run, by the run's label."""
        found: dict[str, list[AttemptSeen]] = {}
        for attempt in self.attempts.values():
            found.setdefault(attempt.first.run, []).append(attempt)
        return {run: tuple(attempts) for run, attempts in found.items()}

    @cached_property
    def growing(self) -> Mapping[str, tuple[AttemptSeen, ...]]:
        """The attempts whose engines may ask for machines, by pool, the first admitted first."""
        found: dict[str, list[AttemptSeen]] = {}
        for attempt in self.attempts.values():
            if attempt.may_grow:
                found.setdefault(attempt.first.pool, []).append(attempt)
        return {
            pool: tuple(sorted(attempts, key=lambda a: (a.admitted_at or self.now, a.id)))
            for pool, attempts in found.items()
        }

    @cached_property
    def silent(self) -> tuple[MachineSeen, ...]:
        """Machines that do not answer and are not gone: what runs on them may still run."""
        return tuple(
            machine
            for machine in self.machines.values()
            if machine.gone_at is None
            and machine.ready_at is not None
            and ((node := self.node_of(machine)) is None or node.silent_since is not None)
        )

    @cached_property
    def live_on(self) -> Mapping[str, tuple[PodSeen, ...]]:
        """The pods that are bound to a node and not over, by the node's name."""
        found: dict[str, list[PodSeen]] = {}
        for attempt in self.attempts.values():
            for pod in attempt.pods:
                if pod.node is not None and pod.is_live:
                    found.setdefault(pod.node, []).append(pod)
        return {node: tuple(pods) for node, pods in found.items()}

    @cached_property
    def ended_on(self) -> Mapping[str, tuple[PodSeen, ...]]:
        """The pods that were bound to a node and are over, by the node's name."""
        found: dict[str, list[PodSeen]] = {}
        for attempt in self.attempts.values():
            for pod in attempt.pods:
                if pod.node is not None and not pod.is_live:
                    found.setdefault(pod.node, []).append(pod)
        return {node: tuple(pods) for node, pods in found.items()}

    @cached_property
    def unbound(self) -> Mapping[str, tuple[PodSeen, ...]]:
        """The pods whose gate is open and that have no node yet, by their run's label."""
        found: dict[str, list[PodSeen]] = {}
        for attempt in self.attempts.values():
            for pod in attempt.pods:
                if pod.is_live and not pod.gated and pod.node is None and pod.deleting_at is None:
                    found.setdefault(pod.run, []).append(pod)
        return {run: tuple(pods) for run, pods in found.items()}

    def node_of(self, machine: MachineSeen) -> NodeSeen | None:
        return None if machine.node is None else self.nodes.get(machine.node)

    def run_of(self, machine: MachineSeen) -> str | None:
        """The run that the machine belongs to now: a hand-over changes its node's label."""
        node = self.node_of(machine)
        return machine.run if node is None or node.run is None else node.run

    def pods_on(self, machine: MachineSeen) -> tuple[PodSeen, ...]:
        """The live pods that are bound to a machine."""
        return () if machine.node is None else self.live_on.get(machine.node, ())


def read_pod(pod: Object) -> PodSeen | None:
    """A pod of one of piecework's pools; None where it is no such pod."""
    metadata, spec, status = pod["metadata"], pod.get("spec", {}), pod.get("status", {})
    named, noted = metadata.get("labels", {}), metadata.get("annotations", {})
    pool = named.get(labels.POOL)
    created_at = time_of(metadata.get("creationTimestamp"))
    if pool is None or created_at is None:
        return None
    request = read_request(noted.get(labels.REQUEST))
    gates = {gate["name"] for gate in spec.get("schedulingGates", ())}
    admitted = _json(noted.get(labels.ADMITTED))
    run = named.get(labels.RUN, metadata["name"])
    deleting_at = time_of(metadata.get("deletionTimestamp"))
    grace = timedelta(seconds=metadata.get("deletionGracePeriodSeconds") or 0)
    return PodSeen(
        key=(metadata["namespace"], metadata["name"]),
        uid=metadata["uid"],
        pool=pool,
        run=run,
        attempt=request.attempt if request else metadata["name"],
        request=request,
        created_at=created_at,
        gated=labels.GATE in gates,
        kueue=named.get(KUEUE_QUEUE, "?") if KUEUE_GATE in gates else None,
        admitted_at=time_of(_text(admitted, "at")),
        admitted_machine=_text(admitted, "machine"),
        waiting=_read_waiting(noted.get(labels.WAITING)),
        end=pod_facts.end_of(pod),
        seen=noted.get(labels.SEEN) == "true",
        recorded=noted.get(labels.RECORDED) == "true",
        held=labels.FINALIZER in metadata.get("finalizers", ()),
        deleting_at=deleting_at,
        deleted_at=None if deleting_at is None else deleting_at - grace,
        node=spec.get("nodeName"),
        bound_at=pod_facts.bound_at(pod),
        sandbox_at=_condition_at(status, "PodReadyToStartContainers"),
        started_at=pod_facts.started_at(pod),
        over=pod_facts.ended_at(pod),
        forgotten=pod_facts.is_forgotten(pod),
        pull_problem=_pull_problem(pod),
        follower=named.get(labels.ROLE) == labels.FOLLOWER,
        drivers=_drivers(metadata),
        raw=pod,
    )


def gather(attempt: str, pods: Iterable[PodSeen]) -> AttemptSeen:
    """The attempt that these pods make up: by index, then name."""
    ordered = sorted(pods, key=lambda p: (p.request.index if p.request else 0, p.key))
    own = tuple(pod for pod in ordered if not pod.follower)
    return AttemptSeen(attempt, own, tuple(pod for pod in ordered if pod.follower))


def read_request(text: str | None) -> Request | None:
    """The annotation REQUEST; None where there is none, or where it cannot be read."""
    raw = _json(text)
    run = raw.get("run")
    if not isinstance(run, str) or not run:
        return None
    number = _integer(raw.get("number"), 1)
    attempt = raw.get("attempt")
    alternatives = raw.get("alternatives")
    owner = raw.get("owner")
    return Request(
        attempt=attempt if isinstance(attempt, str) and attempt else f"{run}.{number}",
        run=run,
        number=number,
        pool=str(raw.get("pool") or ""),
        team=_text(raw, "team"),
        priority=_integer(raw.get("priority"), 0),
        queued_at=time_of(_text(raw, "queued_at")),
        count=max(1, _integer(raw.get("count"), 1)),
        index=_integer(raw.get("index"), 0),
        led=raw.get("led") is True,
        machines=_integer(raw.get("machines"), 0),
        per_machine=max(1, _integer(raw.get("per_machine"), 1)),
        beside_head=max(0, _integer(raw.get("beside_head"), 0)),
        instance_type=_text(raw, "instance_type"),
        alternatives=tuple(str(a) for a in alternatives) if isinstance(alternatives, list) else (),
        usd_per_hour=_decimal(raw.get("usd_per_hour")),
        deadline_seconds=_seconds(raw.get("deadline_seconds")),
        on_deadline=_text(raw, "on_deadline"),
        timeout_seconds=_seconds(raw.get("timeout_seconds")),
        owner=owner if isinstance(owner, dict) else {},
        raw=raw,
    )


def _drivers(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    if metadata.get("labels", {}).get("spark-role") != "executor":
        return ()
    owners = metadata.get("ownerReferences", ())
    return tuple(owner["name"] for owner in owners if owner["kind"] == "Pod")


def _read_waiting(text: str | None) -> Waiting | None:
    raw = _json(text)
    reason, since = _text(raw, "reason"), time_of(_text(raw, "since"))
    if reason is None or since is None:
        return None
    return Waiting(reason, since, _integer(raw.get("number"), 0))


#: Reasons of a waiting container that do not pass by themselves, in the kubelet's words.
_PULL_PROBLEMS = {
    "ErrImagePull": "image pull",
    "ImagePullBackOff": "image pull",
    "InvalidImageName": "image name",
    "ErrImageNeverPull": "image pull",
    "ImageInspectError": "image",
    "RegistryUnavailable": "image pull",
    "CreateContainerConfigError": "container",
    "CreateContainerError": "container",
    "RunContainerError": "container",
}


def _pull_problem(pod: Object) -> str | None:
    for container in container_statuses(pod, init=True):
        waiting = container.get("state", {}).get("waiting") or {}
        what = _PULL_PROBLEMS.get(waiting.get("reason", ""))
        if what is not None:
            said = waiting.get("message") or waiting["reason"]
            return f"{what}: {_shorten(container.get('image', ''), said)}"
    return None


def _shorten(image: str, message: str) -> str:
    if "not found" in message:
        return f"not found: {image}"
    line = " ".join(message.split())
    return line if len(line) <= 200 else line[:200] + "..."


def _condition_at(status: Mapping[str, Any], name: str) -> datetime | None:
    for condition in status.get("conditions", ()):
        if condition["type"] == name and condition["status"] == "True":
            return time_of(condition.get("lastTransitionTime"))
    return None


def _json(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _text(raw: Mapping[str, Any], name: str) -> str | None:
    value = raw.get(name)
    return value if isinstance(value, str) and value else None


def _integer(value: Any, otherwise: int) -> int:
    right = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31
    return value if right else otherwise


def _seconds(value: Any) -> float | None:
    right = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if right and 0 <= value < 10**10 else None


def _decimal(value: Any) -> Decimal | None:
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return None
    return number if number.is_finite() and 0 <= number <= 1_000_000 else None
