"""Is advice on sizes true? A job on a machine of two cores, then on the one that is advised.

The job keeps two processes busy, then one, so that it would take between as long and half as long
again on a single core; the advised machine has one, of this host. What is measured is the cost of
the second run against the range that was said of it, and the saving against what was said.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from bench.running import run_to_success
from bench.timing import Figure, Result, Spread
from piecework import config
from piecework.cli.planning import this_host
from piecework.config import Settings
from piecework.keeper import tend
from piecework.ledger.store import open_ledger
from piecework.plan.choose import plan_job
from piecework.plan.price import load_price_book
from piecework.report.observed import JobAdvice, advise_job
from piecework.report.runs import find_run
from piecework.runners.local import LocalRunner, host_for_plans
from piecework.runners.runner import AttemptRequest, Owner
from piecework.spec.job import Job
from piecework.spec.pool import load_pools
from piecework.units import Money

_LARGE, _SMALL = "m7a.large", "m7a.medium"
_PROGRAM = """
import os, time
SECONDS = {seconds}

def work():
    while time.process_time() < SECONDS:
        pass

kept = bytearray(256 << 20)
child = os.fork()
work()
if child:
    os.waitpid(child, 0)
    SECONDS *= 2
    work()
"""
_PATIENCE_SECONDS = 900


def run(quick: bool) -> Result:
    """Runs the job once on each of the two sizes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "piecework.toml").write_text(f'[pools.local]\ntypes = ["{_LARGE}", "{_SMALL}"]\n')
        settings = config.load({"PIECEWORK_HOME": str(folder / "home")}, folder)
        (folder / "job.py").write_text(_PROGRAM.format(seconds=8 if quick else 40))
        before = _run(settings, folder, _LARGE, 1)
        advice = _ask(settings)
        after = _run(settings, folder, _SMALL, 2)
    found = advice.advice
    if found.better is None or found.saving is None:
        raise RuntimeError(f"there was no advice: {found.reason}")
    better = found.better
    least, most = after.amount / better.least_cost.amount, after.amount / better.most_cost.amount
    said = (
        f"{_LARGE} {before}, {better.instance_type.name} {after}; said was {better.least_cost} to "
        f"{better.most_cost}, a saving of {found.saving}"
    )
    return Result(
        "advise",
        (
            Figure("cost / the least that was said", Spread.of([float(least)]), at_least=1.0),
            Figure("cost / the most that was said", Spread.of([float(most)]), at_most=1.0),
            Figure(
                "saved / what was said",
                Spread.of([float((before - after).amount / found.saving.amount)]),
            ),
        ),
        (said,),
    )


def _run(settings: Settings, code: Path, instance_type: str, number: int) -> Money:
    """Runs the job on a machine of this type; returns what it cost."""
    pool = load_pools(settings)["local"]
    job = Job.model_validate({"python": "job.py", "machine": {"type": instance_type}})
    plan = plan_job(
        "work",
        job,
        pool=pool,
        prices=load_price_book(pool),
        settings=settings,
        host=host_for_plans(pool),
    )
    run = f"bench.work.{os.getpid()}-{number}"
    request = AttemptRequest(run, 1, plan, Owner("cli"), code, str(code / "data"), "bench")
    run_to_success(LocalRunner(settings), request, _PATIENCE_SECONDS)
    return _cost_of(settings, run)


def _cost_of(settings: Settings, run: str) -> Money:
    """Once the machine has been given back, so that its bill is final."""
    until = time.monotonic() + 90
    while True:
        tend(settings)
        with open_ledger(settings.ledger_url) as ledger:
            report = find_run(ledger, run)
            machines = ledger.timeline([f"{run}.1"]).machines.values()
        final = machines and all(machine.gone_at is not None for machine in machines)
        if final and report is not None and report.cost is not None:
            return report.cost
        if time.monotonic() > until:
            raise RuntimeError(f"the machine of {run} is not given back")
        time.sleep(1)


def _ask(settings: Settings) -> JobAdvice:
    with open_ledger(settings.ledger_url) as ledger:
        return advise_job(ledger, "bench", "work", load_pools(settings), this_host)
