"""Pipelines through a real Airflow: requests, results, errors, versions, retries, waiting."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from piecework.airflow.publication import read_again
from piecework.ledger.events import Outcome
from piecework.runners.folder import folder_of
from tests.local.airflow_platform import PATIENCE_SECONDS, World, end_attempts
from tests.local.attempts import wait_for

pytestmark = pytest.mark.layer("airflow")


@pytest.fixture(autouse=True)
def _machines_are_free_afterwards(world: World) -> Iterator[None]:
    """A test that fails leaves no job that keeps the next one waiting."""
    yield
    end_attempts(world.settings)


def test_a_pipeline_goes_through_the_queue_with_its_parameters_and_results(world: World) -> None:
    dag = world.publish("""
        pipeline: greetings
        params: {who: world}
        jobs:
          first:
            python: hello.py
            args: ["{{ params.who }}", "{{ ds }}"]
          second:
            python: hello.py
            after: [first]
            args: ["{{ ti.xcom_pull('first')['args'][0] }}", "{{ run_id }}"]
    """)
    run = world.request(dag, {"who": "everybody"})
    world.expect("success", dag, run)
    first = world.client.result(dag, run, "first")
    assert first["args"][0] == "everybody"
    assert len(first["args"][1]) == len("2026-11-23")
    assert world.client.result(dag, run, "second") == {"args": ["everybody", run]}
    lines = [line for line in world.log(dag, run, "first") if line.startswith("line ")]
    assert [line.split()[1] for line in lines] == ["0", "1", "2"]
    assert [found.outcome for found in world.attempts(dag, "first", run)] == [Outcome.SUCCESS]


def test_a_parameter_that_is_none_fails_the_run_and_says_so(world: World) -> None:
    dag = world.publish("""
        pipeline: counts
        params: {count: {type: integer, default: 1}}
        jobs:
          one: {python: hello.py, args: ["{{ params.count }}"]}
    """)
    run = world.request(dag, {"count": "many", "cuont": 2})
    world.expect("failed", dag, run)
    log = "\n".join(world.log(dag, run, "one"))
    assert "params.count" in log
    assert "params.cuont" in log
    note = world.task(dag, run, "one").note or ""
    assert "params.count" in note
    assert world.attempts(dag, "one", run) == []
    # The triggerer survived it.
    world.expect("success", dag, world.request(dag, {"count": "2"}))


def test_a_broken_file_is_an_import_error_with_its_place_and_hides_no_other(world: World) -> None:
    dag = world.publish("job: sound\npython: hello.py\n")
    broken = world.folder.published / "broken.yaml"
    broken.write_text("pipeline: broken\njobs:\n  one:\n    pyhton: hello.py\n")
    try:
        error = wait_for(
            lambda: world.client.import_errors().get("broken.yaml"), "the error", PATIENCE_SECONDS
        )
        assert f"{broken}:4:5: jobs.one.pyhton" in error
        assert "did you mean" in error
        world.expect("success", dag, world.request(dag))
    finally:
        broken.unlink()
    wait_for(
        lambda: "broken.yaml" not in world.client.import_errors(), "no error", PATIENCE_SECONDS
    )


def test_publishing_is_not_refused_for_what_was_wrong_before(world: World) -> None:
    """Folders are moved, and removed and restored, after their pipelines have been published."""
    program = world.code / "moved.py"
    program.write_text("")
    text = "job: moved\npython: moved.py\n"
    dag = world.publish(text)
    program.unlink()
    read_again(dag, world.settings)
    wait_for(
        lambda: "moved.py" in world.client.import_errors().get("moved.yaml", ""),
        "the error",
        PATIENCE_SECONDS,
    )
    program.write_text("")
    world.publish(text)
    world.expect("success", dag, world.request(dag))


def test_an_unchanged_file_keeps_its_version_and_a_changed_one_gets_the_next(world: World) -> None:
    text = "job: versions\npython: hello.py\nargs: [old]\n"
    dag = world.publish(text)
    world.expect("success", dag, world.request(dag))
    assert world.client.dag_versions(dag) == [1]

    def parsed_at() -> str:
        found = world.client.dag(dag)
        assert found is not None
        return str(found["last_parsed_time"])

    before = parsed_at()
    world.publish(text)
    os.utime(world.folder.published / "versions.yaml")
    wait_for(lambda: parsed_at() != before, "another reading of the file", PATIENCE_SECONDS)
    assert world.client.dag_versions(dag) == [1]

    world.publish(text.replace("old", "new"))
    assert world.client.dag_versions(dag) == [1, 2]
    run = world.request(dag)
    world.expect("success", dag, run)
    assert world.client.result(dag, run, "versions") == {"args": ["new"]}


def test_any_job_can_be_requested_over_the_api_without_a_file(world: World) -> None:
    job = {
        "job": "asked",
        "python": "hello.py",
        "args": ["{{ params.who }}"],
        "params": {"who": "you"},
    }
    conf = {"job": job, "code": str(world.code), "params": {"who": "me"}}
    world.client.wait_for_dag("piecework_submit", timeout_seconds=PATIENCE_SECONDS)
    run = world.request("piecework_submit", conf)
    world.expect("success", "piecework_submit", run)
    assert world.client.result("piecework_submit", run, "job") == {"args": ["me"]}
    (attempt,) = world.attempts("piecework_submit", "job", run)
    queued = folder_of(world.settings.home, attempt.attempt)
    assert queued is not None
    assert queued.read_order().queued["job"] == "asked"


@pytest.mark.parametrize(
    ("conf", "said"),
    [
        ({}, "found no job"),
        ({"job": {"job": "a", "pyhton": "a.py"}, "code": "CODE"}, "did you mean python"),
        ({"job": {"job": "a", "python": "absent.py"}, "code": "CODE"}, "absent.py"),
        ({"job": {"job": "a", "python": "hello.py"}, "code": "/etc"}, "programs of requests lie"),
    ],
)
def test_a_wrong_request_fails_and_says_what_is_wrong(
    world: World, conf: dict[str, object], said: str
) -> None:
    conf = json.loads(json.dumps(conf).replace("CODE", str(world.code)))
    run = world.request("piecework_submit", conf)
    world.expect("failed", "piecework_submit", run)
    assert said in "\n".join(world.log("piecework_submit", run, "job"))
    assert world.attempts("piecework_submit", "job", run) == []


def test_errors_are_airflows_retries_up_to_the_users_number(world: World) -> None:
    dag = world.publish("""
        pipeline: failing
        jobs:
          saved: {python: fail.py, args: ["2"], retries: 2}
          lost: {python: fail.py, args: ["9"], retries: 1}
    """)
    run = world.request(dag)
    world.expect("failed", dag, run)
    saved, lost = world.task(dag, run, "saved"), world.task(dag, run, "lost")
    assert (saved.state, saved.try_number) == ("success", 3)
    assert (lost.state, lost.try_number) == ("failed", 2)
    assert [found.outcome for found in world.attempts(dag, "saved", run)] == [
        Outcome.ERROR,
        Outcome.ERROR,
        Outcome.SUCCESS,
    ]
    assert len(world.attempts(dag, "lost", run)) == 2


def test_a_killed_job_is_tried_again_in_the_same_try_and_is_never_a_success(world: World) -> None:
    dag = world.gate_pipeline("killed", "retries: {infrastructure: 1}\n")
    run = world.request(dag)
    for number in (1, 2):
        attempt = world.wait_until_running(dag, "killed", run)
        assert attempt.attempt.endswith(f".{number}")
        folder = folder_of(world.settings.home, attempt.attempt)
        assert folder is not None
        os.kill(json.loads(folder.supervisor.read_text())["pid"], signal.SIGKILL)
        assert world.wait_until_ended(attempt).outcome is Outcome.INTERRUPTED
    world.expect("failed", dag, run)
    task = world.task(dag, run, "killed")
    assert (task.state, task.try_number) == ("failed", 1)
    assert len(world.attempts(dag, "killed", run)) == 2


def test_waiting_is_shown_with_its_reason_and_the_higher_priority_runs_first(world: World) -> None:
    whole = "machine: {cpu: 2, memory: 2Gi}\n"
    holder = world.gate_pipeline("holder", whole)
    low = world.gate_pipeline("low", whole)
    high = world.gate_pipeline("high", whole + "priority: 10\n")
    world.gate("low").touch()
    world.gate("high").touch()
    held = world.request(holder)
    world.wait_until_running(holder, "holder", held)

    def is_queued(dag: str, task: str, run: str) -> bool:
        return any("busy" in (found.reason or "") for found in world.attempts(dag, task, run))

    later = world.request(low)
    wait_for(lambda: is_queued(low, "low", later), "low to queue", PATIENCE_SECONDS)
    first = world.request(high)
    wait_for(lambda: is_queued(high, "high", first), "high to queue", PATIENCE_SECONDS)

    def note() -> str:
        return world.task(low, later, "low").note or ""

    wait_for(lambda: note().startswith("waiting for a machine: "), "a note", PATIENCE_SECONDS)
    assert world.task(low, later, "low").state == "deferred"
    world.gate("holder").touch()
    for dag, run in ((holder, held), (low, later), (high, first)):
        world.expect("success", dag, run)
    assert note() == ""
    assert any(line.startswith("waiting for a machine: ") for line in world.log(low, later, "low"))
    (of_low,) = world.attempts(low, "low", later)
    (of_high,) = world.attempts(high, "high", first)
    assert of_low.started_at is not None
    assert of_high.started_at is not None
    assert of_high.started_at < of_low.started_at


_DAG_FILE = """
from datetime import datetime
from airflow.sdk import DAG, task
from piecework.airflow.operator import JobOperator

