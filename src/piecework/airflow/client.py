"""A client of Airflow's REST API (version 2): requests, states and cancellations.

In: a base URL and who asks. Out: plain values. Standard library only, so that the command line and
the supervisors of attempts can use it at no cost. Raises PlatformError in plain words: `retryable`
where Airflow did not answer, not where it refused.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import time
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from piecework import clock
from piecework.airflow.configuration import (
    CONTENT_TAG,
    USER,
    PlatformFolder,
    read_json,
    url_of,
)
from piecework.airflow.rest import NotFoundError, RefusedError, Rest, open_here
from piecework.config import Settings
from piecework.errors import PlatformError


@dataclass(frozen=True, slots=True)
class PipelineRunState:
    """A pipeline run. `state` is Airflow's: queued, running, success or failed."""

    pipeline: str
    pipeline_run: str
    state: str
    queued_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None

    @property
    def over(self) -> bool:
        return self.state in ("success", "failed")


@dataclass(frozen=True, slots=True)
class TaskState:
    """A task instance. `state` is Airflow's; None means that it is not scheduled yet.

    `instance` changes with each try; `max_tries` grows with each clear, and only then.
    """

    task_id: str
    map_index: int
    state: str | None
    try_number: int
    max_tries: int
    instance: str
    note: str | None = None

    @property
    def over(self) -> bool:
        return self.state in ("success", "failed", "skipped", "upstream_failed", "removed")


