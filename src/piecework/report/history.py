"""How long a job's last runs took, for the plan of its next one."""

from __future__ import annotations

from decimal import Decimal

from piecework import clock
from piecework.ledger import lookup
from piecework.ledger.store import Ledger
from piecework.plan.plan import History
from piecework.report.runs import charges_by_attempt


def history(ledger: Ledger, pipeline: str | None, job: str, last: int = 20) -> History | None:
    """The paid machine seconds of the job's last successful attempts; None where there is none.

    Those of all machines of an attempt together: boot, setup, work, teardown and minimum.
    Raises LedgerError.
    """
    with ledger.reading() as connection:
        attempts = lookup.last_successes(connection, pipeline, job, last)
    charged = charges_by_attempt(ledger.timeline(attempts), clock.now())
    seconds = []
    for attempt in attempts:
        microseconds = sum(amount.microseconds for amount in charged.get(attempt, {}).values())
        if microseconds:
            seconds.append(Decimal(microseconds) / 1_000_000)
    return History.of(seconds)
