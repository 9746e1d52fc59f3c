"""Following a pipeline run: how each of its jobs is now, until all is over.

Enters a connection to Airflow and the pipeline; leaves a view of each job, again and again, for
whoever shows them. What Airflow knows (order, queue, retries) and what the runner knows (waiting
and why, running, how it ended) are put together here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from piecework.cli import terminal
from piecework.cli.runners import Runners
from piecework.config import Settings
from piecework.errors import PieceworkError, PlatformError
from piecework.ledger.events import Outcome
from piecework.runners.runner import AttemptStatus, Runner, run_id
from piecework.spec.pipeline import Pipeline

if TYPE_CHECKING:
    from piecework.airflow.client import AirflowClient, PipelineRunState, TaskState

_PAUSE_SECONDS = 0.5
_ASK_SECONDS = 1.0
#: What Airflow calls a task that will be tried again.
_TO_BE_REPEATED = ("up_for_retry", "up_for_reschedule", "scheduled", "queued")
#: An Airflow that is restarting answers again within this time; jobs run on in any case.
_SILENCE_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class JobView:
    """How a job of a pipeline run is now, in words for its user.

    `state` is "to come", "queued", "starting", "waiting", "running", "trying again", "not run", or
    an outcome. `since` is when that began; `detail` says why.
    """

    job: str
    run: str
    state: str
    detail: str = ""
    attempt: str | None = None
    number: int = 0
    queued_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more will come of it, as far as is known."""
        return self.state == "not run" or self.state in set(Outcome)


def view_job(
    job: str, run: str, task: TaskState | None, attempts: Sequence[AttemptStatus]
) -> JobView:
    """What Airflow and the runner know of a job, as one."""
    state = None if task is None else task.state
    if not attempts:
        words, detail = _without_attempt(state, None if task is None else task.note)
        return JobView(job, run, words, detail)
    last = attempts[-1]
    words, detail = last.state, last.reason or ""
    if last.state == "ended":
        words, detail = str(last.outcome), last.cause or ""
        if last.outcome is not Outcome.SUCCESS and state in _TO_BE_REPEATED:
            words, detail = "trying again", f"{last.outcome}: {last.cause}"
    return JobView(
        job,
        run,
        words,
        detail,
        attempt=last.attempt,
        number=len(attempts),
        queued_at=last.queued_at,
        started_at=last.started_at,
        ended_at=last.ended_at,
    )


def _without_attempt(state: str | None, note: str | None) -> tuple[str, str]:
    if state in ("upstream_failed", "skipped", "removed"):
        return "not run", "a job before it failed" if state == "upstream_failed" else ""
    if state == "failed":
        return str(Outcome.ERROR), note or "its task failed in Airflow before the job started"
    if state in ("scheduled", "queued"):
        return "queued", "in Airflow's queue"
    if state in ("running", "deferred", "up_for_retry", "restarting", "up_for_reschedule"):
        return "starting", note or ""
    if state == "success":
        return str(Outcome.SUCCESS), "marked as success in Airflow"
    return "to come", ""


