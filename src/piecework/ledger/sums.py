"""The tables of answers: what enters are subjects with new events, what leaves are updated rows.

Attempts, machines, and charges added up by hour and by day. A machine counts in the sums once it
is gone: from then on its charges change only if new events arrive, and then the old ones are taken
out and the new ones put in, in the same transaction as the events. Machines whose meter still runs
are computed when somebody asks.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import Connection, Table, delete, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from piecework.ledger.charges import (
    DAY,
    HOUR,
    Charge,
    Part,
    charge_machine,
    to_datetime,
    to_microseconds,
)
from piecework.ledger.events import Event, Kind
from piecework.ledger.occupancy import Attempt, Machine, Timeline, read_timeline, text_of
from piecework.ledger.schema import ATTEMPTS, EVENTS, MACHINES, SUMS

#: Ids in one statement; the databases allow 32,766 and 65,535 parameters.
_BATCH = 2000
#: A machine that is gone is billed up to there, so this is never used; any time would do.
_NO_TIME = datetime(1970, 1, 1, tzinfo=UTC)
_GRAINS = {"h": HOUR, "d": DAY}

T = TypeVar("T")
#: grain, start, pool, pipeline, job, team, part
Key = tuple[str, int, str, str, str, str, str]


@dataclass(frozen=True, slots=True)
class Dimensions:
    """What charges are added up by. Empty where it is not known or does not apply."""

    pool: str
    pipeline: str = ""
    job: str = ""
    team: str = ""


def batches(items: Iterable[T], size: int = _BATCH) -> Iterator[list[T]]:
    """The items in lists of at most `size`."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def plain(text: str | None) -> str | None:
    """A text that both databases can hold: neither NUL nor half a character."""
    if text is None:
        return None
    return text.encode("utf-8", "replace").decode().replace("\0", "?")


def row_of(event: Event, identity: str) -> dict[str, Any]:
    """The event as a row of `events`."""
    about = text_of(event.data, "attempt") if event.kind.value.startswith("machine.") else None
    return {
        "identity": bytes.fromhex(identity),
        "subject": event.subject,
        "kind": event.kind.value,
        "source": event.source,
        "sequence": event.sequence,
        "at": to_microseconds(event.at),
        "learned_at": to_microseconds(event.learned_at),
        "attempt": plain(about),
        "data": json.dumps(dict(event.data), separators=(",", ":"), sort_keys=True),
    }


_EVENT_COLUMNS = (
    EVENTS.c.source,
    EVENTS.c.subject,
    EVENTS.c.kind,
    EVENTS.c.sequence,
    EVENTS.c.at,
    EVENTS.c.learned_at,
    EVENTS.c.data,
)


def event_of(row: Sequence[Any]) -> Event:
    """The inverse of `row_of`, from the columns of `select_events`."""
    source, subject, kind, sequence, at, learned_at, data = row
    return Event(
        source=source,
        subject=subject,
        kind=Kind(kind),
        sequence=sequence,
        at=to_datetime(at),
        learned_at=to_datetime(learned_at),
        data=json.loads(data),
    )


def select_events(connection: Connection, subjects: Iterable[str]) -> list[Event]:
    """All events about the subjects, in the order in which they were written."""
    found = []
    for batch in batches(subjects):
        query = select(*_EVENT_COLUMNS).where(EVENTS.c.subject.in_(batch)).order_by(EVENTS.c.id)
        found += [event_of(row) for row in connection.execute(query)]
    return found


def select_all_events(connection: Connection, since: datetime | None) -> list[Event]:
    """All events from a time on, in the order in which they were written."""
    query = select(*_EVENT_COLUMNS).order_by(EVENTS.c.id)
    if since is not None:
        query = query.where(EVENTS.c.at >= to_microseconds(since))
    return [event_of(row) for row in connection.execute(query)]


