"""`piecework show RUN`: a run with all of its attempts, or all runs of a pipeline run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from piecework.cli import bill, options, terminal, use_text
from piecework.cli.table import Column, table
from piecework.errors import InputError

if TYPE_CHECKING:
    from piecework.config import Settings
    from piecework.report.runs import RunReport


@click.command()
@click.argument("run", metavar="RUN")
@options.json_option
def command(run: str, as_json: bool) -> None:
    """Show a run or a pipeline run with all attempts.

    RUN is the id of a run or its beginning, of an attempt, of a pipeline run, or the name of a
    job: then its newest run.
    """
    from piecework import config
    from piecework.cli.finding import find
    from piecework.cli.reading import read_ledger

    settings = config.load()
    try:
        with read_ledger(settings) as ledger:
            found = find(ledger, run)
    except InputError as error:
        raise _unrecorded(run, settings) or error from None
    if isinstance(found, list):
        _show_pipeline_run(found, as_json)
    elif as_json:
        terminal.result_json(found.to_json())
    else:
        _show_run(found, settings.home / "runs", settings.store)


def _unrecorded(name: str, settings: Settings) -> InputError | None:
    """What to say of a run that a cluster has, but not the ledger."""
    from piecework.cli.runners import Runners, run_of

    known = Runners(settings).find_unrecorded(name)
    if known is None:
        return None
    run = run_of(known[1])
    return InputError(
        f"{run} is {known[1][-1].state}, and the ledger does not know it yet: `piecework keeper` "
        f"tells it, within seconds, where it runs with the same ledger_url. `piecework why {run}` "
        "and `logs` ask the cluster itself"
    )


def _show_pipeline_run(found: list[RunReport], as_json: bool) -> None:
    runs = [run.to_json() for run in found]
    name, pipeline = found[0].pipeline_run or "", found[0].pipeline or ""
    outcome = bill.pipeline_outcome(runs)
    live = any(run.state != "ended" for run in found)
    if as_json:
        terminal.result_json(bill.to_json(runs, pipeline, name, "" if live else outcome))
        return
    state = "running" if live else outcome
    terminal.result(f"Pipeline run {name} of {pipeline}: {bill.outcome_text(state)}")
    terminal.result()
    terminal.result(bill.describe(runs))
    for run in runs:
        if run["outcome"] not in (None, "success"):
            terminal.result(bill.failure(run))


def _show_run(found: RunReport, folder: Any, store: str) -> None:
    run = found.to_json()
    state = run["outcome"] or run["state"]
    facts = [
        ("Run", found.run),
        ("State", bill.outcome_text(state)),
        ("Because", run["waiting_reason"] or run["cause"]),
        ("Job", found.job),
        ("Pipeline", found.pipeline),
        ("Pipeline run", found.pipeline_run),
        ("Team", found.team),
        ("Engine", found.engine),
        ("Cost", bill.money(run["cost"]) + (" (as if bought)" if run["as_if"] else "")),
    ]
    for name, value in facts:
        if value is not None:
            shown = value if name == "State" else terminal.one_line(value)
            terminal.result(f"{name.ljust(12)}  {shown}")
    for attempt in run["attempts"]:
        terminal.result()
        _show_attempt(attempt, folder / found.run / str(attempt["number"]), store)


def _show_attempt(attempt: dict[str, Any], folder: Any, store: str) -> None:
    state = attempt["outcome"] or attempt["state"]
    terminal.result(f"Attempt {attempt['number']}: {bill.outcome_text(state)}")
    one = [attempt]
    facts = [
        ("Because", attempt["waiting_reason"] or attempt["cause"]),
        ("Machine", _machine(attempt)),
        ("Queued", bill.local_time(attempt["queued_at"])),
        ("Started", _after(attempt["started_at"], bill.waited(one), "waiting")),
        ("Ended", _after(attempt["ended_at"], bill.ran(one), "running")),
        ("CPU time", use_text.cpu(attempt)),
        ("Peak memory", use_text.memory(attempt)),
        ("Spark", use_text.spark(attempt["use"]["spark"])),
        ("Dask", use_text.dask(attempt["use"]["dask"])),
        ("Cost", bill.money(attempt["cost"])),
        ("Folder", str(folder) if folder.is_dir() else None),
        ("Artifacts", _artifacts(attempt, store)),
    ]
    for name, value in facts:
        if value is not None:
            terminal.result(f"  {name.ljust(12)}  {terminal.one_line(value)}")
    parts = [
        [part, bill.span_text(spent["machine_seconds"]), bill.money(spent["cost"])]
        for part, spent in attempt["parts"].items()
    ]
    if parts:
        columns = [Column("PART"), Column("TIME", right=True), Column("COST", right=True)]
        for line in table(columns, parts).splitlines():
            terminal.result(f"    {line}")


def _artifacts(attempt: dict[str, Any], store: str) -> str | None:
    """Where the files are that an attempt on a cluster left."""
    count = attempt["artifacts"]
    if not count:
        return None
    place = f"{store.rstrip('/')}/artifacts/{attempt['attempt']}/" if store else "the store"
    return f"{count} file{'s' * (count != 1)} in {place}"


def _machine(attempt: dict[str, Any]) -> str | None:
    if not attempt["machines"]:
        return None
    return f"{attempt['instance_type']} ({', '.join(attempt['machines'])})"


def _after(at: str | None, span: str, what: str) -> str | None:
    return None if at is None else f"{bill.local_time(at)} (after {span} {what})"
