"""Learns what machines have for jobs: what a node offers, less what its daemons ask for.

Karpenter buys nothing for a pod that asks for more than it believes a type to have, so where it
believed less before the node was there, that counts.

Enters: nodes that have been ready for a while. Leaves: the ConfigMap `piecework-learned` in the
pools' namespaces, a key each instance type, which plans read instead of the shipped defaults. One
look for each type in a keeper's life is enough.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from typing import Any

from piecework.errors import PieceworkError
from piecework.keeper.cluster.snapshot import Snapshot
from piecework.kube.client import CONFIG_MAP, NODE_CLAIM, POD, AlreadyThereError, Kube
from piecework.machines.provider import MachineSeen, NodeSeen
from piecework.plan.reserve import LEARNED
from piecework.spec.pool import Pool
from piecework.units import Memory, parse_cpu

logger = logging.getLogger(__name__)

#: How long after it is ready a node has all of its daemons.
SETTLED = timedelta(seconds=20)
#: When it is tried again where it could not be found out.
AGAIN_SECONDS = 60.0


class Learning:
    """Looks at one node of each type."""

    def __init__(self, kube: Kube, pools: Mapping[str, Pool]) -> None:
        self._kube = kube
        self._pools = pools
        #: By pool and type: until when (by the monotonic clock) it is not looked at again.
        self._known: dict[tuple[str, str], float] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="learning")

    def look(self, snapshot: Snapshot) -> None:
        """Begins to look at nodes of types that are not known yet."""
        for node in snapshot.nodes.values():
            key = (node.pool, node.instance_type or "")
            if node.instance_type is None or node.ready_at is None:
                continue
            settled = snapshot.now - node.ready_at > SETTLED
            if settled and self._known.get(key, 0.0) < time.monotonic():
                self._known[key] = math.inf
                self._thread.submit(self._learn, node, snapshot.machine_on.get(node.name))

    def stop(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _learn(self, node: NodeSeen, machine: MachineSeen | None) -> None:
        try:
            self.learn(node, machine)
        except (PieceworkError, ValueError) as error:
            logger.warning("what %s has for jobs is not known: %s", node.instance_type, error)
            self._known[node.pool, node.instance_type or ""] = time.monotonic() + AGAIN_SECONDS

    def learn(self, node: NodeSeen, machine: MachineSeen | None = None) -> None:
        """Writes down what one node has for jobs; `machine` is the one that became the node."""
        pods = self._kube.list(POD, fields=f"spec.nodeName={node.name}").items
        namespace = self._pools[node.pool].namespace
        believed: Mapping[str, str] = {}
        if machine is not None and machine.provider == "karpenter":
            claim = self._kube.get(NODE_CLAIM, machine.id) or {}
            believed = claim.get("status", {}).get("allocatable", {})
        value = json.dumps(left_for_jobs(node.allocatable, pods, believed))
        data = {str(node.instance_type): value}
        if self._kube.patch(CONFIG_MAP, LEARNED, {"data": data}, namespace) is None:
            metadata = {"name": LEARNED, "namespace": namespace}
            try:
                self._kube.create(CONFIG_MAP, {"metadata": metadata, "data": data})
            except AlreadyThereError:
                self._kube.patch(CONFIG_MAP, LEARNED, {"data": data}, namespace)


def left_for_jobs(
    allocatable: Mapping[str, str],
    pods: Iterable[Mapping[str, Any]],
    believed: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What the node offers, less what the pods of DaemonSets on it ask for.

    `believed` is what its seller took it to offer; what is less of the two counts.
    """
    cpu = parse_cpu(allocatable["cpu"])
    memory = Memory.parse(allocatable["memory"]).bytes
    with suppress(KeyError, ValueError):  # what a seller believes may be written in other ways
        cpu = min(cpu, parse_cpu((believed or {})["cpu"]))
    with suppress(KeyError, ValueError):
        memory = min(memory, _bytes((believed or {})["memory"]))
    for pod in pods:
        owners = pod["metadata"].get("ownerReferences", ())
        if not any(owner["kind"] == "DaemonSet" for owner in owners):
            continue
        for container in pod["spec"]["containers"]:
            asked = container.get("resources", {}).get("requests", {})
            cpu -= parse_cpu(asked["cpu"]) if "cpu" in asked else 0
            memory -= Memory.parse(asked["memory"]).bytes if "memory" in asked else 0
    millicpus = int(max(Decimal(0), cpu) * 1000)
    return {"cpu": f"{millicpus}m", "memory_bytes": max(0, memory)}


def _bytes(text: str) -> int:
    """A quantity of memory; Karpenter writes thousandths of a byte at times."""
    return int(text[:-1]) // 1000 if text.endswith("m") else Memory.parse(text).bytes
