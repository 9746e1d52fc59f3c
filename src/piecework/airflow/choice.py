"""Which machine the next attempt of a run gets, after what happened to those before it.

In: the job, the attempts that have ended, and the memory that a retry needs. Out: a
plan, and what is to be said about it in the task's log. Capacity that failed is not asked for
again: after an interruption a job that only prefers spot runs on demand, and a type of which there
was no machine is left out as long as others fit. More memory costs more, so the price is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from piecework.config import Settings
from piecework.errors import NoMachineError
from piecework.ledger.events import Outcome
from piecework.plan.choose import plan_job
from piecework.plan.plan import Plan
from piecework.plan.price import load_price_book
from piecework.plan.reserve import Usable
from piecework.runners.runner import AttemptStatus
from piecework.spec.job import Job
from piecework.spec.pool import Pool
from piecework.units import Memory


@dataclass(frozen=True, slots=True)
class Choice:
    """The plan of an attempt, and why it is another than that of the one before, in words."""

    plan: Plan
    said: tuple[str, ...] = ()


def choose_machine(
    job_name: str,
    job: Job,
    pool: Pool,
    settings: Settings,
    ended: Sequence[AttemptStatus] = (),
    memory_at_least: Memory | None = None,
    learned: Mapping[str, Usable] | None = None,
) -> Choice:
    """Plans the next attempt. Raises NoMachineError, or InputError where the pool lacks something.

    `learned` is what machines of the cluster were seen to have for jobs.
    """
    job, said = _leave_spot(job, pool, ended)
    here = _Here(job_name, pool, settings, learned)
    plan = here.plan(job, pool, memory_at_least)
    for _ in range(sum(_found_no_machine(attempt) for attempt in ended)):
        narrowed = _without(pool, here, plan)
        if narrowed is None:
            break
        try:
            other = here.plan(job, narrowed, memory_at_least)
        except NoMachineError:
            break  # these are all that fit, so they are asked for again
        said = (*said, f"there was no {plan.instance_type.name}; asking for another type")
        pool, plan = narrowed, other
    if memory_at_least is not None:
        said = (*said, *_say_price(here, job, plan, memory_at_least))
    return Choice(plan, said)


@dataclass(frozen=True, slots=True)
class _Here:
    """What plans of one job have in common."""

    job_name: str
    pool: Pool
    settings: Settings
    learned: Mapping[str, Usable] | None

    def plan(self, job: Job, pool: Pool, memory_at_least: Memory | None) -> Plan:
        host = None
        if pool.provider == "local":
            from piecework.runners.local import host_for_plans

            host = host_for_plans(pool)
        return plan_job(
            self.job_name,
            job,
            pool=pool,
            prices=load_price_book(pool),
            settings=self.settings,
            host=host,
            memory_at_least=memory_at_least,
            learned=self.learned,
        )


def _leave_spot(
    job: Job, pool: Pool, ended: Sequence[AttemptStatus]
) -> tuple[Job, tuple[str, ...]]:
    """The job on demand, where it only preferred spot and was interrupted."""
    interrupted = any(attempt.outcome is Outcome.INTERRUPTED for attempt in ended)
    if not pool.on_cluster or job.machine.spot != "prefer" or not interrupted:
        return job, ()
    machine = job.machine.model_copy(update={"spot": "never"})
    return (
        job.model_copy(update={"machine": machine}),
        ("it was interrupted, so this attempt runs on demand",),
    )


def _found_no_machine(attempt: AttemptStatus) -> bool:
    return attempt.outcome is Outcome.NEVER_STARTED and not attempt.machines


def _without(pool: Pool, here: _Here, plan: Plan) -> Pool | None:
    """The pool without the types that the plan would have taken; None where none is left."""
    tried = {plan.instance_type.name, *plan.alternatives}
    if pool.provider == "asg":
        groups = tuple(group for group in pool.groups if group.type not in tried)
        return pool.model_copy(update={"groups": groups}) if groups else None
    if pool.provider != "karpenter" or plan.job.machine.type is not None:
        return None
    allowed = pool.allowed_types() or frozenset(load_price_book(here.pool).types)
    types = tuple(sorted(allowed - tried))
    return pool.model_copy(update={"types": types}) if types else None


def _say_price(here: _Here, job: Job, plan: Plan, memory: Memory) -> tuple[str, ...]:
    """What more memory costs: the machine had half of it."""
    try:
        before = here.plan(job, here.pool, Memory(memory.bytes // 2))
    except NoMachineError:
        return ()
    if before.price_per_hour is None or plan.price_per_hour is None:
        return ()
    if before.instance_type.name == plan.instance_type.name:
        return ()
    now, then = (f"{p.instance_type.name} at {p.price_per_hour} an hour" for p in (plan, before))
    return (f"more memory: {now} instead of {then}",)
