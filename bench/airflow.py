"""What Airflow adds: from the request of ten tasks at once to their first lines.

Ten jobs of a pipeline run beside ten BashOperators, in turns, on one platform of this computer.
Every program notes the time as its first act; the clock begins when Airflow is asked. Both are
held up by this host alike: LocalExecutor runs as many tasks at a time as there are cores, and so
many machines are cut from it. Apart from that the jobs' own share is told: from the request to the
queue for machines.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from bench.timing import Figure, Pairs, Result, Spread
from piecework import config
from piecework.airflow import platform
from piecework.airflow.client import AirflowClient
from piecework.airflow.configuration import PlatformFolder
from piecework.runners.local import LocalRunner
from piecework.runners.runner import run_id

_TASKS = 10
_PATIENCE_SECONDS = 300.0
_PROGRAM = """\
import time; now = time.time()
import sys
open(sys.argv[1], "w").write(repr(now))
"""
_DAG_FILE = """\
from datetime import datetime
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG
from piecework.airflow.operator import JobOperator

with DAG("jobs", schedule=None, start_date=datetime(2024, 1, 1)):
    for number in range({tasks}):
        JobOperator(
            task_id=f"t{{number}}",
            python="mark.py",
            code={code!r},
            machine={{"cpu": 1, "memory": "512Mi"}},
            args=[f"{code}/jobs.{{{{{{{{ run_id }}}}}}}}.{{number}}"],
        )
with DAG("bash", schedule=None, start_date=datetime(2024, 1, 1)):
    for number in range({tasks}):
        BashOperator(
            task_id=f"t{{number}}",
            bash_command=f"date +%s.%N > {code}/bash.{{{{{{{{ run_id }}}}}}}}.{{number}}",
        )
"""


def run(quick: bool) -> Result:
    """Requests both DAGs in turns, and compares the medians of each pair of runs."""
    with tempfile.TemporaryDirectory(prefix="piecework-bench-") as root:
        code = Path(root) / "code"
        code.mkdir()
        (code / "mark.py").write_text(_PROGRAM)
        settings = config.load({"PIECEWORK_HOME": f"{root}/home"}, code)
        began = time.perf_counter()
        try:
            platform.up(settings)
            up = time.perf_counter() - began
            dag_file = PlatformFolder(settings.home).root / "dags" / "bench.py"
            dag_file.write_text(_DAG_FILE.format(tasks=_TASKS, code=str(code)))
            memory = platform.status(settings).memory_bytes
            client = platform.connect(settings)
            jobs, bash, queued = _measure(client, settings, code, pairs=1 if quick else 3)
        finally:
            platform.down(settings)
    return Result(
        name=f"Airflow: from the request to the first line, {_TASKS} at once",
        figures=(
            Figure("jobs against BashOperators, medians", Pairs(jobs, bash).ratio()),
            Figure("jobs, median of ten", Spread.of(jobs), "s"),
            Figure("BashOperators, median of ten", Spread.of(bash), "s"),
            Figure("jobs: request to the queue for machines", Spread.of(queued), "s"),
            Figure("platform: from nothing to healthy", Spread.of([up]), "s"),
            Figure("platform: memory (PSS)", Spread.of([memory / 2**20]), "MiB"),
        ),
        notes=("Machines and workers are both limited to this host's cores.",),
    )


def _measure(
    client: AirflowClient, settings: config.Settings, code: Path, pairs: int
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    for dag in ("jobs", "bash"):
        client.wait_for_dag(dag, timeout_seconds=_PATIENCE_SECONDS)
    medians: dict[str, list[float]] = {"jobs": [], "bash": []}
    queued: list[float] = []
    runner = LocalRunner(settings)
    for pair in range(pairs + 1):  # the first round warms both up
        for dag in ("jobs", "bash") if pair % 2 else ("bash", "jobs"):
            name = f"{dag}-{pair}"
            asked = time.time()
            client.trigger(dag, {}, name)
            ended = client.wait_for_run(dag, name, _PATIENCE_SECONDS)
            if ended.state != "success":
                raise RuntimeError(f"the pipeline run {name} of {dag} ended as {ended.state}")
            marks = [float((code / f"{dag}.{name}.{n}").read_text()) for n in range(_TASKS)]
            if not pair:
                continue
            medians[dag].append(statistics.median(mark - asked for mark in marks))
            if dag == "jobs":
                attempts = [runner.attempts(run_id(dag, f"t{n}", name))[-1] for n in range(_TASKS)]
                times = [at.timestamp() - asked for a in attempts if (at := a.queued_at)]
                queued.append(statistics.median(times))
    return tuple(medians["jobs"]), tuple(medians["bash"]), tuple(queued)
