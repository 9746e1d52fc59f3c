"""Looks after SparkApplications: what stands for a pod that the Spark operator has not made yet.

Enters: the applications of the pools that have an operator, and what is known of their drivers'
pods. Leaves: an end for those of which no driver comes in time, the record of those that never had
one, and none of those that are over. As soon as there is a driver's pod, all that matters is done
with that; here, its application is only removed after it.

The operator may stop at any time, also for good, so nothing waits for it: an application without a
driver buys nothing, and a second driver of one attempt must never be made.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from piecework.errors import ClusterError
from piecework.keeper.cluster.finish import UNREAD
from piecework.keeper.cluster.record import events_of_attempt
from piecework.keeper.cluster.snapshot import PodKey, PodSeen, Snapshot, gather, read_pod
from piecework.kube.client import POD, SPARK_APPLICATION, Kube, Object, RefusedError
from piecework.kube.watch import Mirror
from piecework.ledger.events import Event, Outcome
from piecework.plan import labels
from piecework.runners.pod_view import as_gone
from piecework.runners.pods import End, attempt_of, end_of
from piecework.runners.spark_operator import (
    ended,
    is_over,
    stand_in,
    waits_for,
    waits_since,
    was_submitted,
    would_rerun,
)
from piecework.spec.pool import Pool
from piecework.units import format_duration

logger = logging.getLogger(__name__)

#: Deletions that happened while another keeper was acting; more are told by nobody.
_MOST_DELETED = 1000


@dataclass(frozen=True, slots=True)
class Step:
    """What is to be done with one application, and why."""

    kind: Literal["end", "remove"]
    why: str


def judge(application: Object, driver: PodSeen | None, pool: Pool, now: datetime) -> Step | None:
    """What is to be done with the application; None: nothing, for now. Pure.

    `driver` is its driver's pod, while there is one.
    """
    if application["metadata"].get("deletionTimestamp"):
        return None
    if driver is not None:
        again = would_rerun(application) and driver.over is not None
        return Step("remove", "its driver has ended, and would be run again") if again else None
    if not is_over(application):
        if now - waits_since(application) < pool.start_timeout:
            return None
        limit = format_duration(pool.start_timeout)
        return Step("end", f"there was no driver after {limit}: it {waits_for(application)}")
    if would_rerun(application):
        return Step("remove", "its driver is gone, and would be run again")
    end = end_of(stand_in(application))
    if labels.SEEN in (application["metadata"].get("annotations") or {}):
        return Step("remove", "its end was read")
    unread = end is not None and now - end.at > UNREAD
    return Step("remove", "nobody has asked for its end") if unread else None


class Applications:
    """Watches them, and does what is to be done, one after another, in a thread of its own."""

    def __init__(
        self,
        kube: Kube,
        pools: Mapping[str, Pool],
        put: Callable[[Iterable[Event]], object],
    ) -> None:
        self._kube = kube
        self._put = put
        self._pools = {pool.name: pool for pool in pools.values() if pool.spark_operator}
        self._deleted: deque[Object] = deque(maxlen=_MOST_DELETED)
        self._busy: set[str] = set()
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="applications")
        self._mirrors = [
            Mirror(kube, SPARK_APPLICATION, namespace, labels=labels.POOL, on_change=self._take)
            for namespace in {pool.namespace for pool in self._pools.values()}
        ]

    def start(self) -> None:
        """Begins to list and watch."""
        for mirror in self._mirrors:
            mirror.start()

    def stop(self) -> None:
        for mirror in self._mirrors:
            mirror.stop()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def look(self, snapshot: Snapshot) -> None:
        """Begins to do what is to be done."""
        while self._deleted:
            application = self._deleted.popleft()
            if _driver(application) not in snapshot.pods and not was_submitted(application):
                self._tell(as_gone(stand_in(application)), snapshot.now)
        for mirror in self._mirrors:
            for application in mirror.objects.values():
                pool = self._pools.get(application["metadata"]["labels"].get(labels.POOL))
                if pool is None:
                    continue
                pod = snapshot.pods.get(_driver(application))
                if pod is None and is_over(application) and not was_submitted(application):
                    self._tell(stand_in(application), snapshot.now)
                step = judge(application, pod, pool, snapshot.now)
                if step is not None:
                    self._begin(application, step, snapshot.now)

    def _take(self, change: str, application: Object) -> None:
        if change == "DELETED":
            self._deleted.append(application)

    def _begin(self, application: Object, step: Step, now: datetime) -> None:
        uid = application["metadata"]["uid"]
        with self._lock:
            if uid in self._busy:
                return
            self._busy.add(uid)
        self._thread.submit(self._do, application, step, now)

    def _do(self, application: Object, step: Step, now: datetime) -> None:
        metadata = application["metadata"]
        name, namespace = metadata["name"], metadata["namespace"]
        try:
            driver = self._kube.get(POD, _driver(application)[1], namespace)
            if driver is not None and not would_rerun(application):
                return  # made a moment ago: it tells by itself how it is
            logger.info("%s SparkApplication %s/%s: %s", step.kind, namespace, name, step.why)
            if step.kind == "end":
                self._end(application, End(Outcome.NEVER_STARTED, step.why, now))
            else:
                self._kube.delete(SPARK_APPLICATION, name, namespace, uid=metadata["uid"])
        except ClusterError as error:
            logger.warning("SparkApplication %s/%s stays for now: %s", namespace, name, error)
        finally:
            with self._lock:
                self._busy.discard(metadata["uid"])

    def _end(self, application: Object, end: End) -> None:
        """Writes its end on it, and has the operator leave it alone, should that come back."""
        metadata = application["metadata"]
        name, namespace = metadata["name"], metadata["namespace"]
        self._tell(ended(stand_in(application), end), end.at)
        note = {"metadata": {"annotations": {labels.END: end.to_json()}}, "spec": {"suspend": True}}
        try:
            self._kube.patch(SPARK_APPLICATION, name, note, namespace)
        except ClusterError:  # what the operator itself has to admit, and does not answer
            self._kube.delete(SPARK_APPLICATION, name, namespace, uid=metadata["uid"])

    def _tell(self, pod: Object, now: datetime) -> None:
        """Tells the ledger of an attempt that had no driver; of one that had, its pod tells."""
        with suppress(KeyError, ValueError):  # what somebody else wrote may be anything
            seen = read_pod(pod)
            if seen is not None and seen.over is not None:
                self._put(events_of_attempt(gather(attempt_of(pod), [seen]), {}, now))


def remove_unstarted(kube: Kube, pods: Iterable[Object], pools: Collection[str]) -> None:
    """Removes the applications of these pools that have no driver among the pods, nor ever will.

    Those with a driver go with it, or are left to people, as running pods are. Raises ClusterError.
    """
    known = {(pod["metadata"]["namespace"], pod["metadata"]["name"]) for pod in pods}
    try:
        found = kube.list(SPARK_APPLICATION, labels=labels.POOL).items
    except RefusedError:  # there is no such kind, or these pools have nothing to do with it
        return
    for application in found:
        metadata = application["metadata"]
        if metadata["labels"][labels.POOL] in pools and _driver(application) not in known:
            kube.delete(SPARK_APPLICATION, metadata["name"], metadata["namespace"])


def _driver(application: Object) -> PodKey:
    """Where its driver's pod is, or will be."""
    return application["metadata"]["namespace"], application["spec"]["driver"]["podName"]
