"""Carries events into the ledger, in a thread of its own: a ledger that is away stops nobody.

Enters: events, again and again. Leaves: each of them in the ledger once, and `written`, by which
the keeper knows what it may let go of. What a keeper that dies has not written yet is still on the
objects, whose finalizers are taken off only afterwards.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from datetime import datetime

from piecework import clock
from piecework.errors import LedgerError, PieceworkError
from piecework.ledger.events import Event, Kind

logger = logging.getLogger(__name__)

#: Records events and returns how many were new. Raises LedgerError.
Append = Callable[[Iterable[Event]], int]
#: What an event is about, so that it is written once.
Identity = tuple[str, Kind, int]
#: The last event about a subject: nothing follows it.
_LAST = (Kind.ATTEMPT_ENDED, Kind.MACHINE_GONE)
#: What is written as soon as it has happened; other events wait until all that they say is known.
_PROMPT = (
    Kind.MACHINE_READY,
    Kind.MACHINE_OCCUPIED,
    Kind.MACHINE_VACATED,
    Kind.MACHINE_GONE,
    Kind.ATTEMPT_SCHEDULED,
    Kind.ATTEMPT_STARTED,
    Kind.ATTEMPT_ENDED,
)


class Writer(threading.Thread):
    """Writes events in the order in which they come; tries again for ever."""

    def __init__(
        self,
        append: Append,
        on_written: Callable[[], object] = lambda: None,
        *,
        longest_pause_seconds: float = 5.0,
    ) -> None:
        super().__init__(daemon=True, name="writer")
        #: Attempts and machines whose end is in the ledger. Replaced, never changed.
        self.over: frozenset[str] = frozenset()
        self.error: str | None = None
        self._lags: list[float] = []
        self._append = append
        self._on_written = on_written
        self._longest_pause = longest_pause_seconds
        self._known: set[Identity] = set()
        self._pending: list[Event] = []
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._stopping = threading.Event()

    def put(self, events: Iterable[Event]) -> int:
        """Takes events; those it has had already are dropped. Returns how many are new to it."""
        with self._lock:
            new = [event for event in events if _identity(event) not in self._known]
            self._known.update(map(_identity, new))
            self._pending += new
        if new:
            self._news.set()
        return len(new)

    def forget(self, subjects: Iterable[str]) -> None:
        """These will not be told of again."""
        gone = set(subjects)
        with self._lock:
            self._known = {known for known in self._known if known[0] not in gone}
        self.over = self.over - gone

    def take_lags(self) -> list[float]:
        """How many seconds after they happened events were in the ledger, since the last call."""
        with self._lock:
            lags, self._lags = self._lags, []
        return lags

    @property
    def waiting(self) -> int:
        """How many events are not in the ledger yet."""
        return len(self._pending)

    def run(self) -> None:
        """Until `stop`, and then until nothing is left, for a moment."""
        while not self._stopping.is_set():
            self._news.wait(1.0)
            self._news.clear()
            self.flush()

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """Ends the thread, after one more try to write what is left."""
        self._stopping.set()
        self._news.set()
        if self.is_alive():
            self.join(timeout_seconds)

    def flush(self) -> None:
        """Writes all that is pending, however long that takes, unless it is stopped."""
        pause = 0.5
        while self._pending:
            with self._lock:
                batch = self._pending[:2000]
            try:
                self._append(batch)
            except LedgerError as error:
                self._fail(error)
                if self._stopping.wait(pause):
                    return
                pause = min(self._longest_pause, pause * 2)
                continue
            self._take_note(batch)

    def _take_note(self, batch: list[Event]) -> None:
        with self._lock:
            del self._pending[: len(batch)]
        if self.error is not None:
            logger.info("the ledger is back")
            self.error = None
        now = clock.now()
        lags = [_lag(event, now) for event in batch if event.kind in _PROMPT]
        with self._lock:
            self._lags = [*self._lags[-2000:], *lags]
        ended = {event.subject for event in batch if event.kind in _LAST}
        if ended:
            self.over = self.over | ended
        self._on_written()

    def _fail(self, error: PieceworkError) -> None:
        if self.error is None:
            logger.warning("the ledger is away; its events wait: %s", error)
        self.error = str(error)


def open_append(url: str) -> Append:
    """Appends to the ledger at a URL, which is opened when it is first needed."""
    from piecework.ledger.store import Ledger, open_ledger

    opened: list[Ledger] = []

    def append(events: Iterable[Event]) -> int:
        if not opened:
            opened.append(open_ledger(url))
        return opened[0].append(events)

    return append


def _identity(event: Event) -> Identity:
    return event.subject, event.kind, event.sequence


def _lag(event: Event, now: datetime) -> float:
    return max(0.0, (now - event.at).total_seconds())
