"""Plans for the jobs of a pipeline, with what only this computer knows: its size, its past runs.

Enters a pipeline and the settings; leaves a Plan for each job. Buys and starts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from piecework.cli.past import FindHistory
from piecework.config import Settings
from piecework.errors import InputError, NoMachineError
from piecework.plan.choose import plan_job
from piecework.plan.plan import History, Host, Plan
from piecework.plan.price import load_price_book
from piecework.plan.reserve import Usable
from piecework.spec.job import Job
from piecework.spec.pipeline import Pipeline
from piecework.spec.pool import Pool, load_pools
from piecework.units import Memory


@dataclass(frozen=True)
class Planned:
    """The plans by job, and for the jobs that no machine fits the reason."""

    plans: dict[str, Plan] = field(default_factory=dict)
    without_machine: dict[str, NoMachineError] = field(default_factory=dict)


def plan_pipeline(
    pipeline: Pipeline,
    settings: Settings,
    pool: str | None = None,
    find_history: FindHistory | None = None,
) -> Planned:
    """Plans every job. `pool` overrides what the jobs say.

    Raises InputError where a job names a pool that is not configured.
    """
    pools = load_pools(settings)
    planned = Planned()
    for name in pipeline.jobs:
        job = pipeline.job(name)
        found = find_pool(pool or job.pool or settings.pool, pools, name)
        past = find_history(name) if find_history else None
        try:
            planned.plans[name] = _plan(name, job, found, settings, past)
        except NoMachineError as error:
            planned.without_machine[name] = error
    return planned


def plan_alone(
    name: str,
    job: Job,
    settings: Settings,
    pool: str | None,
    past: History | None,
    memory_at_least: Memory | None = None,
) -> Plan:
    """Plans one attempt that starts now, by what its cluster has learned of machines.

    Raises InputError (no such pool) or NoMachineError.
    """
    from piecework.airflow.learned import learned_in

    found = find_pool(pool or job.pool or settings.pool, load_pools(settings), name)
    return _plan(name, job, found, settings, past, memory_at_least, learned_in(found))


def _plan(
    name: str,
    job: Job,
    pool: Pool,
    settings: Settings,
    past: History | None,
    memory_at_least: Memory | None = None,
    learned: Mapping[str, Usable] | None = None,
) -> Plan:
    return plan_job(
        name,
        job,
        pool=pool,
        prices=load_price_book(pool),
        settings=settings,
        host=this_host(pool),
        history=past,
        memory_at_least=memory_at_least,
        learned=learned,
    )


def find_pool(name: str, pools: Mapping[str, Pool], job: str) -> Pool:
    """The pool by name; raises InputError with what there is."""
    if name in pools:
        return pools[name]
    from piecework.spec.wording import suggest

    raise InputError(
        f"job {job}: there is no pool {name!r} in piecework.toml; {suggest(name, pools)}"
    )


@cache
def _host(cpus: int | None, memory_bytes: int | None) -> Host:
    """It does not change while one command runs."""
    from piecework.machines.host import capacity

    found = capacity(cpus, memory_bytes)
    return Host(len(found.cores), Memory(found.memory_bytes))


def this_host(pool: Pool) -> Host | None:
    """What this computer gives to the jobs of a local pool; None for others."""
    if pool.provider != "local":
        return None
    return _host(
        None if pool.cpus is None else int(pool.cpus),
        None if pool.memory is None else pool.memory.bytes,
    )


def on_pool(pipeline: Pipeline, settings: Settings, pool: str | None) -> Pipeline:
    """The pipeline with all jobs on that pool, whatever they say; as it is where there is none.

    Raises InputError where there is no such pool.
    """
    if pool is None:
        return pipeline
    pools = load_pools(settings)
    for name in pipeline.jobs:
        find_pool(pool, pools, name)
    moved = {name: job.model_copy(update={"pool": pool}) for name, job in pipeline.jobs.items()}
    return pipeline.model_copy(update={"jobs": moved})


def only_job(pipeline: Pipeline, name: str) -> Pipeline:
    """The pipeline with this job alone; raises InputError with what there is."""
    job = pipeline.job(name).model_copy(update={"after": ()})
    return pipeline.model_copy(update={"jobs": {name: job}})
