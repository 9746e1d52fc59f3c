"""Spark in mode `local` against `standalone` in the same machine, on `delays` of examples/flights.

The flights are repeated 20 times (6.7 million). Both modes get the same local machine, 2 cores and
4 GiB, one after the other; the time is from the start of the attempt to its end, with whatever
each mode starts first.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from bench.running import run_to_success
from bench.timing import Figure, Result, Spread, measure_pairs
from piecework import config
from piecework.plan.choose import plan_job
from piecework.plan.price import load_price_book
from piecework.runners.local import LocalRunner, host_for_plans
from piecework.runners.runner import AttemptRequest, Owner
from piecework.spec.job import Job
from piecework.spec.load import load_pipeline
from piecework.spec.pool import load_pools
from piecework.spec.templates import render_job

_FILE = Path(__file__).parents[1] / "examples" / "flights" / "flights.yaml"


class _Jobs:
    """Runs jobs of the example on this host, one at a time."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.settings = config.load({"PIECEWORK_HOME": str(folder / "home")}, folder)
        self.pipeline = load_pipeline(_FILE)
        self.count = 0

    def job(self, name: str) -> Job:
        return render_job(self.pipeline.job(name), {"params": self.pipeline.defaults})

    def run(self, name: str, job: Job) -> None:
        """Returns when the attempt has ended. Raises RuntimeError with its log if it failed."""
        self.count += 1
        pool = load_pools(self.settings)["local"]
        plan = plan_job(
            name,
            job,
            pool=pool,
            prices=load_price_book(pool),
            settings=self.settings,
            host=host_for_plans(pool),
        )
        request = AttemptRequest(
            run=f"bench.{name}.{os.getpid()}-{self.count}",
            number=1,
            plan=plan,
            owner=Owner("cli"),
            code=_FILE.parent,
            data=str(self.data),
        )
        run_to_success(LocalRunner(self.settings), request)


def repeat_flights(tables: Path, times: int) -> int:
    """Writes the flights again and again into one table; returns how many there are."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = tables / "flights.parquet"
    repeated = pa.concat_tables([pq.read_table(file)] * times)
    pq.write_table(repeated, file, row_group_size=250_000)
    rows: int = repeated.num_rows
    return rows


def run(quick: bool) -> Result:
    """Measures both modes in turns."""
    with tempfile.TemporaryDirectory() as name:
        jobs = _Jobs(Path(name))
        jobs.run("ingest", jobs.job("ingest"))
        rows = repeat_flights(jobs.data / "tables", 2 if quick else 20)
        local = jobs.job("delays")
        assert local.spark is not None
        program = local.spark.model_copy(update={"mode": "standalone"})
        standalone = local.model_copy(update={"spark": program})
        pairs = measure_pairs(
            lambda: jobs.run("standalone", standalone),
            lambda: jobs.run("local", local),
            1 if quick else 3,
        )
    return Result(
        "spark",
        (
            Figure("delays: standalone / local", pairs.ratio()),
            Figure("delays, local", Spread.of(pairs.baseline), "s"),
            Figure("delays, standalone", Spread.of(pairs.candidate), "s"),
        ),
        (f"{rows:,} flights, on a local machine of at most 2 cores and 4 GiB",),
    )
