"""Finding what a user means by the name of a run: an id, its beginning or end, an attempt, a job.

Also pipeline runs, by their id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from piecework.cli import terminal
from piecework.errors import InputError

if TYPE_CHECKING:
    from piecework.ledger.store import Ledger
    from piecework.report.runs import RunReport

#: How far back to look for what may have been meant.
_RECENT = 500


def find(ledger: Ledger, name: str) -> RunReport | list[RunReport]:
    """A run, or the runs of a pipeline run. Raises InputError where there is neither."""
    from piecework.report.runs import find_run, list_runs, runs_of

    if not name:
        raise InputError("an empty name is no run; `piecework ls` lists them")
    of_pipeline = runs_of(ledger, name)
    if of_pipeline:
        return of_pipeline
    try:
        found = find_run(ledger, name)
    except InputError:  # the beginning of several; but where it is a job's name, that is meant
        recent = list_runs(ledger, limit=_RECENT)
        newest = next((run for run in recent if _is_of(run, name)), None)
        if newest is None:
            raise
        found = newest
    return found if found is not None else _guess(ledger, name)


def find_one(ledger: Ledger, name: str) -> RunReport:
    """A run; of a pipeline run only where it has a single one. Raises InputError."""
    found = find(ledger, name)
    if not isinstance(found, list):
        return found
    if len(found) == 1:
        return found[0]
    names = ", ".join(run.run for run in found)
    raise InputError(f"{name} is a pipeline run of {len(found)} runs; name one: {names}")


def _is_of(run: RunReport, job: str) -> bool:
    return job in (run.job, f"{run.pipeline}.{run.job}")


def _guess(ledger: Ledger, name: str) -> RunReport:
    """The newest run of a job or with this end of its id; else says what may have been meant."""
    from piecework.report.runs import list_runs
    from piecework.spec.wording import suggest

    recent = list_runs(ledger, limit=_RECENT)
    for run in recent:
        if _is_of(run, name) or run.run.endswith(f".{name}"):
            if not run.run.endswith(f".{name}"):
                terminal.say(f"The newest run of {name} is {run.run}.")
            return run
    if not recent:
        raise InputError(f"there is no run {name!r}; there are none yet")
    known = {run.run for run in recent} | {run.job for run in recent if run.job}
    known |= {run.pipeline_run for run in recent if run.pipeline_run}
    hint = suggest(name, known, "`piecework ls` lists them")
    raise InputError(f"there is no run {terminal.printable(name)!r}; {hint}")
