"""What the keeper asks of whoever sells machines: which there are and were, and take this one back.

A provider never buys: an autoscaler does, when it sees a pod that waits. What it tells comes from
the seller's own records (a NodeClaim's conditions, the cloud's list of instances and activities),
with their times, so that a keeper that was away for ten minutes learns what it missed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Protocol

from piecework import clock
from piecework.plan import labels

#: Taints by which a machine says that its seller will take it away soon; the first are AWS's.
AWS_NOTICES = (
    "aws-node-termination-handler/spot-itn",
    "aws-node-termination-handler/rebalance-recommendation",
)
_NOTICES = frozenset(
    {
        *AWS_NOTICES,
        "cloud.google.com/impending-node-termination",
        "kubernetes.azure.com/scheduled-event",
    }
)
#: The cluster-autoscaler's mark on a node that it is about to return; its value is the time.
_LEAVING = "ToBeDeletedByClusterAutoscaler"
#: Karpenter's labels on nodes: of all that it bought, and of those whose NodeClaim it has found.
_NODE_POOL, _REGISTERED = "karpenter.sh/nodepool", "karpenter.sh/registered"
GPU = "nvidia.com/gpu"
#: How the reason begins for which a machine that never joined is given back.
NEVER_JOINED = "it did not join the cluster"


@dataclass(frozen=True, slots=True)
class PriceStep:
    """What a machine costs from `at` on; `usd_per_hour` is None where that is unknown."""

    at: datetime
    usd_per_hour: Decimal | None
    source: str
    as_of: str | None = None


@dataclass(frozen=True, slots=True)
class MachineSeen:
    """One bought computer as its seller's records tell of it. Times are None until they come.

    `run` and `attempt` say for whom it was bought, where that is known: the label of the run with
    which it was born, and the attempt's id. `released_at` is when it was decided to give it back,
    `leaving_at` when its seller was told, `gone_at` when the meter stopped.
    `held`: its record stays until `Provider.forget`.
    """

    id: str
    pool: str
    provider: str
    billing: str
    node: str | None = None
    instance_type: str | None = None
    zone: str | None = None
    spot: bool = False
    run: str | None = None
    attempt: str | None = None
    requested_at: datetime | None = None
    launched_at: datetime | None = None
    joined_at: datetime | None = None
    ready_at: datetime | None = None
    released_at: datetime | None = None
    release_reason: str | None = None
    interrupted_at: datetime | None = None
    leaving_at: datetime | None = None
    gone_at: datetime | None = None
    held: bool = False
    #: Why it could not be launched so far, in its seller's words.
    problem: str | None = None
    prices: tuple[PriceStep, ...] = ()

    @property
    def state(self) -> str:
        """requested, launched, joined, ready, leaving or gone."""
        if self.gone_at is not None:
            return "gone"
        if self.leaving_at is not None or self.released_at is not None:
            return "leaving"
        if self.ready_at is not None:
            return "ready"
        if self.joined_at is not None:
            return "joined"
        return "requested" if self.launched_at is None else "launched"

    @property
    def gone_cause(self) -> str:
        """Why it is gone, as the ledger says it: returned, interrupted, lost, never-joined."""
        if self.interrupted_at is not None:
            return "interrupted"
        never_joined = (self.release_reason or "").startswith(NEVER_JOINED)
        vanished = self.joined_at is None and self.released_at is None
        if never_joined or (vanished and self.launched_at is not None):
            return "never-joined"
        if self.released_at is not None or self.launched_at is None:
            return "returned"
        return "lost"


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """A machine as the cluster sees it."""

    name: str
    pool: str
    run: str | None
    provider_id: str
    instance_type: str | None
    zone: str | None
    spot: bool
    joined_at: datetime
    #: Since when it says that it is ready; None where it does not.
    ready_at: datetime | None
    #: Since when it says that it is not, or says nothing; None where it is ready.
    silent_since: datetime | None
    gpus: int
    #: A spot notice was put on it.
    notice: bool
    released_at: datetime | None
    release_reason: str | None
    leaving_at: datetime | None
    #: What pods may have of it, as Kubernetes writes it.
    allocatable: Mapping[str, str] = field(default_factory=dict)
    #: It says itself that it is not ready: its kubelet lives.
    speaks: bool = False
    #: False where Karpenter bought it, and has not found the NodeClaim that it belongs to (yet).
    registered: bool = True


class Provider(Protocol):
    """A seller of machines, for some pools. Everything can be done twice. Raises ClusterError."""

    #: What is wrong with asking the seller; None while all is well.
    error: str | None

    def start(self) -> None:
        """Begins to look, where somebody has to look."""

    def wait_known(self, timeout_seconds: float) -> bool:
        """Whether the machines are known, after waiting for that."""

    def stop(self) -> None:
        """Ends looking, soon."""

    def attend(self, awaited: bool) -> None:
        """Tells whether somebody waits for a machine: then the seller is asked more often."""

    def machines(self, nodes: Mapping[str, NodeSeen]) -> Sequence[MachineSeen]:
        """The machines that there are, and those gone ones that nobody has forgotten yet."""

    def stamp(self, machine: MachineSeen, attempt: str | None) -> None:
        """Writes down for which attempt it was bought, and holds its record."""

    def note_interruption(self, machine: MachineSeen, at: datetime) -> None:
        """Writes down that its seller takes it away."""

    def release(self, machine: MachineSeen, at: datetime, reason: str) -> None:
        """Writes down that it is to be given back, and why; it gets no more pods."""

    def give_back(self, machine: MachineSeen) -> bool:
        """Tells the seller. False where it turned out that something runs on it."""

    def forget(self, machine: MachineSeen) -> None:
        """Its end is in the ledger: its record is not needed any more."""

    def failures(self, pool: str) -> str | None:
        """Why nothing can be bought in a pool at the moment, in words; None where it can."""


def read_node(node: Mapping[str, Any]) -> NodeSeen:
    """A Node object of a pool's machine."""
    metadata, spec, status = node["metadata"], node.get("spec", {}), node.get("status", {})
    named = metadata.get("labels", {})
    ready = next((c for c in status.get("conditions", ()) if c["type"] == "Ready"), None)
    is_ready = ready is not None and ready["status"] == "True"
    since = time_of((ready or {}).get("lastTransitionTime")) or time_of(
        metadata["creationTimestamp"]
    )
    taints = {taint["key"]: taint.get("value", "") for taint in spec.get("taints", ())}
    released = read_mark(metadata)
    allocatable = status.get("allocatable", {})
    joined_at = time_of(metadata["creationTimestamp"])
    assert joined_at is not None
    return NodeSeen(
        name=metadata["name"],
        pool=named.get(labels.POOL, ""),
        run=named.get(labels.RUN),
        provider_id=spec.get("providerID", ""),
        instance_type=named.get("node.kubernetes.io/instance-type"),
        zone=named.get("topology.kubernetes.io/zone"),
        spot=is_spot(named),
        joined_at=joined_at,
        ready_at=since if is_ready else None,
        silent_since=None if is_ready else since,
        gpus=int(allocatable.get(GPU, "0")),
        notice=bool(_NOTICES & taints.keys()),
        released_at=released[0],
        release_reason=released[1],
        leaving_at=_leaving_at(taints, metadata),
        allocatable=allocatable,
        speaks=ready is not None and ready["status"] == "False",
        registered=_NODE_POOL not in named or named.get(_REGISTERED) == "true",
    )


