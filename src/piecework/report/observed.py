"""What a job's attempts did, from the ledger, for advice on its size.

Enters a job or a run, and the configured pools; leaves an Advice of each job, with the job's name.
An attempt counts where it succeeded and somebody measured it; one that ran out of memory counts as
the need of that memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from piecework import clock
from piecework.ledger import lookup
from piecework.ledger.charges import Part
from piecework.ledger.events import Outcome
from piecework.ledger.occupancy import Attempt, Timeline
from piecework.ledger.period import Amount
from piecework.ledger.store import Ledger
from piecework.plan.plan import Host
from piecework.plan.price import load_price_book
from piecework.report.runs import charges_by_attempt
from piecework.report.scaling import Tasks, Work
from piecework.report.sizing import Advice, Observed, Terms, advise
from piecework.report.use import cores_of, cpu_seconds_of
from piecework.spec.pool import Pool

#: How many attempts that ran out of memory are looked at beside those that succeeded.
_LAST_OUT_OF_MEMORY = 5
_AROUND = (Part.BOOT, Part.SETUP, Part.TEARDOWN)

#: What this host gives to the jobs of a pool; None: the nameplate.
FindHost = Callable[[Pool], Host | None]


@dataclass(frozen=True, slots=True)
class JobAdvice:
    """The advice for a job. `pipeline` is None where it has none."""

    pipeline: str | None
    job: str
    pool: str | None
    count: int
    advice: Advice

    @property
    def name(self) -> str:
        return self.job if self.pipeline is None else f"{self.pipeline}.{self.job}"

    def to_json(self) -> dict[str, Any]:
        """As `piecework advise --json` prints it; money as decimal strings."""
        named = {"pipeline": self.pipeline, "job": self.job, "pool": self.pool}
        return {**named, "machines": self.count, **self.advice.to_json()}


def advise_job(
    ledger: Ledger,
    pipeline: str | None,
    job: str,
    pools: Mapping[str, Pool],
    host: FindHost,
    last: int = 20,
) -> JobAdvice:
    """From the job's last attempts. Raises LedgerError."""
    with ledger.reading() as connection:
        ids = lookup.last_successes(connection, pipeline, job, last)
        ids += lookup.last_with_outcome(
            connection, pipeline, job, Outcome.OUT_OF_MEMORY, _LAST_OUT_OF_MEMORY
        )
    return advise_attempts(ledger, ids, pipeline, job, pools, host)


def advise_attempts(
    ledger: Ledger,
    ids: Sequence[str],
    pipeline: str | None,
    job: str,
    pools: Mapping[str, Pool],
    host: FindHost,
) -> JobAdvice:
    """From these attempts of a job."""
    timeline = ledger.timeline(ids)
    charged = charges_by_attempt(timeline, clock.now())
    attempts = sorted(
        (timeline.attempts[each] for each in ids if each in timeline.attempts),
        key=lambda attempt: attempt.first_seen_at,
        reverse=True,
    )
    read = [(each, _observe(each, charged.get(each.id, {}))) for each in attempts]
    done = [(each, seen) for each, seen in read if isinstance(seen, Observed) and seen.succeeded]
    if not done:
        why = next((seen for _, seen in read if isinstance(seen, str)), _NEVER)
        return JobAdvice(pipeline, job, None, 1, Advice(0, why))
    newest, first = done[0]
    # What was before the job was put on another number of machines, or pool, is another job.
    alike = [
        seen
        for each, seen in read
        if isinstance(seen, Observed) and seen.count == first.count and each.pool == newest.pool
        if seen.succeeded or each.first_seen_at >= done[-1][0].first_seen_at
    ]
    pool = pools.get(newest.pool or "")
    if pool is None:
        advice = Advice(0, f"its pool {newest.pool!r} is not configured here")
    else:
        advice = advise(
            alike, pool, load_price_book(pool), _terms(newest, timeline), host(pool)
        )  # fmt: skip
    return JobAdvice(pipeline, job, newest.pool, first.count, advice)


_NEVER = "no run of it has succeeded yet"


def _observe(attempt: Attempt, charged: Mapping[Part, Amount]) -> Observed | str | None:
    """What it did; or why that cannot be told, or None where there is nothing to be told."""
    out_of_memory = attempt.outcome is Outcome.OUT_OF_MEMORY
    if attempt.outcome is not Outcome.SUCCESS and not out_of_memory:
        return None
    started, ended, cores = attempt.started_at, attempt.ended_at, cores_of(attempt)
    machine = attempt.instance_type
    if started is None or ended is None or cores is None or machine is None:
        return "when and where it ran is not known"
    cpu, peak = cpu_seconds_of(attempt), attempt.peak_memory_bytes
    if cpu is None or not peak:
        return (
            "nobody measured what it used: an image of the user's own has no launcher of "
            "piecework, and no kubelet saw it for long enough"
            if attempt.engine == "container"
            else "nobody measured what it used"
        )
    count = max(1, len(attempt.machines))
    if attempt.spark.get("elsewhere"):
        executors = _memory_of_executors(attempt.spark, count)
        if executors is None:
            return "the memory of Spark's executors, which had pods of their own, is not known"
        peak += executors
    seconds = max(0.0, (ended - started).total_seconds())
    if attempt.counted_seconds:
        cpu *= max(1.0, seconds * count / attempt.counted_seconds)
    around = sum(charged[part].microseconds for part in _AROUND if part in charged) / 1e6
    return Observed(
        attempt=attempt.id,
        instance_type=machine,
        count=count,
        work=_work(attempt, seconds, cores * count, cpu),
        fixed_seconds=around / count,
        peak_memory_bytes=peak,
        succeeded=not out_of_memory,
        sampled=attempt.counted_seconds is not None,
    )


def _memory_of_executors(told: Mapping[str, float], count: int) -> int | None:
    """What executors had on one machine, at most: as many as there were, each the largest."""
    if not told.get("jvm_bytes"):
        return None
    largest = told["jvm_bytes"] + told.get("python_bytes", 0.0)
    return math.ceil(told.get("executors", 1.0) / count) * int(largest)


def _work(attempt: Attempt, seconds: float, cores: int, cpu_seconds: float) -> Work:
    told = attempt.spark
    busy = max(cpu_seconds, attempt.dask.get("busy_seconds", 0.0))
    if told.get("elsewhere"):
        busy = cpu_seconds + told.get("busy_seconds", 0.0)  # their Python was not measured
    wall, slots = told.get("wall_seconds", 0.0), told.get("slots", 0.0)
    if not wall or not slots or told.get("partial"):
        return Work(seconds, cores, busy)
    tasks = Tasks(
        seconds=min(seconds, max(0.0, wall - told.get("driver_seconds", 0.0))),
        slots=slots,
        busy_seconds=told.get("busy_seconds", 0.0),
        critical_seconds=told.get("critical_seconds", 0.0),
    )
    return Work(seconds, cores, busy, tasks)


def _terms(attempt: Attempt, timeline: Timeline) -> Terms:
    gpus, timeout = attempt.asked.get("gpu"), attempt.asked.get("timeout_seconds")
    machines = [timeline.machines[name] for name in attempt.machines if name in timeline.machines]
    return Terms(
        gpus=gpus if isinstance(gpus, int) else 0,
        timeout_seconds=float(timeout) if isinstance(timeout, int | float) else None,
        spot=any(machine.spot for machine in machines),
    )
