"""What templates know, completed: Airflow leaves out the dates of runs that somebody asked for.

A run that was requested has no logical date, so `{{ ds }}` would be undefined and fail; here it
stands for the time at which the run was to start.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any

from piecework.airflow.client import AirflowClient


def complete_context(context: MutableMapping[str, Any]) -> None:
    """Adds ds, ts and the like to a context that lacks them, from the time of the request."""
    if "ds" in context:
        return
    dag_run = context.get("dag_run")
    at = getattr(dag_run, "run_after", None) or getattr(dag_run, "start_date", None)
    if at is None:
        return
    ds, ts = at.strftime("%Y-%m-%d"), at.isoformat()
    dates = {
        "ds": ds,
        "ds_nodash": ds.replace("-", ""),
        "ts": ts,
        "ts_nodash": at.strftime("%Y%m%dT%H%M%S"),
        "ts_nodash_with_tz": ts.replace("-", "").replace(":", ""),
        "logical_date": at,
        "data_interval_start": at,
        "data_interval_end": at,
    }
    for name, value in dates.items():
        if context.get(name) is None:
            context[name] = value


class TaskView:
    """A task instance for templates in the triggerer: `ti.xcom_pull(...)` asks the REST API.

    Airflow 3.3's triggerer does not answer the message that xcom_pull sends, so the template would
    wait for ever.
    """

    def __init__(self, task_instance: Any, client: AirflowClient) -> None:
        self._task_instance = task_instance
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task_instance, name)

    def xcom_pull(
        self,
        task_ids: str | Sequence[str] | None = None,
        dag_id: str | None = None,
        key: str = "return_value",
        *,
        map_indexes: int | None = None,
        default: Any = None,
        run_id: str | None = None,
    ) -> Any:
        """The result of a task, or a list of them where several tasks are named."""
        ti = self._task_instance
        names = ti.task_id if task_ids is None else task_ids

        def pull(task_id: str) -> Any:
            index = -1 if map_indexes is None else map_indexes
            found = self._client.result(
                dag_id or ti.dag_id, run_id or ti.run_id, task_id, key, map_index=index
            )
            return default if found is None else found

        return pull(names) if isinstance(names, str) else [pull(name) for name in names]
