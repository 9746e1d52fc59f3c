"""A live copy of the objects of one kind, kept by one watch for all who want to know.

Enters: a list, then the events of a watch, for ever. Leaves: `objects`, always whole, and a call
for every change. A watch that ends or breaks goes on where it was; one whose place the server has
forgotten (its history is compacted every five minutes) begins anew with a list, whose differences
to what was known are told as changes, so nothing is missed but what came and went in between.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from piecework.errors import PieceworkError
from piecework.kube.client import ExpiredError, Kind, Kube, Object, Stream
from piecework.kube.transport import UnreachableError

logger = logging.getLogger(__name__)

#: Namespace ("" where the kind has none) and name.
Key = tuple[str, str]
#: Called with ADDED, MODIFIED, DELETED and the object; or with SYNCED and {} after each list.
OnChange = Callable[[str, Object], object]


@dataclass(frozen=True, slots=True)
class Pace:
    """How quickly a mirror tries again, and how long one watch lasts, in seconds.

    The pause doubles from `first` to `longest`, each time with up to a half more at random, so
    that the mirrors of a restarted API server do not come all at once.
    """

    first_seconds: float = 0.2
    longest_seconds: float = 10.0
    watch_seconds: int = 300


def key_of(obj: Object) -> Key:
    """Where a mirror has the object."""
    metadata = obj["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


class Mirror(threading.Thread):
    """The objects of one kind, in one namespace or all, as last heard of.

    `objects` is replaced as a whole and never changed, so whoever took it may read on. Objects come
    without `managedFields`, which nobody here reads. `error` says what went wrong last, None while
    all is well. `on_change` is called by the mirror's own thread, after `objects` is up to date.
    """

    def __init__(
        self,
        kube: Kube,
        kind: Kind,
        namespace: str | None = None,
        *,
        labels: str = "",
        on_change: OnChange | None = None,
        pace: Pace | None = None,
    ) -> None:
        super().__init__(daemon=True, name=f"mirror of {kind.plural}")
        self.kube = kube
        self.kind = kind
        self.namespace = namespace
        self.labels = labels
        self.objects: Mapping[Key, Object] = {}
        self.synced = threading.Event()
        self.error: str | None = None
        self._on_change = on_change
        self._pace = pace or Pace()
        self._pause = self._pace.first_seconds
        # Of its own: nobody else's sequence depends on how often this one waits.
        self._random = random.Random()  # noqa: S311 - no secret
        self._version = ""
        self._stopping = threading.Event()
        self._stream: Stream[tuple[str, Object]] | None = None

    def run(self) -> None:
        """Lists and watches until `stop`."""
        while not self._stopping.is_set():
            try:
                if not self._version:
                    self._list()
                self._watch()
            except ExpiredError:
                self._version = ""
            except PieceworkError as error:
                self.error = str(error)
                if not isinstance(error, UnreachableError) or self._is_at_longest():
                    self._version = ""  # where the connection broke the watch goes on
                self._wait()

    def wait_synced(self, timeout_seconds: float) -> bool:
        """Whether all objects are known, after waiting for that."""
        return self.synced.wait(timeout_seconds)

    def stop(self) -> None:
        """Ends the mirror soon; can be called from any thread, and twice."""
        self._stopping.set()
        stream = self._stream
        if stream is not None:
            stream.close()

    def _list(self) -> None:
        listing = self.kube.list(self.kind, self.namespace, labels=self.labels)
        before = self.objects
        found = {key_of(obj): _slim(obj) for obj in listing.items}
        self.objects = found
        self._version = listing.resource_version
        self.error = None
        for key, obj in found.items():
            old = before.get(key)
            if old is None:
                self._tell("ADDED", obj)
            elif old["metadata"].get("uid") != obj["metadata"].get("uid"):
                self._tell("DELETED", old)
                self._tell("ADDED", obj)
            elif _version(old) != _version(obj):
                self._tell("MODIFIED", obj)
        for key, old in before.items():
            if key not in found:
                self._tell("DELETED", old)
        self.synced.set()
        self._tell("SYNCED", {})

    def _watch(self) -> None:
        began = time.monotonic()
        stream = self.kube.watch(
            self.kind,
            self.namespace,
            self._version,
            labels=self.labels,
            timeout_seconds=self._pace.watch_seconds,
        )
        self.error = None
        self._stream = stream
        if self._stopping.is_set():  # `stop` may have looked before the stream was there
            stream.close()
        try:
            for change, obj in stream:
                self._pause = self._pace.first_seconds
                self._take(change, obj)
        finally:
            self._stream = None
            stream.close()
        if time.monotonic() - began < 1.0:
            self._wait()  # a server that ends every watch at once is not asked without a pause

    def _take(self, change: str, obj: Object) -> None:
        self._version = _version(obj) or self._version
        if change == "BOOKMARK":
            return
        objects = dict(self.objects)
        key = key_of(obj)
        obj = _slim(obj)
        if change == "DELETED":
            objects.pop(key, None)
        else:
            objects[key] = obj
        self.objects = objects
        self._tell(change, obj)

    def _tell(self, change: str, obj: Object) -> None:
        if self._on_change is None:
            return
        try:
            self._on_change(change, obj)
        except Exception:  # a listener's mistake must not blind everybody else
            logger.exception("%s: %s was not taken by its listener", self.name, change)

    def _is_at_longest(self) -> bool:
        return self._pause >= self._pace.longest_seconds

    def _wait(self) -> None:
        self._stopping.wait(self._pause * (1 + self._random.random() / 2))
        self._pause = min(self._pace.longest_seconds, self._pause * 2)


def _version(obj: Object) -> str:
    version: str = obj["metadata"].get("resourceVersion", "")
    return version


def _slim(obj: Object) -> Object:
    obj["metadata"].pop("managedFields", None)
    return obj
