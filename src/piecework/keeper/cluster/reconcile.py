"""Closes what the ledger believes to be alive and nobody knows any more.

Finalizers keep what the ledger lacks; but they can be taken off (by uninstalling, or by force), and
a cloud forgets. Then a meter in the ledger would run for ever. So a keeper that begins to act reads
what is open in the ledger, and closes what neither cluster nor cloud has: as of now, since nobody
can say when it went.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime

from piecework.errors import LedgerError
from piecework.keeper.cluster.record import SOURCE
from piecework.keeper.cluster.snapshot import Snapshot
from piecework.keeper.cluster.writer import Writer
from piecework.ledger.events import Event, Kind, Outcome
from piecework.ledger.occupancy import Timeline

logger = logging.getLogger(__name__)

#: Reads the machines and attempts that are open in the ledger. Raises LedgerError.
ReadOpen = Callable[[], Timeline]


class Reconciliation:
    """Done once, by the keeper that acts: reads first, and compares with a later snapshot."""

    def __init__(self, read_open: ReadOpen, writer: Writer) -> None:
        self._read_open = read_open
        self._writer = writer
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reconciliation")
        self._reading: Future[Timeline] | None = None
        self._done = False

    def look(self, snapshot: Snapshot) -> None:
        """Begins to read, or compares what was read with what there is."""
        if self._done:
            return
        if self._reading is None:
            self._reading = self._thread.submit(self._read_open)
            return
        if not self._reading.done():
            return
        try:
            found = self._reading.result()
        except LedgerError as error:
            logger.warning("what is open in the ledger is not known yet: %s", error)
            self._reading = None
            return
        events = close_vanished(found, snapshot, set(snapshot.pools))
        for event in events:
            logger.info("%s: %s, and nobody knows it any more", event.subject, event.kind)
        self._writer.put(events)
        self._done = True

    def stop(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


def close_vanished(found: Timeline, snapshot: Snapshot, pools: Collection[str]) -> list[Event]:
    """The ends of machines and attempts of these pools that are open and not there."""
    now, events = snapshot.now, []
    for machine in found.machines.values():
        is_open = machine.pool in pools and machine.gone_at is None
        if is_open and machine.id not in snapshot.machines:
            cause = "lost" if machine.released_at is None else "returned"
            events.append(_event(machine.id, Kind.MACHINE_GONE, now, cause=cause))
    for attempt in found.attempts.values():
        is_open = attempt.pool in pools and attempt.ended_at is None
        seen = snapshot.attempts.get(attempt.id)
        if is_open and (seen is None or not seen.own):
            ended = _event(
                attempt.id,
                Kind.ATTEMPT_ENDED,
                now,
                outcome=str(Outcome.INTERRUPTED),
                cause="its pod vanished while no keeper looked",
                exit_code=None,
                use={},
            )
            events.append(ended)
    return events


def read_open(url: str) -> Timeline:
    """The machines and attempts that are open in the ledger at a URL."""
    from sqlalchemy import select

    from piecework.ledger.schema import ATTEMPTS, MACHINES
    from piecework.ledger.store import open_ledger

    with open_ledger(url) as ledger:
        with ledger.reading() as connection:
            machines = list(
                connection.execute(select(MACHINES.c.id).where(MACHINES.c.open == 1)).scalars()
            )
            waiting = select(ATTEMPTS.c.id).where(ATTEMPTS.c.state != "ended")
            attempts = list(connection.execute(waiting).scalars())
        return ledger.timeline(attempts, machines)


def _event(subject: str, kind: Kind, now: datetime, **data: object) -> Event:
    return Event(SOURCE, subject, kind, 0, now, now, data)
