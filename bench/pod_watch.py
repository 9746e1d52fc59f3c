"""What happened to pods, as a watch of the bench's own saw it, whoever made them.

In: a cluster. Out: one `PodTimes` a pod, also of those that are gone, with the times that
Kubernetes wrote on it (whole seconds, cut) and to which of a bench's jobs it belonged: by the
labels of KubernetesPodOperator, or by what piecework asks for in its annotation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from piecework.clock import from_text
from piecework.kube.client import POD, Kube
from piecework.kube.watch import Mirror
from piecework.plan import labels
from testbed.place import Place

_SYNC_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class PodTimes:
    """One pod: `pipeline_run`, `task` and `map_index` say whose; None is what has not happened."""

    namespace: str
    name: str
    pipeline_run: str
    task: str
    map_index: int
    created: datetime
    node: str | None = None
    started: datetime | None = None
    ended: datetime | None = None


class PodWatch:
    """All pods that there were since it began, by their uid."""

    def __init__(self) -> None:
        self.pods: dict[str, PodTimes] = {}

    def take(self, change: str, pod: dict[str, Any]) -> None:
        """Takes note of one change."""
        del change
        if not pod:
            return
        seen = read_pod(pod)
        known = self.pods.get(pod["metadata"]["uid"])
        if known is not None:
            seen = replace(
                seen,
                node=seen.node or known.node,
                started=seen.started or known.started,
                ended=seen.ended or known.ended,
            )
        self.pods[pod["metadata"]["uid"]] = seen

    def of(self, namespace: str) -> list[PodTimes]:
        """The pods of a namespace, in the order in which they were made."""
        found = (pod for pod in list(self.pods.values()) if pod.namespace == namespace)
        return sorted(found, key=lambda pod: pod.created)


@contextmanager
def watching(here: Place) -> Iterator[PodWatch]:
    """Watches all pods of a testbed."""
    watch = PodWatch()
    mirror = Mirror(Kube.connect(here.admin), POD, on_change=watch.take)
    mirror.start()
    try:
        if not mirror.wait_synced(_SYNC_SECONDS):
            raise TimeoutError(f"the pods are not known after {_SYNC_SECONDS:.0f} s")
        yield watch
    finally:
        mirror.stop()


def read_pod(pod: dict[str, Any]) -> PodTimes:
    """What one state of a pod says."""
    metadata = pod["metadata"]
    labelled = metadata.get("labels") or {}
    request = (metadata.get("annotations") or {}).get(labels.REQUEST)
    asked = json.loads(request) if request else {}
    owner = asked.get("owner") or {}
    started = ended = None
    for container in (pod.get("status") or {}).get("containerStatuses") or ():
        state = container.get("state") or {}
        told = state.get("terminated") or state.get("running") or {}
        started = started or _time(told.get("startedAt"))
        ended = ended or _time(told.get("finishedAt"))
    return PodTimes(
        namespace=metadata["namespace"],
        name=metadata["name"],
        pipeline_run=asked.get("pipeline_run") or labelled.get("run_id", ""),
        task=owner.get("task_id") or labelled.get("task_id", ""),
        map_index=int(owner.get("map_index", labelled.get("map_index", -1))),
        created=from_text(metadata["creationTimestamp"]),
        node=pod["spec"].get("nodeName"),
        started=started,
        ended=ended,
    )


def _time(text: str | None) -> datetime | None:
    return from_text(text) if text else None
