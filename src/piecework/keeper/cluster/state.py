"""What the keeper remembers between two ticks: views of objects, and which of them have changed.

Enters: objects as watches and patches bring them, machines as providers tell of them. Leaves: the
same as views, read once per version, and the attempts and machines that are to be recorded anew. A
thousand machines that do nothing cost nothing. For one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import replace
from datetime import datetime
from decimal import Decimal

from piecework import clock
from piecework.keeper.cluster.snapshot import (
    AttemptSeen,
    PodKey,
    PodSeen,
    gather,
    read_pod,
)
from piecework.kube.client import Object
from piecework.machines.provider import MachineSeen, NodeSeen, read_node

#: Pods that are remembered after they are gone.
_REMEMBERED = 10_000


class State:
    """Views of what there is, and marks on what has changed."""

    def __init__(self, pools: Iterable[str]) -> None:
        self.attempts: dict[str, AttemptSeen] = {}
        self.nodes: dict[str, NodeSeen] = {}
        self.machines: dict[str, MachineSeen] = {}
        self.prices: dict[str, Decimal | None] = {}
        #: When the last program that is known to have run on a node ended.
        self.last_end: dict[str, datetime] = {}
        self.changed_attempts: set[str] = set()
        self.changed_machines: set[str] = set()
        self._pools = set(pools)
        self._pods: dict[PodKey, PodSeen] = {}
        self._versions: dict[tuple[str, ...], int] = {}
        self._of_node: dict[str, set[str]] = {}
        self._forgotten: set[str] = set()
        #: Attempts of which only followers are there.
        self._headless: set[str] = set()
        #: Uids of pods that were dropped: watches may still tell of them.
        self._past: dict[str, None] = {}
        #: Attempts and machines that are not there any more, for whoever remembers them as well.
        self.dropped: set[str] = set()

    def take_pod(self, pod: Object, *, deleted: bool = False, now: datetime | None = None) -> None:
        """A pod as it is now, or as it was when its object vanished."""
        key = (pod["metadata"]["namespace"], pod["metadata"]["name"])
        known = self._pods.get(key)
        if pod["metadata"]["uid"] in self._past:
            return
        if deleted and known is not None and known.uid != pod["metadata"]["uid"]:
            return  # another one of that name is there already
        if not deleted and not self._is_news(("pod", *key), pod):
            return
        seen = read_pod(as_vanished(pod, now or clock.now()) if deleted else pod)
        if seen is None or seen.pool not in self._pools:
            return
        if known is not None and known.attempt != seen.attempt:
            self._drop(known)
        if known is not None and known.uid == seen.uid and seen.started_at is None:
            # A kubelet that was started anew forgets that: what has started has started.
            seen = replace(seen, started_at=known.started_at)
        if deleted and seen.attempt in self._forgotten:
            self._drop(seen)
            return
        self._put(seen)

    def take_node(self, node: Object, *, deleted: bool = False) -> None:
        """A node as it is now, or that it is not there any more."""
        name = node["metadata"]["name"]
        if not deleted and not self._is_news(("node", name), node):
            return
        self.changed_attempts |= self._of_node.get(name, set())
        if deleted:
            self.nodes.pop(name, None)
            self._versions.pop(("node", name), None)
            return
        seen = read_node(node)
        if seen.pool in self._pools:
            self.nodes[name] = seen

    def take_machines(
        self, machines: Iterable[MachineSeen], price: Callable[[MachineSeen], Decimal | None]
    ) -> None:
        """All machines that providers know."""
        found = {machine.id: machine for machine in machines}
        for name, machine in found.items():
            known = self.machines.get(name)
            if known is machine or known == machine:
                continue
            self.changed_machines.add(name)
            self.prices[name] = price(machine)
            if machine.node is not None:
                self.changed_attempts |= self._of_node.get(machine.node, set())
        for name in self.machines.keys() - found.keys():
            machine = self.machines[name]
            self.dropped.add(name)
            self.prices.pop(name, None)
            if machine.node is not None:
                self.last_end.pop(machine.node, None)
        self.machines = found

    def forget_attempts(self, over: Set[str]) -> None:
        """Of these the end is in the ledger: their pods are dropped once their objects vanish.

        So are followers of whose attempt nothing else is left. A follower may end after its
        attempt, and the machine is its attempt's until then: that is to be told before.
        """
        for name in (over & self.attempts.keys()) | self._headless:
            known = self.attempts[name]
            if name in self.changed_attempts or any(pod.is_live for pod in known.pods):
                continue
            self._forgotten.add(name)
            for pod in known.pods:
                if not _exists(pod):
                    self._drop(pod)

    @property
    def idle_since(self) -> Mapping[str, datetime]:
        """When the last run of each machine ended, by the machine's id, where that is known."""
        return {
            machine.id: self.last_end[machine.node]
            for machine in self.machines.values()
            if machine.node in self.last_end
        }

    def _put(self, pod: PodSeen) -> None:
        self._pods[pod.key] = pod
        known = self.attempts.get(pod.attempt)
        others = () if known is None else [p for p in known.pods if p.key != pod.key]
        self.attempts[pod.attempt] = gather(pod.attempt, [*others, pod])
        self._mark_headless(pod.attempt)
        self.changed_attempts.add(pod.attempt)
        if pod.node is None:
            return
        self._of_node.setdefault(pod.node, set()).add(pod.attempt)
        if pod.over is not None and pod.started_at is not None:
            before = self.last_end.get(pod.node)
            self.last_end[pod.node] = pod.over if before is None else max(before, pod.over)

    def _drop(self, pod: PodSeen) -> None:
        self._pods.pop(pod.key, None)
        self._past[pod.uid] = None
        while len(self._past) > _REMEMBERED:
            del self._past[next(iter(self._past))]
        self._versions.pop(("pod", *pod.key), None)
        known = self.attempts.get(pod.attempt)
        left = () if known is None else tuple(p for p in known.pods if p.key != pod.key)
        if pod.node is not None and all(other.node != pod.node for other in left):
            there = self._of_node.get(pod.node, set())
            there.discard(pod.attempt)
            if not there:
                self._of_node.pop(pod.node, None)
        if left:
            self.attempts[pod.attempt] = gather(pod.attempt, left)
            self._mark_headless(pod.attempt)
            return
        self.attempts.pop(pod.attempt, None)
        self.dropped.add(pod.attempt)
        self.changed_attempts.discard(pod.attempt)
        self._forgotten.discard(pod.attempt)
        self._headless.discard(pod.attempt)

    def _mark_headless(self, attempt: str) -> None:
        if self.attempts[attempt].own:
            self._headless.discard(attempt)
        else:
            self._headless.add(attempt)

    def _is_news(self, key: tuple[str, ...], obj: Object) -> bool:
        """A watch may tell what a patch has told already, or what is older."""
        version = int(obj["metadata"]["resourceVersion"])
        if version <= self._versions.get(key, 0):
            return False
        self._versions[key] = version
        return True


def as_vanished(pod: Object, now: datetime) -> Object:
    """A pod whose object is gone, whatever it said last: nothing of it can run any more.

    Somebody took the finalizer off, or removed it by force.
    """
    metadata = pod["metadata"]
    at = metadata.get("deletionTimestamp") or now.isoformat(timespec="seconds")
    gone = {**metadata, "deletionTimestamp": at, "deletionGracePeriodSeconds": 0, "finalizers": []}
    return {**pod, "metadata": gone}


def _exists(pod: PodSeen) -> bool:
    """Whether its object may still be there."""
    return bool(pod.raw["metadata"].get("finalizers")) or pod.deleting_at is None
