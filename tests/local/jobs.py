"""Runs one job of a pipeline file through the real runner, and gives what it left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from piecework.plan.choose import plan_job
from piecework.plan.price import load_price_book
from piecework.runners.local import host_for_plans
from piecework.runners.runner import AttemptRequest, AttemptStatus, Owner
from piecework.spec.job import Job
from piecework.spec.load import load_pipeline
from piecework.spec.pool import load_pools
from piecework.spec.templates import render_job
from tests.local.attempts import Place, wait_for


@dataclass(frozen=True)
class Done:
    """An attempt that has ended."""

    status: AttemptStatus
    log: str
    work: Path
    artifacts: Path
    use: Mapping[str, Any]


def start_job(place: Place, name: str, job: Job, code: Path) -> str:
    """Starts the job's first attempt; returns its id."""
    pool = load_pools(place.settings)["local"]
    plan = plan_job(
        name,
        job,
        pool=pool,
        prices=load_price_book(pool),
        settings=place.settings,
        host=host_for_plans(pool),
    )
    request = AttemptRequest(
        run=f"test.{name}.{uuid4().hex[:8]}",  # other tests may run beside this one
        number=1,
        plan=plan,
        owner=Owner("cli"),
        code=code,
        data=str(place.home / "data"),
        pipeline="test",
        pipeline_run="by hand",
    )
    return place.runner.start(request).attempt


def run_job(place: Place, name: str, job: Job, code: Path) -> Done:
    """Runs the job to its end, whatever that is; afterwards nothing of it is left."""
    attempt = start_job(place, name, job, code)
    wait_for(lambda: place.status(attempt).state == "ended", f"{attempt} ends", seconds=600)
    status = place.status(attempt)
    place.wait_until_nothing_runs(attempt)
    folder = place.folder(attempt)
    ended = folder.ended()
    assert ended is not None
    return Done(status, place.log(attempt), folder.work, folder.artifacts, ended.data["use"])


def job_of(file: Path, name: str, **params: Any) -> Job:
    """A job of a pipeline file with its templates rendered."""
    pipeline = load_pipeline(file)
    return render_job(pipeline.job(name), {"params": pipeline.fill_params(params)})
