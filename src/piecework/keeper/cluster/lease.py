"""Which keeper acts: the one that holds the Lease `piecework-keeper`.

Enters: this keeper's identity. Leaves: `is_held`, which is True only while nobody else can hold it:
it turns False by this process's own clock before the lease runs out, whether or not the API server
answers. Another keeper waits until a lease has not changed for its whole length, by its own clock,
so that clocks need not agree.
"""

from __future__ import annotations

import logging
import threading
import time
from datetime import datetime

from piecework import clock
from piecework.errors import PieceworkError
from piecework.kube.client import LEASE, AlreadyThereError, ConflictError, Kube, Object

logger = logging.getLogger(__name__)

NAME = "piecework-keeper"
LEASE_SECONDS = 10
RENEW_SECONDS = 2.0


class Lease(threading.Thread):
    """Takes the lease when it can, and renews it."""

    def __init__(
        self,
        kube: Kube,
        namespace: str,
        identity: str,
        *,
        lease_seconds: int = LEASE_SECONDS,
        renew_seconds: float = RENEW_SECONDS,
    ) -> None:
        super().__init__(daemon=True, name="lease")
        self.identity = identity
        self.holder: str | None = None
        self._kube = kube
        self._namespace = namespace
        self._lease_seconds = lease_seconds
        self._renew_seconds = renew_seconds
        self._held_until = 0.0
        self._seen: tuple[str, float] = ("", 0.0)
        self._stopping = threading.Event()

    def is_held(self) -> bool:
        """Whether this keeper may act now."""
        return time.monotonic() < self._held_until

    def run(self) -> None:
        """Until `stop`."""
        while not self._stopping.is_set():
            self.renew()
            self._stopping.wait(self._renew_seconds)

    def renew(self) -> None:
        """One try to take or renew it."""
        began = time.monotonic()
        was_held = self.is_held()
        try:
            held = self._try()
        except (ConflictError, AlreadyThereError):
            held = False
        except PieceworkError as error:
            logger.warning("the lease could not be renewed: %s", error)
            return
        if held:
            # Others count from when they see it; this process counts from before it asked.
            self._held_until = began + self._lease_seconds - self._renew_seconds
            if not was_held:
                logger.info("%s is the keeper now", self.identity)
        else:
            self._held_until = 0.0
            if was_held:
                logger.warning("%s is the keeper no more; it is %s", self.identity, self.holder)

    def stop(self) -> None:
        """Gives the lease up, so that another keeper need not wait."""
        self._stopping.set()
        if not self.is_held():
            return
        self._held_until = 0.0
        try:
            lease = self._kube.get(LEASE, NAME, self._namespace)
            if lease is not None and lease["spec"].get("holderIdentity") == self.identity:
                lease["spec"]["holderIdentity"] = ""
                self._kube.replace(LEASE, lease)
        except PieceworkError as error:
            logger.warning("the lease could not be given up: %s", error)

    def _try(self) -> bool:
        lease = self._kube.get(LEASE, NAME, self._namespace)
        now = clock.now()
        if lease is None:
            self._kube.create(LEASE, self._new(now))
            self.holder = self.identity
            return True
        spec = lease["spec"]
        self.holder = spec.get("holderIdentity") or None
        version = lease["metadata"]["resourceVersion"]
        if self._seen[0] != version:
            self._seen = (version, time.monotonic())
        patience = spec.get("leaseDurationSeconds") or self._lease_seconds
        fresh = time.monotonic() - self._seen[1] < patience
        if self.holder not in (None, self.identity) and fresh:
            return False
        if self.holder != self.identity:
            spec["leaseTransitions"] = (spec.get("leaseTransitions") or 0) + 1
            spec["acquireTime"] = _micro(now)
        spec.update(
            holderIdentity=self.identity,
            renewTime=_micro(now),
            leaseDurationSeconds=self._lease_seconds,
        )
        self._kube.replace(LEASE, lease)
        self.holder = self.identity
        return True

    def _new(self, now: datetime) -> Object:
        return {
            "metadata": {"name": NAME, "namespace": self._namespace},
            "spec": {
                "holderIdentity": self.identity,
                "leaseDurationSeconds": self._lease_seconds,
                "acquireTime": _micro(now),
                "renewTime": _micro(now),
                "leaseTransitions": 0,
            },
        }


def _micro(at: datetime) -> str:
    return clock.to_text(at)
