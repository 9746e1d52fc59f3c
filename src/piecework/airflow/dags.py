"""Pipelines as DAGs: one by one, or a whole folder of pipeline files.

In: checked pipelines. Out: Airflow DAGs that are equal for equal pipelines: nothing in them comes
from the clock, the host or the order of reading, so an unchanged file never makes a new version.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, CronTriggerTimetable
from airflow.sdk.definitions.param import Param as AirflowParam

from piecework.airflow.configuration import CONTENT_TAG
from piecework.airflow.operator import JobOperator
from piecework.spec.pipeline import Pipeline

#: Where a pipeline names no start: long ago, so that every schedule has begun.
_LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
#: Presets that are not cron.
_PLAIN = ("@once", "@continuous")


def build_dag(pipeline: Pipeline, code: Path, *, content: str | None = None) -> DAG:
    """The DAG of a pipeline whose programs lie in `code`.

    `content` names what was published; it becomes a tag, so that its arrival can be waited for.
    """
    dag = DAG(
        dag_id=pipeline.name,
        description=pipeline.description,
        schedule=_schedule(pipeline),
        start_date=_start(pipeline),
        catchup=pipeline.catchup,
        params=_params(pipeline),
        tags=sorted(_tags(pipeline, content)),
        doc_md=pipeline.description,
        default_args={"owner": pipeline.team} if pipeline.team else {},
        **_limits(pipeline),
    )
    spec = {
        name: param.model_dump(mode="json", exclude_unset=True)
        for name, param in pipeline.params.items()
    }
    tasks = {}
    for name in pipeline.jobs:
        tasks[name] = JobOperator(
            task_id=name,
            dag=dag,
            job=pipeline.job(name),
            pipeline=pipeline.name,
            code=code,
            params_spec=spec,
        )
    for name, job in pipeline.jobs.items():
        for earlier in job.after:
            tasks[earlier].set_downstream(tasks[name])
    return dag


def _schedule(pipeline: Pipeline) -> Any:
    if pipeline.schedule is None or pipeline.schedule in _PLAIN:
        return pipeline.schedule
    return CronTriggerTimetable(pipeline.schedule, timezone=pipeline.timezone)


def _start(pipeline: Pipeline) -> datetime:
    if pipeline.start is None:
        return _LONG_AGO
    from zoneinfo import ZoneInfo

    midnight = datetime.combine(pipeline.start, datetime.min.time(), ZoneInfo(pipeline.timezone))
    return midnight.astimezone(UTC)


def _params(pipeline: Pipeline) -> Mapping[str, AirflowParam]:
    """Defaults and descriptions only.

    Types and allowed values are checked by the job's trigger: Airflow 3.3's triggerer checks them
    again when it starts a task, and a value that the file no longer allows would end the whole
    triggerer there (TriggerRunner.create_triggers catches TypeError alone).
    """
    return {
        name: AirflowParam(
            None if param.required else param.default,
            description=param.description or ("required" if param.required else None),
        )
        for name, param in pipeline.params.items()
    }


def _tags(pipeline: Pipeline, content: str | None) -> set[str]:
    tags = {"piecework", *pipeline.tags}
    if pipeline.team:
        tags.add(f"team:{pipeline.team}")
    if content is not None:
        tags.add(f"{CONTENT_TAG}{content}")
    return tags


def _limits(pipeline: Pipeline) -> dict[str, int]:
    """What limits jobs is machines, so Airflow's own limit of tasks is out of the way."""
    limits = {"max_active_tasks": 10_000}
    if pipeline.max_active_runs is not None:
        limits["max_active_runs"] = pipeline.max_active_runs
    return limits
