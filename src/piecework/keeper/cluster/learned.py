"""Learns what machines have for jobs: what a node offers, less what its daemons ask for.

Enters: nodes that have been ready for a while. Leaves: the ConfigMap `piecework-learned` in the
pools' namespaces, a key each instance type, which plans read instead of the shipped defaults. One
look for each type in a keeper's life is enough.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from typing import Any

from piecework.errors import PieceworkError
from piecework.keeper.cluster.snapshot import Snapshot
from piecework.kube.client import CONFIG_MAP, POD, AlreadyThereError, Kube
from piecework.machines.provider import NodeSeen
from piecework.plan.reserve import LEARNED
from piecework.spec.pool import Pool
from piecework.units import Memory, parse_cpu

logger = logging.getLogger(__name__)

#: How long after it is ready a node has all of its daemons.
SETTLED = timedelta(seconds=20)


class Learning:
    """Looks at one node of each type."""

    def __init__(self, kube: Kube, pools: Mapping[str, Pool]) -> None:
        self._kube = kube
        self._pools = pools
        self._known: set[tuple[str, str]] = set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="learning")

    def look(self, snapshot: Snapshot) -> None:
        """Begins to look at nodes of types that are not known yet."""
        for node in snapshot.nodes.values():
            key = (node.pool, node.instance_type or "")
            if node.instance_type is None or key in self._known or node.ready_at is None:
                continue
            if snapshot.now - node.ready_at > SETTLED:
                self._known.add(key)
                self._thread.submit(self._learn, node)

    def stop(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _learn(self, node: NodeSeen) -> None:
        try:
            self.learn(node)
        except (PieceworkError, ValueError) as error:
            logger.warning("what %s has for jobs is not known: %s", node.instance_type, error)
            self._known.discard((node.pool, node.instance_type or ""))

    def learn(self, node: NodeSeen) -> None:
        """Writes down what one node has for jobs."""
        pods = self._kube.list(POD, fields=f"spec.nodeName={node.name}").items
        namespace = self._pools[node.pool].namespace
        value = json.dumps(left_for_jobs(node.allocatable, pods))
        data = {str(node.instance_type): value}
        if self._kube.patch(CONFIG_MAP, LEARNED, {"data": data}, namespace) is None:
            metadata = {"name": LEARNED, "namespace": namespace}
            try:
                self._kube.create(CONFIG_MAP, {"metadata": metadata, "data": data})
            except AlreadyThereError:
                self._kube.patch(CONFIG_MAP, LEARNED, {"data": data}, namespace)


def left_for_jobs(
    allocatable: Mapping[str, str], pods: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """What the node offers, less what the pods of DaemonSets on it ask for."""
    cpu = parse_cpu(allocatable["cpu"])
    memory = Memory.parse(allocatable["memory"]).bytes
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
