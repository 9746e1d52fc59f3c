"""A pipeline: jobs with an order and a schedule; one Airflow DAG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, field_validator
from pydantic_core import InitErrorDetails

from piecework.errors import InputError, Problem, SpecError, show
from piecework.spec import order, schedule
from piecework.spec.job import Job, Retries, Template, Variable
from piecework.spec.model import DurationField, Model, Name, PlainText, Text, Truth, Whole
from piecework.spec.param import Param
from piecework.spec.wording import fault, suggest

#: What a pipeline says for those of its jobs that don't say it themselves.
INHERITED = ("team", "pool", "priority", "timeout", "deadline", "on_deadline")
#: What a file with a single job (`job: NAME`) may say besides the job's own fields.
OF_PIPELINE = (
    "schedule",
    "timezone",
    "start",
    "catchup",
    "max_active_runs",
    "params",
    "tags",
)


def _check_start(value: Any) -> Any:
    """Days are days: a number of seconds, which pydantic would take, is none."""
    if isinstance(value, datetime) or not isinstance(value, str | date):
        raise ValueError(f"found {show(value)}; a day is right here, like 2024-01-31")
    return value


def _read_schedule(value: Any) -> Any:
    return None if value in ("None", "none") else value


Schedule = Annotated[str, AfterValidator(schedule.check_schedule)]
Timezone = Annotated[str, AfterValidator(schedule.check_timezone)]
Tag = Annotated[PlainText, StringConstraints(min_length=1, max_length=100)]
ParamName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")]


class Pipeline(Model):
    """Jobs with an order and a schedule. What it says of team, pool, priority, time limits,
    retries and environment holds for the jobs that don't say otherwise.
    """

    pipeline: Name = Field(description="The pipeline's name, which is also its DAG's id.")
    jobs: dict[Name, Job] = Field(
        min_length=1, max_length=1000, description="The jobs by their names."
    )
    description: Text | None = Field(None, description="What the pipeline does, for people.")
    team: Name | None = Field(None, description="Who pays, for jobs that don't say.")
    pool: Name | None = Field(None, description="The machine pool, for jobs that don't say.")
    priority: Whole = Field(
        0, ge=-1000, le=1000, description="The priority of jobs that don't say."
    )
    timeout: DurationField | None = Field(None, description="The timeout of jobs that don't say.")
    deadline: DurationField | None = Field(
        None, description="The deadline of each job that doesn't say, from when it was queued."
    )
    on_deadline: Literal["notify", "cancel"] = Field(
        "notify", description="What happens at the deadline of jobs that don't say."
    )
    retries: Retries = Field(
        default_factory=Retries, description="More attempts by cause, where jobs don't say."
    )
    env: dict[Variable, Template] = Field(
        default_factory=dict, max_length=1000, description="Environment of all jobs; theirs wins."
    )
    schedule: Annotated[
        Schedule | None, BeforeValidator(_read_schedule, json_schema_input_type=str | None)
    ] = Field(None, description="Cron, or @daily and the like; none: on request.")
    timezone: Timezone = Field("UTC", description="The schedule's time zone, like Europe/Berlin.")
    start: Annotated[date, BeforeValidator(_check_start)] | None = Field(
        None, description="The first day of the schedule, like 2024-01-31."
    )
    catchup: Truth = Field(
        False, description="Whether what the schedule missed since start is run, too."
    )
    max_active_runs: Whole | None = Field(
        None, ge=1, le=1000, description="How many pipeline runs may go on at a time."
    )
    params: dict[ParamName, Param] = Field(
        default_factory=dict,
        max_length=1000,
        description="Parameters by name, for {{ params.NAME }}: a default, or a mapping.",
    )
    tags: tuple[Tag, ...] = Field(
        (), max_length=100, description="Words to find it by, in Airflow."
    )

    if TYPE_CHECKING:
        # What may be written, for type checkers and editors; pydantic's own takes what is stored.
        def __init__(
            self,
            *,
            pipeline: str,
            jobs: Mapping[str, Job | Mapping[str, Any]],
            description: str | None = None,
            team: str | None = None,
            pool: str | None = None,
            priority: int = 0,
            timeout: str | float | timedelta | None = None,
            deadline: str | float | timedelta | None = None,
            on_deadline: Literal["notify", "cancel"] = "notify",
            retries: int | Retries | Mapping[str, int] = ...,
            env: Mapping[str, str] = ...,
            schedule: str | None = None,
            timezone: str = "UTC",
            start: date | str | None = None,
            catchup: bool = False,
            max_active_runs: int | None = None,
            params: Mapping[str, Any] = ...,
            tags: Sequence[str] = (),
        ) -> None: ...

    @classmethod
    def find_faults(cls, data: Mapping[str, Any]) -> Iterator[InitErrorDetails]:
        """What `after` may not say, and what a schedule needs."""
        jobs = data.get("jobs")
        if isinstance(jobs, Mapping):
            names = {str(name): _after(job) for name, job in jobs.items()}
            for job, index, message in order.find_faults(names):
                yield fault(("jobs", job, "after", index), message, names[job][index])
        if data.get("catchup") is True:
            for needed in ("schedule", "start"):
                if data.get(needed) is None:
                    yield fault(("catchup",), f"found true, which needs {needed}", True)
        params = data.get("params")
        if _read_schedule(data.get("schedule")) is not None and isinstance(params, Mapping):
            for name, param in params.items():
                if isinstance(param, Mapping) and "default" not in param:
                    message = "has no default, which a pipeline with a schedule needs"
                    yield fault(("params", str(name)), message, param)

    @field_validator("retries", mode="before", json_schema_input_type=int | Retries)
    @classmethod
    def _retries_number(cls, value: Any) -> Any:
        return {"error": value} if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("params", mode="before", json_schema_input_type=dict[ParamName, Param | Any])
    @classmethod
    def _plain_params(cls, value: Any) -> Any:
        """A plain value is a default; a mapping is the long form, so that typing errors show."""
        if not isinstance(value, Mapping):
            return value
        return {
            name: param if isinstance(param, Mapping | Param) else {"default": param}
            for name, param in value.items()
        }

    @property
    def name(self) -> str:
        """The pipeline's name, which is also its DAG's id."""
        return self.pipeline

    @property
    def defaults(self) -> dict[str, Any]:
        """The parameters' defaults by name; those without one are left out."""
        return {name: param.default for name, param in self.params.items() if not param.required}

    def job(self, name: str) -> Job:
        """The job with everything that it has from its pipeline. Raises InputError for no such."""
        if name not in self.jobs:
            hint = suggest(name, self.jobs)
            raise InputError(f"{self.pipeline} has no job {show(name)}; {hint}")
        job = self.jobs[name]
        said = self.model_fields_set
        inherited: dict[str, Any] = {
            field: getattr(self, field)
            for field in INHERITED
            if field in said and (field not in job.model_fields_set or getattr(job, field) is None)
        }
        if "env" in said:
            inherited["env"] = {**self.env, **job.env}
        if "retries" in said:
            causes = {name: getattr(job.retries, name) for name in job.retries.model_fields_set}
            inherited["retries"] = self.retries.model_copy(update=causes)
        return job.model_copy(update=inherited) if inherited else job

    def fill_params(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All parameters of a pipeline run: those given, checked, and else the defaults.

        Texts become numbers and truth values where the parameter is one. Raises SpecError with
        everything that is wrong.
        """
        problems = []
        values = self.defaults
        for name, value in given.items():
            if name not in self.params:
                wrong = f"is no parameter of {self.pipeline}; {suggest(name, self.params)}"
                problems.append(Problem(self.pipeline, 0, 0, f"params.{name}", wrong))
                continue
            try:
                values[name] = self.params[name].read(value)
            except ValueError as error:
                problems.append(Problem(self.pipeline, 0, 0, f"params.{name}", str(error)))
        for name, param in self.params.items():
            if param.required and name not in given:
                wrong = "has no default, and no value was given"
                problems.append(Problem(self.pipeline, 0, 0, f"params.{name}", wrong))
        if problems:
            raise SpecError(problems)
        return {name: values[name] for name in self.params}


def _after(job: Any) -> list[Any]:
    """The names in a job's `after`, as far as it has any."""
    after = job.get("after") if isinstance(job, Mapping) else getattr(job, "after", None)
    return list(after) if isinstance(after, list | tuple) else []
