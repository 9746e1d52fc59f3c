"""Wakes a trigger when something about its run has changed.

In: rings, from any thread. Out: a trigger's coroutine goes on. Thousands of waiting triggers cost
nothing that way but their memory: one thread watches the cluster for all of them (kube/watch.py),
and only those whose runs have changed look.
"""

from __future__ import annotations

import asyncio

#: What can wait is told in one go.
SOON_SECONDS = 1.0


class Bell:
    """One trigger's. Made in the event loop in which it is waited for."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._rung = asyncio.Event()
        self._soon: asyncio.TimerHandle | None = None

    def ring(self) -> None:
        """Says that there is something to look at. For any thread; never waits, never fails."""
        try:
            self._loop.call_soon_threadsafe(self._rung.set)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more

    def ring_soon(self) -> None:
        """The same within a second, once for all that is said until then: lines of a log."""
        try:
            self._loop.call_soon_threadsafe(self._wind)
        except RuntimeError:
            return

    def _wind(self) -> None:
        if self._soon is None:
            self._soon = self._loop.call_later(SOON_SECONDS, self._strike)

    def _strike(self) -> None:
        self._soon = None
        self._rung.set()

    async def wait(self, timeout_seconds: float) -> None:
        """Waits for a ring since the last wait, at most as long as said."""
        try:
            await asyncio.wait_for(self._rung.wait(), timeout_seconds)
        except TimeoutError:
            return
        self._rung.clear()
