"""`piecework plan FILE`: the machine of every job, what it will cost, and why this one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from piecework.cli import options, terminal
from piecework.cli.table import Column, table

if TYPE_CHECKING:
    from piecework.cli.planning import Planned
    from piecework.plan.plan import Estimate, Plan
    from piecework.spec.machine import Machine
    from piecework.spec.pipeline import Pipeline


@click.command()
@options.file_argument
@click.option("--job", metavar="NAME", help="Only this job.")
@click.option("--pool", metavar="NAME", help="Plan on this machine pool, whatever the file says.")
@click.option("--why", is_flag=True, help="Say why other machines were not chosen.")
@options.json_option
def command(file: Path, job: str | None, pool: str | None, why: bool, as_json: bool) -> int:
    """Show the machine of every job and what it will cost.

    Nothing is bought or started. Exits 3 where no machine fits a job.
    """
    from piecework import config
    from piecework.cli.past import past_of
    from piecework.cli.planning import only_job, plan_pipeline
    from piecework.spec.load import load_pipeline

    settings = config.load()
    pipeline = load_pipeline(file)
    if job is not None:
        pipeline = only_job(pipeline, job)
    with past_of(settings, pipeline.name) as find_history:
        planned = plan_pipeline(pipeline, settings, pool, find_history)
    if as_json:
        terminal.result_json(to_json(pipeline, planned))
    else:
        _print(pipeline, planned, why)
    return 3 if planned.without_machine else 0


def to_json(pipeline: Pipeline, planned: Planned) -> dict[str, Any]:
    """The plans, and the jobs that no machine fits, as JSON."""
    from piecework.plan.plan import plan_to_json

    return {
        "pipeline": pipeline.name,
        "plans": [plan_to_json(plan) for plan in planned.plans.values()],
        "no_machine": [
            {"job": name, "reason": str(error)} for name, error in planned.without_machine.items()
        ],
    }


def _print(pipeline: Pipeline, planned: Planned, why: bool) -> None:
    columns = [
        Column("JOB"),
        Column("MACHINE"),
        Column("USABLE"),
        Column("PRICE/H", right=True),
        Column("ESTIMATE"),
        Column("WHY", shrinks=True),
    ]
    rows = [_row(pipeline, plan) for plan in planned.plans.values()]
    if rows:
        terminal.result(table(columns, rows, terminal.width()))
    if any(plan.as_if for plan in planned.plans.values()):
        terminal.result()
        terminal.result_paragraph(
            "Pool local: the machines are slices of this computer; prices are as if they were "
            f"bought{_price_date(planned)}."
        )
    if why:
        _print_rejected(planned)
    for plan in planned.plans.values():
        for warning in plan.warnings:
            terminal.warn(f"{plan.job_name}: {warning}")
    for error in planned.without_machine.values():
        terminal.error(str(error))


def _price_date(planned: Planned) -> str:
    sources = {
        (plan.instance_type.source, plan.instance_type.as_of) for plan in planned.plans.values()
    }
    if len(sources) != 1:
        return ""
    ((source, as_of),) = sources
    return f" ({source}, {as_of})" if as_of else f" ({source})"


def _row(pipeline: Pipeline, plan: Plan) -> list[str | None]:
    machine = plan.instance_type.name
    usable = f"{_cpus(plan)}, {plan.memory.rounded()}" + (f", {plan.gpus} GPU" if plan.gpus else "")
    return [
        plan.job_name,
        f"{plan.count} x {machine}" if plan.count > 1 else machine,
        usable,
        _price(plan),
        describe_estimate(plan.estimate),
        _reason(pipeline.job(plan.job_name).machine),
    ]


def _cpus(plan: Plan) -> str:
    from piecework.units import format_cpu

    return f"{format_cpu(plan.cpus)} CPU"


def _price(plan: Plan) -> str:
    if plan.price_per_hour is None:
        return "unpriced"
    return str(plan.price_per_hour * plan.count)


def describe_estimate(estimate: Estimate) -> str:
    """The estimate and what it rests on, in a few words."""
    low, high = estimate.low, estimate.high
    if low is None or high is None:
        return "price per hour only" if estimate.basis == "price" else "unknown: unpriced"
    spread = str(low) if str(low) == str(high) else f"{low} to {high}"
    if estimate.basis == "history":
        runs = "the last run" if estimate.runs == 1 else f"the last {estimate.runs} runs"
        return f"{spread} ({runs})"
    if estimate.basis == "timeout":
        return f"{spread} (up to its timeout)"
    return spread


def _reason(machine: Machine) -> str:
    if machine.type:
        return "pinned by type"
    from piecework.units import format_cpu

    asked = []
    if machine.cpu is not None:
        asked.append(f"cpu {format_cpu(machine.cpu)}")
    if machine.memory is not None:
        asked.append(f"memory {machine.memory}")
    if machine.gpu:
        asked.append(f"gpu {machine.gpu}")
    if not asked:
        return "cheapest that fits the defaults"
    return f"cheapest with {', '.join(asked)}"


def _print_rejected(planned: Planned) -> None:
    rows = [
        [plan.job_name, rejection.instance_type, rejection.reason]
        for plan in planned.plans.values()
        for rejection in plan.rejected
    ]
    terminal.result()
    if rows:
        columns = [Column("JOB"), Column("NOT CHOSEN"), Column("BECAUSE", shrinks=True)]
        terminal.result(table(columns, rows, terminal.width()))
    else:
        terminal.result("No other machine was considered.")
    for plan in planned.plans.values():
        if plan.alternatives:
            others = ", ".join(plan.alternatives)
            terminal.result_paragraph(
                f"{plan.job_name}: where there is no {plan.instance_type.name} to be had, one of "
                f"these will do: {others}."
            )
