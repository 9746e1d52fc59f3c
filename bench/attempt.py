"""From the start of an attempt on a free local machine to the user's first line.

The program's first line takes the time; so does a bare `python file.py` of the same file, pair by
pair. The clock begins where a runner is asked to start the attempt: planning comes before, and
nobody waits for it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from bench.timing import Figure, Pairs, Result, Spread
from piecework import config
from piecework.plan.choose import plan_job
from piecework.plan.plan import Plan
from piecework.plan.price import load_price_book
from piecework.runners.local import LocalRunner, host_for_plans
from piecework.runners.runner import AttemptRequest, Owner
from piecework.spec.job import Job
from piecework.spec.pool import load_pools
from piecework.units import Memory

_PROGRAM = """\
import time; now = time.time()
import sys
open(sys.argv[1], "w").write(repr(now))
"""
_MOST_MS = 150


def _plan(settings: config.Settings, job: Job) -> Plan:
    pool = load_pools(settings)["local"]
    host = host_for_plans(pool)
    book = load_price_book(pool)
    plan = plan_job("bench", job, pool=pool, prices=book, settings=settings, host=host)
    return replace(plan, cpus=Decimal(1), memory=Memory.parse("256Mi"))


def _wait(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError("an attempt of the bench did not end within a minute")
        time.sleep(0.005)


def _measure_attempt(runner: LocalRunner, folder: Path, number: int) -> float:
    """Seconds until the first line; returns when nothing of the attempt is left."""
    mark = folder / f"mark.{number}"
    job = Job.model_validate({"python": "program.py", "args": [str(mark)]})
    request = AttemptRequest(
        run=f"bench.attempt.{number}",
        number=1,
        plan=_plan(runner.settings, job),
        owner=Owner("cli"),
        code=folder,
        data=str(folder / "data"),
    )
    start = time.time()
    runner.start(request)
    _wait(lambda: mark.exists() and mark.read_text() != "")
    lock = runner.settings.home / "runs" / request.run / "1" / "lock"
    _wait(lambda: _is_over(runner, request.attempt, lock))
    return float(mark.read_text()) - start


def _is_over(runner: LocalRunner, attempt: str, supervisor_lock: Path) -> bool:
    from piecework.machines import lock

    status = runner.status(attempt)
    over = status is not None and status.state == "ended" and not lock.is_held(supervisor_lock)
    keeper = runner.settings.home / "keeper.next.lock"
    return over and not lock.is_held(keeper) and not lock.is_held(keeper.with_name("keeper.lock"))


def _measure_bare(folder: Path) -> float:
    mark = folder / "mark.bare"
    start = time.time()
    subprocess.run([sys.executable, str(folder / "program.py"), str(mark)], check=True)
    return float(mark.read_text()) - start


@contextmanager
def _home(folder: Path) -> Iterator[config.Settings]:
    before = os.environ.get("PIECEWORK_HOME")
    os.environ["PIECEWORK_HOME"] = str(folder / "home")
    try:
        yield config.load(directory=folder)
    finally:
        if before is None:
            del os.environ["PIECEWORK_HOME"]
        else:
            os.environ["PIECEWORK_HOME"] = before


def run(quick: bool) -> Result:
    """Measures attempts and bare starts in turns; the machine is free before each."""
    pairs = 5 if quick else 30
    attempts: list[float] = []
    bare: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "program.py").write_text(_PROGRAM, encoding="utf-8")
        with _home(folder) as settings:
            runner = LocalRunner(settings)
            for number in range(pairs + 1):  # the first makes databases, and is not counted
                attempts.append(_measure_attempt(runner, folder, number))
                time.sleep(0.5)  # until the keeper's process is gone as well
                bare.append(_measure_bare(folder))
    measured = Pairs(tuple(attempts[1:]), tuple(bare[1:]))
    return Result(
        "attempt",
        (
            Figure(
                "start of an attempt to first line, beyond python file.py",
                measured.difference_ms(),
                "ms",
                at_most=_MOST_MS,
            ),
            Figure("the same / python file.py", measured.ratio()),
            Figure(
                "python file.py to first line", Spread.of(1000 * s for s in measured.baseline), "ms"
            ),
        ),
    )
