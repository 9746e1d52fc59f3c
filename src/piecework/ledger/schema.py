"""The ledger's tables, as they are after the newest migration.

`events` is the truth. The others are answers kept for speed, made from it by `sums` and rebuilt
at any time. Times are whole microseconds since 1970 (UTC), money is whole billionths of a dollar.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
)

#: The migrations in migrations/versions, in order; the last one is what this version needs.
REVISIONS = ("0001",)
HEAD = REVISIONS[-1]

METADATA = MetaData()

# Compared byte by byte on both databases, so that a prefix of a name is a range of an index.
_NAME = String().with_variant(String(collation="C"), "postgresql")
_ROW = BigInteger().with_variant(Integer(), "sqlite")

#: One row an event. `attempt` repeats the attempt that a machine's event is about, to find it by.
EVENTS = Table(
    "events",
    METADATA,
    Column("id", _ROW, primary_key=True, autoincrement=True),
    Column("identity", LargeBinary(16), nullable=False),
    Column("subject", _NAME, nullable=False),
    Column("kind", _NAME, nullable=False),
    Column("source", _NAME, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("learned_at", BigInteger, nullable=False),
    Column("attempt", _NAME),
    Column("data", Text, nullable=False),
    Index("events_identity", "identity", unique=True),
    Index("events_subject", "subject"),
    Index("events_attempt", "attempt"),
)

#: One row an attempt: what runs are listed and found by.
ATTEMPTS = Table(
    "attempts",
    METADATA,
    Column("id", _NAME, primary_key=True),
    Column("run", _NAME, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("job", _NAME),
    Column("pipeline", _NAME),
    Column("pipeline_run", _NAME),
    Column("team", _NAME),
    Column("state", _NAME, nullable=False),
    Column("outcome", _NAME),
    Column("seen_at", BigInteger, nullable=False),
    Index("attempts_run", "run", "number"),
    Index("attempts_seen", "seen_at"),
    Index("attempts_pipeline", "pipeline", "job", "seen_at"),
    Index("attempts_pipeline_run", "pipeline_run"),
    Index("attempts_state", "state", "seen_at"),
)

#: One row a machine. A machine that is gone has its bill and `charges`: JSON, as `sums` writes it.
#: `open` is 1 while its meter runs. `reach` is the number of binary digits of its paid whole
#: hours, so that the machines of any hour are found by a few short ranges of an index.
MACHINES = Table(
    "machines",
    METADATA,
    Column("id", _NAME, primary_key=True),
    Column("pool", _NAME),
    Column("open", SmallInteger, nullable=False),
    Column("seen_at", BigInteger, nullable=False),
    Column("start", BigInteger),
    Column("paid_until", BigInteger),
    Column("reach", SmallInteger),
    Column("nanos", BigInteger, nullable=False),
    Column("unpriced_microseconds", BigInteger, nullable=False),
    Column("charges", Text),
    Index("machines_open", "open", "id"),
    Index("machines_seen", "seen_at"),
    Index("machines_reach", "reach", "start"),
)

#: Charges of machines that are gone, added up by hour ("h") and by day ("d").
SUMS = Table(
    "sums",
    METADATA,
    Column("grain", _NAME, primary_key=True),
    Column("start", BigInteger, primary_key=True),
    Column("pool", _NAME, primary_key=True),
    Column("pipeline", _NAME, primary_key=True),
    Column("job", _NAME, primary_key=True),
    Column("team", _NAME, primary_key=True),
    Column("part", _NAME, primary_key=True),
    Column("nanos", BigInteger, nullable=False),
    Column("microseconds", BigInteger, nullable=False),
    Column("unpriced_microseconds", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
