"""A pipeline run through Airflow, from the file to the bill: what `run`, `submit` and `demo` do.

Enters a checked pipeline, its file and its parameters; leaves how it ended. An interrupt cancels
what was started, and is raised again once the bill is printed.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from piecework import clock
from piecework.cli import bill, terminal
from piecework.cli.interrupts import cleaning_up
from piecework.cli.past import past_of
from piecework.cli.planning import on_pool, plan_pipeline
from piecework.cli.platform_users import platform_in_use
from piecework.config import Settings
from piecework.errors import NoMachineError, PieceworkError
from piecework.ledger.events import Outcome
from piecework.spec.pipeline import Pipeline

if TYPE_CHECKING:
    from piecework.cli.follow import Follower


@dataclass(frozen=True)
class Ended:
    """How a pipeline run ended: its runs as JSON, in the pipeline's order."""

    pipeline: str
    pipeline_run: str
    outcome: str
    runs: tuple[bill.Run, ...]

    @property
    def exit_code(self) -> int:
        """What the command exits with."""
        return bill.exit_code(self.outcome)

    def to_json(self) -> dict[str, Any]:
        """The object that `run --json` prints."""
        return bill.to_json(self.runs, self.pipeline, self.pipeline_run, self.outcome)


def name_pipeline_run(pipeline: str, at: datetime) -> str:
    """An id that sorts by time and is never given twice: hello-20261123T021500-7f3a9c."""
    return f"{pipeline}-{at:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


def check_machines(pipeline: Pipeline, settings: Settings, pool: str | None = None) -> None:
    """Raises NoMachineError before anything is started, where no machine fits a job.

    What the jobs will miss on machines that do not share this computer's folders is a warning.
    """
    with past_of(settings, pipeline.name) as find_history:
        planned = plan_pipeline(pipeline, settings, pool, find_history)
    elsewhere = sorted({plan.pool for plan in planned.plans.values() if plan.provider != "local"})
    if elsewhere and len(pipeline.jobs) > 1 and "://" not in settings.data:
        terminal.warn(
            f"jobs on machines of pool {', '.join(elsewhere)} get no PIECEWORK_DATA: they cannot "
            f"look into {settings.data}. Set data in piecework.toml to a URL that they reach"
        )
    for plan in planned.plans.values():
        for warning in plan.warnings:
            terminal.warn(f"{plan.job_name}: {warning}")
    if planned.without_machine:
        raise NoMachineError("; ".join(str(error) for error in planned.without_machine.values()))


def prepare(
    file: Path,
    pipeline: Pipeline,
    settings: Settings,
    pipeline_run: str,
    pool: str | None = None,
) -> Follower:
    """Publishes the file and waits until Airflow has read it; queues nothing yet.

    `pool` is where this pipeline run's jobs are to be, whatever the file says.
    """
    from piecework.airflow import platform, publication
    from piecework.cli.follow import Follower

    client = platform.connect(settings)
    dag_id = publication.publish(file, settings)
    terminal.step(f"waiting for Airflow to read {file.name}")
    client.wait_for_dag(dag_id)
    client.unpause(dag_id)
    moved = on_pool(pipeline, settings, pool)
    return Follower(settings, client, moved, pipeline_run, pool)


def run_pipeline(
    file: Path,
    pipeline: Pipeline,
    params: dict[str, Any],
    settings: Settings,
    *,
    keep: bool,
    tell: Callable[[Ended], None],
    pool: str | None = None,
) -> Ended:
    """Runs the pipeline to its end on the platform, which is brought up for it where it is down.

    `pool` is where its jobs get their machines, whatever the file says. `tell` prints how it ended,
    also after an interrupt, which is raised again after that.
    """
    check_machines(pipeline, settings, pool)
    pipeline_run = name_pipeline_run(pipeline.name, clock.now())
    with platform_in_use(settings, keep=keep, progress=terminal.step):
        follower = prepare(file, pipeline, settings, pipeline_run, pool)
        try:
            terminal.step(f"queueing the pipeline run {pipeline_run}")
            follower.trigger(params)
            ended = follow(follower, settings)
        except KeyboardInterrupt:
            with cleaning_up("jobs may still run; `piecework ls --running` lists them"):
                cancel(follower)
                tell(settle(follower, settings))
            raise
        tell(ended)
    return ended


