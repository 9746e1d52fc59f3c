"""The ledger: events go in, once each, and answers made from them come out.

    with open_ledger("sqlite:////home/me/.piecework/ledger.sqlite") as ledger:
        ledger.append(events)

Everything here can be done twice, by several processes at the same time. Errors are LedgerError;
`retryable` says whether the same call may work later.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, Engine, select

from piecework import clock
from piecework.errors import LedgerError
from piecework.ledger import sums
from piecework.ledger.audit import Verification, rebuild, verify
from piecework.ledger.connection import connect, describe, reading, writing
from piecework.ledger.events import Event
from piecework.ledger.occupancy import Timeline
from piecework.ledger.schema import EVENTS

#: Events in one transaction: enough that its cost is small, few enough that others get their turn.
_TRANSACTION = 5000


class Ledger:
    """An open ledger. Made by `open_ledger`; close it, or use it in a `with`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{describe(self._engine.url)}>"

    def close(self) -> None:
        """Closes the connections; what was appended stays."""
        self._engine.dispose()

    def append(self, events: Iterable[Event]) -> int:
        """Records events and returns how many of them were new. One call may hold many.

        An event whose identity is known changes nothing. At most 5,000 events are recorded in one
        transaction, with the answers made from them: all of these count, or none.
        """
        return sum(self._append(batch) for batch in sums.batches(events, _TRANSACTION))

    def _append(self, batch: list[Event]) -> int:
        events = {event.identity: event for event in reversed(batch)}
        # Most repeats are whole spools that are read again; they shall not queue for writing.
        with reading(self._engine) as connection:
            seen = sums.last_row(connection)
            _drop_known(connection, events)
        if not events:
            return 0
        rows = [self._row(event, identity) for identity, event in reversed(events.items())]
        with writing(self._engine) as connection:
            if sums.last_row(connection) != seen:
                _drop_known(connection, events)
                rows = [row for row in rows if row["identity"].hex() in events]
            if rows:
                sums.refresh(connection, list(events.values()))
                sums.insert_new(connection, rows)
        return len(rows)

    def _row(self, event: Event, identity: str) -> dict[str, Any]:
        try:
            return sums.row_of(event, identity)
        except (TypeError, ValueError) as error:
            raise LedgerError(
                f"{self!r}: the event {event.kind} of {event.subject!r} cannot be recorded: {error}"
            ) from error

    def events(
        self, subjects: Iterable[str] | None = None, since: datetime | None = None
    ) -> list[Event]:
        """The events about these subjects (else all) from a time on, as they were written."""
        with reading(self._engine) as connection:
            if subjects is None:
                return sums.select_all_events(connection, since)
            found = sums.select_events(connection, dict.fromkeys(subjects))
        return [event for event in found if since is None or event.at >= since]

    def timeline(self, attempts: Iterable[str] = (), machines: Iterable[str] = ()) -> Timeline:
        """These attempts with all of their machines, these machines, and all that had these."""
        wanted = list(attempts)
        with reading(self._engine) as connection:
            found = sums.machines_of(connection, wanted) | set(machines)
            return sums.timeline_of(connection, found, wanted)

    def verify(self, now: datetime | None = None) -> Verification:
        """Computes all bills and charges from the events alone; compares the answers with them."""
        with reading(self._engine) as connection:
            return verify(connection, now or clock.now())

    def rebuild(self) -> None:
        """Makes all answers anew from the events; the result is the same, to the billionth."""
        with writing(self._engine) as connection:
            rebuild(connection)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction for reports: one consistent state, read only."""
        with reading(self._engine) as connection:
            yield connection


def open_ledger(url: str, timeout_seconds: float = 30) -> Ledger:
    """Opens the ledger at a URL (sqlite:///PATH, postgresql://USER@HOST/DATABASE).

    Creates and migrates it where needed; several processes may do so at the same time. Waits at
    most `timeout_seconds` for other writers. Raises LedgerError.
    """
    return Ledger(connect(url, timeout_seconds))


def _drop_known(connection: Connection, events: dict[str, Event]) -> None:
    for batch in sums.batches([bytes.fromhex(identity) for identity in events]):
        query = select(EVENTS.c.identity).where(EVENTS.c.identity.in_(batch))
        for identity in connection.execute(query).scalars():
            del events[bytes(identity).hex()]
