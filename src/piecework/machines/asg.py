"""Machines of Auto Scaling groups: bought and given back by the cluster-autoscaler, told by AWS.

Enters: the cloud's list of a pool's instances, and the groups' own record of what was launched and
terminated, which goes back weeks, so that what came and went while no keeper ran is known too.
Leaves: machines with the cloud's times. The autoscaler gives a machine back by itself; only where
it does not is the instance terminated here, after a taint, a pause and a fresh look for pods,
because the autoscaler does not see others' terminations for a minute.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from piecework import clock
from piecework.clock import Clock
from piecework.errors import ClusterError, PieceworkError
from piecework.kube.client import NODE, POD, ConflictError, Kube
from piecework.machines.cloud import Cloud, InstanceSeen
from piecework.machines.provider import MachineSeen, NodeSeen, write_mark
from piecework.plan import labels
from piecework.spec.pool import Pool

logger = logging.getLogger(__name__)

#: Between two looks at the cloud, in seconds: while something boots or ends, while there is
#: anything, and else.
BUSY_SECONDS, AWAKE_SECONDS, ASLEEP_SECONDS = 1.0, 5.0, 30.0
#: How far back the groups' records are read when a keeper starts, and from then on.
HORIZON = timedelta(hours=24)
RECENT = timedelta(minutes=15)
#: A purchase that failed longer ago says nothing about now.
_FRESH = timedelta(minutes=10)
_BILLING = "aws-ec2-linux"


class AutoScalingGroups(threading.Thread):
    """The machines of one pool's groups. A thread looks at the cloud; nobody else waits for it."""

    def __init__(
        self,
        kube: Kube,
        pool: Pool,
        cloud: Cloud,
        wake: Callable[[], object] = lambda: None,
        now: Clock = clock.now,
    ) -> None:
        super().__init__(daemon=True, name=f"groups of pool {pool.name}")
        self.error: str | None = None
        #: Whether somebody waits for a machine: the cloud is asked more often then.
        self.awaited = False
        self._kube = kube
        self._pool = pool
        self._cloud = cloud
        self._wake = wake
        self._now = now
        self._instances: Mapping[str, InstanceSeen] = {}
        self._failures: str | None = None
        self._forgotten: set[str] = set()
        #: What was seen of a machine's node, which may be gone before its instance is.
        self._nodes: dict[str, NodeSeen] = {}
        self._first_ready: dict[str, datetime] = {}
        self._interrupted: dict[str, datetime] = {}
        self._released: dict[str, tuple[datetime, str]] = {}
        self._stopping = threading.Event()
        self._soon = threading.Event()
        self._known = threading.Event()

    def run(self) -> None:
        """Looks at the cloud until `stop`."""
        while not self._stopping.is_set():
            try:
                self.look()
                self.error = None
            except PieceworkError as error:
                if self.error is None:
                    logger.warning("%s", error)
                self.error = str(error)
            self._soon.wait(self._pause())
            self._soon.clear()

    def wait_known(self, timeout_seconds: float) -> bool:
        """See `Provider`."""
        return self._known.wait(timeout_seconds)

    def stop(self) -> None:
        """Ends the thread soon."""
        self._stopping.set()
        self._soon.set()

    def attend(self, awaited: bool) -> None:
        """Tells whether somebody waits for a machine."""
        if awaited and not self.awaited:
            self._soon.set()
        self.awaited = awaited

    def look(self) -> None:
        """One look at the cloud. Raises ClusterError where it does not answer."""
        since = self._now() - (RECENT if self._known.is_set() else HORIZON)
        seen = self._cloud.look([group.name for group in self._pool.groups], since)
        found = {item.id: item for item in seen.instances if item.id not in self._forgotten}
        instances = merge_looks(self._instances, found)
        changed = instances != self._instances
        self._instances = instances
        self._failures = describe_failures(self._pool, seen.failures, self._now())
        self._known.set()
        if changed:
            self._wake()

    def machines(self, nodes: Mapping[str, NodeSeen]) -> Sequence[MachineSeen]:
        """See `Provider`."""
        of_instance = {
            node.provider_id.rpartition("/")[2]: node
            for node in nodes.values()
            if node.pool == self._pool.name
        }
        for name, node in of_instance.items():
            self._nodes[name] = node
            if node.ready_at is not None:
                self._first_ready.setdefault(name, node.ready_at)
        return [self._machine(item, of_instance.get(item.id)) for item in self._instances.values()]

    def stamp(self, machine: MachineSeen, attempt: str | None) -> None:
        """See `Provider`: any run of the pool may be the first on it, and the cloud remembers."""

    def note_interruption(self, machine: MachineSeen, at: datetime) -> None:
        """See `Provider`."""
        self._interrupted.setdefault(machine.id, at)

    def release(self, machine: MachineSeen, at: datetime, reason: str) -> None:
        """See `Provider`: marks and taints the node, so that the scheduler leaves it alone."""
        self._released[machine.id] = (at, reason)
        if machine.node is not None:
            mark = {"value": "true", "effect": "NoSchedule"}
            self._taint(machine.node, mark, write_mark(at, reason))

    def give_back(self, machine: MachineSeen) -> bool:
        """See `Provider`: after a fresh look for pods that came before the taint."""
        if machine.node is not None and self._has_pods(machine.node):
            self._released.pop(machine.id, None)
            self._taint(machine.node, None, {labels.RELEASED: None})
            return False
        self._cloud.terminate(machine.id)
        self._soon.set()
        return True

    def forget(self, machine: MachineSeen) -> None:
        """See `Provider`."""
        self._forgotten.add(machine.id)
        kept = {name: item for name, item in self._instances.items() if name != machine.id}
        self._instances = kept
        known: tuple[dict[str, Any], ...] = (
            self._nodes, self._first_ready, self._interrupted, self._released,
        )  # fmt: skip
        for each in known:
            each.pop(machine.id, None)

    def failures(self, pool: str) -> str | None:
        """See `Provider`."""
        return self._failures if pool == self._pool.name else None

    def _machine(self, item: InstanceSeen, node: NodeSeen | None) -> MachineSeen:
        known = node or self._nodes.get(item.id)
        released: tuple[datetime | None, str | None]
        released = self._released.get(item.id, (None, None))
        if released[0] is None and known is not None:
            released = known.released_at, known.release_reason
            if known.leaving_at is not None:
                released = known.leaving_at, "nobody needed it, and the autoscaler gave it back"
        machine = MachineSeen(
            id=item.id,
            pool=self._pool.name,
            provider="asg",
            billing=_BILLING,
            node=None if known is None else known.name,
            instance_type=item.type,
            zone=item.zone,
            spot=item.spot,
            requested_at=item.requested_at,
            launched_at=item.launched_at,
            released_at=released[0],
            release_reason=released[1],
            interrupted_at=item.interrupted_at or self._interrupted.get(item.id),
            leaving_at=item.leaving_at or (None if known is None else known.leaving_at),
            gone_at=item.gone_at,
            held=True,
            prices=item.prices,
        )
        if known is None:
            return machine
        ready_at = self._first_ready.get(item.id)
        return replace(machine, joined_at=known.joined_at, ready_at=ready_at)

    def _has_pods(self, node: str) -> bool:
        on_it = self._kube.list(POD, fields=f"spec.nodeName={node}").items
        return any(
            labels.POOL in pod["metadata"].get("labels", {})
            and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")
            for pod in on_it
        )

    def _taint(
        self, name: str, taint: Mapping[str, str] | None, annotations: Mapping[str, Any]
    ) -> None:
        for _ in range(5):
            node = self._kube.get(NODE, name)
            if node is None:
                return
            taints = node.get("spec", {}).get("taints", [])
            taints = [each for each in taints if each["key"] != labels.LEAVING]
            if taint is not None:
                taints.append({"key": labels.LEAVING, **taint})
            version = node["metadata"]["resourceVersion"]
            change = {
                "metadata": {"annotations": dict(annotations), "resourceVersion": version},
                "spec": {"taints": taints},
            }
            try:
                self._kube.patch(NODE, name, change)
                return
            except ConflictError:
                continue
        raise ClusterError(f"node {name} changes too often to be tainted; it is tried again")

    def _pause(self) -> float:
        alive = [item for item in self._instances.values() if item.gone_at is None]
        if self.awaited or any(item.leaving_at or item.id not in self._nodes for item in alive):
            return BUSY_SECONDS
        return AWAKE_SECONDS if alive else ASLEEP_SECONDS


