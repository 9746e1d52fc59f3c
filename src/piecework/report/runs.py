"""What became of a run: its attempts, their machines, times, use and cost. Live ones included.

The charges are computed from the events of these attempts and their machines; a run that still
goes on is charged up to `now`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from piecework import clock
from piecework.errors import InputError
from piecework.ledger import lookup
from piecework.ledger.charges import ATTEMPT_PARTS, Part, charge_machine
from piecework.ledger.events import Outcome
from piecework.ledger.occupancy import CURRENCY, Attempt, Timeline
from piecework.ledger.period import Amount
from piecework.ledger.store import Ledger
from piecework.report.cost import Spending, spending_of
from piecework.report.use import MachineUse, use_of
from piecework.units import Money


@dataclass(frozen=True, slots=True)
class AttemptReport:
    """One try of a run, and what it cost by part (boot, setup, work, teardown, minimum).

    `as_if`: its machines were slices of this host, priced as if they had been bought. `use`: how
    much of what was paid for it used.
    """

    attempt: str
    number: int
    state: str
    waiting_reason: str | None
    outcome: Outcome | None
    cause: str | None
    exit_code: int | None
    machines: tuple[str, ...]
    pool: str | None
    instance_type: str | None
    as_if: bool
    queued_at: datetime | None
    admitted_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    cpu_seconds: float | None
    peak_memory_bytes: int | None
    read_bytes: int | None
    written_bytes: int | None
    artifacts: int
    spending: Spending
    parts: dict[Part, Spending]
    use: MachineUse

    def to_json(self) -> dict[str, Any]:
        return {
            "attempt": self.attempt,
            "number": self.number,
            "state": self.state,
            "waiting_reason": self.waiting_reason,
            "outcome": None if self.outcome is None else self.outcome.value,
            "cause": self.cause,
            "exit_code": self.exit_code,
            "machines": list(self.machines),
            "pool": self.pool,
            "instance_type": self.instance_type,
            "as_if": self.as_if,
            "queued_at": _time(self.queued_at),
            "admitted_at": _time(self.admitted_at),
            "started_at": _time(self.started_at),
            "ended_at": _time(self.ended_at),
            "cpu_seconds": self.cpu_seconds,
            "peak_memory_bytes": self.peak_memory_bytes,
            "read_bytes": self.read_bytes,
            "written_bytes": self.written_bytes,
            "artifacts": self.artifacts,
            "use": self.use.to_json(),
            "cost": self.spending.cost_text(),
            "machine_seconds": self.spending.machine_seconds,
            "unpriced": self.spending.unpriced_seconds,
            "parts": {
                part.value: {
                    "cost": self.parts[part].cost_text(),
                    "machine_seconds": self.parts[part].machine_seconds,
                }
                for part in ATTEMPT_PARTS
                if part in self.parts
            },
        }


@dataclass(frozen=True, slots=True)
class RunReport:
    """One execution of one job: what its last attempt says, and all attempts, the first first."""

    run: str
    job: str | None
    pipeline: str | None
    pipeline_run: str | None
    team: str | None
    engine: str | None
    spending: Spending
    attempts: tuple[AttemptReport, ...]
    currency: str = CURRENCY

    @property
    def last(self) -> AttemptReport:
        return self.attempts[-1]

    @property
    def state(self) -> str:
        return self.last.state

    @property
    def outcome(self) -> Outcome | None:
        return self.last.outcome

    @property
    def cause(self) -> str | None:
        return self.last.cause

    @property
    def cost(self) -> Money | None:
        """What all attempts cost together; None where no price is known."""
        return self.spending.cost

    @property
    def as_if(self) -> bool:
        return any(attempt.as_if for attempt in self.attempts)

    def to_json(self) -> dict[str, Any]:
        """As `piecework show --json` prints it; money as decimal strings, times in UTC."""
        return {
            "run": self.run,
            "job": self.job,
            "pipeline": self.pipeline,
            "pipeline_run": self.pipeline_run,
            "team": self.team,
            "engine": self.engine,
            "state": self.state,
            "waiting_reason": self.last.waiting_reason,
            "outcome": None if self.outcome is None else self.outcome.value,
            "cause": self.cause,
            "cost": self.spending.cost_text(),
            "currency": self.currency,
            "machine_seconds": self.spending.machine_seconds,
            "unpriced": self.spending.unpriced_seconds,
            "as_if": self.as_if,
            "attempts": [attempt.to_json() for attempt in self.attempts],
        }


def list_runs(
    ledger: Ledger,
    *,
    limit: int = 50,
    pipeline: str | None = None,
    state: str | None = None,
    since: datetime | None = None,
    now: datetime | None = None,
) -> list[RunReport]:
    """Runs, the newest first. `state`: waiting, running or ended. Raises LedgerError."""
    with ledger.reading() as connection:
        runs = lookup.find_runs(
            connection, limit=limit, pipeline=pipeline, state=state, since=since
        )
    return report_runs(ledger, runs, now)


def find_run(ledger: Ledger, run: str, now: datetime | None = None) -> RunReport | None:
    """The run with this id, of this attempt, or the only one whose id begins so; else None.

    Raises InputError where several begin so, LedgerError.
    """
    with ledger.reading() as connection:
        found = lookup.match_run(connection, run)
    if len(found) > 1:
        raise InputError(
            f"{run!r} is the beginning of several runs ({', '.join(found)}); write more of it"
        )
    reports = report_runs(ledger, found, now)
    return reports[0] if reports else None


def runs_of(
    ledger: Ledger,
    pipeline_run: str,
    pipeline: str | None = None,
    now: datetime | None = None,
) -> list[RunReport]:
    """The runs of a pipeline run, in the order in which they were queued. Raises LedgerError."""
    with ledger.reading() as connection:
        runs = lookup.runs_of(connection, pipeline_run, pipeline)
    return report_runs(ledger, runs, now)


def report_runs(
    ledger: Ledger, runs: Sequence[str], now: datetime | None = None
) -> list[RunReport]:
    """Reports on these runs, in this order."""
    with ledger.reading() as connection:
        attempts = lookup.attempts_of(connection, runs)
    timeline = ledger.timeline(attempts)
    charged = charges_by_attempt(timeline, now or clock.now())
    by_run: dict[str, list[Attempt]] = defaultdict(list)
    for attempt_id in attempts:
        attempt = timeline.attempts[attempt_id]
        by_run[attempt.run].append(attempt)
    return [_run(run, by_run[run], timeline, charged) for run in runs if run in by_run]


def charges_by_attempt(timeline: Timeline, now: datetime) -> dict[str, dict[Part, Amount]]:
    """What each attempt of a timeline was charged for its machines, by part."""
    charged: dict[str, dict[Part, Amount]] = defaultdict(lambda: defaultdict(Amount))
    for machine in timeline.machines.values():
        for charge in charge_machine(machine, timeline.attempts, now)[1]:
            if charge.attempt is not None:
                charged[charge.attempt][charge.part].add(
                    charge.nanos, charge.end - charge.start, charge.unpriced_microseconds
                )
    return charged


def _sum(amounts: Iterable[Amount]) -> Spending:
    total = Amount()
    for amount in amounts:
        total.add(amount.nanos, amount.microseconds, amount.unpriced_microseconds)
    return spending_of(total)


def _run(
    run: str,
    attempts: Sequence[Attempt],
    timeline: Timeline,
    charged: dict[str, dict[Part, Amount]],
) -> RunReport:
    ordered = sorted(attempts, key=lambda attempt: (attempt.number, attempt.id))
    first = ordered[0]
    amounts = [amount for a in ordered for amount in charged.get(a.id, {}).values()]
    return RunReport(
        run=run,
        job=first.job,
        pipeline=first.pipeline,
        pipeline_run=first.pipeline_run,
        team=first.team,
        engine=first.engine,
        spending=_sum(amounts),
        attempts=tuple(_attempt(a, timeline, charged.get(a.id, {})) for a in ordered),
    )


def _attempt(attempt: Attempt, timeline: Timeline, parts: dict[Part, Amount]) -> AttemptReport:
    occupied = [
        occupancy
        for machine in timeline.machines.values()
        for occupancy in machine.occupancies
        if occupancy.attempt == attempt.id
    ]
    names = sorted({*attempt.machines, *(occupancy.machine for occupancy in occupied)})
    machines = [timeline.machines[name] for name in names if name in timeline.machines]
    spending = _sum(parts.values())
    running = parts[Part.WORK].microseconds / 1e6 if Part.WORK in parts else 0.0
    types = [machine.instance_type for machine in machines if machine.instance_type]
    pools = [machine.pool for machine in machines if machine.pool]
    return AttemptReport(
        attempt=attempt.id,
        number=attempt.number,
        state=attempt.state,
        waiting_reason=attempt.waiting_reason if attempt.state == "waiting" else None,
        outcome=attempt.outcome,
        cause=attempt.cause,
        exit_code=attempt.exit_code,
        machines=tuple(names),
        pool=attempt.pool or next(iter(pools), None),
        instance_type=attempt.instance_type or next(iter(types), None),
        as_if=any(machine.as_if for machine in machines),
        queued_at=attempt.queued_at,
        admitted_at=attempt.admitted_at,
        started_at=attempt.started_at,
        ended_at=attempt.ended_at,
        cpu_seconds=attempt.cpu_seconds,
        peak_memory_bytes=attempt.peak_memory_bytes,
        read_bytes=attempt.read_bytes,
        written_bytes=attempt.written_bytes,
        artifacts=attempt.artifacts,
        spending=spending,
        parts={part: spending_of(amount) for part, amount in parts.items()},
        use=use_of(attempt, spending.machine_seconds, running),
    )


def _time(at: datetime | None) -> str | None:
    return None if at is None else clock.to_text(at)
