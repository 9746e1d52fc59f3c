"""`piecework cancel RUN`: end a run, or a pipeline run with all of its jobs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from piecework.cli import bill, options, terminal
from piecework.errors import InputError, PlatformError

if TYPE_CHECKING:
    from piecework.config import Settings
    from piecework.report.runs import RunReport
    from piecework.runners.runner import Runner

_PAUSE_SECONDS = 0.2
_WAIT_SECONDS = 60.0
_CAUSE = "cancelled by its user"


@click.command()
@click.argument("run", metavar="RUN|PIPELINE_RUN")
@click.option("--no-wait", is_flag=True, help="Ask for it, and don't wait until it has ended.")
@options.json_option
def command(run: str, no_wait: bool, as_json: bool) -> int:
    """End a run or a pipeline run.

    Its whole process tree ends, and it is billed up to then. Ending one job of a pipeline run makes
    the jobs after it not run. Exits 0 where it is over, also where it was before.
    """
    from piecework import config
    from piecework.cli.finding import find
    from piecework.cli.reading import read_ledger, wait_until_recorded
    from piecework.cli.runners import Runners, run_of

    settings = config.load()
    runners = Runners(settings)
    with read_ledger(settings) as ledger:
        try:
            found = find(ledger, run)
        except InputError:
            unrecorded = runners.find_unrecorded(run)
            if unrecorded is not None:
                runner, attempts = unrecorded
                name = run_of(attempts)
                over = _end([(runner, name)], wait=not no_wait)
                return _tell_unrecorded(name, over=over, wait=not no_wait, as_json=as_json)
            # Queued, but none of its jobs has begun: only Airflow knows of it.
            if not _cancel_unbegun(run, settings):
                raise
            found = []
    runs = found if isinstance(found, list) else [found]
    whole = isinstance(found, list)
    live = [each for each in runs if each.state != "ended"]
    if live or whole:
        _tell_airflow(runs, live, whole=whole, settings=settings)
    over = _end(
        [(runners.of(each.last.pool, each.run), each.run) for each in live], wait=not no_wait
    )
    told = [each.run for each in live if runners.pools[each.last.pool or "local"].on_cluster]
    if over and told:
        wait_until_recorded(settings, told)
    _print(runs, live, over=over, as_json=as_json, settings=settings)
    return 0 if over or no_wait else 1


def _tell_unrecorded(name: str, *, over: bool, wait: bool, as_json: bool) -> int:
    """What is known of a run that the ledger does not know yet."""
    if as_json:
        terminal.result_json({"cancelled": [name], "over": over, "runs": []})
    else:
        terminal.result(f"{name}: {'cancelled' if over else 'asked to end'}")
    return 0 if over or not wait else 1


def _tell_airflow(
    runs: Sequence[RunReport], live: Sequence[RunReport], *, whole: bool, settings: Settings
) -> None:
    """Makes Airflow start nothing more of it; where Airflow is silent the jobs end all the same."""
    from piecework.airflow import platform

    first = next(iter(runs), None)
    if first is None or first.pipeline is None or first.pipeline_run is None:
        return
    if settings.airflow_url is None and platform.status(settings).state == "down":
        return
    try:
        client = platform.connect(settings)
        if whole:
            client.cancel(first.pipeline, first.pipeline_run)
            return
        if client.pipeline_run(first.pipeline, first.pipeline_run) is None:
            return  # it was asked for without Airflow
        for run in live:
            assert run.pipeline is not None
            assert run.pipeline_run is not None
            if run.job is not None:
                client.cancel_task(run.pipeline, run.pipeline_run, run.job)
    except PlatformError as error:
        terminal.warn(f"Airflow could not be told: {error}")


def _cancel_unbegun(name: str, settings: Settings) -> bool:
    """Whether one of the published pipelines had such a pipeline run, which is cancelled now."""
    from piecework.airflow import platform

    if settings.airflow_url is None and platform.status(settings).state == "down":
        return False
    client = platform.connect(settings)
    cancelled = False
    for file in sorted((settings.home / "pipelines").glob("*.yaml")):
        if client.pipeline_run(file.stem, name) is not None:
            client.cancel(file.stem, name)
            cancelled = True
    return cancelled


def _end(live: Sequence[tuple[Runner, str]], *, wait: bool) -> bool:
    """Ends the last attempts of these runs, each with its runner; True once all have ended."""
    end = time.monotonic() + _WAIT_SECONDS
    while True:
        alive = [
            (runner, attempt)
            for runner, run in live
            for attempt in runner.attempts(run)
            if attempt.state != "ended"
        ]
        for runner, attempt in alive:
            runner.cancel(attempt.attempt, _CAUSE)
        if not alive:
            return True
        if not wait:
            return False
        if time.monotonic() > end:
            names = ", ".join(attempt.attempt for _, attempt in alive)
            terminal.error(f"{names} did not end within {_WAIT_SECONDS:.0f} s; it was asked to")
            return False
        time.sleep(_PAUSE_SECONDS)


def _print(
    runs: Sequence[RunReport],
    live: Sequence[RunReport],
    *,
    over: bool,
    as_json: bool,
    settings: Settings,
) -> None:
    from piecework.cli.reading import read_ledger
    from piecework.report.runs import report_runs

    with read_ledger(settings) as ledger:
        now: list[dict[str, Any]] = [
            run.to_json() for run in report_runs(ledger, [run.run for run in runs])
        ]
    if as_json:
        terminal.result_json({"cancelled": [run.run for run in live], "over": over, "runs": now})
        return
    names = {run.run for run in live}
    for run in now:
        ended = bill.outcome_text(run["outcome"] or run["state"])
        was = "" if run["run"] in names else " (it was before)"
        terminal.result(f"{run['run']}: {ended}{was}, {bill.money(run['cost'])}")
    if not now:
        terminal.result("The pipeline run was cancelled before any of its jobs began.")
