"""Runs migrations on the connection that `ledger.connection` hands over, in its transaction."""

from __future__ import annotations

from alembic import context

from piecework.ledger.schema import METADATA

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=METADATA, transaction_per_migration=False)
context.run_migrations()