with DAG("by_hand", schedule=None, start_date=datetime(2024, 1, 1)):
    @task.piecework(machine={"cpu": 1})
    def add(left, right):
        print("adding", flush=True)
        return {"sum": left + right}

    @task
    def check(found):
        assert found == {"sum": 5}, found
        return found["sum"]

    total = check(add(2, 3))
    JobOperator(task_id="tell", python="hello.py", code=CODE, args=["sum", total])

with DAG("mapped", schedule=None, start_date=datetime(2024, 1, 1)):
    @task.piecework(machine={"cpu": 1})
    def double(number):
        return [str(2 * number)]

    @task
    def names():
        return [["one"], ["{{ two }}"]]

    machine = {"cpu": 1, "memory": "1Gi"}
    hello = {"python": "hello.py", "code": CODE, "machine": machine}
    JobOperator.partial(task_id="written", **hello).expand(args=[["{{ run_id }}"], ["second"]])
    JobOperator.partial(task_id="told", **hello).expand(args=names())
    JobOperator.partial(task_id="computed", **hello).expand(args=double.expand(number=[1, 2]))
    JobOperator.partial(
        task_id="again", python="fail.py", code=CODE, machine=machine, retries={"error": 1}
    ).expand(args=[["0"], ["1"]])
"""


def test_functions_and_jobs_of_a_dag_file_take_each_others_results(world: World) -> None:
    file = world.folder.root / "dags" / "by_hand.py"
    file.write_text(_DAG_FILE.replace("CODE", repr(str(world.code))))
    world.client.wait_for_dag("by_hand", timeout_seconds=PATIENCE_SECONDS)
    run = world.request("by_hand")
    ended = world.wait_for_end("by_hand", run)
    # A worker that a busy host loses costs a try, of which there are enough.
    logs = [
        world.log("by_hand", run, task, world.task("by_hand", run, task).try_number)
        for task in ("add", "check", "tell")
    ]
    assert ended.state == "success", logs
    assert world.client.result("by_hand", run, "tell") == {"args": ["sum", "5"]}
    assert "adding" in logs[0]


def test_mapped_jobs_take_their_own_parts_without_workers_where_they_can(world: World) -> None:
    file = world.folder.root / "dags" / "by_hand.py"
    file.write_text(_DAG_FILE.replace("CODE", repr(str(world.code))))
    world.client.wait_for_dag("mapped", timeout_seconds=PATIENCE_SECONDS)
    run = world.request("mapped")
    world.expect("success", "mapped", run)

    def results(task: str) -> list[str]:
        found = [world.client.result("mapped", run, task, map_index=index) for index in (0, 1)]
        return [each["args"][0] for each in found]

    assert results("written") == [run, "second"]
    assert results("told") == ["one", "{{ two }}"]  # what a task says is no template
    assert results("computed") == ["2", "4"]
    states = [world.client.task("mapped", run, "again", index) for index in (0, 1)]
    assert [state.try_number for state in states if state] == [1, 2]
    with closing(sqlite3.connect(f"file:{world.folder.database}?mode=ro", uri=True)) as database:
        query = "select distinct task_id from task_instance where dag_id = ? and pid is null"
        alone = {task for (task,) in database.execute(query, ["mapped"])}
    assert alone == {"written", "told", "again"}


def test_a_thousand_files_are_a_thousand_dags_and_a_broken_one_is_an_error(
    world: World, tmp_path: Path
) -> None:
    many = tmp_path / "many"
    many.mkdir()
    (many / "job.py").touch()
    for number in range(1000):
        (many / f"p{number}.yaml").write_text(f"job: p{number}\npython: job.py\n")
    (many / "broken.yaml").write_text("job: broken\npyhton: job.py\n")
    file = world.folder.root / "dags" / "folder.py"
    file.write_text(
        "# an airflow dag file\n"
        "from piecework.airflow.folder import load_dags\n"
        f"globals().update(load_dags({str(many)!r}))\n"
    )
    try:
        world.client.wait_for_dag("p999", timeout_seconds=PATIENCE_SECONDS)
        world.client.wait_for_dag("p0", timeout_seconds=PATIENCE_SECONDS)
        errors = wait_for(
            lambda: [
                text
                for name, text in world.client.import_errors().items()
                if name.endswith("broken.yaml")
            ],
            "the broken file's error",
            PATIENCE_SECONDS,
        )
        assert "broken.yaml:2:1: pyhton" in errors[0]
        dag = world.client.dag("p500")
        assert dag is not None
        assert not dag["has_import_errors"]
    finally:
        file.unlink()
