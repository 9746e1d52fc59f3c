"""What one process knows of piecework's pods in one namespace: one watch, shared by all runs.

Enters: what the API server tells, and what this process itself has just written there. Leaves: the
pods of a run or an attempt, those included that were there a while ago, and a word to whoever
listens whenever something changes. A thousand runs that wait cost one connection.

The pods are the attempts' own; what an engine makes for an attempt while it runs is not among them.
Where the Spark operator makes drivers' pods, a second watch tells of its SparkApplications, and
each stands for its driver's pod until that is there.
"""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from piecework import clock
from piecework.errors import ClusterError
from piecework.kube.client import POD, SPARK_APPLICATION, Kube, Object
from piecework.kube.watch import Key, Mirror, key_of
from piecework.plan import labels
from piecework.runners.pods import is_final
from piecework.runners.spark_operator import is_stand_in, knows_better, stand_in

T = TypeVar("T")
#: Selects the attempts' own pods, not those that their engines make.
OTHERS_LEFT_OUT = f"{labels.ROLE}!={labels.FOLLOWER}"
#: How long the first list may take.
SYNC_SECONDS = 30.0
#: How long what this process wrote itself counts, where the watch has not told it yet.
_OWN_SECONDS = 30.0
#: How long a pod that is gone is remembered, for whoever had not asked yet how it ended.
_GONE_SECONDS = 900.0


class PodView:
    """The pods of one namespace. Any number of threads may ask."""

    def __init__(self, kube: Kube, namespace: str, *, applications: bool = False) -> None:
        """`applications`: the namespace has SparkApplications, too."""
        self.kube = kube
        self.namespace = namespace
        self._lock = threading.Lock()
        self._versions: dict[str, int] = defaultdict(int)
        self._listeners: dict[str, list[Callable[[], object]]] = defaultdict(list)
        # By the label of their run, then by their place: as told, as written by this process
        # (and when), and as last seen of those that are gone.
        self._runs: dict[str, dict[Key, Object]] = {}
        self._own: dict[str, dict[Key, tuple[float, Object]]] = {}
        self._gone: dict[str, dict[Key, tuple[float, Object]]] = {}
        self._gone_at: deque[tuple[float, str, Key]] = deque()
        # What stands for pods that the Spark operator has not made yet, by the same places.
        self._stand_ins: dict[str, dict[Key, Object]] = {}
        own = f"{labels.RUN},{OTHERS_LEFT_OUT}"
        self._mirror = Mirror(kube, POD, namespace, labels=own, on_change=self._take)
        self._applications: Mirror | None = None
        if applications:
            self._applications = Mirror(
                kube, SPARK_APPLICATION, namespace, labels=labels.RUN, on_change=self._take_stand_in
            )
            self._applications.start()
        self._mirror.start()

    def close(self) -> None:
        """Ends the watch."""
        self._mirror.stop()
        if self._applications is not None:
            self._applications.stop()

    def pods(self, run_label: str) -> list[Object]:
        """The pods of a run, those that are gone since a short while included.

        Raises ClusterError where the API server has not answered yet.
        """
        self._wait_synced()
        now = time.monotonic()
        with self._lock:
            found = dict(self._stand_ins.get(run_label, {}))
            found |= {key: obj for key, (_, obj) in self._gone.get(run_label, {}).items()}
            found.update(self._runs.get(run_label, {}))
            own = self._own.get(run_label, {})
            for key, (at, obj) in list(own.items()):
                if now - at > _OWN_SECONDS:
                    del own[key]
                elif key not in found or is_older(found[key], obj):
                    found[key] = obj
            for key, instead in self._stand_ins.get(run_label, {}).items():
                if knows_better(instead, found[key]):
                    found[key] = instead
        return list(found.values())

    def runs(self) -> list[str]:
        """The labels of all runs that have pods."""
        self._wait_synced()
        with self._lock:
            return list(dict.fromkeys([*self._runs, *self._own, *self._stand_ins]))

    def note(self, obj: Object) -> None:
        """Takes an object that this process got as an answer, before the watch tells it."""
        run = _run_of(obj)
        with self._lock:
            self._own.setdefault(run, {})[key_of(obj)] = (time.monotonic(), obj)
        self._tell(run)

    def version(self, run_label: str) -> int:
        """A number that grows whenever something changes about the run."""
        with self._lock:
            return self._versions[run_label]

    def listen(self, run_label: str, tell: Callable[[], object]) -> Callable[[], None]:
        """Has `tell` called, by the watch's thread, when something changed; returns how to stop."""
        with self._lock:
            self._listeners[run_label].append(tell)

        def stop() -> None:
            with self._lock:
                listeners = self._listeners.get(run_label, [])
                if tell in listeners:
                    listeners.remove(tell)
                if not listeners:
                    self._listeners.pop(run_label, None)

        return stop

    def wait(self, run_label: str, version: int, timeout_seconds: float) -> None:
        """Returns when the run's version is not this one any more, at the latest after the time."""
        changed = threading.Event()
        stop = self.listen(run_label, changed.set)
        try:
            if self.version(run_label) == version:
                changed.wait(timeout_seconds)
        finally:
            stop()

    def _wait_synced(self) -> None:
        self._wait_applications()
        if self._mirror.synced.is_set():
            return
        end = time.monotonic() + SYNC_SECONDS
        while not self._mirror.wait_synced(0.1):
            # What is refused at once will be refused again; silence may end.
            if self._mirror.error or time.monotonic() > end:
                raise ClusterError(
                    f"the pods of namespace {self.namespace} cannot be listed: "
                    f"{self._mirror.error or 'the API server is silent'}"
                )

    def _wait_applications(self) -> None:
        """Until they are known. Where they cannot be (their kind is not there), pods can."""
        mirror, end = self._applications, time.monotonic() + SYNC_SECONDS
        while mirror is not None and mirror.error is None and time.monotonic() < end:
            if mirror.wait_synced(0.1):
                return

    def _take_stand_in(self, change: str, application: Object) -> None:
        if change == "SYNCED":
            return
        obj = stand_in(application)
        key, run = key_of(obj), _run_of(obj)
        with self._lock:
            if change == "DELETED" or labels.SEEN in obj["metadata"]["annotations"]:
                _drop(self._stand_ins, run, key)
                own = self._own.get(run, {}).get(key)
                if own is not None and is_stand_in(own[1]):
                    _drop(self._own, run, key)
                    obj = own[1] if is_final(own[1]) else obj
                if change == "DELETED" and key not in self._gone.get(run, {}):
                    now = time.monotonic()
                    self._gone.setdefault(run, {})[key] = (now, as_gone(obj))
                    self._gone_at.append((now, run, key))
            else:
                self._stand_ins.setdefault(run, {})[key] = obj
        self._tell(run)

    def _take(self, change: str, obj: Object) -> None:
        if change == "SYNCED":
            return
        key, run = key_of(obj), _run_of(obj)
        with self._lock:
            if change == "DELETED":
                _drop(self._own, run, key)
                _drop(self._runs, run, key)
                now = time.monotonic()
                self._gone.setdefault(run, {})[key] = (now, as_gone(obj))
                self._gone_at.append((now, run, key))
            else:
                self._runs.setdefault(run, {})[key] = obj
                _drop(self._gone, run, key)
                own = self._own.get(run, {}).get(key)
                if own is not None and not is_older(obj, own[1]):
                    _drop(self._own, run, key)
            self._forget()
        self._tell(run)

    def _forget(self) -> None:
        """Drops what is gone for long."""
        end = time.monotonic() - _GONE_SECONDS
        while self._gone_at and self._gone_at[0][0] < end:
            at, run, key = self._gone_at.popleft()
            if self._gone.get(run, {}).get(key, (0.0,))[0] == at:  # else it was there again
                _drop(self._gone, run, key)

    def _tell(self, run_label: str) -> None:
        with self._lock:
            self._versions[run_label] += 1
            listeners = list(self._listeners.get(run_label, ()))
        for tell in listeners:
            tell()


