"""The trigger that follows a job's run in the triggerer, from its request to its end.

In: the job's parts as JSON, with templates not yet rendered where Airflow starts the task here.
Out: one event, with which the task ends: without a worker (`TaskSuccessEvent`, `TaskFailedEvent`),
or back in one (`resume`). Whatever happens to the triggerer, the job goes on, and the next trigger
finds it; only the task's state in Airflow decides whether the job is still wanted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from airflow.triggers.base import BaseTrigger, TaskFailedEvent, TaskSuccessEvent, TriggerEvent

from piecework import clock, config
from piecework.airflow.client import AirflowClient, TaskState
from piecework.airflow.configuration import PlatformFolder
from piecework.airflow.following import Assignment, Ending, Progress, advance
from piecework.airflow.rendering import complete_context
from piecework.airflow.task_log import TaskLog
from piecework.config import Settings
from piecework.errors import InputError, NoMachineError, PieceworkError
from piecework.ledger.events import Outcome
from piecework.runners.runner import Owner, run_id, runner_for
from piecework.spec.job import Job
from piecework.spec.param import Param

_log = logging.getLogger("piecework.task")
#: Between two looks at a run; longer with many, so that looking never becomes the work.
_LOOK_SECONDS = 0.25
_LOOK_SECONDS_EACH = 0.005
_LONGEST_LOOK_SECONDS = 5.0
_TROUBLE_SECONDS = 2.0
#: A larger result stays a file; Airflow keeps results in its database.
_LARGEST_RESULT_BYTES = 1 << 20

_active = 0


class JobTrigger(BaseTrigger):
    """Follows one task's run; see JobOperator, whose template fields have the same names here."""

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
        self.wrong: str | None = None
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
        """Renders what the operator's template fields hold. What is wrong is told by `run`."""
        try:
            complete_context(context)
            self.values = dict(context["params"])
            if self.params_spec is not None:
                conf = getattr(context.get("dag_run"), "conf", None) or {}
                self.values = context["params"] = fill_params(self.params_spec, conf)
            super().render_template_fields(context, jinja_env)
        except Exception as error:  # a template runs what its author wrote: anything may happen
            self.wrong = f"{type(error).__name__}: {error}"

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Follows the run; yields exactly one event, when it is over."""
        global _active  # noqa: PLW0603 - one event loop, one count of those that look
        _active += 1
        try:
            ending = await self._follow()
        finally:
            _active -= 1
        yield self._tell(ending)

    async def on_kill(self) -> None:
        """Ends the job at once if its task is over; another triggerer's takeover looks the same."""
        if self.assignment is not None:
            await asyncio.to_thread(self._end_if_over)

    async def _follow(self) -> Ending:
        if self.wrong is not None:
            return Ending(Outcome.ERROR, f"its templates could not be rendered: {self.wrong}", True)
        told = ""
        log: TaskLog | None = None
        while True:
            try:
                if self.assignment is None:
                    self.assignment = await asyncio.to_thread(self._assign)
                    log = TaskLog(self.task_instance, self.assignment, self._settings)
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
                    _log.warning("cannot look at the run, trying on: %s", error, exc_info=not isinstance(error, PieceworkError))
                await asyncio.sleep(_TROUBLE_SECONDS)
                continue
            await asyncio.sleep(
                min(max(_LOOK_SECONDS, _LOOK_SECONDS_EACH * _active), _LONGEST_LOOK_SECONDS)
            )

    @property
    def _settings(self) -> Settings:
        if self.settings is None:
            self.settings = config.load()
        return self.settings

    def _assign(self) -> Assignment:
        """Who asks, and what for. Raises SpecError where the rendered job is wrong."""
        ti: Any = self.task_instance
        settings = self._settings
        job = read_job(self.document, self.engine, self.program, self.args, self.env)
        owner = Owner(
            kind="airflow",
            dag_id=ti.dag_id,
            dag_run_id=ti.run_id,
            task_id=ti.task_id,
            map_index=ti.map_index if ti.map_index is not None else -1,
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
        map_index = ti.map_index if ti.map_index is not None else -1
        client = AirflowClient.from_settings(self._settings)
        return client.task(ti.dag_id, ti.run_id, ti.task_id, map_index)

    def _look(self) -> Progress:
        assert self.assignment is not None
        runner = runner_for(self._provider(), self._settings)
        return advance(self.assignment, runner, self._settings)

    def _provider(self) -> str:
        from piecework.spec.pool import load_pools

        assert self.assignment is not None
        name = self.assignment.job.pool or self._settings.pool
        pool = load_pools(self._settings).get(name)
        return "local" if pool is None else pool.provider

    def _end_if_over(self) -> None:
        assert self.assignment is not None
        state = self._state()
        ti: Any = self.task_instance
        wanted = state is not None and not state.over
        if wanted and state is not None and state.max_tries <= self.assignment.owner.max_tries:
            return
        runner = runner_for(self._provider(), self._settings)
        how = "removed" if state is None else state.state or "cleared"
        for attempt in runner.attempts(self.assignment.run):
            asked = attempt.owner
            if attempt.state != "ended" and (asked is None or asked.try_number <= ti.try_number):
                runner.cancel(attempt.attempt, f"its task in Airflow is over: {how}")

    def _tell(self, ending: Ending) -> TriggerEvent:
        success = ending.outcome is Outcome.SUCCESS
        if success:
            _log.info("the run succeeded")
        else:
            _log.error("the run failed: %s: %s", ending.outcome, ending.cause)
        result = _limit(ending.result)
        if self.resume:
            return TriggerEvent(
                {
                    "outcome": str(ending.outcome),
                    "cause": ending.cause,
                    "final": ending.final,
                    "result": result,
                }
            )
        if not success:
            return TaskFailedEvent()
        return TaskSuccessEvent(xcoms=None if result is None else {"return_value": result})


class _ReplacedError(Exception):
    """The task instance has another try than this trigger's: it was cleared, or is gone."""


def read_job(
    document: Mapping[str, Any], engine: str, program: Any, args: Any, env: Mapping[str, Any]
) -> Job:
    """The job from its parts, checked; rendered values become texts.

    Raises SpecError where the rendered job is not a job.
    """
    from pydantic import ValidationError

    from piecework.errors import Problem, SpecError
    from piecework.spec.model import message_of
    from piecework.spec.tree import field_path

    written = dict(document) | {
        engine: program,
        "args": [_text(arg) for arg in args],
        "env": {name: _text(value) for name, value in env.items()},
    }
    try:
        return Job.model_validate(written)
    except ValidationError as error:
        raise SpecError(
            [
                Problem("(task)", 0, 0, field_path(found["loc"]), message_of(found))
                for found in error.errors(include_url=False)
            ]
        ) from error


def fill_params(spec: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a pipeline run: those given, checked, else the defaults.

    Raises SpecError with everything that is wrong.
    """
    from piecework.spec.pipeline import Pipeline

    params = {name: Param.model_validate(param) for name, param in spec.items()}
    placeholder = {"job": Job.model_validate({"python": "job.py"})}
    return Pipeline(pipeline="params", jobs=placeholder, params=params).fill_params(given)


def data_of(settings: Settings, pipeline: str, pipeline_run: str) -> str:
    """Where the jobs of one pipeline run exchange data."""
    separator = "" if settings.data.endswith("/") else "/"
    run = "".join(c if c.isalnum() or c in "_.-" else "-" for c in pipeline_run)
    return f"{settings.data}{separator}{pipeline}/{run}"


def _text(value: Any) -> str:
    """A value from another task as an argument: texts as they are, the rest as JSON."""
    import json

    return value if isinstance(value, str) else json.dumps(value)


def _limit(result: Any) -> Any:
    import json

    if len(json.dumps(result)) <= _LARGEST_RESULT_BYTES:
        return result
    _log.warning(
        "the result is larger than %d bytes, so it is not given to other tasks; it stays with the "
        "attempt",
        _LARGEST_RESULT_BYTES,
    )
    return None
