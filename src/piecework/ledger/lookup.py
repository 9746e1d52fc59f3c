"""Finding runs, attempts and machines in the ledger's tables; what leaves are their ids."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, select

from piecework.ledger.charges import to_microseconds
from piecework.ledger.events import Outcome
from piecework.ledger.schema import ATTEMPTS, MACHINES
from piecework.ledger.sums import batches

#: After every character that a name may hold.
_LAST = "\U0010ffff"


def find_runs(
    connection: Connection,
    *,
    limit: int,
    pipeline: str | None = None,
    state: str | None = None,
    since: datetime | None = None,
) -> list[str]:
    """Runs whose last attempt fits, the newest first."""
    later = ATTEMPTS.alias("later")
    overtaken = (
        select(later.c.id)
        .where(later.c.run == ATTEMPTS.c.run, later.c.number > ATTEMPTS.c.number)
        .exists()
    )
    query = select(ATTEMPTS.c.run).where(~overtaken)
    if pipeline is not None:
        query = query.where(ATTEMPTS.c.pipeline == pipeline)
    if state is not None:
        query = query.where(ATTEMPTS.c.state == state)
    if since is not None:
        query = query.where(ATTEMPTS.c.seen_at >= to_microseconds(since))
    query = query.order_by(ATTEMPTS.c.seen_at.desc(), ATTEMPTS.c.id.desc()).limit(limit)
    return list(dict.fromkeys(connection.execute(query).scalars()))


def runs_of(connection: Connection, pipeline_run: str, pipeline: str | None) -> list[str]:
    """The runs of a pipeline run, in the order in which they were queued."""
    query = select(ATTEMPTS.c.run).where(ATTEMPTS.c.pipeline_run == pipeline_run)
    if pipeline is not None:
        query = query.where(ATTEMPTS.c.pipeline == pipeline)
    query = query.order_by(ATTEMPTS.c.seen_at, ATTEMPTS.c.id)
    return list(dict.fromkeys(connection.execute(query).scalars()))


def match_run(connection: Connection, text: str) -> list[str]:
    """The run with this name or of this attempt; else up to ten whose names begin with it."""
    exact: Select[Any] = select(ATTEMPTS.c.run)
    for column in (ATTEMPTS.c.run, ATTEMPTS.c.id):
        found = connection.execute(exact.where(column == text).limit(1)).scalar()
        if found is not None:
            return [found]
    if not text:
        return []
    begins = exact.where(ATTEMPTS.c.run >= text, ATTEMPTS.c.run < text + _LAST)
    return list(connection.execute(begins.distinct().order_by(ATTEMPTS.c.run).limit(10)).scalars())


def attempts_of(connection: Connection, runs: Sequence[str]) -> list[str]:
    """All attempts of these runs, ordered by run and number."""
    found: list[str] = []
    for batch in batches(runs):
        query = select(ATTEMPTS.c.id).where(ATTEMPTS.c.run.in_(batch))
        query = query.order_by(ATTEMPTS.c.run, ATTEMPTS.c.number, ATTEMPTS.c.id)
        found += connection.execute(query).scalars()
    return found


def last_successes(connection: Connection, pipeline: str | None, job: str, limit: int) -> list[str]:
    """The last attempts of a job that succeeded, the newest first."""
    return last_with_outcome(connection, pipeline, job, Outcome.SUCCESS, limit)


def last_with_outcome(
    connection: Connection, pipeline: str | None, job: str, outcome: Outcome, limit: int
) -> list[str]:
    """The last attempts of a job that ended like this, the newest first."""
    of = ATTEMPTS.c.pipeline.is_(None) if pipeline is None else ATTEMPTS.c.pipeline == pipeline
    query = (
        select(ATTEMPTS.c.id)
        .where(of, ATTEMPTS.c.job == job, ATTEMPTS.c.outcome == str(outcome))
        .order_by(ATTEMPTS.c.seen_at.desc())
        .limit(limit)
    )
    return list(connection.execute(query).scalars())


def find_jobs(connection: Connection) -> list[tuple[str | None, str]]:
    """All jobs that were ever run, as (pipeline, job), by name."""
    query = select(ATTEMPTS.c.pipeline, ATTEMPTS.c.job).where(ATTEMPTS.c.job.is_not(None))
    rows = connection.execute(query.distinct())
    return sorted(((row[0], row[1]) for row in rows), key=lambda row: (row[0] or "", row[1]))


def find_machines(
    connection: Connection,
    *,
    limit: int,
    pool: str | None = None,
    is_open: bool | None = None,
    since: datetime | None = None,
) -> list[str]:
    """Machines, the newest first; `is_open`: their meter runs, or does not."""
    query = select(MACHINES.c.id)
    if pool is not None:
        query = query.where(MACHINES.c.pool == pool)
    if is_open is not None:
        query = query.where(MACHINES.c.open == int(is_open))
    if since is not None:
        query = query.where(MACHINES.c.seen_at >= to_microseconds(since))
    query = query.order_by(MACHINES.c.seen_at.desc(), MACHINES.c.id).limit(limit)
    return list(connection.execute(query).scalars())


def machines_between(connection: Connection, since: datetime, until: datetime) -> list[str]:
    """Machines that may have been busy in a period: those seen before its end, not gone before."""
    low, high = to_microseconds(since), to_microseconds(until)
    query = select(MACHINES.c.id).where(
        MACHINES.c.seen_at < high, (MACHINES.c.open == 1) | (MACHINES.c.paid_until > low)
    )
    return list(connection.execute(query).scalars())
