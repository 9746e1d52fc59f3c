"""Keeps the logs of ended pods before their machines go: STORE/logs/ATTEMPT.log.

Enters: pods that have ended. Leaves: their logs in the store, and the uids of those that are kept,
or that nobody can read any more. A log that does not come within its time is given up: a machine
is not paid for because of it.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Protocol

from piecework.errors import PieceworkError
from piecework.keeper.cluster.snapshot import PodSeen, Snapshot
from piecework.kube.client import Kube
from piecework.runners.store import Store as Place
from piecework.runners.store import make_folder_for

logger = logging.getLogger(__name__)

THREADS = 4
#: How long the copy of one log may take, in seconds.
LONGEST_SECONDS = 8.0


class Store(Protocol):
    """Where logs are kept."""

    def open(self, name: str) -> IO[bytes]:
        """A file of that name, to be written."""


class Logs:
    """Copies logs, a few at a time."""

    def __init__(self, kube: Kube, store: Store) -> None:
        #: Pods whose log is kept or given up, by uid. Replaced, never changed.
        self.kept: frozenset[str] = frozenset()
        self._kube = kube
        self._store = store
        self._begun: set[str] = set()
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="logs")

    def look(self, snapshot: Snapshot) -> None:
        """Begins to copy what has ended, and forgets what is gone."""
        there: set[str] = set()
        for attempt in snapshot.attempts.values():
            for pod in attempt.own:
                there.add(pod.uid)
                wanted = pod.over is not None and pod.started_at is not None and not pod.recorded
                if wanted and pod.uid not in self._begun:
                    self._begun.add(pod.uid)
                    self._threads.submit(self._keep, pod)
        with self._lock:
            self._begun &= there
            if self.kept - there:
                self.kept = self.kept & there

    def stop(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _keep(self, pod: PodSeen) -> None:
        try:
            self.copy(pod)
        except (PieceworkError, OSError, ValueError) as error:
            logger.warning("the log of pod %s cannot be kept: %s", "/".join(pod.key), error)
        except Exception:  # a store's library may raise anything; the machine must go
            logger.exception("the log of pod %s cannot be kept", "/".join(pod.key))
        with self._lock:
            self.kept = self.kept | {pod.uid}

    def copy(self, pod: PodSeen) -> None:
        """Copies one pod's log, as far as it comes in time."""
        namespace, name = pod.key
        deadline = time.monotonic() + LONGEST_SECONDS
        stream = self._kube.open_log(name, namespace, follow=False, timestamps=False)
        timer = threading.Timer(LONGEST_SECONDS, stream.close)
        timer.daemon = True
        timer.start()
        try:
            with self._store.open(log_name(pod)) as out:
                for piece in stream:
                    out.write(piece)
                    if time.monotonic() > deadline:
                        break
        finally:
            timer.cancel()
            stream.close()


def log_name(pod: PodSeen) -> str:
    """`logs/ATTEMPT.log`; of a gang's other pods `logs/ATTEMPT.INDEX.log`."""
    index = 0 if pod.request is None else pod.request.index
    return f"logs/{pod.attempt}.log" if index == 0 else f"logs/{pod.attempt}.{index}.log"


class FilesystemStore:
    """The store of the settings, at any URL that fsspec knows."""

    def __init__(self, store: Place) -> None:
        self._filesystem, self._root = store.file_system()

    def open(self, name: str) -> IO[bytes]:
        """See `Store`."""
        path = f"{self._root}/{name}"
        make_folder_for(self._filesystem, path)
        opened: IO[bytes] = self._filesystem.open(path, "wb")
        return opened
