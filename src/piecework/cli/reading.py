"""The ledger, opened for a command that reads: what supervisors saw is recorded first."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from piecework.cli import terminal
from piecework.config import Settings
from piecework.errors import PieceworkError

if TYPE_CHECKING:
    from piecework.ledger.store import Ledger


@contextlib.contextmanager
def read_ledger(settings: Settings) -> Iterator[Ledger]:
    """The ledger with all that is known by now.

    Attempts that died are closed and spools are recorded; where that fails (a full disk, another
    user's files) it is a warning, and what the ledger holds is read all the same.
    """
    from piecework.keeper import tend
    from piecework.ledger.store import open_ledger

    with open_ledger(settings.ledger_url) as ledger:
        try:
            for problem in tend(settings, ledger).problems:
                terminal.warn(problem)
        except (PieceworkError, OSError) as error:
            terminal.warn(f"the newest events could not be recorded: {error}")
        yield ledger
