"""Verify and rebuild: every bill and every charge from the events alone.

`verify` reads all events, computes each machine's bill and, apart from it, its charges, and holds
them against each other and against the tables of answers. `rebuild` writes these tables anew.
Both go through the ledger in portions, so that its size is no matter of memory.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select

from piecework.ledger import sums
from piecework.ledger.charges import WASTES, Charge, bill_machine, charge_machine
from piecework.ledger.occupancy import Timeline
from piecework.ledger.schema import ATTEMPTS, EVENTS, MACHINES, SUMS
from piecework.units import Money

_PORTION = 1000
_MOST_PROBLEMS = 100
_IS_MACHINE = EVENTS.c.kind.startswith("machine.", autoescape=True)


@dataclass(frozen=True, slots=True)
class Verification:
    """What a verification found.

    `difference_nanos`: the bills of all machines, less the charges to attempts and the wastes.
    `problems`: whatever does not fit, in words; the first hundred, and how many more there are.
    """

    machines: int
    attempts: int
    bills_nanos: int
    charged_nanos: int
    problems: tuple[str, ...]

    @property
    def difference_nanos(self) -> int:
        return self.bills_nanos - self.charged_nanos

    @property
    def ok(self) -> bool:
        return not self.problems and self.difference_nanos == 0

    def to_json(self) -> dict[str, Any]:
        """As `piecework ledger verify --json` prints it."""
        return {
            "machines": self.machines,
            "attempts": self.attempts,
            "difference": Money.from_nanos(self.difference_nanos).decimal_text(),
            "bills": Money.from_nanos(self.bills_nanos).decimal_text(),
            "charges": Money.from_nanos(self.charged_nanos).decimal_text(),
            "problems": list(self.problems),
        }


class _Findings:
    def __init__(self) -> None:
        self.count = 0
        self.problems: list[str] = []

    def add(self, problem: str) -> None:
        self.count += 1
        if self.count <= _MOST_PROBLEMS:
            self.problems.append(problem)

    def told(self) -> tuple[str, ...]:
        more = self.count - len(self.problems)
        return (*self.problems, *([f"and {more} more"] if more else []))


def verify(connection: Connection, now: datetime) -> Verification:
    """See the module. Reads only."""
    findings = _Findings()
    changes: dict[sums.Key, list[int]] = defaultdict(lambda: [0, 0, 0])
    machines = bills = charged = 0
    for ids, timeline in _portions(connection, _IS_MACHINE):
        stored = _stored(connection, MACHINES, ids)
        for name in ids:
            machine = timeline.machines[name]
            machines += 1
            bill = bill_machine(machine, now)
            _, charges = charge_machine(machine, timeline.attempts, now)
            if bill is not None:
                bills += bill.nanos
                given = sum(charge.nanos for charge in charges)
                charged += given
                if given != bill.nanos:
                    findings.add(f"machine {name}: billed {bill.nanos}, charged {given} nanos")
                for problem in _misfits(charges, bill.start, bill.paid_until):
                    findings.add(f"machine {name}: {problem}")
            row = sums.machine_row(machine, timeline.attempts)
            sums.add_up(changes, sums.charges_of(row["charges"]), 1)
            if stored.pop(name, None) != row:
                findings.add(f"machine {name}: the table of machines differs from its events")
    attempts = _verify_attempts(connection, findings)
    _verify_tables(connection, machines, attempts, findings)
    _verify_sums(connection, changes, findings)
    return Verification(machines, attempts, bills, charged, findings.told())


def rebuild(connection: Connection) -> None:
    """Writes attempts, machines and sums anew from the events."""
    for table in (SUMS, MACHINES, ATTEMPTS):
        connection.execute(delete(table))
    changes: dict[sums.Key, list[int]] = defaultdict(lambda: [0, 0, 0])
    for ids, timeline in _portions(connection, _IS_MACHINE):
        rows = [sums.machine_row(timeline.machines[name], timeline.attempts) for name in ids]
        for row in rows:
            sums.add_up(changes, sums.charges_of(row["charges"]), 1)
        connection.execute(insert(MACHINES), rows)
    for ids, timeline in _portions(connection, ~_IS_MACHINE):
        rows = [sums.attempt_row(timeline.attempts[name]) for name in ids]
        connection.execute(insert(ATTEMPTS), rows)
    sums.apply(connection, changes)


def _portions(
    connection: Connection, which: ColumnElement[bool]
) -> Iterator[tuple[list[str], Timeline]]:
    """Machines (with their attempts) or attempts, in order of their ids."""
    query = select(EVENTS.c.subject).where(which).distinct()
    query = query.order_by(EVENTS.c.subject).limit(_PORTION)
    rest = query
    while True:
        ids = list(connection.execute(rest).scalars())
        if not ids:
            return
        yield ids, sums.timeline_of(connection, ids)
        rest = query.where(EVENTS.c.subject > ids[-1])


def _misfits(charges: Sequence[Charge], start: int, paid_until: int) -> Iterator[str]:
    """Charges are to cover the paid time of a machine without gaps and overlaps."""
    for charge in charges:
        if charge.end <= charge.start or charge.nanos < 0:
            yield f"a charge from {charge.start} to {charge.end} of {charge.nanos} nanos"
        if (charge.attempt is None) != (charge.part in WASTES):
            yield f"a charge of {charge.part} to {charge.attempt}"
    for before, after in pairwise(charges):
        if before.end != after.start:
            yield f"charges from {before.end} to {after.start} overlap or leave a gap"
    covered = charges[-1].end - charges[0].start if charges else 0
    if covered != paid_until - start:
        yield f"{paid_until - start} microseconds are paid, {covered} are charged"


def _stored(connection: Connection, table: Any, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    query = select(table).where(table.c.id.in_(ids))
    return {row["id"]: dict(row) for row in connection.execute(query).mappings()}


def _verify_attempts(connection: Connection, findings: _Findings) -> int:
    attempts = 0
    for ids, timeline in _portions(connection, ~_IS_MACHINE):
        stored = _stored(connection, ATTEMPTS, ids)
        for name in ids:
            attempts += 1
            if stored.get(name) != sums.attempt_row(timeline.attempts[name]):
                findings.add(f"attempt {name}: the table of attempts differs from its events")
    return attempts


def _verify_tables(
    connection: Connection, machines: int, attempts: int, findings: _Findings
) -> None:
    for table, expected in ((MACHINES, machines), (ATTEMPTS, attempts)):
        found = connection.execute(select(func.count()).select_from(table)).scalar_one()
        if found != expected:
            findings.add(f"the table {table.name} has {found} rows, the events {expected}")


def _verify_sums(
    connection: Connection, changes: dict[sums.Key, list[int]], findings: _Findings
) -> None:
    expected = {key: tuple(amounts) for key, amounts in changes.items() if any(amounts)}
    for row in connection.execute(select(SUMS)):
        key, amounts = tuple(row[:7]), tuple(row[7:])
        if expected.pop(key, None) != amounts:
            findings.add(f"the sum of {key} is {amounts}, which differs from the events")
    for key in expected:
        findings.add(f"the sum of {key} is missing")
