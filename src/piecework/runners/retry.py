"""When a run is tried again, and with how much memory: a pure function of what ended so far.

Every cause of failure has a budget of its own, so a lost machine never uses up the user's retries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from piecework.ledger.events import Outcome
from piecework.plan.request import DEFAULT_MEMORY
from piecework.runners.outcome import Ending
from piecework.runners.runner import AttemptStatus
from piecework.spec.job import Job
from piecework.units import Memory

#: Failures that are nobody's fault but the machine's.
INFRASTRUCTURE = frozenset({Outcome.INTERRUPTED, Outcome.NEVER_STARTED})


@dataclass(frozen=True, slots=True)
class Step:
    """What comes next: the run's ending, or, where that is None, another attempt.

    `why` says so in words. `memory` is what the next attempt's machine must have at least, where
    that is more than the job asks for: `plan_job(..., memory_at_least=step.memory)`.
    """

    ending: Ending | None
    why: str
    memory: Memory | None = None


def next_step(job: Job, ended: Sequence[AttemptStatus], *, repeat_errors: bool = False) -> Step:
    """What comes after these attempts of one run, oldest first, all of them ended.

    `repeat_errors`: whether failures of the program are repeated here, up to the user's number.
    Under Airflow they are not: they are Airflow's retries. Cancelled, timed out and successful runs
    are over. Raises ValueError where an attempt has not ended.
    """
    if any(attempt.outcome is None for attempt in ended):
        raise ValueError("an attempt of this run has not ended; there is no next step yet")
    if not ended:
        return Step(None, "nothing was tried yet")
    last = ended[-1]
    assert last.outcome is not None
    ending = Ending(last.outcome, last.cause or str(last.outcome), last.exit_code)
    kind = _kind(last.outcome)
    budget = _budget(job, kind, repeat_errors)
    used = sum(_kind(a.outcome) == kind for a in ended if a.outcome is not None) - 1
    memory = _memory(job, ended)
    if kind == "out_of_memory" and job.machine.type is not None:
        return Step(ending, f"{ending.cause}; its machine type is pinned, so none has more memory")
    if used >= budget:
        return Step(ending, f"{ending.cause}{f' (retry {used} of {budget})' if used else ''}")
    with_memory = f" with at least {memory.rounded()}" if memory is not None else ""
    why = f"{last.outcome}: {ending.cause}; retry {used + 1} of {budget}{with_memory}"
    return Step(None, why, memory)


def _kind(outcome: Outcome) -> str:
    """The budget that an outcome draws on; its own name where it has none."""
    if outcome in INFRASTRUCTURE:
        return "infrastructure"
    return "out_of_memory" if outcome is Outcome.OUT_OF_MEMORY else str(outcome)


def _budget(job: Job, kind: str, repeat_errors: bool) -> int:
    if kind == "infrastructure":
        return job.retries.infrastructure
    if kind == "out_of_memory":
        return job.retries.out_of_memory
    return job.retries.error if kind == Outcome.ERROR and repeat_errors else 0


def _memory(job: Job, ended: Sequence[AttemptStatus]) -> Memory | None:
    """Twice what the largest attempt that ran out had, whatever else happened in between.

    What it had, not what was asked for: the machine may have been larger than the request.
    """
    ran_out = [attempt for attempt in ended if attempt.outcome is Outcome.OUT_OF_MEMORY]
    if not ran_out or job.machine.type is not None:
        return None
    asked = job.machine.memory or DEFAULT_MEMORY
    had = [attempt.memory or asked for attempt in ran_out]
    return Memory(max(asked, *had).bytes * 2)