def as_gone(obj: Object) -> Object:
    """The last that was seen of a pod that is not there any more: its end, whatever it was then."""
    if is_final(obj):
        return obj
    metadata = {
        "deletionTimestamp": clock.to_text(clock.now()),
        **obj["metadata"],
        "deletionGracePeriodSeconds": 0,
    }
    return {**obj, "metadata": metadata}


def is_older(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether the first of two versions of an object came before the second.

    Versions are numbers since Kubernetes 1.35 says that they are; before, they were in fact.
    """
    if first["metadata"].get("uid") != second["metadata"].get("uid"):
        mine, other = (str(o["metadata"].get("creationTimestamp")) for o in (first, second))
        return mine < other
    versions = [each["metadata"].get("resourceVersion", "") for each in (first, second)]
    if all(version.isdigit() for version in versions):
        return int(versions[0]) < int(versions[1])
    return False


def view_of(
    kubeconfig: Path | None, context: str | None, namespace: str, *, applications: bool = False
) -> PodView:
    """The process's one view of that namespace; a forked process makes its own.

    Raises ConfigError where there is no such cluster.
    """
    key = (kubeconfig, context, namespace, applications)
    with _Views.lock:
        if key not in _Views.views:
            kube = Kube.connect(kubeconfig, context)
            _Views.views[key] = PodView(kube, namespace, applications=applications)
        return _Views.views[key]


class _Views:
    """The views of this process."""

    lock = threading.Lock()
    views: ClassVar[dict[tuple[Path | None, str | None, str, bool], PodView]] = {}


def _start_anew() -> None:
    """The watches' threads, and whoever held the lock, are not there in a forked process."""
    _Views.lock, _Views.views = threading.Lock(), {}


os.register_at_fork(after_in_child=_start_anew)


def _run_of(obj: Mapping[str, Any]) -> str:
    value: str = (obj["metadata"].get("labels") or {}).get(labels.RUN, "")
    return value


def _drop(runs: dict[str, dict[Key, T]], run: str, key: Key) -> None:
    objects = runs.get(run)
    if objects is not None:
        objects.pop(key, None)
        if not objects:
            del runs[run]