def is_spot(named: Mapping[str, str]) -> bool:
    """Whether a machine's labels say that it is spot capacity."""
    kinds = (labels.CAPACITY, "karpenter.sh/capacity-type", "eks.amazonaws.com/capacityType")
    return any(named.get(kind, "").lower() == "spot" for kind in kinds)


def read_mark(metadata: Mapping[str, Any]) -> tuple[datetime | None, str | None]:
    """Time and reason of the annotation RELEASED: "TIME REASON"."""
    at, _, reason = metadata.get("annotations", {}).get(labels.RELEASED, "").partition(" ")
    return time_of(at or None), reason or None


def write_mark(at: datetime, reason: str) -> dict[str, str]:
    """The annotation that `read_mark` reads."""
    return {labels.RELEASED: f"{clock.to_text(at)} {reason}"}


def time_of(text: str | None) -> datetime | None:
    """A time as Kubernetes writes it; None where there is none."""
    if not text:
        return None
    try:
        return clock.from_text(text)
    except ValueError:
        return None


def _leaving_at(taints: Mapping[str, str], metadata: Mapping[str, Any]) -> datetime | None:
    if _LEAVING in taints and taints[_LEAVING].isdigit():
        return datetime.fromtimestamp(int(taints[_LEAVING]), tz=UTC)
    return time_of(metadata.get("deletionTimestamp"))
