"""The ledger, opened for a command that reads: what supervisors saw is recorded first."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from piecework.cli import terminal
from piecework.config import Settings
from piecework.errors import PieceworkError

if TYPE_CHECKING:
    from piecework.ledger.store import Ledger
    from piecework.report.runs import RunReport

_PAUSE_SECONDS = 0.1
_VACATE_SECONDS = 5.0


@contextlib.contextmanager
def read_ledger(settings: Settings) -> Iterator[Ledger]:
    """The ledger with all that is known by now.

    Attempts that died are closed and spools are recorded; where that fails (a full disk, another
    user's files) it is a warning, and what the ledger holds is read all the same.
    """
    from piecework.ledger.store import open_ledger

    with open_ledger(settings.ledger_url) as ledger:
        _record(settings, ledger)
        yield ledger


def _record(settings: Settings, ledger: Ledger) -> None:
    from piecework.keeper import tend

    try:
        for problem in tend(settings, ledger).problems:
            terminal.warn(problem)
    except (PieceworkError, OSError) as error:
        terminal.warn(f"the newest events could not be recorded: {error}")


def wait_for_machines(settings: Settings, ledger: Ledger, runs: Sequence[RunReport]) -> bool:
    """Waits a moment until the machines of ended runs know that they are free; True if they had to.

    An attempt's end is written before its machine is vacated, and what lies between is billed.
    """
    attempts = [attempt.attempt for run in runs for attempt in run.attempts]
    end = time.monotonic() + _VACATE_SECONDS
    waited = False
    while time.monotonic() < end:
        machines = ledger.timeline(attempts).machines.values()
        mine = [o for machine in machines for o in machine.occupancies if o.attempt in attempts]
        if all(occupancy.vacated for occupancy in mine):
            return waited
        waited = True
        time.sleep(_PAUSE_SECONDS)
        _record(settings, ledger)
    return waited
