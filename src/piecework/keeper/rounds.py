"""One round of the keeper on this host: close what died, give back what is idle, record it all.

Enters: the state in `$PIECEWORK_HOME`. Leaves: the ledger knows what the spools know, and nothing
runs without a supervisor. A round can be repeated at any time; two at once wait for each other.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from piecework import clock
from piecework.clock import Clock
from piecework.config import Settings
from piecework.keeper.give_back import give_back
from piecework.keeper.orphans import sweep
from piecework.keeper.record import Recorder
from piecework.ledger.store import Ledger, open_ledger
from piecework.machines import lock


@dataclass(frozen=True, slots=True)
class Tended:
    """What a round did. `problems` are attempts that could not be closed, each with its reason."""

    closed: tuple[str, ...]
    released: int
    recorded: int
    problems: tuple[str, ...] = ()


def tend(settings: Settings, ledger: Ledger | None = None, now: Clock = clock.now) -> Tended:
    """Does one round. Without `ledger`, the settings' one is opened if there is anything to record.

    Raises LedgerError where the ledger cannot be written: the spools keep everything until the next
    round, so nothing is lost.
    """
    home = settings.home
    if not home.is_dir():
        return Tended((), 0, 0)
    held = lock.wait_and_hold(home / "keeper.lock")
    try:
        swept = sweep(home, now)
        released = give_back(home, now)
        recorder = Recorder(home)
        recorded = 0
        if recorder.has_news():
            if ledger is not None:
                recorded = recorder.record(ledger)
            else:
                with open_ledger(settings.ledger_url) as opened:
                    recorded = recorder.record(opened)
        return Tended(tuple(swept.closed), released, recorded, tuple(swept.problems))
    finally:
        os.close(held)
