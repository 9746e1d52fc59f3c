"""The trigger that follows a job's run in the triggerer, from its request to its end.

In: the job's parts as JSON, with templates not yet rendered where Airflow starts the task here.
Out: one event, with which the task ends: without a worker (`TaskSuccessEvent`, `TaskFailedEvent`),
or back in one (`resume`). Whatever happens to the triggerer, the job goes on, and the next trigger
finds it; only the task's state in Airflow decides whether the job is still wanted.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from airflow.sdk.execution_time.xcom import XCom
from airflow.triggers.base import BaseTrigger, TaskFailedEvent, TaskSuccessEvent, TriggerEvent

from piecework import config
from piecework.airflow.assignment import (
    Assignment,
    data_of,
    fill_params,
    read_job,
    split_conf,
)
from piecework.airflow.bell import Bell
from piecework.airflow.client import AirflowClient, TaskState
from piecework.airflow.following import Ending, Progress, advance, find_pool
from piecework.airflow.rendering import TaskView, complete_context
from piecework.airflow.task_log import TaskLog, write_failure
from piecework.airflow.threads import in_thread
from piecework.config import Settings
from piecework.errors import (
    ClusterError,
    InputError,
    NoMachineError,
    PieceworkError,
    Problem,
    SpecError,
)
from piecework.ledger.events import Outcome
from piecework.plan.written_pod import WrittenPod
from piecework.runners.runner import Owner, Runner, run_id, runner_for
from piecework.spec.job import Job
from piecework.spec.pool import Pool

_log = logging.getLogger("piecework.task")
#: Between two looks at a run; longer with many, so that looking never becomes the work.
_LOOK_SECONDS = 0.25
_LOOK_SECONDS_EACH = 0.005
_LONGEST_LOOK_SECONDS = 5.0
#: Where changes are told, one looks all the same: for deadlines, in case that one was not told, and
#: because who still waits after a minute gets a note.
_UNTOLD_SECONDS = 61.0
#: The same while its program runs, whose log may be slow to begin.
_RUNS_UNTOLD_SECONDS = 10.0
#: An API server that starts refuses for a few seconds what it will grant.
REFUSALS = 5
_RENDER_SECONDS = 120.0
#: A larger result stays a file; Airflow keeps results in its database.
_LARGEST_RESULT_BYTES = 1 << 20

_active = 0


class JobTrigger(BaseTrigger):
    """Follows one task's run; see JobOperator, whose template fields have the same names here."""

    #: Whether failures of the program are repeated here instead of by Airflow's retries.
    repeat_errors = False
    #: Between two tries where something does not answer.
    trouble_seconds = 2.0

    def __init__(
        self,
        *,
        job_name: str,
        document: Mapping[str, Any],
        engine: str,
        program: Any,
        args: list[str],
        env: Mapping[str, str],
        code: str,
        pipeline: str | None,
        params_spec: Mapping[str, Any] | None,
        values: Mapping[str, Any] | None,
        max_tries: int | None,
        resume: bool,
        success_resumes: bool = True,
    ) -> None:
        super().__init__()
        self.job_name = job_name
        self.document = document
        self.engine = engine
        self.program = program
        self.args = args
        self.env = env
        self.code = code
        self.pipeline = pipeline
        self.params_spec = params_spec
        self.values = values
        self.max_tries = max_tries
        self.resume = resume
        self.success_resumes = success_resumes
        self.context: Any = None
        self.jinja_env: Any = None
        self.assignment: Assignment | None = None
        self.settings: Settings | None = None
        self.runner: Runner | None = None
        self.bell: Bell | None = None
        self.stop_listening: Callable[[], None] | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The class's path and the arguments that make an equal trigger."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "job_name": self.job_name,
                "document": self.document,
                "engine": self.engine,
                "program": self.program,
                "args": self.args,
                "env": self.env,
                "code": self.code,
                "pipeline": self.pipeline,
                "params_spec": self.params_spec,
                "values": self.values,
                "max_tries": self.max_tries,
                "resume": self.resume,
                "success_resumes": self.success_resumes,
            },
        )

    def render_template_fields(self, context: Any, jinja_env: Any = None) -> None:
        """Keeps the context: templates may ask Airflow, for which its event loop must not wait."""
        self.context = context
        self.jinja_env = jinja_env

    def fill_templates(self) -> None:
        """Renders what the operator's template fields hold. Raises SpecError."""
        if self.context is None:
            return  # a worker has done it, or this trigger
        context = self.context
        complete_context(context)
        self.values = context["params"] = self.read_params(context)
        _, pool = split_conf(getattr(context.get("dag_run"), "conf", None))
        if pool is not None:
            self.document = {**self.document, "pool": pool}
        view = TaskView(self.task_instance, AirflowClient.from_settings(self.load_settings()))
        context["ti"] = context["task_instance"] = view
        try:
            super().render_template_fields(context, self.jinja_env)
        except Exception as error:  # a template runs what its author wrote: anything may happen
            wrong = f"its templates cannot be rendered: {type(error).__name__}: {error}"
            raise SpecError([Problem("(task)", 0, 0, "", wrong)]) from error
        self.context = None

    def read_params(self, context: Any) -> dict[str, Any]:
        """The pipeline run's parameters, checked. Raises SpecError."""
        if self.params_spec is None:
            return split_conf(context["params"])[0]
        given, _ = split_conf(getattr(context.get("dag_run"), "conf", None))
        return fill_params(self.params_spec, given)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Follows the run; yields exactly one event, when it is over."""
        global _active  # noqa: PLW0603 - one event loop, one count of those that look
        _active += 1
        self.bell = Bell()
        try:
            ending = await self._follow()
            if ending.outcome is not Outcome.SUCCESS:
                await in_thread(write_failure, self.task_instance, self.load_settings(), ending)
            elif not self._resumes(ending):
                await self._give_result(self.result_of(ending))
            more = await in_thread(self.told_to_worker) if self._resumes(ending) else {}
        finally:
            _active -= 1
            if self.stop_listening is not None:
                self.stop_listening()
        yield self._tell(ending, more)

    async def on_kill(self) -> None:
        """Ends the job at once if its task is over; another triggerer's takeover looks the same."""
        if self.assignment is not None:
            await in_thread(self._end_if_over)

    async def _follow(self) -> Ending:
        told, refusals, alive = "", 0, False
        log: TaskLog | None = None
        while True:
            try:
                if self.assignment is None:
                    self.assignment = await self._assign_in_time()
                if log is None:
                    log = await in_thread(self._begin)
                progress = await in_thread(self._look, log)
                if progress.ending is not None:
                    return progress.ending
                told, refusals, alive = "", 0, progress.latest is not None
            except (InputError, NoMachineError) as error:
                outcome = Outcome.ERROR if isinstance(error, InputError) else Outcome.NEVER_STARTED
                return Ending(outcome, str(error), True)
            except _ReplacedError:
                await asyncio.Event().wait()  # until the triggerer cancels this trigger
            except Exception as error:  # a full disk or a restart must not fail a healthy job
                refusals += not alive and _is_refusal(error)
                if refusals >= REFUSALS:
                    return Ending(Outcome.NEVER_STARTED, str(error), True)
                if str(error) != told:
                    told = str(error)
                    unknown = not isinstance(error, PieceworkError)
                    _log.warning("cannot see the run, trying on: %s", error, exc_info=unknown)
                await asyncio.sleep(self.trouble_seconds)
                continue
            await self._wait(progress)

    def begin(self, task_instance: Any) -> str:
        """In a worker that hands over: starts the first attempt, or finds one; returns its id."""
        self.task_instance = task_instance
        self.assignment = self._assign()
        progress = advance(self.assignment, self._load_runner(), self.load_settings())
        assert progress.latest is not None
        self.assignment = None
        return progress.latest.attempt

    async def _wait(self, progress: Progress) -> None:
        """Until there may be something new: a change that is told, else the next look."""
        look = min(max(_LOOK_SECONDS, _LOOK_SECONDS_EACH * _active), _LONGEST_LOOK_SECONDS)
        if self.stop_listening is None or self.bell is None:
            await asyncio.sleep(look)
            return
        latest = progress.latest
        runs = latest is not None and latest.state == "running"
        await self.bell.wait(max(_RUNS_UNTOLD_SECONDS, look) if runs else _UNTOLD_SECONDS)

    def load_settings(self) -> Settings:
        """The settings, read once."""
        if self.settings is None:
            self.settings = config.load()
        return self.settings

    async def _assign_in_time(self) -> Assignment:
        """Airflow 3.3's triggerer leaves a question that it doesn't know unanswered for ever."""
        try:
            return await asyncio.wait_for(in_thread(self._assign), _RENDER_SECONDS)
        except TimeoutError:
            wrong = (
                f"its templates were not rendered within {_RENDER_SECONDS:.0f} s; they may ask "
                "for something that only a worker can tell"
            )
            raise SpecError([Problem("(task)", 0, 0, "", wrong)]) from None

    def _assign(self) -> Assignment:
        """Who asks, and what for. Raises SpecError where the rendered job is wrong."""
        self.fill_templates()
        ti: Any = self.task_instance
        settings = self.load_settings()
        job = read_job(self.document, self.engine, self.program, self.args, self.env)
        owner = Owner(
            kind="airflow",
            dag_id=ti.dag_id,
            dag_run_id=ti.run_id,
            task_id=ti.task_id,
            map_index=_index(ti),
            max_tries=self.max_tries if self.max_tries is not None else self._ask_max_tries(),
            try_number=ti.try_number,
        )
        pipeline = self.pipeline or ti.dag_id
        return Assignment(
            run=run_id(ti.dag_id, ti.task_id, ti.run_id, owner.map_index),
            job_name=self.job_name,
            job=job,
            code=Path(self.code),
            data=data_of(settings, pipeline, ti.run_id),
            owner=owner,
            pipeline=pipeline,
            pipeline_run=ti.run_id,
            params=dict(self.values or {}),
            repeat_errors=self.repeat_errors,
            pod=self.written_pod(job),
        )

    def written_pod(self, job: Job) -> WrittenPod | None:  # noqa: ARG002
        """The pod that the attempt's own is made from, where somebody wrote one."""
        return None

    def _ask_max_tries(self) -> int:
        """Airflow doesn't tell a trigger how many tries are left, so its API is asked."""
        ti: Any = self.task_instance
        state = self._state()
        if state is None or state.instance != str(ti.id):
            raise _ReplacedError
        return state.max_tries

    def _state(self) -> TaskState | None:
        ti: Any = self.task_instance
        client = AirflowClient.from_settings(self.load_settings())
        return client.task(ti.dag_id, ti.run_id, ti.task_id, _index(ti))

    def _begin(self) -> TaskLog:
        """Finds the run's runner, and begins the task's log."""
        assert self.assignment is not None
        runner = self._load_runner()
        if self.bell is not None and self.stop_listening is None:
            self.stop_listening = runner.listen(
                self.assignment.run, self.bell.ring, self.bell.ring_soon
            )
        return TaskLog(self.task_instance, self.assignment, self.load_settings(), runner)

    def _look(self, log: TaskLog) -> Progress:
        assert self.assignment is not None
        progress = advance(self.assignment, self._load_runner(), self.load_settings())
        log.tell(progress)
        return progress

    def _load_runner(self) -> Runner:
        """The runner of the job's pool, found once. Raises InputError where there is no pool."""
        if self.runner is None:
            assert self.assignment is not None
            job = self.assignment.job
            self.runner = self.find_runner(find_pool(self.job_name, job, self.load_settings()))
        return self.runner

    def find_runner(self, pool: Pool) -> Runner:
        """The runner of a pool."""
        return runner_for(pool, self.load_settings())

    def _end_if_over(self) -> None:
        assert self.assignment is not None
        state = self._state()
        ti: Any = self.task_instance
        wanted = state is not None and not state.over
        if wanted and state is not None and state.max_tries <= self.assignment.owner.max_tries:
            return
        runner = self._load_runner()
        how = "removed" if state is None else state.state or "cleared"
        for attempt in runner.attempts(self.assignment.run):
            asked = attempt.owner
            if attempt.state != "ended" and (asked is None or asked.try_number <= ti.try_number):
                runner.cancel(attempt.attempt, f"its task in Airflow is over: {how}")

    async def _give_result(self, result: Any) -> None:
        """Makes the result the task's XCom.

        Not with TaskSuccessEvent(xcoms=...): Airflow 3.3 stores those as texts of JSON, which
        workers then get instead of the value.
        """
        ti: Any = self.task_instance
        if result is None and ti.try_number <= 1:
            return  # there can be none of an earlier try, either
        while True:
            try:
                await XCom.aset(
                    "return_value",
                    result,
                    dag_id=ti.dag_id,
                    task_id=ti.task_id,
                    run_id=ti.run_id,
                    map_index=_index(ti),
                )
            except Exception as error:  # Airflow is away for a while; the result is not lost
                _log.warning("the result could not be given to Airflow, trying on: %s", error)
                await asyncio.sleep(self.trouble_seconds)
            else:
                return

    def _resumes(self, ending: Ending) -> bool:
        """Whether a worker goes on with the task: it may have callbacks, or failed for good.

        A worker can tell Airflow that a failure is final; a trigger cannot.
        """
        return self.resume and (self.success_resumes or ending.outcome is not Outcome.SUCCESS)

    def result_of(self, ending: Ending) -> Any:
        """What becomes the task's XCom."""
        return _limit(ending.result)

    def _tell(self, ending: Ending, more: Mapping[str, Any]) -> TriggerEvent:
        success = ending.outcome is Outcome.SUCCESS
        if success:
            _log.info("the run succeeded")
        else:
            _log.error("the run failed: %s: %s", ending.outcome, ending.cause)
        if self._resumes(ending):
            return TriggerEvent(
                {
                    "outcome": str(ending.outcome),
                    "cause": ending.cause,
                    "final": ending.final,
                    "exit_code": ending.exit_code,
                    "result": self.result_of(ending),
                    **more,
                }
            )
        return TaskSuccessEvent() if success else TaskFailedEvent()

    def told_to_worker(self) -> dict[str, Any]:
        """What else a worker needs, if it goes on with the task."""
        return {}


def _index(ti: Any) -> int:
    return -1 if ti.map_index is None else int(ti.map_index)


def _is_refusal(error: Exception) -> bool:
    """Whether the cluster will not have the pod, now or later. A quota may be free again."""
    answer = error if isinstance(error, ClusterError) else error.__cause__
    refused = isinstance(answer, ClusterError) and not answer.retryable
    return refused and "exceeded quota" not in str(error)


class _ReplacedError(Exception):
    """The task instance has another try than this trigger's: it was cleared, or is gone."""


def _limit(result: Any) -> Any:
    if len(json.dumps(result)) <= _LARGEST_RESULT_BYTES:
        return result
    _log.warning(
        "the result is larger than %d bytes, so it is not given to other tasks; it stays with the "
        "attempt",
        _LARGEST_RESULT_BYTES,
    )
    return None
