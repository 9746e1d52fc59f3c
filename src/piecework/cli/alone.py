"""One job alone, at once, without Airflow: `run FILE --job NAME`.

Enters a checked pipeline and a job's name; leaves an exit code, with the job's log on stderr while
it runs and its bill on stdout. Attempts are repeated by the same rule as in a pipeline run.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from piecework import clock
from piecework.cli import bill, terminal
from piecework.cli.interrupts import cleaning_up
from piecework.cli.log_output import LogOutput
from piecework.cli.logs import follow_attempt
from piecework.cli.past import past_of
from piecework.cli.pipeline_run import Ended, name_pipeline_run, read_runs, teller
from piecework.cli.planning import find_pool, plan_alone
from piecework.cli.reading import read_ledger, wait_until_recorded
from piecework.config import Settings
from piecework.errors import ClusterError, InputError, RunnerError
from piecework.ledger.events import Outcome
from piecework.plan.plan import History, Plan
from piecework.runners.retry import INFRASTRUCTURE, next_step
from piecework.runners.runner import (
    AttemptRequest,
    AttemptStatus,
    Owner,
    Runner,
    run_id,
    runner_for,
)
from piecework.spec.job import Job
from piecework.spec.pipeline import Pipeline
from piecework.spec.pool import Pool, load_pools
from piecework.spec.templates import render_job
from piecework.units import Memory

_PAUSE_SECONDS = 0.1
_CANCEL_SECONDS = 60.0
#: How long a cluster may not answer before a start is given up.
_SILENCE_SECONDS, _SILENCE_PAUSE_SECONDS = 60.0, 2.0


@dataclass(frozen=True)
class _Alone:
    """The run of one job: what every attempt of it shares."""

    name: str
    job: Job
    run: str
    file: Path
    pipeline: Pipeline
    params: Mapping[str, Any]
    settings: Settings
    pool: Pool
    past: History | None
    pipeline_run: str
    data: str

    def request(self, number: int, plan: Plan) -> AttemptRequest:
        return AttemptRequest(
            run=self.run,
            number=number,
            plan=plan,
            owner=Owner("cli"),
            code=self.file.parent.absolute(),
            data=self.data,
            pipeline=self.pipeline.name,
            pipeline_run=self.pipeline_run,
            team=self.job.team,
            priority=self.job.priority,
            params=self.params,
        )


def run_alone(
    file: Path,
    pipeline: Pipeline,
    name: str,
    given: Mapping[str, Any],
    settings: Settings,
    *,
    pool: str | None,
    data: str | None,
    as_json: bool,
) -> int:
    """Runs the job to its end, retries included; returns the exit code.

    Raises InputError and NoMachineError before anything is started.
    """
    pipeline_run = name_pipeline_run(pipeline.name, clock.now())
    run = run_id(pipeline.name, name, pipeline_run)
    params = pipeline.fill_params(given)
    context = template_context(params, run, pipeline.name, name, clock.now())
    job = render_job(pipeline.job(name), context)
    with past_of(settings, pipeline.name) as find_history:
        past = find_history(name)
    folder = f"{settings.data}/{pipeline.name}/{pipeline_run}" if data is None else data
    machines = find_pool(pool or job.pool or settings.pool, load_pools(settings), name)
    if machines.on_cluster and data is not None and "://" not in data:
        raise InputError(
            f"--data {terminal.printable(data)}: machines of pool {machines.name!r} cannot look "
            "into a folder of this computer; name a URL that they reach, like s3://bucket/folder"
        )
    runner = runner_for(machines, settings)
    alone = _Alone(
        name=name,
        job=job,
        run=run,
        file=file,
        pipeline=pipeline,
        params=params,
        settings=settings,
        pool=machines,
        past=past,
        pipeline_run=pipeline_run,
        data=folder,
    )
    tell = teller(settings, as_json, with_logs=False)
    try:
        last = _attempt_until_done(alone, runner)
    except KeyboardInterrupt:
        with cleaning_up(f"{run} may still run; `piecework cancel {run}` ends it"):
            _cancel(runner, run)
            tell(_settle(alone))
        raise
    ended = _settle(alone, last.outcome)
    tell(ended)
    return ended.exit_code


def template_context(
    params: Mapping[str, Any], run: str, pipeline: str, job: str, at: datetime
) -> dict[str, Any]:
    """What templates know without Airflow: the names that they know in a pipeline run."""
    return {
        "params": dict(params),
        "run_id": run,
        "ds": f"{at:%Y-%m-%d}",
        "ds_nodash": f"{at:%Y%m%d}",
        "ts": at.isoformat(),
        "ts_nodash": f"{at:%Y%m%dT%H%M%S}",
        "logical_date": at,
        "data_interval_start": at,
        "data_interval_end": at,
        "pipeline": pipeline,
        "job": job,
    }


def _attempt_until_done(alone: _Alone, runner: Runner) -> AttemptStatus:
    """Attempts the job until a rule says that it is over; returns how the last attempt ended.

    Its log goes to stderr meanwhile.
    """
    ended: list[AttemptStatus] = []
    memory: Memory | None = None
    while True:
        plan = plan_alone(
            alone.name,
            alone.job,
            alone.settings,
            alone.pool.name,
            alone.past,
            memory_at_least=memory,
        )
        _announce(alone, plan, len(ended) + 1)
        request = alone.request(len(ended) + 1, plan)
        _start(runner, request)
        output = LogOutput(sys.stderr)
        follow_attempt(runner, request.attempt, output)
        output.end()
        status = _ending(alone, runner, request.attempt)
        if status.lost is not None:
            terminal.warn(f"{request.attempt}: {terminal.one_line(status.lost)}")
        with contextlib.suppress(ClusterError):  # then the keeper finds out by waiting
            runner.acknowledge(request.attempt)
        ended.append(status)
        step = next_step(alone.job, ended, repeat_errors=True)
        if step.ending is not None:
            return status
        terminal.step(f"trying again: {terminal.one_line(step.why)}")
        memory = step.memory


def _ending(alone: _Alone, runner: Runner, attempt: str) -> AttemptStatus:
    """How an attempt ended: as its runner saw it, or as the ledger has it.

    Where this computer slept meanwhile, the pod may have ended and be gone: its runner then knows
    nothing of it, or takes what it last saw for interrupted, and a success would be run again.
    """
    status = runner.status(attempt)
    if status is not None and not (alone.pool.on_cluster and status.outcome in INFRASTRUCTURE):
        return status
    wait_until_recorded(alone.settings, [alone.run])
    with read_ledger(alone.settings) as ledger:
        known = ledger.timeline([attempt]).attempts.get(attempt)
    if known is not None and known.outcome is not None:
        if known.outcome is not (status and status.outcome):
            terminal.warn(f"{attempt}: its pod is gone; the ledger has how it ended")
        memory = known.asked.get("memory_bytes")
        return AttemptStatus(
            attempt,
            "ended",
            machines=known.machines,
            started_at=known.started_at,
            ended_at=known.ended_at,
            outcome=known.outcome,
            cause=known.cause,
            exit_code=known.exit_code,
            memory=None if memory is None else Memory(memory),
        )
    if status is None:
        raise RunnerError(
            f"{attempt}: its pod is gone, and the ledger does not know how it ended; "
            f"`piecework show {alone.run}` tells once a keeper has written it"
        )
    return status


def _start(runner: Runner, request: AttemptRequest) -> None:
    """Starts the attempt; a cluster that does not answer for a moment is asked again."""
    end = time.monotonic() + _SILENCE_SECONDS
    while True:
        try:
            runner.start(request)
        except ClusterError as error:
            if not error.retryable or time.monotonic() > end:
                raise
            time.sleep(_SILENCE_PAUSE_SECONDS)
        else:
            return


def _announce(alone: _Alone, plan: Plan, number: int) -> None:
    price = "unpriced" if plan.price_per_hour is None else f"{plan.price_per_hour * plan.count}/h"
    machine = plan.instance_type.name
    count = f"{plan.count} x " if plan.count > 1 else ""
    attempt = f", attempt {number}" if number > 1 else ""
    terminal.step(f"{alone.run}{attempt} on {count}{machine} ({price})")
    for warning in plan.warnings if number == 1 else ():
        terminal.warn(f"{alone.name}: {warning}")


def _cancel(runner: Runner, run: str) -> None:
    """Ends the run's attempts and waits for their end."""
    told, end = False, time.monotonic() + _CANCEL_SECONDS
    while alive := [attempt for attempt in runner.attempts(run) if attempt.state != "ended"]:
        for attempt in alive:
            runner.cancel(attempt.attempt, "cancelled by Ctrl-C")
        if not told:
            told = True
            terminal.say()
            terminal.step("cancelling: ending the job (Ctrl-C again leaves at once)")
        if time.monotonic() > end:
            terminal.warn(f"{run} has not ended yet; `piecework cancel {run}` ends it")
            return
        time.sleep(_PAUSE_SECONDS)


def _settle(alone: _Alone, outcome: Outcome | None = None) -> Ended:
    """What the ledger knows of the run, which has ended so."""
    if alone.pool.on_cluster:
        wait_until_recorded(alone.settings, [alone.run])
    runs = read_runs(alone.settings, alone.pipeline, alone.pipeline_run)
    how = bill.pipeline_outcome(runs) if outcome is None else str(outcome)
    return Ended(alone.pipeline.name, alone.pipeline_run, how, tuple(runs))