def merge_looks(
    before: Mapping[str, InstanceSeen], now: Mapping[str, InstanceSeen]
) -> dict[str, InstanceSeen]:
    """What is known after another look, which reads less far back than the first.

    What was known to be gone stays until it is forgotten; what was requested stays so.
    """
    merged = {name: item for name, item in before.items() if item.gone_at is not None}
    for name, item in now.items():
        known = before.get(name)
        requested_at = item.requested_at if known is None else known.requested_at
        merged[name] = replace(item, requested_at=requested_at)
    return merged


def describe_failures(
    pool: Pool, failures: Mapping[str, tuple[datetime, str]], now: datetime
) -> str | None:
    """Why nothing can be bought, from each group's last failed purchase; None where all is well.

    `failures` has time and message by group, for groups whose last purchase failed.
    """
    failed: Collection[Any] = [
        group
        for group in pool.groups
        if group.name in failures and now - failures[group.name][0] <= _FRESH
    ]
    if not failed:
        return None
    group = next((g for g in failed if g.spot), next(iter(failed)))
    kind = "spot capacity" if group.spot else "capacity"
    why = f"no {kind} for {group.type} in group {group.name}"
    others = [g for g in pool.groups if g not in failed]
    if group.spot and any(not g.spot for g in others):
        return f"{why}, trying on-demand"
    if others:
        return f"{why}, trying group {others[0].name}"
    return f"{why}: {failures[group.name][1]}"
