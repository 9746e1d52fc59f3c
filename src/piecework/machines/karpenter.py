"""Machines that Karpenter buys: one NodeClaim each, whose conditions tell its life.

Enters: the NodeClaims of piecework's pools, as a watch keeps them. Leaves: machines with the times
of their conditions, and deleted NodeClaims: the documented way to give a machine back at once.
A finalizer keeps a NodeClaim's object until its end is in the ledger, so that nothing that came
and went while nobody looked is lost.

A Karpenter that dies between a purchase and writing it down buys again for the same NodeClaim
(kubernetes-sigs/karpenter issue 1448). The first machine joins the cluster all the same, pods run
on it, and it is paid for until its provider's garbage collection ends it: only its node tells.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from piecework import clock
from piecework.clock import Clock
from piecework.errors import ClusterError
from piecework.kube.client import NODE_CLAIM, ConflictError, Kube, Object
from piecework.machines.provider import (
    MachineSeen,
    NodeSeen,
    is_spot,
    read_mark,
    time_of,
    write_mark,
)
from piecework.plan import labels
from piecework.spec.pool import Pool

logger = logging.getLogger(__name__)

#: Karpenter's own finalizer: while it is there, the machine is being drained or terminated.
_TERMINATION = "karpenter.sh/termination"
#: Annotation of the keeper: since when the seller takes the machine away.
INTERRUPTED = f"{labels.PREFIX}interrupted"
#: By the API group of the NodeClass: whose rules the meter follows.
_BILLING = {
    "karpenter.azure.com": "azure-vm",
    "karpenter.k8s.gcp": "gcp-compute-engine",
}
_AWS = "aws-ec2-linux"
#: A node that is older than this, and that no NodeClaim knows, is a stray: where its run has
#: another machine; and where it has none, so that its NodeClaim may only not be known here yet.
STRAY, LONE_STRAY = timedelta(seconds=10), timedelta(seconds=60)
#: Why such a machine goes.
_STRAY = "no NodeClaim knows it: Karpenter bought another one in its place, and ends it"


class Karpenter:
    """The machines of all pools of one cluster that Karpenter buys for."""

    def __init__(
        self,
        kube: Kube,
        pools: Collection[Pool],
        claims: Callable[[], Mapping[Any, Object]],
        now: Clock = clock.now,
    ) -> None:
        """`claims` gives the NodeClaims as they are now, by whatever key."""
        self._kube = kube
        self._pools = {pool.name: pool for pool in pools}
        self._claims = claims
        self._now = now
        self._read: dict[str, tuple[str, MachineSeen]] = {}
        # Machines that no NodeClaim knows, by their nodes' names; and what a NodeClaim did know.
        self._strays: dict[str, MachineSeen] = {}
        self._known: set[str] = set()
        self.error: str | None = None

    def start(self) -> None:
        """See `Provider`: a watch looks, which belongs to the keeper."""

    def wait_known(self, timeout_seconds: float) -> bool:
        """See `Provider`."""
        del timeout_seconds
        return True

    def stop(self) -> None:
        """See `Provider`."""

    def attend(self, awaited: bool) -> None:
        """See `Provider`: the watch tells at once in any case."""

    def machines(self, nodes: Mapping[str, NodeSeen]) -> Sequence[MachineSeen]:
        """See `Provider`; nodes tell of machines that no NodeClaim knows."""
        current: dict[str, tuple[str, MachineSeen]] = {}
        for claim in list(self._claims().values()):
            metadata = claim["metadata"]
            version = metadata["resourceVersion"]
            known = self._read.get(metadata["name"])
            if known is not None and int(known[0]) >= int(version):
                current[metadata["name"]] = known
                continue
            pool = self._pools.get(metadata.get("labels", {}).get(labels.POOL, ""))
            if pool is not None:
                current[metadata["name"]] = version, read_claim(claim, pool)
        for name, (version, machine) in list(self._read.items()):  # others may forget one meanwhile
            if name not in current and machine.gone_at is None:
                # It was not held, or somebody let go of it: all that is known is that it is gone.
                gone = replace(machine, gone_at=machine.leaving_at or self._now())
                current[name] = version, gone
        self._read = current
        self._look_for_strays(nodes)
        return [*(machine for _, machine in current.values()), *list(self._strays.values())]

    def _look_for_strays(self, nodes: Mapping[str, NodeSeen]) -> None:
        """Finds nodes that no NodeClaim knows, and follows those that were found.

        They are judged once they are ready. While a NodeClaim of their run waits to be told what
        was bought for it, that may be they.
        """
        now = self._now()
        for name, stray in list(self._strays.items()):
            if name not in nodes and stray.gone_at is None:
                self._strays[name] = replace(stray, gone_at=now)
        suspects = [
            node
            for node in nodes.values()
            if not node.registered
            and node.name not in self._strays
            and node.provider_id not in self._known
            and node.ready_at is not None
            and node.pool in self._pools
        ]
        if not suspects:
            return
        claims = list(self._claims().values())
        told = {claim.get("status", {}).get("providerID", "") for claim in claims}
        self._known = (self._known | told) & {node.provider_id for node in nodes.values()}
        waiting = {
            run_of_claim(claim) for claim in claims if not claim.get("status", {}).get("providerID")
        }
        for node in suspects:
            if node.provider_id in self._known or node.run in waiting:
                continue
            other = self._bought_instead(node)
            if now - node.joined_at > (LONE_STRAY if other is None else STRAY):
                self._strays[node.name] = self._stray(node, other, now)
                logger.warning("machine %s is paid for: %s", node.name, _STRAY)

    def _bought_instead(self, node: NodeSeen) -> MachineSeen | None:
        """The machine that was bought in the place of a node's: a machine of the same run, asked
        for before the node joined, and no longer before than a machine may take to join.
        """
        pool = self._pools[node.pool]
        others = {
            machine.requested_at: machine
            for _, machine in self._read.values()
            if machine.run == node.run
            and machine.requested_at is not None
            and node.joined_at - pool.join_timeout <= machine.requested_at <= node.joined_at
        }
        return others[max(others)] if others else None

    def _stray(self, node: NodeSeen, other: MachineSeen | None, now: datetime) -> MachineSeen:
        """A machine by its node. When it was bought nobody wrote down: Karpenter buys as soon as
        there is a NodeClaim, which is the other machine's.
        """
        asked_at = None if other is None else other.requested_at
        bought = asked_at or node.joined_at
        return MachineSeen(
            id=node.name,
            pool=node.pool,
            provider="karpenter",
            billing=_billing(self._pools[node.pool]),
            node=node.name,
            instance_type=node.instance_type,
            zone=node.zone,
            spot=node.spot,
            run=node.run,
            attempt=None if other is None else other.attempt,
            requested_at=bought,
            launched_at=bought,
            joined_at=node.joined_at,
            ready_at=node.ready_at,
            released_at=now,
            release_reason=_STRAY,
            leaving_at=now,
            held=True,
        )

    def stamp(self, machine: MachineSeen, attempt: str | None) -> None:
        """See `Provider`."""
        if machine.id in self._strays:
            self._strays[machine.id] = replace(self._strays[machine.id], attempt=attempt)
            return
        change: list[dict[str, Any]] = []
        claim = self._kube.get(NODE_CLAIM, machine.id)
        if claim is None:
            return
        metadata = claim["metadata"]
        held = metadata.get("finalizers", [])
        if labels.FINALIZER not in held and "deletionTimestamp" not in metadata:
            change += [
                {"op": "test", "path": "/metadata/resourceVersion",
                 "value": metadata["resourceVersion"]},
                {"op": "add", "path": "/metadata/finalizers", "value": [*held, labels.FINALIZER]},
            ]  # fmt: skip
        if attempt is not None and labels.ATTEMPT not in metadata.get("annotations", {}):
            if "annotations" not in metadata:
                change.append({"op": "add", "path": "/metadata/annotations", "value": {}})
            change.append({"op": "add", "path": _annotation(labels.ATTEMPT), "value": attempt})
        if change:
            self._kube.patch(NODE_CLAIM, machine.id, change, json_patch=True)

    def note_interruption(self, machine: MachineSeen, at: datetime) -> None:
        """See `Provider`."""
        if machine.id in self._strays:
            self._strays[machine.id] = replace(self._strays[machine.id], interrupted_at=at)
            return
        self._annotate(machine, {INTERRUPTED: clock.to_text(at)})

    def release(self, machine: MachineSeen, at: datetime, reason: str) -> None:
        """See `Provider`. No other run's pod selects it, so it needs no taint."""
        self._annotate(machine, write_mark(at, reason))

    def give_back(self, machine: MachineSeen) -> bool:
        """See `Provider`."""
        self._kube.delete(NODE_CLAIM, machine.id)
        return True

    def forget(self, machine: MachineSeen) -> None:
        """See `Provider`."""
        if self._strays.pop(machine.id, None) is None:
            release_claim(self._kube, machine.id)
            self._read.pop(machine.id, None)

    def failures(self, pool: str) -> str | None:
        """See `Provider`."""
        problems = [
            machine.problem
            for _, machine in self._read.values()
            if machine.pool == pool and machine.problem and machine.gone_at is None
        ]
        return problems[0] if problems else None

    def _annotate(self, machine: MachineSeen, annotations: Mapping[str, str]) -> None:
        self._kube.patch(NODE_CLAIM, machine.id, {"metadata": {"annotations": dict(annotations)}})


