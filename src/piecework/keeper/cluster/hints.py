"""What scheduler and autoscaler say about pods that find no machine.

Enters: attempts that were admitted some seconds ago and have no machine. Leaves: the last thing
that was said about each, from the cluster's events. Asked for a few at a time, in a thread of its
own: in a large cluster all events are far too many to watch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from piecework.errors import PieceworkError
from piecework.keeper.cluster.asking import Asking
from piecework.keeper.cluster.snapshot import PodKey, Snapshot
from piecework.kube.client import EVENT, Kube

logger = logging.getLogger(__name__)

#: Between two rounds, in seconds, and how many pods are asked about in one.
INTERVAL_SECONDS = 5.0
MOST_AT_ONCE = 10
#: Nobody is asked about before.
PATIENCE = timedelta(seconds=8)
_TELLING = {
    "NotTriggerScaleUp": "the autoscaler buys nothing: ",
    "FailedToScaleUp": "the autoscaler could not buy: ",
    "FailedScheduling": "",
    "FailedScaleUp": "the autoscaler could not buy: ",
    "NoCompatibleInstanceTypes": "",
    "InsufficientCapacityError": "",
}
#: Who buys for other pools: what it says of a pool's pods is that it does not buy for them.
_STRANGERS = {"karpenter": "cluster-autoscaler", "asg": "karpenter"}
_LONGEST = 300


class Hints(Asking):
    """Asks about pods without a machine, in turns."""

    def __init__(self, kube: Kube, interval_seconds: float = INTERVAL_SECONDS) -> None:
        super().__init__("hints", interval_seconds)
        #: What was said, by attempt. Replaced, never changed.
        self.found: Mapping[str, str] = {}
        self._kube = kube
        #: By attempt: a pod of it, and the provider of its pool.
        self._wanted: dict[str, tuple[PodKey, str]] = {}

    def look(self, snapshot: Snapshot) -> None:
        """Takes the pods that have waited for a while."""
        wanted: dict[str, tuple[PodKey, str]] = {}
        for pods in snapshot.unbound.values():
            for pod in pods:
                if pod.follower or pod.admitted_at is None:
                    continue
                if snapshot.now - pod.admitted_at > PATIENCE:
                    provider = snapshot.pools[pod.pool].provider
                    wanted.setdefault(pod.attempt, (pod.key, provider))
        self._wanted = wanted

    def round(self) -> None:
        """Asks about the next few."""
        wanted = self._wanted
        found = {name: said for name, said in self.found.items() if name in wanted}
        for name in self.next_few(wanted, MOST_AT_ONCE):
            (namespace, pod), provider = wanted[name]
            fields = f"involvedObject.kind=Pod,involvedObject.name={pod}"
            try:
                events = self._kube.list(EVENT, namespace, fields=fields).items
            except PieceworkError as error:
                logger.debug("no events of pod %s/%s: %s", namespace, pod, error)
                return
            said = choose_hint(events, provider)
            if said is not None:
                found[name] = said
        self.found = found


def choose_hint(events: Iterable[Mapping[str, Any]], provider: str) -> str | None:
    """The last thing that autoscaler or scheduler said, the autoscaler's before the scheduler's.

    A cluster may have both autoscalers; only the one that buys for pools of this provider counts.
    """
    stranger = _STRANGERS.get(provider)
    telling = [
        event
        for event in events
        if event.get("reason") in _TELLING and _component(event) != stranger
    ]
    if not telling:
        return None
    last = max(telling, key=lambda event: (_is_scheduler(event) is False, _when(event)))
    message = " ".join(str(last.get("message", "")).split())
    message = message if len(message) <= _LONGEST else message[:_LONGEST] + "..."
    return f"{_TELLING[last['reason']]}{message}"


def _component(event: Mapping[str, Any]) -> str:
    return str(event.get("reportingComponent") or event.get("source", {}).get("component", ""))


def _is_scheduler(event: Mapping[str, Any]) -> bool:
    return _component(event) in ("default-scheduler", "")


def _when(event: Mapping[str, Any]) -> str:
    series = event.get("series") or {}
    times = (
        series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"),
        event.get("metadata", {}).get("creationTimestamp"),
    )  # fmt: skip
    return next((str(at) for at in times if at), "")