def machines_of(connection: Connection, attempts: Iterable[str]) -> set[str]:
    """The machines that have to do with any of the attempts."""
    found: set[str] = set()
    for batch in batches(attempts):
        query = select(EVENTS.c.subject).where(EVENTS.c.attempt.in_(batch)).distinct()
        found.update(connection.execute(query).scalars())
    return found


def timeline_of(
    connection: Connection,
    machines: Iterable[str],
    attempts: Iterable[str] = (),
    new: Sequence[Event] = (),
) -> Timeline:
    """The machines with every attempt that had to do with them, and these attempts besides.

    `new` are events that are not written yet.
    """
    events = [*select_events(connection, sorted(set(machines))), *new]
    named = {about for event in events if (about := text_of(event.data, "attempt")) is not None}
    named.update(attempts)
    return read_timeline([*events, *select_events(connection, sorted(named))])


def refresh(connection: Connection, new: Sequence[Event]) -> None:
    """Brings the answers up to date with new events, before these are written themselves.

    What is there already is read; what is new is at hand, and mostly about new subjects.
    """
    machines = {event.subject for event in new if event.kind.value.startswith("machine.")}
    attempts = {event.subject for event in new if not event.kind.value.startswith("machine.")}
    affected = machines | machines_of(connection, attempts)
    timeline = timeline_of(connection, affected, attempts, new)
    written = [attempt_row(timeline.attempts[a]) for a in attempts if a in timeline.attempts]
    upsert(connection, ATTEMPTS, written)
    changes: dict[Key, list[int]] = defaultdict(lambda: [0, 0, 0])
    for batch in batches(sorted(affected)):
        query = select(MACHINES.c.charges).where(MACHINES.c.id.in_(batch))
        for stored in connection.execute(query).scalars():
            add_up(changes, charges_of(stored), -1)
    rows = [machine_row(timeline.machines[m], timeline.attempts) for m in sorted(affected)]
    for row in rows:
        add_up(changes, charges_of(row["charges"]), 1)
    upsert(connection, MACHINES, rows)
    apply(connection, changes)


def attempt_row(attempt: Attempt) -> dict[str, Any]:
    """The attempt as a row of `attempts`."""
    return {
        "id": attempt.id,
        "run": plain(attempt.run),
        "number": attempt.number,
        "job": plain(attempt.job),
        "pipeline": plain(attempt.pipeline),
        "pipeline_run": plain(attempt.pipeline_run),
        "team": plain(attempt.team),
        "state": attempt.state,
        "outcome": None if attempt.outcome is None else attempt.outcome.value,
        "seen_at": to_microseconds(attempt.queued_at or attempt.first_seen_at),
    }