def release_claim(kube: Kube, name: str) -> None:
    """Takes piecework's finalizer off a NodeClaim, if it is on it."""
    for _ in range(5):
        claim = kube.get(NODE_CLAIM, name)
        held = [] if claim is None else claim["metadata"].get("finalizers", [])
        if labels.FINALIZER not in held:
            return
        assert claim is not None
        index = held.index(labels.FINALIZER)
        path = f"/metadata/finalizers/{index}"
        change = [
            {"op": "test", "path": path, "value": labels.FINALIZER},
            {"op": "remove", "path": path},
        ]
        try:
            kube.patch(NODE_CLAIM, name, change, json_patch=True)
            return
        except ConflictError:
            continue
    raise ClusterError(
        f"the NodeClaim {name} changes too often to take piecework's finalizer off; it is tried "
        "again"
    )


def read_claim(claim: Mapping[str, Any], pool: Pool) -> MachineSeen:
    """A NodeClaim as a machine."""
    metadata, status = claim["metadata"], claim.get("status", {})
    named, noted = metadata.get("labels", {}), metadata.get("annotations", {})
    conditions = {c["type"]: c for c in status.get("conditions", ())}
    launched_at = _since(conditions, "Launched")
    released_at, reason = read_mark(metadata)
    leaving_at = time_of(metadata.get("deletionTimestamp"))
    launch = conditions.get("Launched", {})
    problem = launch.get("message") or launch.get("reason")
    return MachineSeen(
        id=metadata["name"],
        pool=pool.name,
        provider="karpenter",
        billing=_billing(pool),
        node=status.get("nodeName"),
        instance_type=named.get("node.kubernetes.io/instance-type"),
        zone=named.get("topology.kubernetes.io/zone"),
        spot=is_spot(named),
        run=run_of_claim(claim),
        attempt=noted.get(labels.ATTEMPT),
        requested_at=time_of(metadata["creationTimestamp"]),
        launched_at=launched_at,
        joined_at=_since(conditions, "Registered"),
        ready_at=_since(conditions, "Initialized"),
        released_at=released_at,
        release_reason=reason,
        interrupted_at=time_of(noted.get(INTERRUPTED)),
        leaving_at=leaving_at,
        gone_at=_gone_at(metadata, conditions, launched_at, leaving_at),
        held=labels.FINALIZER in metadata.get("finalizers", ()),
        problem=problem if launched_at is None and problem != "AwaitingReconciliation" else None,
    )


