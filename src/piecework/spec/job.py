"""A job: a program and the machine it needs."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from piecework.spec.machine import Machine
from piecework.spec.model import DurationField, Model, Name

#: The engines whose programs the spec itself knows; others come by entry point `piecework.engines`.
ENGINES = ("python", "container", "spark", "dask")


class Retries(Model):
    """How many more attempts a run gets, by the cause of the failure."""

    infrastructure: int = Field(
        2, ge=0, le=100, description="Machine lost, interrupted, or never there."
    )
    error: int = Field(0, ge=0, le=100, description="The program failed.")
    out_of_memory: int = Field(
        0, ge=0, le=10, description="The program needed more memory; each retry gets twice as much."
    )


class PythonProgram(Model):
    """A file (`jobs/clean.py`), a module (`package.module`) or a function (`package:function`)."""

    run: str = Field(min_length=1, max_length=4096)


class ContainerProgram(Model):
    """Any image, started as it is."""

    image: str = Field(min_length=1, max_length=4096)
    command: tuple[str, ...] | None = None


class SparkProgram(Model):
    """A PySpark file; the session it gets is sized from the machine."""

    file: str = Field(min_length=1, max_length=4096)
    mode: Literal["local", "standalone"] = Field(
        "local", description="local: one JVM. standalone: a master and workers on the machine."
    )
    conf: dict[str, str] = Field(default_factory=dict, description="More Spark properties.")


class DaskProgram(Model):
    """A Python file whose `dask.distributed.Client()` finds a cluster sized from the machine."""

    file: str = Field(min_length=1, max_length=4096)
    threads_per_worker: int | None = Field(None, ge=1, le=1024)


class Job(Model):
    """A program and the machine it needs. Exactly one engine is named; all else is optional."""

    python: PythonProgram | None = None
    container: ContainerProgram | None = None
    spark: SparkProgram | None = None
    dask: DaskProgram | None = None
    args: tuple[str, ...] = Field((), description="Arguments; templates are rendered by Airflow.")
    env: dict[str, str] = Field(default_factory=dict, description="Environment of the program.")
    after: tuple[Name, ...] = Field((), description="Jobs of this pipeline that must succeed first.")
    machine: Machine = Field(default_factory=Machine)
    pool: Name | None = None
    team: Name | None = None
    priority: int = Field(0, ge=-1000, le=1000, description="Higher runs first.")
    timeout: DurationField | None = Field(
        None, description="How long an attempt may run on its machine."
    )
    deadline: DurationField | None = Field(
        None, description="How long after it was queued the run promises to be done."
    )
    on_deadline: Literal["notify", "cancel"] = "notify"
    retries: Retries = Field(default_factory=Retries)
    description: str | None = None

    @field_validator("python", mode="before")
    @classmethod
    def _python_text(cls, value: Any) -> Any:
        return {"run": value} if isinstance(value, str) else value

    @field_validator("spark", "dask", mode="before")
    @classmethod
    def _file_text(cls, value: Any) -> Any:
        return {"file": value} if isinstance(value, str) else value

    @field_validator("retries", mode="before")
    @classmethod
    def _retries_number(cls, value: Any) -> Any:
        return {"error": value} if isinstance(value, int) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _one_engine(self) -> Job:
        named = [engine for engine in ENGINES if getattr(self, engine) is not None]
        if len(named) != 1:
            found = " and ".join(named) if named else "none"
            raise ValueError(f"found {found}; a job names exactly one of {', '.join(ENGINES)}")
        return self

    @property
    def engine(self) -> str:
        """The name of the engine that starts this job's program."""
        return next(engine for engine in ENGINES if getattr(self, engine) is not None)
