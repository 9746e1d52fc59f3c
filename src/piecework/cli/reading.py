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
#: The keeper tells the ledger within 2 s as a rule.
_RECORD_SECONDS = 15.0


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


def wait_until_recorded(settings: Settings, runs: Sequence[str]) -> bool:
    """Waits a moment until the ledger knows that these runs have ended; False where it does not.

    On one computer it knows at once; of a cluster it is told by the keeper.
    """
    from piecework.report.runs import report_runs

    end = time.monotonic() + _RECORD_SECONDS
    while True:
        with read_ledger(settings) as ledger:
            known = {run.run: run.state for run in report_runs(ledger, runs)}
        if all(known.get(run) == "ended" for run in runs):
            return True
        if time.monotonic() > end:
            missing = ", ".join(run for run in runs if known.get(run) != "ended")
            terminal.warn(
                f"the ledger does not know the end of {missing} yet; does `piecework keeper` run, "
                "with the same ledger_url?"
            )
            return False
        time.sleep(_PAUSE_SECONDS * 2)


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
