"""`piecework advise`: which size would have been cheaper, by how much, and how sure that is."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import click

from piecework.cli import options, terminal
from piecework.errors import InputError

if TYPE_CHECKING:
    from piecework.config import Settings
    from piecework.ledger.store import Ledger
    from piecework.report.observed import JobAdvice
    from piecework.report.sizing import Prediction


@click.command()
@click.argument("name", metavar="[RUN|JOB|PIPELINE]", required=False)
@click.option(
    "--last",
    type=click.IntRange(1, 1000),
    metavar="N",
    default=20,
    show_default=True,
    help="How many of a job's last successful attempts to look at.",
)
@options.json_option
def command(name: str | None, last: int, as_json: bool) -> None:
    """Say which machine size would have been cheaper, and by how much.

    Of a job, of all jobs of a pipeline, or of all jobs there are; or of a single run. Computed from
    what past attempts used; a range says what the new size costs at least and at most.
    """
    from piecework import config
    from piecework.cli.reading import read_ledger

    settings = config.load()
    with read_ledger(settings) as ledger:
        found = _advise(ledger, name, last, settings)
    if as_json:
        terminal.result_json({"advice": [each.to_json() for each in found]})
        return
    if not found:
        terminal.result("No advice: no job has run yet.")
    for number, each in enumerate(found):
        if number:
            terminal.result()
        _print(each)


def _advise(ledger: Ledger, name: str | None, last: int, settings: Settings) -> list[JobAdvice]:
    from piecework.cli.planning import this_host
    from piecework.ledger import lookup
    from piecework.report.observed import advise_attempts, advise_job
    from piecework.spec.pool import load_pools

    pools = load_pools(settings)
    with ledger.reading() as connection:
        jobs = lookup.find_jobs(connection)
    if name is not None:
        jobs = [
            (pipeline, job)
            for pipeline, job in jobs
            if name in (pipeline, job, job if pipeline is None else f"{pipeline}.{job}")
        ]
    if jobs or name is None:
        return [advise_job(ledger, *each, pools, this_host, last) for each in jobs]
    from piecework.cli.finding import find

    runs = find(ledger, name)
    found = []
    for run in runs if isinstance(runs, list) else [runs]:
        if run.job is None:
            raise InputError(f"it is not known of which job {run.run} was")
        ids = [attempt.attempt for attempt in run.attempts]
        found.append(advise_attempts(ledger, ids, run.pipeline, run.job, pools, this_host))
    return found


def _print(found: JobAdvice) -> None:
    advice = found.advice
    now, better = advice.now, advice.better
    attempts = f"{advice.attempts} run{'' if advice.attempts == 1 else 's'}"
    terminal.result(terminal.style(terminal.one_line(found.name), bold=True))
    if now is None:
        _fact("No advice", advice.reason or "")
        return
    _fact("Now", f"{_machine(now, found.count)}: about {now.cost} and {_span(now.seconds)} a run")
    assert advice.peak_memory is not None
    assert advice.needed_memory is not None
    peak, needed = advice.peak_memory.rounded(), advice.needed_memory.rounded()
    _fact("Memory", f"{peak} at most, so {needed} with a margin; it has {now.memory.rounded()}")
    if better is None:
        _fact("Keep it", f"{advice.reason} (from {attempts})")
        return
    _fact("Cheaper", f"{_machine(better, found.count)}: {_range(better)}")
    assert advice.saving is not None
    share = advice.saving.amount / now.cost.amount
    _fact("Saves", f"{advice.saving} a run ({share:.0%}), {_bounds(found)} (from {attempts})")
    for other in advice.others:
        _fact("Or", f"{_machine(other, found.count)}: {_range(other)}")
    _fact("To do so", f"machine: {{type: {better.instance_type.name}}}")


def _fact(name: str, text: str) -> None:
    terminal.result(f"  {name.ljust(10)}  {text}")


def _machine(found: Prediction, count: int) -> str:
    machine = found.instance_type
    size = f"{machine.vcpus} vCPU, {machine.memory.rounded()}"
    return f"{f'{count} x ' if count > 1 else ''}{machine.name} ({size})"


def _range(found: Prediction) -> str:
    """What a run costs and takes there, at least and at most."""
    least, most = str(found.least_cost), str(found.most_cost)
    cost = least if least == most else f"{least} to {most}"
    short, long = _span(found.least_seconds), _span(found.most_seconds)
    return f"{cost} a run, in {short if short == long else f'{short} to {long}'}"


def _bounds(found: JobAdvice) -> str:
    """How much is saved at least and at most; in words where it may be nothing."""
    advice = found.advice
    assert advice.least_saving is not None
    assert advice.most_saving is not None
    if advice.least_saving.amount < 0:
        dearer = advice.least_saving * -1
        return f"at most {advice.most_saving}; at worst it costs {dearer} more"
    return f"at least {advice.least_saving} and at most {advice.most_saving}"


def _span(seconds: float) -> str:
    from piecework.units import round_duration

    return round_duration(timedelta(seconds=seconds))