class Follower:
    """One pipeline run, followed."""

    def __init__(
        self,
        settings: Settings,
        client: AirflowClient,
        pipeline: Pipeline,
        pipeline_run: str,
        pool: str | None = None,
    ) -> None:
        """`pool`: the machine pool that all of its jobs are to be on, as the pipeline says."""
        self._settings = settings
        self._client = client
        self._pool = pool
        self.pipeline = pipeline
        self.pipeline_run = pipeline_run
        self._runs = {job: run_id(pipeline.name, job, pipeline_run) for job in pipeline.jobs}
        runners = Runners(settings)
        self._runners: dict[str, Runner] = {}
        for job, run in self._runs.items():
            pool = pipeline.job(job).pool or settings.pool
            self._runners[run] = runners.of(pool, f"job {job}")
        self._known: dict[str, Sequence[AttemptStatus]] = {}
        #: How the jobs were when they were last looked at.
        self.views: list[JobView] = []
        self._tasks: dict[str, TaskState] = {}
        self._state: PipelineRunState | None = None
        self._asked_at = 0.0
        self._silent_since: float | None = None

    def trigger(self, params: Mapping[str, Any]) -> None:
        """Queues the pipeline run; twice is once."""
        from piecework.airflow.assignment import MACHINE_POOL

        conf = dict(params) if self._pool is None else {**params, MACHINE_POOL: self._pool}
        self._client.trigger(self.pipeline.name, conf, self.pipeline_run)

    def look(self) -> list[JobView]:
        """How the jobs are now, in the pipeline's order."""
        self._ask_airflow()
        self.views = [
            view_job(job, run, self._tasks.get(job), self._attempts(run))
            for job, run in self._runs.items()
        ]
        return self.views

    def wait(self, show: Callable[[list[JobView]], None]) -> list[JobView]:
        """Shows the jobs until the pipeline run is over; returns how they ended.

        Raises PlatformError where Airflow is silent for minutes, or the pipeline run is gone.
        """
        while True:
            views = self.look()
            show(views)
            if self._state is not None and self._state.over and self._all_ended(views):
                return views
            time.sleep(_PAUSE_SECONDS)

    def _all_ended(self, views: Sequence[JobView]) -> bool:
        return not any(view.state in ("waiting", "running") for view in views)

    def _ask_airflow(self) -> None:
        at = time.monotonic()
        if at - self._asked_at < _ASK_SECONDS:
            return
        try:
            state = self._client.pipeline_run(self.pipeline.name, self.pipeline_run)
            tasks = self._client.tasks(self.pipeline.name, self.pipeline_run)
        except PlatformError as error:
            self._note_silence(error, at)
            return
        finally:
            self._asked_at = time.monotonic()
        if state is None:
            raise PlatformError(
                f"the pipeline run {self.pipeline_run} is gone from Airflow; its jobs may run on: "
                "`piecework ls --running` lists them, `piecework cancel RUN` ends one"
            )
        if self._silent_since is not None:
            terminal.step("Airflow answers again")
        self._silent_since = None
        self._state, self._tasks = state, {task.task_id: task for task in tasks}

    def _note_silence(self, error: PlatformError, at: float) -> None:
        if not error.retryable:
            raise error
        if self._silent_since is None:
            self._silent_since = at
            terminal.warn(f"{error}; jobs run on, still trying")
        if self._settings.airflow_url is None and self._is_down():
            raise PlatformError(
                "the platform was taken down; jobs that run go on. `piecework up` brings it back, "
                "and it goes on with the pipeline run"
            ) from error
        if at - self._silent_since > _SILENCE_SECONDS:
            raise error

    def _is_down(self) -> bool:
        from piecework.airflow import platform

        return platform.status(self._settings).state == "down"

    def cancel(self, cause: str, seconds: float = 60.0) -> bool:
        """Ends the pipeline run and its jobs; True once all have ended, False where some may run.

        What runs is asked to end first, because Airflow may be slow to answer or not answer at all;
        then Airflow, so that it starts nothing more; then what it started in between.
        """
        self._cancel_attempts(cause)
        try:
            self._client.cancel(self.pipeline.name, self.pipeline_run)
        except PieceworkError as error:
            terminal.warn(f"Airflow could not be told to cancel: {error}")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if not self._cancel_attempts(cause) and self._nothing_comes():
                return True
            time.sleep(_PAUSE_SECONDS)
        return False

    def _cancel_attempts(self, cause: str) -> int:
        """Asks all that have not ended to end; returns how many there are."""
        alive = [
            attempt
            for run in self._runs.values()
            for attempt in self._attempts(run)
            if attempt.state != "ended"
        ]
        for attempt in alive:
            run = attempt.attempt.rpartition(".")[0]
            self._runners[run].cancel(attempt.attempt, cause)
        return len(alive)

    def _attempts(self, run: str) -> Sequence[AttemptStatus]:
        """The run's attempts; those that a cluster has forgotten as they were when it had not."""
        found = self._runners[run].attempts(run)
        if found:
            self._known[run] = found
        return self._known.get(run, ())

    def _nothing_comes(self) -> bool:
        """Whether no task of the pipeline run is about to start an attempt."""
        try:
            tasks = self._client.tasks(self.pipeline.name, self.pipeline_run)
        except PieceworkError:
            return True  # nothing can be learned; the keeper ends what has no owner
        return all(task.over or task.state is None for task in tasks)