@dataclass(slots=True)
class AirflowClient(Rest):
    """Talks to one Airflow, as one user."""

    @classmethod
    def from_settings(cls, settings: Settings) -> AirflowClient:
        """The Airflow that the settings name (`airflow_url`), else the platform of this computer.

        A named Airflow takes its token from PIECEWORK_AIRFLOW_TOKEN, or user and password from
        PIECEWORK_AIRFLOW_USER and PIECEWORK_AIRFLOW_PASSWORD.
        """
        if settings.airflow_url:
            return cls(
                settings.airflow_url.rstrip("/"),
                user=os.environ.get("PIECEWORK_AIRFLOW_USER"),
                password=os.environ.get("PIECEWORK_AIRFLOW_PASSWORD"),
                token=os.environ.get("PIECEWORK_AIRFLOW_TOKEN"),
            )
        state = read_json(PlatformFolder(settings.home).state)
        if "port" not in state:
            raise PlatformError(
                f"there is no platform in {settings.home}; bring it up with `piecework up`"
            )
        return cls(
            url_of(state), USER, state.get("password"), settings=settings, opener=open_here()
        )

    def health(self) -> dict[str, str]:
        """The state of each of Airflow's components; asks once, needs no user."""
        found = self._send("GET", "/api/v2/monitor/health", None, authorized=False, pauses=())
        return {name: str(part.get("status")) for name, part in found.items() if part}

    # Pipelines

    def dag(self, dag_id: str) -> dict[str, Any] | None:
        """What Airflow knows of a DAG; None where it knows none."""
        return self._find(f"/api/v2/dags/{_quote(dag_id)}")

    def dag_versions(self, dag_id: str) -> list[int]:
        """The version numbers of a DAG, ascending."""
        found = self._list(f"/api/v2/dags/{_quote(dag_id)}/dagVersions", "dag_versions")
        return sorted(int(version["version_number"]) for version in found)

    def import_errors(self) -> dict[str, str]:
        """Files that are not DAGs though they should be, by name, with what is wrong."""
        return {name: text for name, (text, _) in self._import_errors().items()}

    def _import_errors(self) -> dict[str, tuple[str, datetime | None]]:
        found = self._list("/api/v2/importErrors", "import_errors")
        return {
            str(error["filename"]): (str(error["stack_trace"]), _time(error.get("timestamp")))
            for error in found
        }

    def source(self, dag_id: str) -> str | None:
        """The source text of the newest version of a DAG."""
        found = self._find(f"/api/v2/dagSources/{_quote(dag_id)}")
        return None if found is None else str(found.get("content", ""))

    def wait_for_dag(self, dag_id: str, *, timeout_seconds: float = 120.0) -> None:
        """Returns when Airflow has read the DAG: as it was published last, where it was.

        Raises PlatformError with the import error, where Airflow cannot read that file now: errors
        of another content, or from before, don't count.
        """
        # Whoever asks for a run without waiting need not load what reads pipeline files.
        from piecework.airflow.publication import is_error_of, published_content, read_again

        settings = self.settings
        content = None if settings is None else published_content(dag_id, settings)
        since, again = clock.now(), False

        def ready() -> bool:
            nonlocal again
            dag = self.dag(dag_id)
            if dag is not None and not dag.get("is_stale") and not dag.get("has_import_errors"):
                tags = {str(found.get("name")) for found in dag.get("tags", ())}
                if content is None or f"{CONTENT_TAG}{content}" in tags:
                    return True
            if content is None or settings is None:
                return False
            error, at = self._import_errors().get(f"{dag_id}.yaml", ("", None))
            if not is_error_of(error, content):
                return False
            if at is None or at >= since:
                raise RefusedError(f"Airflow could not read {dag_id}:\n{error}", 422, error)
            if not again:  # its surroundings may have changed since: a program may be there now
                read_again(dag_id, settings)
                again = True
            return False

        if not _wait(ready, timeout_seconds):
            raise PlatformError(
                f"Airflow did not read the pipeline {dag_id} within {timeout_seconds:.0f} s; "
                "see dag-processor.log in the platform's logs"
            )

    def unpause(self, dag_id: str) -> None:
        """Lets the DAG's runs start."""
        self._send("PATCH", f"/api/v2/dags/{_quote(dag_id)}", {"is_paused": False})

    # Pipeline runs

    def trigger(
        self, dag_id: str, params: Mapping[str, Any], pipeline_run: str | None = None
    ) -> str:
        """Queues a pipeline run with these parameters; returns its id.

        With `pipeline_run` the same request may be sent twice: the second finds the first.
        """
        body: dict[str, Any] = {"logical_date": None, "conf": dict(params)}
        if pipeline_run is not None:
            body["dag_run_id"] = pipeline_run
        try:
            found = self._send(
                "POST",
                f"/api/v2/dags/{_quote(dag_id)}/dagRuns",
                body,
                pauses=self.pauses if pipeline_run is not None else (),
            )
        except RefusedError as refused:
            if refused.status == http.client.CONFLICT and pipeline_run is not None:
                return pipeline_run
            raise
        return str(found["dag_run_id"])

    def pipeline_run(self, dag_id: str, pipeline_run: str) -> PipelineRunState | None:
        """How a pipeline run is; None where there is none."""
        found = self._find(_run_path(dag_id, pipeline_run))
        if found is None:
            return None
        return PipelineRunState(
            pipeline=dag_id,
            pipeline_run=str(found["dag_run_id"]),
            state=str(found["state"]),
            queued_at=_time(found.get("queued_at")),
            started_at=_time(found.get("start_date")),
            ended_at=_time(found.get("end_date")),
        )

    def wait_for_run(
        self,
        dag_id: str,
        pipeline_run: str,
        timeout_seconds: float | None = None,
        pause_seconds: float = 0.5,
    ) -> PipelineRunState:
        """Returns when a pipeline run is over, asking every so often."""
        end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while True:
            state = self.pipeline_run(dag_id, pipeline_run)
            if state is None:
                raise PlatformError(f"the pipeline run {pipeline_run} of {dag_id} is gone")
            if state.over:
                return state
            if end is not None and time.monotonic() >= end:
                raise PlatformError(
                    f"the pipeline run {pipeline_run} of {dag_id} is still {state.state} "
                    f"after {timeout_seconds:.0f} s"
                )
            time.sleep(pause_seconds)

    def tasks(self, dag_id: str, pipeline_run: str) -> list[TaskState]:
        """The tasks of a pipeline run, by name."""
        path = f"{_run_path(dag_id, pipeline_run)}/taskInstances"
        found = [_task(raw) for raw in self._list(path, "task_instances")]
        return sorted(found, key=lambda task: (task.task_id, task.map_index))

    def task(
        self, dag_id: str, pipeline_run: str, task_id: str, map_index: int = -1
    ) -> TaskState | None:
        """How one task is; None where there is none."""
        found = self._find(_task_path(dag_id, pipeline_run, task_id, map_index))
        return None if found is None else _task(found)

    def result(
        self,
        dag_id: str,
        pipeline_run: str,
        task_id: str,
        key: str = "return_value",
        map_index: int = -1,
    ) -> Any:
        """The XCom of a task; None where there is none."""
        path = f"{_run_path(dag_id, pipeline_run)}/taskInstances/{_quote(task_id)}/xcomEntries"
        found = self._find(f"{path}/{_quote(key)}?stringify=false&map_index={map_index}")
        return None if found is None else found.get("value")

    def task_log(self, dag_id: str, pipeline_run: str, task_id: str, try_number: int = 1) -> str:
        """The log of one try of a task, a line an event."""
        path = f"{_run_path(dag_id, pipeline_run)}/taskInstances/{_quote(task_id)}"
        found = self._find(f"{path}/logs/{try_number}?full_content=true") or {}
        return "\n".join(
            str(entry.get("event", "")) if isinstance(entry, dict) else str(entry)
            for entry in found.get("content", ())
        )

    # What users do to them

    def cancel(self, dag_id: str, pipeline_run: str) -> None:
        """Marks a pipeline run failed, which ends its running jobs; a finished one stays."""
        state = self.pipeline_run(dag_id, pipeline_run)
        if state is not None and not state.over:
            self._send("PATCH", _run_path(dag_id, pipeline_run), {"state": "failed"})

    def cancel_task(
        self, dag_id: str, pipeline_run: str, task_id: str, map_index: int = -1
    ) -> None:
        """Marks one task failed, which ends its job."""
        self.mark_task(dag_id, pipeline_run, task_id, "failed", map_index)

    def mark_task(
        self, dag_id: str, pipeline_run: str, task_id: str, state: str, map_index: int = -1
    ) -> None:
        """Gives a task the state that its user wants: failed, success or skipped."""
        path = _task_path(dag_id, pipeline_run, task_id, map_index)
        self._send("PATCH", path, {"new_state": state})

    def clear_task(self, dag_id: str, pipeline_run: str, task_id: str) -> None:
        """Asks for a task to run again, running or over."""
        body = {
            "dry_run": False,
            "dag_run_id": pipeline_run,
            "task_ids": [task_id],
            "only_failed": False,
            "reset_dag_runs": True,
        }
        self._send("POST", f"/api/v2/dags/{_quote(dag_id)}/clearTaskInstances", body)

    def delete_run(self, dag_id: str, pipeline_run: str) -> None:
        """Removes a pipeline run and its tasks; one that is gone already stays gone."""
        with contextlib.suppress(NotFoundError):
            self._send("DELETE", _run_path(dag_id, pipeline_run), None)

    def write_note(
        self, dag_id: str, pipeline_run: str, task_id: str, map_index: int, note: str
    ) -> None:
        """Writes the note that Airflow shows at a task."""
        path = _task_path(dag_id, pipeline_run, task_id, map_index)
        self._send("PATCH", path, {"note": note})


def _task(raw: Mapping[str, Any]) -> TaskState:
    return TaskState(
        task_id=str(raw["task_id"]),
        map_index=int(raw["map_index"]),
        state=raw.get("state"),
        try_number=int(raw["try_number"]),
        max_tries=int(raw["max_tries"]),
        instance=str(raw["id"]),
        note=raw.get("note"),
    )


def _run_path(dag_id: str, pipeline_run: str) -> str:
    return f"/api/v2/dags/{_quote(dag_id)}/dagRuns/{_quote(pipeline_run)}"


def _task_path(dag_id: str, pipeline_run: str, task_id: str, map_index: int) -> str:
    path = f"{_run_path(dag_id, pipeline_run)}/taskInstances/{_quote(task_id)}"
    return path if map_index < 0 else f"{path}/{map_index}"


def _quote(part: str) -> str:
    return urllib.parse.quote(part, safe="")


def _time(text: Any) -> datetime | None:
    return clock.from_text(text) if text else None


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(0.3)
    return True
