"""JobOperator: a job as an Airflow task.

In: a Job, or its fields as keyword arguments. Out: a task that starts in the triggerer, without a
worker process, wherever Airflow can do that; elsewhere (arguments from other tasks, callbacks of
success, outlets) a worker renders the templates, hands over to the same trigger and is gone while
the job waits and runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.definitions._internal.mixins import ResolveMixin
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from airflow.triggers.base import StartTriggerArgs

from piecework.airflow.assignment import split_conf
from piecework.airflow.mapping import LOST_WORKERS, JobPartial
from piecework.airflow.rendering import complete_context
from piecework.airflow.trigger import JobTrigger
from piecework.spec.job import ENGINES, Job

#: Between two tries; Airflow's own five minutes are for services that are down.
RETRY_DELAY = timedelta(seconds=5)
DEFAULT_POOL = "default_pool"
#: Hooks that only a worker runs.
_OF_WORKERS = ("on_execute_callback", "on_success_callback", "on_skipped_callback")


#: Names in templates about which a triggerer cannot ask (ToTriggerSupervisor in Airflow 3.3).
_ONLY_IN_WORKERS = re.compile(
    r"\b(prev_\w+|triggering_asset_events|inlet_events|outlet_events|task_state_store)\b"
)


class JobOperator(BaseOperator):
    """Runs a job on a machine of its own.

    Give `job`, or the fields of one: exactly one engine (`python`, `spark`, `dask`, `container`),
    `args`, `env`, `machine`, `image`, `team`, `priority`, `timeout`, `deadline`, `on_deadline`,
    `retries` (a number, or by cause), and `machine_pool` (`pool` is Airflow's own). `code` is the
    folder that the program's path is relative to: by default the DAG file's. What the program
    writes to `$PIECEWORK_RESULT` is the task's XCom.
    """

    template_fields: Sequence[str] = ("program", "args", "env")
    template_fields_renderers = {"program": "json", "env": "json"}  # noqa: RUF012 - as Airflow asks
    ui_color = "#e8f0e4"
    #: For operators whose program only a worker knows.
    needs_worker = False

    def __init__(
        self,
        *,
        job: Job | Mapping[str, Any] | None = None,
        job_name: str | None = None,
        pipeline: str | None = None,
        code: str | Path | None = None,
        params_spec: Mapping[str, Any] | None = None,
        python: Any = None,
        spark: Any = None,
        dask: Any = None,
        h2o: Any = None,
        container: Any = None,
        args: Any = None,
        env: Any = None,
        machine: Any = None,
        image: str | None = None,
        machine_pool: str | None = None,
        team: str | None = None,
        priority: int | None = None,
        timeout: Any = None,
        deadline: Any = None,
        on_deadline: str | None = None,
        description: str | None = None,
        retries: int | Mapping[str, int] | None = None,
        retry_delay: timedelta | float = RETRY_DELAY,
        execution_timeout: timedelta | None = None,
        priority_weight: int | None = None,
        weight_rule: Any = "absolute",
        mapped: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        fields = {
            "python": python,
            "spark": spark,
            "dask": dask,
            "h2o": h2o,
            "container": container,
            "args": args,
            "env": env,
            "machine": machine,
            "image": image,
            "pool": machine_pool,
            "team": team,
            "priority": priority,
            "timeout": timeout,
            "deadline": deadline,
            "on_deadline": on_deadline,
            "description": description,
        }
        document = read_document(job, fields, kwargs.get("default_args") or {})
        set_limits(document, retries, execution_timeout, mapped)
        take_priority(document, priority_weight)
        checked = self._take_job(document)
        if checked.description:
            kwargs.setdefault("doc_md", checked.description)
        if checked.team and "owner" not in (kwargs.get("default_args") or {}):
            kwargs.setdefault("owner", checked.team)
        super().__init__(
            retries=checked.retries.error,
            retry_delay=retry_delay,
            execution_timeout=None,
            priority_weight=checked.priority if priority_weight is None else priority_weight,
            weight_rule=weight_rule,
            **kwargs,
        )
        self.job_name = job_name or self.task_id.rpartition(".")[2]
        self.pipeline = pipeline
        self.code = str(self._find_code(code))
        self.params_spec = dict(params_spec) if params_spec is not None else None
        self._choose_path()

    @classmethod
    def partial(
        cls, *, retries: int | Mapping[str, int] | None = None, **kwargs: Any
    ) -> JobPartial:
        """As Airflow's; `retries` as the operator's."""
        return JobPartial.of(super().partial(**kwargs), retries)

    def _take_job(self, document: dict[str, Any]) -> Job:
        """Takes the job apart, as far as Airflow has to know the parts; returns it, checked."""
        engine, program, args, env = take_program(document)
        # Everything but what holds templates or comes from other tasks is checked now.
        checked = Job.model_validate(
            document
            | {engine: _PLACEHOLDER[engine] if _is_open(program) else program}
            | ({} if _is_open(args) else {"args": args})
            | ({} if _is_open(env) else {"env": env})
        )
        written = checked.model_dump(mode="json", exclude_unset=True)
        self.document = {
            name: value
            for name, value in written.items()
            if name not in (engine, "args", "env", "after")
        }
        self.engine = engine
        self.program = program if _is_open(program) else written[engine]
        self.args = args
        self.env = env
        return checked

    def _find_code(self, code: str | Path | None) -> Path:
        if code is not None:
            return Path(code).absolute()
        if self.has_dag():
            return Path(self.dag.fileloc).parent
        return Path.cwd()

    def _choose_path(self) -> None:
        """Starts in the triggerer where it can; else a worker may be lost, which costs a try."""
        fields = (self.program, self.args, self.env)
        worker = (
            self.needs_worker
            or any(_is_open(value) for value in fields)
            or ends_in_worker(self)
            or is_counted(self)
            or self.map_index_template  # a worker tells Airflow the name that it makes
            or any(_ONLY_IN_WORKERS.search(text) for text in _texts(fields))
        )
        if worker:
            self.retries += LOST_WORKERS
        else:
            start_in_triggerer(self, JobTrigger)

    def order(self) -> dict[str, Any]:
        """What the trigger is told of the job, as JSON."""
        return {
            "job_name": self.job_name,
            "document": self.document,
            "engine": self.engine,
            "program": self.program,
            "args": list(self.args),
            "env": dict(self.env),
            "code": self.code,
            "pipeline": self.pipeline,
            "params_spec": self.params_spec,
        }

    def render_template_fields(self, context: Any, jinja_env: Any = None) -> None:
        """As Airflow's, but `{{ ds }}` and the like hold for requested runs, too."""
        with render_or_fail(context):
            super().render_template_fields(context, jinja_env)

    def execute(self, context: Any) -> None:
        """In a worker: hands the rendered job over to the trigger, and is gone."""
        order, (values, _) = self.order(), split_conf(context["params"])
        _, pool = split_conf(getattr(context.get("dag_run"), "conf", None))
        if pool is not None:
            order["document"] = {**order["document"], "pool": pool}
        self.defer(
            trigger=JobTrigger(
                **order,
                resume=True,
                success_resumes=ends_in_worker(self),
                values=values,
                max_tries=context["ti"].max_tries,
            ),
            method_name="execute_complete",
        )

    def execute_complete(self, context: Any, event: Mapping[str, Any]) -> Any:  # noqa: ARG002
        """Back in a worker, once the run is over: its result, or its failure."""
        if event["outcome"] == "success":
            return event["result"]
        if event["final"]:
            raise AirflowFailException(event["cause"])
        raise AirflowException(event["cause"])


@contextmanager
def render_or_fail(context: Any) -> Iterator[None]:
    """Completes the context; a template that cannot be rendered fails the task for good.

    In a worker, where there are more tries than the user asked for.
    """
    complete_context(context)
    try:
        yield
    except Exception as error:  # a template runs what its author wrote: anything may happen
        raise AirflowFailException(
            f"its templates cannot be rendered: {type(error).__name__}: {error}"
        ) from error


def ends_in_worker(task: BaseOperator) -> bool:
    """Whether a success needs a worker: for its callbacks, its assets, or to spread its result."""
    return bool(
        any(getattr(task, name, None) for name in _OF_WORKERS)
        or task.outlets
        or task.inlets
        or getattr(task, "multiple_outputs", False)
    )


def is_counted(task: BaseOperator) -> bool:
    """Whether somebody limits how many such tasks there may be at a time.

    Airflow's scheduler counts only tasks that it queues for a worker; in a pool of Airflow's with
    `include_deferred` they count as long as their jobs wait and run, too.
    """
    return bool(
        task.pool != DEFAULT_POOL
        or task.pool_slots != 1
        or task.max_active_tis_per_dag
        or task.max_active_tis_per_dagrun
    )


def start_in_triggerer(task: JobOperator, trigger: type[JobTrigger]) -> None:
    """Lets Airflow start the task as this trigger, without a worker."""
    task.start_from_trigger = True
    task.start_trigger_args = StartTriggerArgs(
        trigger_cls=f"{trigger.__module__}.{trigger.__qualname__}",
        trigger_kwargs=task.order() | {"resume": False, "values": None, "max_tries": None},
        next_method="execute_complete",
    )


def read_document(
    job: Job | Mapping[str, Any] | None,
    fields: Mapping[str, Any],
    defaults: Mapping[str, Any],
) -> dict[str, Any]:
    """What is written of a job. A whole job has its DAG's `default_args` where it says nothing."""
    given = {name: value for name, value in fields.items() if value is not None}
    if job is None:
        return given
    clash = [n for n, v in given.items() if v != defaults.get("machine_pool" if n == "pool" else n)]
    if clash:
        raise ValueError(
            f"found job= and {', '.join(sorted(clash))}; give a job, or the fields of one"
        )
    if isinstance(job, Job):
        return given | job.model_dump(mode="json", exclude_unset=True)
    return given | Job.rewrite(dict(job))


def set_limits(
    document: dict[str, Any],
    retries: int | Mapping[str, int] | None,
    timeout: timedelta | float | None,
    mapped: Mapping[str, Any] | None,
) -> None:
    """The operator's `retries` and `execution_timeout` are the job's, where that says nothing.

    Airflow itself is not told of the timeout: its clock runs while the job waits for a machine.
    """
    if mapped is not None:
        retries, timeout = mapped["retries"], mapped["timeout"]
    if retries is not None and "retries" not in document:
        document["retries"] = retries if isinstance(retries, int) else dict(retries)
    if timeout is not None and "timeout" not in document:
        seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else float(timeout)
        document["timeout"] = f"{max(1, round(seconds))}s"


def take_priority(document: dict[str, Any], weight: int | None) -> None:
    """Lets Airflow's `priority_weight` be the job's priority, where that says nothing."""
    if isinstance(weight, int) and "priority" not in document:
        document["priority"] = max(-_MOST_PRIORITY, min(_MOST_PRIORITY, weight))


#: What `Job.priority` takes.
_MOST_PRIORITY = 1000
#: What stands for a program that another task will name.
_PLACEHOLDER: Mapping[str, Any] = {
    "python": "program.py",
    "spark": "program.py",
    "dask": "program.py",
    "h2o": "program.py",
    "container": {"image": "program"},
}


def take_program(
    document: dict[str, Any],
) -> tuple[str, dict[str, Any], list[Any], dict[str, Any]]:
    """Takes what templates are rendered in out of a job's document: engine, program, args, env."""
    engines = [name for name in (*ENGINES, "custom") if document.get(name) is not None]
    if len(engines) != 1:
        Job.model_validate(document)  # says what is wrong
        raise ValueError(f"a job names exactly one engine; found {engines}")
    (engine,) = engines
    program = document.pop(engine)
    args = document.pop("args", None) or []
    env = document.pop("env", None) or {}
    return engine, program, args if isinstance(args, ResolveMixin) else list(args), env


def _is_open(value: Any) -> bool:
    """Whether other tasks, or those that map a group of tasks, say a part of it."""
    return any(isinstance(found, ResolveMixin) for found in _walk(value))


def _texts(value: Any) -> Iterator[str]:
    return (found for found in _walk(value) if isinstance(found, str))


def _walk(value: Any) -> Iterator[Any]:
    yield value
    if isinstance(value, Mapping):
        for each in value.values():
            yield from _walk(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _walk(each)
