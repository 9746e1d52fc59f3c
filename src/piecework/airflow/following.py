"""One run of a job, followed from a task of Airflow: start, wait, try again, tell how it ended.

In: what the task asks for (an Assignment) and a runner. Out: one `Progress` after another, each
from one look at the run. Nothing is kept in memory that the next process could not find on disk,
so whoever follows may be killed and replaced at any time.

Which attempts are whose (docs/decisions/tries-and-attempts.md): a clear raises the task's
`max_tries`, and nothing else does. Attempts asked for with a lower one belong to an earlier
request: living ones are ended, and what they did is not taken. Of the others a living one is
followed, a success is taken, and a failure counts against the job's retries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from piecework.airflow.assignment import Assignment
from piecework.airflow.choice import choose_machine
from piecework.airflow.learned import learned_in
from piecework.config import Settings
from piecework.errors import ConfigError
from piecework.ledger.events import Outcome
from piecework.plan.plan import Plan
from piecework.plan.reserve import Usable
from piecework.runners.retry import next_step
from piecework.runners.runner import AttemptRequest, AttemptStatus, Owner, Runner
from piecework.spec.job import Job
from piecework.spec.pool import Pool, load_pools

#: More than any job is tried again within one try of its task: retries have budgets.
NUMBERS_OF_A_TRY = 1000
#: Outcomes that Airflow's own retries may repeat; all others are final for the task.
_OF_ERRORS = (Outcome.ERROR,)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended. `final`: Airflow's retries must not repeat it."""

    outcome: Outcome
    cause: str
    final: bool
    result: Any = None
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """One look at a run: its attempts of this request, and how it ended, once it has."""

    attempts: tuple[AttemptStatus, ...]
    ending: Ending | None = None
    #: What was done in this look, in words for the task's log.
    said: tuple[str, ...] = ()

    @property
    def latest(self) -> AttemptStatus | None:
        return self.attempts[-1] if self.attempts else None


def find_pool(job_name: str, job: Job, settings: Settings) -> Pool:
    """The machine pool of the job. Raises InputError where there is no such pool."""
    pools = load_pools(settings)
    name = job.pool or settings.pool
    if name not in pools:
        raise ConfigError(
            f"job {job_name!r} asks for the machine pool {name!r}, which is not "
            f"configured; there are {', '.join(sorted(pools))}"
        )
    return pools[name]


def advance(
    assignment: Assignment,
    runner: Runner,
    settings: Settings,
    learn: Callable[[Pool], Mapping[str, Usable]] = learned_in,
) -> Progress:
    """Looks at the run once, and starts its next attempt where one is due.

    `learn` tells what the machines of a pool were seen to have for jobs.
    """
    attempts = runner.attempts(assignment.run)
    current = [found for found in attempts if _is_current(found, assignment.owner)]
    stale = [found for found in attempts if found not in current and found.state != "ended"]
    if stale:
        for attempt in stale:
            runner.cancel(attempt.attempt, "its task was cleared, to run again")
        return Progress(tuple(current), said=tuple(f"ending {a.attempt}" for a in stale))
    if current and current[-1].state != "ended":
        return Progress(tuple(current))
    if current and current[-1].outcome is Outcome.SUCCESS:
        last = current[-1]
        if last.lost is not None:  # whoever comes after would get nothing, and not know why
            return Progress(tuple(current), Ending(Outcome.ERROR, last.lost, True))
        return Progress(
            tuple(current),
            Ending(Outcome.SUCCESS, last.cause or "", True, last.result, last.exit_code),
        )
    memory, why = None, ""
    if current:
        step = next_step(assignment.job, current, repeat_errors=assignment.repeat_errors)
        if step.ending is not None:
            ending = _end(assignment, current)
            if ending is not None:
                return Progress(tuple(current), ending)
            # Airflow has answered the failure with this try, so it is repeated.
            step = next_step(assignment.job, current, repeat_errors=True)
        memory, why = step.memory, step.why
    pool = find_pool(assignment.job_name, assignment.job, settings)
    choice = choose_machine(
        assignment.job_name, assignment.job, pool, settings, current, memory, learn(pool)
    )
    request = AttemptRequest(
        run=assignment.run,
        number=_next_number(attempts, choice.plan, assignment.owner),
        plan=choice.plan,
        owner=assignment.owner,
        code=assignment.code,
        data=assignment.data,
        pipeline=assignment.pipeline,
        pipeline_run=assignment.pipeline_run,
        team=assignment.job.team,
        priority=assignment.job.priority,
        params=assignment.params,
        pod=assignment.pod,
    )
    status = runner.start(request)
    return Progress((*current, status), said=_say_start(request, why, choice.said))


def _is_current(attempt: AttemptStatus, owner: Owner) -> bool:
    """Whether the attempt was asked for since the task was last cleared."""
    return attempt.owner is None or attempt.owner.max_tries >= owner.max_tries


def _end(assignment: Assignment, current: Sequence[AttemptStatus]) -> Ending | None:
    """How the run has ended; None where this try of the task is Airflow's answer to that end."""
    last = current[-1]
    assert last.outcome is not None
    errors = sum(found.outcome in _OF_ERRORS for found in current)
    final = last.outcome not in _OF_ERRORS or errors > assignment.job.retries.error
    earlier = last.owner is not None and last.owner.try_number < assignment.owner.try_number
    if earlier and not final:
        return None
    return Ending(last.outcome, last.cause or str(last.outcome), final, exit_code=last.exit_code)


def _next_number(attempts: Sequence[AttemptStatus], plan: Plan, owner: Owner) -> int:
    """A number that no attempt of the run ever had: the ledger tells attempts apart by it.

    A cluster forgets the attempts of a request that is over, so there the numbers of every try of
    the task begin with a thousand of their own: 1, then 1001, 2001.
    """
    known = max((_number(found.attempt) for found in attempts), default=0)
    if plan.provider == "local":
        return known + 1
    return max(known, NUMBERS_OF_A_TRY * max(0, owner.try_number - 1)) + 1


def _say_start(request: AttemptRequest, why: str, chosen: tuple[str, ...] = ()) -> tuple[str, ...]:
    plan = request.plan
    price = "unpriced" if plan.price_per_hour is None else f"{plan.price_per_hour} an hour"
    machines = f"{plan.count} x " if plan.count > 1 else ""
    what = (
        f"attempt {request.attempt}: {machines}{plan.instance_type.name} of pool {plan.pool}, "
        f"{plan.cpus} CPUs and {plan.memory.rounded()} each, {price}"
    )
    reason = (why,) if why else ()
    return (*reason, *chosen, what, *(f"warning: {warning}" for warning in plan.warnings))


def _number(attempt: str) -> int:
    return int(attempt.rpartition(".")[2])
