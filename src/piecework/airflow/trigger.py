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
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from airflow.sdk.execution_time.xcom import XCom
from airflow.triggers.base import BaseTrigger, TaskFailedEvent, TaskSuccessEvent, TriggerEvent

from piecework import config
from piecework.airflow.assignment import Assignment, data_of, fill_params, read_job
from piecework.airflow.client import AirflowClient, TaskState
from piecework.airflow.following import Ending, Progress, advance
from piecework.airflow.rendering import TaskView, complete_context
from piecework.airflow.task_log import TaskLog, write_failure
from piecework.config import Settings
from piecework.errors import InputError, NoMachineError, PieceworkError, Problem, SpecError
from piecework.ledger.events import Outcome
from piecework.runners.runner import Owner, run_id, runner_for

_log = logging.getLogger("piecework.task")
#: Between two looks at a run; longer with many, so that looking never becomes the work.
_LOOK_SECONDS = 0.25
_LOOK_SECONDS_EACH = 0.005
_LONGEST_LOOK_SECONDS = 5.0
_TROUBLE_SECONDS = 2.0
_RENDER_SECONDS = 120.0
#: A larger result stays a file; Airflow keeps results in its database.
_LARGEST_RESULT_BYTES = 1 << 20

_active = 0


class JobTrigger(BaseTrigger):
    """Follows one task's run; see JobOperator, whose template fields have the same names here."""

    #: Whether failures of the program are repeated here instead of by Airflow's retries.
    repeat_errors = False

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
        self.context: Any = None
        self.jinja_env: Any = None
        self.assignment: Assignment | None = None
        self.settings: Settings | None = None

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
            },
        )

    def render_template_fields(self, context: Any, jinja_env: Any = None) -> None:
        """Keeps the context: templates may ask Airflow, for which its event loop must not wait."""
        self.context = context
        self.jinja_env = jinja_env

    def _fill_templates(self) -> None:
        """Renders what the operator's template fields hold. Raises SpecError."""
        if self.context is None:
            return  # a worker has done it
        context, self.context = self.context, None
        complete_context(context)
        self.values = context["params"] = self.read_params(context)
        view = TaskView(self.task_instance, AirflowClient.from_settings(self.load_settings()))
        context["ti"] = context["task_instance"] = view
        try:
            super().render_template_fields(context, self.jinja_env)
        except Exception as error:  # a template runs what its author wrote: anything may happen
            wrong = f"its templates cannot be rendered: {type(error).__name__}: {error}"
            raise SpecError([Problem("(task)", 0, 0, "", wrong)]) from error

    def read_params(self, context: Any) -> dict[str, Any]:
        """The pipeline run's parameters, checked. Raises SpecError."""
        if self.params_spec is None:
            return dict(context["params"])
        conf = getattr(context.get("dag_run"), "conf", None) or {}
        return fill_params(self.params_spec, conf)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Follows the run; yields exactly one event, when it is over."""
        global _active  # noqa: PLW0603 - one event loop, one count of those that look
        _active += 1
        try:
            ending = await self._follow()
            if ending.outcome is not Outcome.SUCCESS:
                await asyncio.to_thread(
                    write_failure, self.task_instance, self.load_settings(), ending
                )
            elif not self.resume:
                await self._give_result(_limit(ending.result))
        finally:
            _active -= 1
        yield self._tell(ending)

    async def on_kill(self) -> None:
        """Ends the job at once if its task is over; another triggerer's takeover looks the same."""
        if self.assignment is not None:
            await asyncio.to_thread(self._end_if_over)

    async def _follow(self) -> Ending:
        told = ""
        log: TaskLog | None = None
        while True:
            try:
                if self.assignment is None:
                    self.assignment = await self._assign_in_time()
                    log = TaskLog(self.task_instance, self.assignment, self.load_settings())
                progress = await asyncio.to_thread(self._look)
                assert log is not None
                await asyncio.to_thread(log.tell, progress)
                if progress.ending is not None:
                    return progress.ending
                told = ""
            except (InputError, NoMachineError) as error:
                outcome = Outcome.ERROR if isinstance(error, InputError) else Outcome.NEVER_STARTED
                return Ending(outcome, str(error), True)
            except _ReplacedError:
                await asyncio.Event().wait()  # until the triggerer cancels this trigger
            except Exception as error:  # a full disk or a restart must not fail a healthy job
                if str(error) != told:
                    told = str(error)
                    unknown = not isinstance(error, PieceworkError)
                    _log.warning("cannot see the run, trying on: %s", error, exc_info=unknown)
                await asyncio.sleep(_TROUBLE_SECONDS)
                continue
            await asyncio.sleep(
                min(max(_LOOK_SECONDS, _LOOK_SECONDS_EACH * _active), _LONGEST_LOOK_SECONDS)
            )

    def load_settings(self) -> Settings:
        """The settings, read once."""
        if self.settings is None:
            self.settings = config.load()
        return self.settings

    async def _assign_in_time(self) -> Assignment:
        """Airflow 3.3's triggerer leaves a question that it doesn't know unanswered for ever."""
        try:
            return await asyncio.wait_for(asyncio.to_thread(self._assign), _RENDER_SECONDS)
        except TimeoutError:
            wrong = (
                f"its templates were not rendered within {_RENDER_SECONDS:.0f} s; they may ask "
                "for something that only a worker can tell"
            )
            raise SpecError([Problem("(task)", 0, 0, "", wrong)]) from None

    def _assign(self) -> Assignment:
        """Who asks, and what for. Raises SpecError where the rendered job is wrong."""
        self._fill_templates()
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
        )

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

    def _look(self) -> Progress:
        assert self.assignment is not None
        runner = runner_for(self._provider(), self.load_settings())
        return advance(self.assignment, runner, self.load_settings())

    def _provider(self) -> str:
        from piecework.spec.pool import load_pools

        assert self.assignment is not None
        name = self.assignment.job.pool or self.load_settings().pool
        pool = load_pools(self.load_settings()).get(name)
        return "local" if pool is None else pool.provider

    def _end_if_over(self) -> None:
        assert self.assignment is not None
        state = self._state()
        ti: Any = self.task_instance
        wanted = state is not None and not state.over
        if wanted and state is not None and state.max_tries <= self.assignment.owner.max_tries:
            return
        runner = runner_for(self._provider(), self.load_settings())
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
                await asyncio.sleep(_TROUBLE_SECONDS)
            else:
                return

    def _tell(self, ending: Ending) -> TriggerEvent:
        success = ending.outcome is Outcome.SUCCESS
        if success:
            _log.info("the run succeeded")
        else:
            _log.error("the run failed: %s: %s", ending.outcome, ending.cause)
        if self.resume:
            return TriggerEvent(
                {
                    "outcome": str(ending.outcome),
                    "cause": ending.cause,
                    "final": ending.final,
                    "result": _limit(ending.result),
                }
            )
        return TaskSuccessEvent() if success else TaskFailedEvent()


def _index(ti: Any) -> int:
    return -1 if ti.map_index is None else int(ti.map_index)


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
