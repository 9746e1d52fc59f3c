"""The same questions of the same flights by each engine on bought machines: time, money, use.

`delays` of examples/flights, whose flights are repeated 50 times (16.8 million), by each way of
running Spark, by Dask, and by DuckDB on one machine as the yardstick; all answers are compared.
Every way gets new machines of one type, which Karpenter buys for it, and reads from and writes to
the same HDFS. All machines here share the cores of one host: on two of them a job is not faster, so
what compares is what a way costs beside its work. Needs root on Linux.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.running import run_to_success
from bench.spark import repeat_flights
from bench.timing import Figure, Result, Spread
from piecework.ledger.store import open_ledger
from piecework.plan.choose import plan_job
from piecework.plan.price import load_price_book
from piecework.report.runs import RunReport, find_run
from piecework.runners.kubernetes import KubernetesRunner
from piecework.runners.runner import AttemptRequest, Owner, run_id
from piecework.spec.job import Job
from testbed import charts, cluster, hdfs, images, machine, programs
from testbed.api import Api, is_ready
from testbed.errors import MissingProgramError
from testbed.place import Place
from testbed.size import size_of
from tests.cluster import cluster_pools
from tests.cluster.ground import Ground

_NAME, _POOL = "bench-engines", "engines"
_TYPE = "m6a.large"
_TIMES, _QUICK_TIMES = 50, 4
_FLIGHTS = Path(__file__).parents[1] / "examples" / "flights" / "jobs"
_PROGRAMS = Path(__file__).parent / "data" / "engines"
#: What a group is called in each answer, and so how its rows are ordered.
_ANSWERS = {
    "by_carrier": ["carrier"],
    "by_plane_age": ["years_from"],
    "by_hour": ["origin", "hour"],
    "by_month": ["month"],
    "by_visibility": ["miles"],
}


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """One way to ask. `folder` is where its program writes the answers."""

    label: str
    folder: str
    job: Mapping[str, Any]
    image: str
    machines: int = 1


def _spark(mode: str, machines: int = 1) -> Way:
    where = "" if machines == 1 else f" over {machines} machines"
    return Way(
        f"Spark {mode}{where}",
        "delays",
        {"spark": {"file": "delays.py", "mode": mode}},
        "spark",
        machines,
    )


_DUCKDB = Way("DuckDB", "duckdb", {"python": "delays_duckdb.py"}, "duckdb")
_OPERATOR = _spark("operator", 2)
WAYS = (
    _DUCKDB,
    _spark("local"),
    _spark("standalone"),
    _spark("standalone", 2),
    _spark("kubernetes", 2),
    _OPERATOR,
    Way("Dask", "dask", {"dask": "delays_dask.py"}, "dask"),
    Way("Dask over 2 machines", "dask", {"dask": "delays_dask.py"}, "dask", 2),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What one way took. Seconds of the first task are from the pod's start on, of Spark only."""

    seconds: float
    report: RunReport
    summary: Mapping[str, Any]
    first_task_seconds: float | None


def run(quick: bool) -> Result:
    """Runs every way, one after the other: once, or PIECEWORK_BENCH_ROUNDS times."""
    rounds = int(os.environ.get("PIECEWORK_BENCH_ROUNDS", "1"))
    programs.build_all(programs.say)
    found: dict[Way, list[Asked]] = {}
    notes = []
    with _testbed() as (here, api), tempfile.TemporaryDirectory(prefix="piecework-bench-") as name:
        bench = _Bench(here, api, Path(name))
        rows = bench.prepare(_QUICK_TIMES if quick else _TIMES)
        notes.append(f"{rows:,} flights; each machine is {_TYPE}: 2 vCPUs, 8 GiB")
        ways = list(WAYS)
        try:
            bench.install_operator()
        except MissingProgramError as error:
            ways.remove(_OPERATOR)
            notes.append(str(error))
        with bench.keeping():
            for number in range(rounds):
                for way in ways:
                    asked = bench.ask(way)
                    found.setdefault(way, []).append(asked)
                    programs.say(f"{way.label}, round {number + 1}: {asked.seconds:.1f} s")
                    assert asked.summary == found[ways[0]][0].summary, (way, asked.summary)
    return Result("engines", tuple(_figures(found)), tuple(notes))


@contextmanager
def _testbed() -> Iterator[tuple[Place, Api]]:
    try:
        here = cluster.up(_NAME, programs.say)
        hdfs.start(here)
        with Api(here.admin) as api:
            yield here, api
    finally:
        cluster.down(_NAME)