def _billing(pool: Pool) -> str:
    return _BILLING.get(pool.node_class.group, _AWS)


def _gone_at(
    metadata: Mapping[str, Any],
    conditions: Mapping[str, Any],
    launched_at: datetime | None,
    leaving_at: datetime | None,
) -> datetime | None:
    """The meter stops when the instance begins to terminate, which Karpenter writes down.

    Where it could not (the instance vanished by itself), the deletion of the claim is what is
    known, once Karpenter has nothing more to do.
    """
    if leaving_at is None:
        return None
    terminating = _since(conditions, "InstanceTerminating")
    if terminating is not None:
        return terminating
    if _TERMINATION in metadata.get("finalizers", ()):
        return None
    return leaving_at if launched_at is None else max(leaving_at, launched_at)


def _since(conditions: Mapping[str, Any], name: str) -> datetime | None:
    condition = conditions.get(name)
    if condition is None or condition.get("status") != "True":
        return None
    return time_of(condition.get("lastTransitionTime"))


def run_of_claim(claim: Mapping[str, Any]) -> str | None:
    """The label of the run that a NodeClaim was made for."""
    named: str | None = claim["metadata"].get("labels", {}).get(labels.RUN)
    if named:
        return named
    for required in claim.get("spec", {}).get("requirements", ()):
        if required.get("key") == labels.RUN and len(required.get("values", ())) == 1:
            return str(required["values"][0])
    return None


def _annotation(name: str) -> str:
    return "/metadata/annotations/" + name.replace("~", "~0").replace("/", "~1")