def follow(follower: Follower, settings: Settings) -> Ended:
    """Shows the pipeline run until it is over; returns how it ended."""
    from piecework.cli.progress import progress

    with progress() as show:
        follower.wait(show)
    return settle(follower, settings)


def cancel(follower: Follower, seconds: float = 60.0) -> None:
    """Ends a pipeline run after an interrupt, and says what may be left where it doesn't end."""
    terminal.say()
    terminal.step("cancelling: ending the jobs (Ctrl-C again leaves at once)")
    if not follower.cancel("cancelled by Ctrl-C", seconds):
        terminal.warn(
            "some jobs have not ended yet; `piecework ls --running` lists them, and they end "
            "at their time limit at the latest"
        )


def settle(follower: Follower, settings: Settings) -> Ended:
    """What the ledger knows of the pipeline run, in the pipeline's order."""
    runs = read_runs(settings, follower.pipeline, follower.pipeline_run)
    outcome = bill.pipeline_outcome(runs, [view.state for view in follower.views])
    return Ended(follower.pipeline.name, follower.pipeline_run, outcome, tuple(runs))


def read_runs(settings: Settings, pipeline: Pipeline, pipeline_run: str) -> list[bill.Run]:
    """The runs of a pipeline run that has ended, billed, in the pipeline's order."""
    from piecework.cli.reading import read_ledger, wait_for_machines
    from piecework.report.runs import runs_of

    with read_ledger(settings) as ledger:
        found = runs_of(ledger, pipeline_run, pipeline.name)
        if wait_for_machines(settings, ledger, found):
            found = runs_of(ledger, pipeline_run, pipeline.name)
    order = {name: place for place, name in enumerate(pipeline.jobs)}
    found.sort(key=lambda run: order.get(run.job or "", len(order)))
    return [run.to_json() for run in found]


def teller(settings: Settings, as_json: bool, *, with_logs: bool = True) -> Callable[[Ended], None]:
    """Prints how a pipeline run ended: as the object for programs, or as a bill for people.

    `with_logs`: people are shown the ends of the logs of what failed, which they have not seen yet.
    """

    def tell(ended: Ended) -> None:
        if as_json:
            terminal.result_json(ended.to_json())
            return
        terminal.say()
        for run in ended.runs:
            if run["outcome"] != Outcome.SUCCESS:
                terminal.say(bill.failure(run))
                if with_logs:
                    _tell_log_end(run, settings)
        outcome = bill.outcome_text(ended.outcome)
        terminal.say(f"{ended.pipeline}: {outcome}  (pipeline run {ended.pipeline_run})")
        terminal.say()
        if ended.runs:
            terminal.result(bill.describe(ended.runs))
            _compare(ended, settings)

    return tell


def _tell_log_end(run: bill.Run, settings: Settings) -> None:
    from piecework.cli.logs import last_lines
    from piecework.cli.runners import Runners

    started = [each for each in run["attempts"] if each["started_at"]]
    with suppress(PieceworkError):  # of a pool that is not configured any more
        for last in started[-1:]:
            runner = Runners(settings).of(last["pool"], last["attempt"])
            for line in last_lines(runner, last["attempt"]):
                terminal.say(f"  | {terminal.printable(line)}")


def _compare(ended: Ended, settings: Settings) -> None:
    """What the same jobs would have cost on a cluster that is always there."""
    from piecework.ledger.store import open_ledger
    from piecework.report.always_on import compare

    with open_ledger(settings.ledger_url) as ledger:
        comparison = compare(ledger, pipeline_run=ended.pipeline_run)
    if comparison is None:
        return
    terminal.result()
    if comparison.as_if:
        terminal.result_paragraph(
            "These machines were slices of this computer; prices are as if they were bought."
        )
    terminal.result_paragraph(comparison.sentence)