class _Bench:
    """A pool of machines of one type, whose jobs share a folder on HDFS."""

    def __init__(self, here: Place, api: Api, folder: Path) -> None:
        self.here, self.api, self.folder = here, api, folder
        self.data = f"{hdfs.url(here)}/flights"
        self.code = folder / "code"
        self.code.mkdir()
        for program in (_FLIGHTS / "delays.py", *_PROGRAMS.glob("*.py")):
            (self.code / program.name).write_text(program.read_text())
        more = f"max_machines = 2\nspark_operator = true\nimage = '{images.shipped(here, 'spark')}'"
        self.made = cluster_pools.make_karpenter_pool(
            here, api, _POOL, folder / "pool", [_TYPE], more
        )
        top = f'store = "{hdfs.url(here)}/store"'
        self.ground = Ground(here, api, folder / "keeper", "", self.made, top)
        settings = cluster_pools.settings_from(f"{top}\n{self.made.tables}", folder / "submitter")
        self.settings = settings
        self.pool = cluster_pools.pool_from(self.made.tables, self.made.name, folder / "home")

    def prepare(self, times: int) -> int:
        """Puts the tables onto HDFS, with the flights so many times; returns how many these are."""
        local = self.folder / "data"
        (local / "tables").mkdir(parents=True)
        environment = {
            **os.environ,
            "PIECEWORK_DATA": str(local),
            "PIECEWORK_RESULT": str(self.folder / "ingested.json"),
        }
        command = [sys.executable, str(_FLIGHTS / "ingest.py")]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        rows = repeat_flights(local / "tables", times)
        hdfs.command(self.here, "-mkdir", "-p", self.data)
        hdfs.command(self.here, "-put", str(local / "tables"), f"{self.data}/tables")
        return rows

    def install_operator(self) -> None:
        """On a machine of its own. Raises MissingProgramError."""
        name = "operators"
        machine.start(self.here, name, size_of("m6a.xlarge"))
        self.api.wait(name, lambda: (n := self.api.get("Node", name)) and is_ready(n))
        charts.install(self.here, "spark-operator", [self.made.namespace])

    @contextmanager
    def keeping(self) -> Iterator[None]:
        try:
            self.ground.start_keeper()
            yield
        finally:
            self.ground.stop_keepers()

    def image(self, name: str) -> str:
        if name != _DUCKDB.image:
            return images.shipped(self.here, name)
        base = images.shipped(self.here, "python").partition("/")[2]
        return images.build(self.here, _PROGRAMS / "image", "duckdb:1", base=base)

    def ask(self, way: Way) -> Asked:
        """Returns when the job has ended and its machines are given back, so that the bill is
        final. Raises RuntimeError where it failed.
        """
        asked = Job.model_validate(
            {
                **way.job,
                "image": self.image(way.image),
                "machine": {"type": _TYPE, "count": way.machines},
                "timeout": "25m",
            }
        )
        plan = plan_job(
            "delays", asked, pool=self.pool, prices=load_price_book(), settings=self.settings
        )
        run = run_id("bench", "delays", uuid.uuid4().hex)
        request = AttemptRequest(run, 1, plan, Owner("cli"), self.code, self.data, "bench")
        runner = KubernetesRunner(self.pool, self.settings)
        status = run_to_success(runner, request)
        runner.acknowledge(request.attempt)
        self.ground.machines_gone()
        self._check_answers(way)
        with open_ledger(self.ground.settings.ledger_url) as ledger:
            report = find_run(ledger, run)
        assert report is not None
        last = report.last
        assert last.started_at is not None
        assert last.ended_at is not None
        seconds = (last.ended_at - last.started_at).total_seconds()
        first = self._first_task(request.attempt)
        after = None if first is None else first - last.started_at.timestamp()
        summary = {name: status.result[name] for name in status.result if name != "min_delay"}
        return Asked(seconds, report, summary, after)

    def _check_answers(self, way: Way) -> None:
        """Its tables are those that the first way found."""
        import fsspec
        import pandas as pd

        for name, group in _ANSWERS.items():
            first, this = (
                pd.read_parquet(file).sort_values(group).reset_index(drop=True)
                for folder in (WAYS[0].folder, way.folder)
                for file in [fsspec.open(f"{self.data}/{folder}/{name}.parquet").open()]
            )
            pd.testing.assert_frame_equal(
                first[sorted(first)], this[sorted(first)], check_dtype=False, atol=0.011, rtol=0
            )

    def _first_task(self, attempt: str) -> float | None:
        """When Spark's first task was launched (Unix time), as its event log says."""
        import fsspec

        place = f"{hdfs.url(self.here)}/store/artifacts/{attempt}/spark-events"
        files, path = fsspec.url_to_fs(place)
        with suppress(FileNotFoundError):
            for log in files.find(path):
                for line in files.cat_file(log).decode().splitlines():
                    event = json.loads(line)
                    if event["Event"] == "SparkListenerTaskStart":
                        return float(event["Task Info"]["Launch Time"]) / 1000
        return None


def _figures(found: Mapping[Way, list[Asked]]) -> Iterator[Figure]:
    yardstick = found[_DUCKDB]
    for way, asked in found.items():

        def figure(what: str, values: list[float | None], unit: str, label: str = way.label) -> Any:
            known = [value for value in values if value is not None]
            return [Figure(f"{label}: {what}", Spread.of(known), unit)] if known else []

        ratios: list[float | None] = [
            one.seconds / other.seconds for one, other in zip(asked, yardstick, strict=True)
        ]
        yield from figure("from start to end", [each.seconds for each in asked], "s")
        yield from figure("of DuckDB's time", ratios, "x")
        yield from figure("to Spark's first task", [e.first_task_seconds for e in asked], "s")
        paid: list[float | None] = [each.report.spending.machine_seconds for each in asked]
        yield from figure("machine time paid", paid, "s")
        costs = [100 * float(each.report.cost.amount) for each in asked if each.report.cost]
        yield from figure("cost", [*costs], "cents")
        shares = [each.report.last.use for each in asked]
        yield from figure("share of the CPUs paid for", [s.cpu_share for s in shares], "")
        yield from figure("of those while it ran", [s.running_share for s in shares], "")
