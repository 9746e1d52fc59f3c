"""The past of a pipeline's jobs, for plans: from the ledger, and quickly where it has not changed.

Opening a ledger takes longer than planning, so what was found is kept beside it, in
`$PIECEWORK_HOME/cache/history.json`, with the number of the ledger's newest event. As long as no
event was added, the answer is the same. Only a SQLite ledger is asked for that number; others are
opened. A cache that is missing or damaged costs time and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from piecework.config import Settings
from piecework.plan.plan import History

if TYPE_CHECKING:
    from piecework.ledger.store import Ledger

#: Finds the past of a job, by its name; None where it has none.
FindHistory = Callable[[str], History | None]

_SQLITE = "sqlite:///"


@contextlib.contextmanager
def past_of(settings: Settings, pipeline: str) -> Iterator[FindHistory]:
    """Finds the past of the pipeline's jobs. A ledger that does not exist is not made for this."""
    url = settings.ledger_url
    file = Path(url.removeprefix(_SQLITE)) if url.startswith(_SQLITE) else None
    if file is not None and not file.exists():
        yield lambda _: None
        return
    newest = None if file is None else _newest_event(file)
    cache = _Cache(settings.home / "cache" / "history.json", url, newest)
    with contextlib.ExitStack() as stack:
        ledger: Ledger | None = None

        def find(job: str) -> History | None:
            nonlocal ledger
            known, past = cache.find(pipeline, job)
            if known:
                return past
            from piecework.ledger.store import open_ledger
            from piecework.report.history import history

            if ledger is None:
                ledger = stack.enter_context(open_ledger(url))
            past = history(ledger, pipeline, job)
            cache.add(pipeline, job, past)
            return past

        yield find
    cache.save()


def _newest_event(file: Path) -> int | None:
    """The number of the newest event; None where that cannot be told."""
    import sqlite3

    with contextlib.suppress(sqlite3.Error):
        connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=1)
        try:
            row = connection.execute("SELECT max(id) FROM events").fetchone()
            return int(row[0] or 0)
        finally:
            connection.close()
    return None


class _Cache:
    def __init__(self, file: Path, url: str, newest: int | None) -> None:
        self._file = file
        self._of = {"ledger": url, "newest": newest}
        self._jobs: dict[str, Any] = {}
        self._changed = False
        if newest is not None:
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
                found = json.loads(file.read_text())
                if {name: found[name] for name in self._of} == self._of:
                    self._jobs = dict(found["jobs"])

    def find(self, pipeline: str, job: str) -> tuple[bool, History | None]:
        """Whether the job's past is known, and the past."""
        key = f"{pipeline}.{job}"
        if key not in self._jobs:
            return False, None
        found = self._jobs[key]
        try:
            return True, None if found is None else _read(found)
        except (ArithmeticError, LookupError, TypeError, ValueError):
            return False, None

    def add(self, pipeline: str, job: str, past: History | None) -> None:
        """Remembers the past of a job."""
        self._jobs[f"{pipeline}.{job}"] = None if past is None else _write(past)
        self._changed = True

    def save(self) -> None:
        """Keeps what was added for the next command."""
        if not self._changed or self._of["newest"] is None:
            return
        draft = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps({**self._of, "jobs": self._jobs}))
            draft.replace(self._file)


def _write(past: History) -> list[Any]:
    return [past.runs, str(past.low_seconds), str(past.high_seconds)]


def _read(found: list[Any]) -> History:
    runs, low, high = found
    return History(int(runs), Decimal(low), Decimal(high))
