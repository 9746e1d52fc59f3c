"""Carries events from the spools on this host into the ledger.

Enters: the attempts' spools and the outbox of the machines. Leaves: the same events in the ledger.
How far a spool is recorded stands beside it; it moves only after the ledger has the events, and
since an event's identity is fixed, carrying one twice changes nothing. So a crash, a full disk or a
lost database at any point loses nothing and doubles nothing.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from piecework.keeper.orphans import remove_group
from piecework.ledger.events import Event, Kind
from piecework.ledger.store import Ledger
from piecework.machines import host
from piecework.machines.local import Machines
from piecework.runners.folder import AttemptFolder, open_attempts, read_spool

#: Events that go into the ledger in one transaction.
BATCH = 2000


class Recorder:
    """What there is to record on this host. Whoever uses it holds the keeper's lock."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def has_news(self) -> bool:
        """Whether there is any event that is not recorded yet."""
        if (self.home / "host.sqlite").exists():
            with self._machines() as machines:
                if machines.outbox(limit=1):
                    return True
        return any(_size(folder.spool) > _recorded(folder) for folder in open_attempts(self.home))

    def record(self, ledger: Ledger) -> int:
        """Records everything; returns how many events were new. Raises LedgerError."""
        new = self._record_outbox(ledger)
        done: list[tuple[AttemptFolder, int, bool]] = []
        batch: list[Event] = []
        for folder in open_attempts(self.home):
            start = _recorded(folder)
            found = read_spool(folder.spool, start)
            if not found:
                continue
            batch += [event for event, _ in found]
            ended = any(event.kind is Kind.ATTEMPT_ENDED for event, _ in found)
            done.append((folder, found[-1][1], ended))
            if len(batch) >= BATCH:
                new += _append(ledger, batch, done)
        return new + _append(ledger, batch, done)

    def _record_outbox(self, ledger: Ledger) -> int:
        if not (self.home / "host.sqlite").exists():
            return 0
        new = 0
        with self._machines() as machines:
            while rows := machines.outbox(limit=BATCH):
                new += ledger.append([event for _, event in rows])
                machines.forget([number for number, _ in rows])
        return new

    def _machines(self) -> Machines:
        return Machines(self.home, f"sweep:{host.host_name()}", lambda _: True)


def _append(ledger: Ledger, batch: list[Event], done: list[tuple[AttemptFolder, int, bool]]) -> int:
    new = ledger.append(batch) if batch else 0
    for folder, offset, ended in done:
        draft = folder.recorded.with_suffix(f".{os.getpid()}")
        draft.write_text(str(offset))
        draft.replace(folder.recorded)
        if ended:
            remove_group(folder)
            folder.close()
    batch.clear()
    done.clear()
    return new


def _recorded(folder: AttemptFolder) -> int:
    with suppress(OSError, ValueError):
        return int(folder.recorded.read_text())
    return 0


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0
