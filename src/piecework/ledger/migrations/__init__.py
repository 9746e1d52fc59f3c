"""The ledger's migrations, run by `ledger.connection` when a ledger is opened."""
