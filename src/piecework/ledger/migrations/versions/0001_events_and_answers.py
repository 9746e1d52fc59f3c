"""Events, and the tables of answers kept for speed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

NAME = sa.String().with_variant(sa.String(collation="C"), "postgresql")
ROW = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "events",
        sa.Column("id", ROW, primary_key=True, autoincrement=True),
        sa.Column("identity", sa.LargeBinary(16), nullable=False),
        sa.Column("subject", NAME, nullable=False),
        sa.Column("kind", NAME, nullable=False),
        sa.Column("source", NAME, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("learned_at", sa.BigInteger, nullable=False),
        sa.Column("attempt", NAME),
        sa.Column("data", sa.Text, nullable=False),
    )
    op.create_index("events_identity", "events", ["identity"], unique=True)
    op.create_index("events_subject", "events", ["subject"])
    op.create_index("events_attempt", "events", ["attempt"])
    op.create_table(
        "attempts",
        sa.Column("id", NAME, primary_key=True),
        sa.Column("run", NAME, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("job", NAME),
        sa.Column("pipeline", NAME),
        sa.Column("pipeline_run", NAME),
        sa.Column("team", NAME),
        sa.Column("state", NAME, nullable=False),
        sa.Column("outcome", NAME),
        sa.Column("seen_at", sa.BigInteger, nullable=False),
    )
    op.create_index("attempts_run", "attempts", ["run", "number"])
    op.create_index("attempts_seen", "attempts", ["seen_at"])
    op.create_index("attempts_pipeline", "attempts", ["pipeline", "job", "seen_at"])
    op.create_index("attempts_pipeline_run", "attempts", ["pipeline_run"])
    op.create_index("attempts_state", "attempts", ["state", "seen_at"])
    op.create_table(
        "machines",
        sa.Column("id", NAME, primary_key=True),
        sa.Column("pool", NAME),
        sa.Column("open", sa.SmallInteger, nullable=False),
        sa.Column("seen_at", sa.BigInteger, nullable=False),
        sa.Column("start", sa.BigInteger),
        sa.Column("paid_until", sa.BigInteger),
        sa.Column("reach", sa.SmallInteger),
        sa.Column("nanos", sa.BigInteger, nullable=False),
        sa.Column("unpriced_microseconds", sa.BigInteger, nullable=False),
        sa.Column("charges", sa.Text),
    )
    op.create_index("machines_open", "machines", ["open", "id"])
    op.create_index("machines_seen", "machines", ["seen_at"])
    op.create_index("machines_reach", "machines", ["reach", "start"])
    op.create_table(
        "sums",
        sa.Column("grain", NAME, primary_key=True),
        sa.Column("start", sa.BigInteger, primary_key=True),
        sa.Column("pool", NAME, primary_key=True),
        sa.Column("pipeline", NAME, primary_key=True),
        sa.Column("job", NAME, primary_key=True),
        sa.Column("team", NAME, primary_key=True),
        sa.Column("part", NAME, primary_key=True),
        sa.Column("nanos", sa.BigInteger, nullable=False),
        sa.Column("microseconds", sa.BigInteger, nullable=False),
        sa.Column("unpriced_microseconds", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    for table in ("sums", "machines", "attempts", "events"):
        op.drop_table(table)