def machine_row(machine: Machine, attempts: Mapping[str, Attempt]) -> dict[str, Any]:
    """The machine as a row of `machines`: with its charges once it is gone."""
    row: dict[str, Any] = {
        "id": machine.id,
        "pool": plain(machine.pool),
        "open": int(machine.gone_at is None),
        "seen_at": to_microseconds(machine.first_seen_at),
        "start": None,
        "paid_until": None,
        "reach": None,
        "nanos": 0,
        "unpriced_microseconds": 0,
        "charges": None,
    }
    if machine.gone_at is None:
        return row
    bill, charges = charge_machine(machine, attempts, _NO_TIME)
    if bill is not None:
        row["start"], row["paid_until"] = bill.start, bill.paid_until
        row["reach"] = ((bill.paid_until - bill.start) // HOUR).bit_length()
        row["nanos"], row["unpriced_microseconds"] = bill.nanos, bill.unpriced_microseconds
        row["charges"] = _store(machine, charges, attempts)
    return row


def dimensions_of(machine: Machine, attempt: Attempt | None) -> Dimensions:
    """What a charge of this machine to this attempt is added up by."""
    pool = plain(machine.pool) or ""
    if attempt is None:
        return Dimensions(pool)
    return Dimensions(
        pool,
        plain(attempt.pipeline) or "",
        plain(attempt.job) or "",
        plain(attempt.team) or "",
    )


def _store(machine: Machine, charges: Sequence[Charge], attempts: Mapping[str, Attempt]) -> str:
    """JSON: dimensions by number, and charges that refer to them; `charges_of` reads it."""
    numbers: dict[str | None, int] = {}
    dimensions: list[list[str]] = []
    rows: list[list[Any]] = []
    for charge in charges:
        if charge.attempt not in numbers:
            numbers[charge.attempt] = len(dimensions)
            to = dimensions_of(machine, attempts.get(charge.attempt or ""))
            dimensions.append([to.pool, to.pipeline, to.job, to.team])
        number = numbers[charge.attempt]
        money = [charge.nanos, charge.unpriced_microseconds]
        rows.append([number, charge.part.value, charge.start, charge.end, *money])
    return json.dumps([dimensions, rows], separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class StoredCharge:
    """A charge as the sums know it: by what it is added up, not to whom it was given."""

    to: Dimensions
    part: Part
    start: int
    end: int
    nanos: int
    unpriced_microseconds: int


def charges_of(stored: str | None) -> list[StoredCharge]:
    """The charges in a row of `machines`."""
    if stored is None:
        return []
    dimensions, rows = json.loads(stored)
    known = [Dimensions(*names) for names in dimensions]
    return [
        StoredCharge(known[number], Part(part), start, end, nanos, unpriced)
        for number, part, start, end, nanos, unpriced in rows
    ]


def add_up(changes: dict[Key, list[int]], charges: Iterable[StoredCharge], sign: int) -> None:
    """Adds charges to changes of the sums, or takes them out (`sign` -1)."""
    for charge in charges:
        to = charge.to
        for grain, size in _GRAINS.items():
            start = charge.start // size * size
            change = changes[grain, start, to.pool, to.pipeline, to.job, to.team, charge.part.value]
            change[0] += sign * charge.nanos
            change[1] += sign * (charge.end - charge.start)
            change[2] += sign * charge.unpriced_microseconds


_KEY = ("grain", "start", "pool", "pipeline", "job", "team", "part")
_AMOUNTS = ("nanos", "microseconds", "unpriced_microseconds")


def apply(connection: Connection, changes: Mapping[Key, Sequence[int]]) -> None:
    """Adds the changes to the sums; sums that come to nothing are removed."""
    effective = {key: change for key, change in changes.items() if any(change)}
    if not effective:
        return
    statement = _insert(connection, SUMS)
    added = {name: SUMS.c[name] + statement.excluded[name] for name in _AMOUNTS}
    statement = statement.on_conflict_do_update(index_elements=_KEY, set_=added)
    rows = [
        dict(zip(_KEY + _AMOUNTS, (*key, *change), strict=True))
        for key, change in sorted(effective.items())
    ]
    connection.execute(statement, rows)
    shrunk = {(key[0], key[1]) for key, change in effective.items() if min(change) < 0}
    for batch in batches(sorted(shrunk), 400):
        touched = or_(*((SUMS.c.grain == g) & (SUMS.c.start == s) for g, s in batch))
        connection.execute(delete(SUMS).where(touched, SUMS.c.microseconds == 0))


def upsert(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    """Writes rows by their `id`, over what was there."""
    if not rows:
        return
    statement = _insert(connection, table)
    replaced = {name: statement.excluded[name] for name in rows[0] if name != "id"}
    statement = statement.on_conflict_do_update(index_elements=["id"], set_=replaced)
    connection.execute(statement, list(rows))


def last_row(connection: Connection) -> int:
    """Grows with every event that is written: where it is the same, so are the events."""
    last: int = connection.execute(select(func.coalesce(func.max(EVENTS.c.id), 0))).scalar_one()
    return last


def insert_new(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Writes rows of `events`; those whose identity is there already stay as they are."""
    statement = _insert(connection, EVENTS).on_conflict_do_nothing(index_elements=["identity"])
    connection.execute(statement, list(rows))


def _insert(connection: Connection, table: Table) -> Any:
    # Both have the same ON CONFLICT clauses, but SQLAlchemy knows no common insert for them.
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)
