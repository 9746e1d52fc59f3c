"""What templates know in the triggerer: dates of requested runs, and other tasks' results."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from piecework.airflow.client import AirflowClient
from piecework.airflow.rendering import TaskView, complete_context


@dataclass
class Run:
    run_after: datetime | None = None


def test_a_requested_run_has_the_dates_of_its_request() -> None:
    context: dict[str, Any] = {"dag_run": Run(datetime(2026, 11, 23, 4, 5, 6, tzinfo=UTC))}
    complete_context(context)
    assert context["ds"] == "2026-11-23"
    assert context["ds_nodash"] == "20261123"
    assert context["ts"] == "2026-11-23T04:05:06+00:00"
    assert context["ts_nodash"] == "20261123T040506"


def test_a_scheduled_run_keeps_its_own_dates() -> None:
    context: dict[str, Any] = {"ds": "2024-01-31", "dag_run": Run(datetime.now(UTC))}
    complete_context(context)
    assert context == {"ds": "2024-01-31", "dag_run": context["dag_run"]}


def test_a_context_without_a_run_stays_as_it_is() -> None:
    context: dict[str, Any] = {}
    complete_context(context)
    assert context == {}


class Results(AirflowClient):
    """Knows one result."""

    def result(
        self,
        dag_id: str,
        pipeline_run: str,
        task_id: str,
        key: str = "return_value",
        map_index: int = -1,
    ) -> Any:
        return (
            {"from": task_id} if (dag_id, pipeline_run, key) == ("d", "r", "return_value") else None
        )


@dataclass
class Task:
    dag_id: str = "d"
    run_id: str = "r"
    task_id: str = "t"
    try_number: int = 4


def test_results_of_other_tasks_are_pulled_one_or_several_or_by_default() -> None:
    view = TaskView(Task(), Results("http://nowhere"))
    assert view.try_number == 4
    assert view.xcom_pull("a") == {"from": "a"}
    assert view.xcom_pull() == {"from": "t"}
    assert view.xcom_pull(["a", "b"]) == [{"from": "a"}, {"from": "b"}]
    assert view.xcom_pull("a", key="other", default=7) == 7
