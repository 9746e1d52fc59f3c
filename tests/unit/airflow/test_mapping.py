"""Mapped tasks: where they start, what Airflow is told of them, which part each of them takes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG, task, task_group
from airflow.serialization.serialized_objects import DagSerialization

from piecework.airflow.mapping import MappedJobTrigger
from piecework.airflow.operator import JobOperator
from piecework.ledger.events import Outcome
from piecework.runners.runner import AttemptRequest
from piecework.spec.job import Job
from piecework.spec.pool import Pool
from tests.unit.airflow.test_trigger import Telling, follow, until

_START = datetime(2026, 1, 1, tzinfo=UTC)


def dag(**kwargs: Any) -> DAG:
    return DAG("d", schedule=None, start_date=_START, **kwargs)


class Trigger(MappedJobTrigger):
    """With a runner that the test has made, and Airflow's word on tries."""

    trouble_seconds = 0.01
    given: Telling

    def find_runner(self, pool: Pool) -> Any:
        return self.given

    def _ask_max_tries(self) -> int:
        return 0


@pytest.fixture(autouse=True)
def _no_airflow(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", str(home / "airflow"))
    monkeypatch.setenv("PIECEWORK_AIRFLOW_URL", "http://127.0.0.1:9")


def start(mapped: Any, index: int) -> tuple[AttemptRequest | None, Any]:
    """What the triggerer makes of a mapped task, from the serialized DAG; and how it ends."""
    known = DagSerialization.from_dict(DagSerialization.to_dict(mapped.dag)).get_task(
        mapped.task_id
    )
    assert known.start_from_trigger is True
    trigger = Trigger(**json.loads(json.dumps(mapped.start_trigger_args.trigger_kwargs)))
    trigger.given = runner = Telling()
    ti: Any = SimpleNamespace(
        dag_id="d", run_id="r", task_id=known.task_id, map_index=index, try_number=1, id="1"
    )
    ti.task = known
    trigger.task_instance = ti
    trigger.render_template_fields({"ds": "2026-11-24", "params": {}, "ti": ti, "run_id": "r"})

    async def scene() -> Any:
        following = asyncio.create_task(follow(trigger))
        await until(lambda: following.done() or (runner.known and runner.listeners))
        if runner.known:
            runner.end(Outcome.SUCCESS)
        return await following

    event = asyncio.run(scene())
    return (runner.requests[0] if runner.requests else None), event


def request_of(mapped: Any, index: int) -> AttemptRequest:
    request, _ = start(mapped, index)
    assert request is not None
    return request


def test_mapped_tasks_start_in_the_triggerer_and_each_takes_its_own_part() -> None:
    with dag():
        mapped = JobOperator.partial(
            task_id="t", python="a.py", args=["{{ ds }}"], machine={"cpu": 2}
        ).expand(env=[{"N": "{{ run_id }}"}, {"N": "2"}, {"N": "3"}])
    jobs = [request_of(mapped, index).plan.job for index in range(3)]
    assert [job.env for job in jobs] == [{"N": "r"}, {"N": "2"}, {"N": "3"}]
    assert {job.args for job in jobs} == {("2026-11-24",)}


def test_several_lists_and_whole_jobs_are_mapped_as_airflow_numbers_them() -> None:
    with dag():
        both = JobOperator.partial(task_id="both", python="a.py").expand(
            args=[["1"], ["2"]], machine=[{"cpu": 1}, {"cpu": 4}]
        )
        jobs = JobOperator.partial(task_id="jobs").expand(
            job=[Job(python="a.py", args=["x"]), {"python": "b.py", "retries": 3}]
        )
        kwargs = JobOperator.partial(task_id="kwargs", python="a.py").expand_kwargs(
            [{"args": ["1"]}, {"env": {"A": "b"}, "team": "us"}]
        )
    found = [request_of(both, index).plan.job for index in range(4)]
    assert [(job.args, int(job.machine.cpu or 0)) for job in found] == [
        (("1",), 1), (("1",), 4), (("2",), 1), (("2",), 4)
    ]  # fmt: skip
    assert [request_of(jobs, index).plan.job.file for index in range(2)] == ["a.py", "b.py"]
    assert jobs.retries == 3
    assert [request_of(kwargs, index).team for index in range(2)] == [None, "us"]


def test_a_part_that_is_gone_fails_the_task_and_says_so() -> None:
    with dag():
        mapped = JobOperator.partial(task_id="t", python="a.py").expand(args=[["1"]])
    request, event = start(mapped, 1)
    assert request is None
    assert type(event).__name__ == "TaskFailedEvent"


def test_a_task_that_the_dag_has_no_more_runs_nobody_elses_part() -> None:
    with dag():
        mapped: Any = JobOperator.partial(task_id="t", python="a.py").expand(args=[["1"], ["2"]])
    trigger = Trigger(**json.loads(json.dumps(mapped.start_trigger_args.trigger_kwargs)))
    trigger.given = Telling()
    ti: Any = SimpleNamespace(
        dag_id="d", run_id="r", task_id="t", map_index=1, try_number=1, id="1"
    )
    trigger.task_instance = ti  # as Airflow's triggerer has it then: without the task
    assert type(asyncio.run(follow(trigger))).__name__ == "TaskFailedEvent"
    assert not trigger.given.requests


def test_airflow_is_told_of_mapped_tasks_what_it_is_told_of_others() -> None:
    retries = {"error": 1, "infrastructure": 4}
    with dag(default_args={"retries": 2, "machine": {"cpu": 4}}):
        same: dict[str, Any] = {
            "python": "a.py",
            "priority": 7,
            "retries": retries,
            "execution_timeout": timedelta(minutes=5),
        }
        one = JobOperator(task_id="one", **same)
        many = JobOperator.partial(task_id="many", **same).expand(args=[["1"], ["2"]])
        plain = JobOperator.partial(task_id="plain", python="a.py").expand(args=[["1"]])
    for name in ("retries", "retry_delay", "priority_weight", "weight_rule", "execution_timeout"):
        assert getattr(many, name) == getattr(one, name), name
    assert (many.retries, many.retry_delay, plain.retries) == (1, timedelta(seconds=5), 2)
    job = request_of(many, 1).plan.job
    assert (job.retries.infrastructure, job.priority, int(job.machine.cpu or 0)) == (4, 7, 4)
    assert job.timeout == timedelta(minutes=5)  # of an attempt; Airflow's counts the waiting, too
    assert many.execution_timeout is None


def test_a_wrong_part_is_an_error_of_the_file_and_names_the_task_and_its_number() -> None:
    with dag(), pytest.raises(ValueError, match=r"args\.0") as error:
        JobOperator.partial(task_id="t", python="a.py").expand(args=[["1"], [2]])
    assert error.value.__notes__ == ["This is number 1 of what the task 't' is mapped to."]


@pytest.mark.parametrize(
    "expand",
    [
        lambda names: JobOperator.partial(task_id="t", python="a.py").expand(
            args=names, machine=[{"cpu": 1}]
        ),
        lambda names: JobOperator.partial(task_id="t").expand(job=names),
        lambda names: JobOperator.partial(task_id="t", python="a.py").expand(
            args=names.map(lambda name: [name])
        ),
        lambda names: JobOperator.partial(task_id="t", python="a.py").expand_kwargs(names),
        lambda names: JobOperator.partial(task_id="t", python="a.py", args=[names]).expand(
            env=[{}]
        ),
        lambda _: JobOperator.partial(task_id="t", python="a.py", pool="narrow").expand(env=[{}]),
        lambda _: JobOperator.partial(
            task_id="t", python="a.py", map_index_template="{{ ds }}"
        ).expand(env=[{}]),
        lambda _: JobOperator.partial(task_id="t", python="a.py", args=["{{ prev_ds }}"]).expand(
            env=[{}]
        ),
    ],
)
def test_what_only_a_worker_can_do_starts_in_one_and_losing_it_costs_no_retry(
    expand: Callable[[Any], Any],
) -> None:
    with dag():

        @task
        def names() -> list[str]:
            return ["a"]

        mapped = expand(names())
    assert not mapped.start_from_trigger
    assert mapped.retries == 3


def test_another_tasks_list_of_arguments_needs_no_worker() -> None:
    with dag():

        @task
        def names() -> list[list[str]]:
            return [["a"]]

        mapped: Any = JobOperator.partial(task_id="t", python="a.py").expand(args=names())
    assert mapped.start_from_trigger
    assert mapped.start_trigger_args.trigger_kwargs["source"] == {
        "field": "args",
        "task_id": "names",
    }


def test_a_job_in_a_mapped_group_of_tasks_takes_its_groups_value_in_a_worker() -> None:
    with dag() as made:

        @task_group  # type: ignore[untyped-decorator]
        def group(name: str) -> None:
            JobOperator(task_id="inner", python="a.py", args=[name])

        group.expand(name=["1", "2"])
    inner: Any = made.get_task("group.inner")
    assert not inner.start_from_trigger
    assert inner.retries == 3


def test_every_field_of_a_job_is_an_argument_of_the_operator() -> None:
    import inspect

    known = set(inspect.signature(JobOperator.__init__).parameters)
    # `pool` and `after` are Airflow's own; another package's engine is written in `job`.
    assert set(Job.model_fields) - {"after", "custom", "pool"} <= known
