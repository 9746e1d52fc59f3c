"""A job: a program and the machine it needs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, field_validator
from pydantic_core import InitErrorDetails

from piecework.errors import show
from piecework.spec import custom
from piecework.spec.files import check_path
from piecework.spec.machine import Machine
from piecework.spec.model import DurationField, Model, Name, PlainText, Text, Whole, check_text
from piecework.spec.param import check_json
from piecework.spec.templates import find_problems, holds_template
from piecework.spec.wording import fault, suggest

#: The engines whose programs the spec itself knows; others come by entry point `piecework.engines`.
ENGINES = custom.BUILT_IN

_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*")


def _check_template(text: str) -> str:
    problem = find_problems(text)
    if problem:
        raise ValueError(problem)
    return text


def _check_variable(name: str) -> str:
    if not _VARIABLE.fullmatch(name):
        raise ValueError(
            f"found {show(name)}; a variable's name has letters, digits and '_', and does not "
            "begin with a digit"
        )
    if name.startswith("PIECEWORK_"):
        raise ValueError(
            f"found {show(name)}; names that begin with PIECEWORK_ are piecework's own"
        )
    return name


def _check_file(path: str) -> str:
    _check_template(path)
    if holds_template(path):
        return path  # checked once it is rendered
    check_path(path)
    if not path.endswith(".py"):
        raise ValueError(f"found {show(path)}; a Python file is right here, like jobs/clean.py")
    return path


def _check_run(run: str) -> str:
    _check_template(run)
    if holds_template(run):
        return run
    module, colon, function = run.partition(":")
    if run.endswith(".py") or "/" in run:
        _check_file(run)
    elif module.endswith(".py") and colon:
        raise ValueError(
            f"found {show(run)}; a function is named by its module, like package.module:function"
        )
    elif not _MODULE.fullmatch(module) or (colon and not _MODULE.fullmatch(function)):
        raise ValueError(
            f"found {show(run)}; a file like jobs/clean.py, a module like package.module, or a "
            "function like package.module:function is right here"
        )
    return run


def _check_image(image: str) -> str:
    _check_template(image)
    if not holds_template(image) and not _IMAGE.fullmatch(image):
        raise ValueError(f"found {show(image)}; an image is written like registry/name:tag")
    return image


def _check_program(program: Any) -> Any:
    return check_json(program, lambda text: _check_template(check_text(text)))


#: A text in which templates are rendered.
Template = Annotated[Text, AfterValidator(_check_template)]
Variable = Annotated[str, AfterValidator(_check_variable)]
#: The image of a `container`, in which templates are rendered.
Image = Annotated[Text, Field(min_length=1, max_length=4096), AfterValidator(_check_image)]
PlainImage = Annotated[
    PlainText, Field(min_length=1, max_length=4096), AfterValidator(_check_image)
]
FilePath = Annotated[Text, Field(min_length=1, max_length=4096), AfterValidator(_check_file)]


class Retries(Model):
    """How many more attempts a run gets, by the cause of the failure."""

    infrastructure: Whole = Field(
        2, ge=0, le=100, description="Machine lost, interrupted, or never there."
    )
    error: Whole = Field(0, ge=0, le=100, description="The program failed.")
    out_of_memory: Whole = Field(
        0, ge=0, le=10, description="The program needed more memory; each retry gets twice as much."
    )


class PythonProgram(Model):
    """A file (`jobs/clean.py`), a module (`package.module`) or a function (`package:function`)."""

    run: Annotated[Text, Field(min_length=1, max_length=4096), AfterValidator(_check_run)] = Field(
        description="A file (jobs/clean.py), a module (package.module) or package:function."
    )


class ContainerProgram(Model):
    """Any image, started as it is."""

    image: Image = Field(description="The image, like registry.example.com/score:3.")
    command: tuple[Template, ...] | None = Field(
        None, max_length=1000, description="What to start instead of what the image would."
    )


class SparkProgram(Model):
    """A PySpark file; the session it gets is sized from the machine."""

    file: FilePath = Field(description="The Python file, relative to the pipeline's file.")
    mode: Literal["local", "standalone", "kubernetes", "operator"] = Field(
        "local",
        description="local: one JVM. standalone: a master, and workers on the run's machines. "
        "kubernetes: executors are pods on them, made by the driver; operator: by way of the Spark "
        "operator. On one computer both are standalone.",
    )
    conf: dict[Annotated[str, Field(min_length=1)], Template] = Field(
        default_factory=dict, max_length=1000, description="More Spark properties."
    )


class DaskProgram(Model):
    """A Python file whose `dask.distributed.Client()` finds a cluster sized from the machine."""

    file: FilePath = Field(description="The Python file, relative to the pipeline's file.")
    threads_per_worker: Whole | None = Field(
        None,
        ge=1,
        le=1024,
        description="Threads of each worker process; the CPUs, but at most 4, by default.",
    )


class H2oProgram(Model):
    """A PySpark file that calls `H2OContext.getOrCreate()`; Spark and H2O fit the machine."""

    file: FilePath = Field(description="The Python file, relative to the pipeline's file.")
    mode: Literal["local", "standalone", "kubernetes"] = Field(
        "local", description="As Spark's: one JVM, or H2O in executors on the run's machines."
    )
    conf: dict[Annotated[str, Field(min_length=1)], Template] = Field(
        default_factory=dict, max_length=1000, description="More properties of Spark and H2O."
    )


class CustomProgram(Model):
    """The program of an engine that another package brings; users write `ENGINE: PROGRAM`."""

    engine: Name = Field(description="The engine's name: its entry point in piecework.engines.")
    program: Annotated[Any, AfterValidator(_check_program)] = Field(
        None, description="What that engine starts, as it was written."
    )


class Job(Model):
    """A program and the machine it needs. Exactly one engine is named; all else is optional."""

    python: PythonProgram | None = Field(None, description="Engine: a Python program.")
    container: ContainerProgram | None = Field(None, description="Engine: a container image.")
    spark: SparkProgram | None = Field(None, description="Engine: a PySpark program.")
    dask: DaskProgram | None = Field(None, description="Engine: a Dask program.")
    h2o: H2oProgram | None = Field(None, description="Engine: an H2O PySparkling program.")
    custom: CustomProgram | None = Field(
        None, description="The program of another package's engine; written as ENGINE: PROGRAM."
    )
    args: tuple[Template, ...] = Field(
        (), max_length=10_000, description="Arguments of the program; templates are rendered."
    )
    env: dict[Variable, Template] = Field(
        default_factory=dict,
        max_length=1000,
        description="Environment of the program; templates are rendered in the values.",
    )
    after: tuple[Name, ...] = Field(
        (), max_length=1000, description="Jobs of this pipeline that must succeed first."
    )
    machine: Machine = Field(default_factory=Machine, description="What the machine must have.")
    image: PlainImage | None = Field(
        None,
        description="On a cluster: the image that the program runs in, instead of the pool's.",
    )
    pool: Name | None = Field(None, description="The machine pool that machines come from.")
    team: Name | None = Field(None, description="Who pays.")
    priority: Whole = Field(0, ge=-1000, le=1000, description="Higher gets its machine first.")
    timeout: DurationField | None = Field(
        None, description="How long an attempt may run on its machine."
    )
    deadline: DurationField | None = Field(
        None,
        description="How long after it was queued the run promises to be done, waiting and "
        "retries included.",
    )
    on_deadline: Literal["notify", "cancel"] = Field(
        "notify", description="What happens when the deadline passes."
    )
    retries: Retries = Field(
        default_factory=Retries,
        description="How many more attempts, by cause; a number alone is that of errors.",
    )
    description: Text | None = Field(None, description="What the job does, for people.")

    if TYPE_CHECKING:
        # What may be written, for type checkers and editors; pydantic's own takes what is stored.
        def __init__(
            self,
            *,
            python: str | PythonProgram | None = None,
            container: ContainerProgram | Mapping[str, Any] | None = None,
            spark: str | SparkProgram | Mapping[str, Any] | None = None,
            dask: str | DaskProgram | Mapping[str, Any] | None = None,
            h2o: str | H2oProgram | Mapping[str, Any] | None = None,
            custom: CustomProgram | Mapping[str, Any] | None = None,
            args: Sequence[str] = (),
            env: Mapping[str, str] = ...,
            after: Sequence[str] = (),
            machine: Machine | Mapping[str, Any] = ...,
            image: str | None = None,
            pool: str | None = None,
            team: str | None = None,
            priority: int = 0,
            timeout: str | float | timedelta | None = None,
            deadline: str | float | timedelta | None = None,
            on_deadline: Literal["notify", "cancel"] = "notify",
            retries: int | Retries | Mapping[str, int] = ...,
            description: str | None = None,
            **engine: Any,
        ) -> None: ...

    @classmethod
    def rewrite(cls, data: dict[str, Any]) -> dict[str, Any]:
        """A field that names an installed engine of another package becomes `custom`."""
        unknown = [name for name in data if name not in cls.model_fields]
        engine = next((name for name in unknown if name in custom.registered()), None)
        if engine is not None and "custom" not in data:
            data["custom"] = {"engine": engine, "program": data.pop(engine)}
        return data

    @classmethod
    def field_names(cls) -> Iterable[str]:
        """The fields, and the engines of other packages."""
        return [*(name for name in cls.model_fields if name != "custom"), *custom.registered()]

    @classmethod
    def find_faults(cls, data: Mapping[str, Any]) -> Iterator[InitErrorDetails]:
        """Exactly one engine; and what an engine of another package says of its program."""
        program = data.get("custom")
        if isinstance(program, CustomProgram):
            program = {"engine": program.engine, "program": program.program}
        if isinstance(program, Mapping) and isinstance(program.get("engine"), str):
            name = program["engine"]
            yield from custom.find_faults(name, program.get("program"), (name,))
        if data.get("image") is not None and data.get("container") is not None:
            message = "is said by the container already; name it there alone"
            yield fault(("image",), message, data["image"], "key")
        named = [engine for engine in (*ENGINES, "custom") if data.get(engine) is not None]
        if len(named) > 1:
            found = " and ".join(named)
            yield fault((), f"found {found}; a job names exactly one engine", data)
        elif not named and not any(engine in data for engine in ENGINES):
            engines = ", ".join((*ENGINES, *custom.registered()))
            typed = next((n for n in data if n not in cls.model_fields), None)
            hint = suggest(typed, ENGINES, "") if typed is not None else ""
            message = f"found no engine; a job names exactly one of {engines}, like python: a.py"
            if not hint:  # else the unknown field says it
                yield fault((), message, data)
        elif not named:
            empty = next(engine for engine in ENGINES if engine in data)
            yield fault((empty,), f"found nothing; {empty} names the program to start", None)

    @field_validator("python", mode="before", json_schema_input_type=str | PythonProgram | None)
    @classmethod
    def _python_text(cls, value: Any) -> Any:
        return {"run": value} if isinstance(value, str) else value

    @field_validator("spark", mode="before", json_schema_input_type=str | SparkProgram | None)
    @classmethod
    def _spark_text(cls, value: Any) -> Any:
        return {"file": value} if isinstance(value, str) else value

    @field_validator("dask", mode="before", json_schema_input_type=str | DaskProgram | None)
    @classmethod
    def _dask_text(cls, value: Any) -> Any:
        return {"file": value} if isinstance(value, str) else value

    @field_validator("h2o", mode="before", json_schema_input_type=str | H2oProgram | None)
    @classmethod
    def _h2o_text(cls, value: Any) -> Any:
        return {"file": value} if isinstance(value, str) else value

    @field_validator("retries", mode="before", json_schema_input_type=int | Retries)
    @classmethod
    def _retries_number(cls, value: Any) -> Any:
        return {"error": value} if isinstance(value, int) and not isinstance(value, bool) else value

    @property
    def engine(self) -> str:
        """The name of the engine that starts this job's program."""
        if self.custom is not None:
            return self.custom.engine
        return next(engine for engine in ENGINES if getattr(self, engine) is not None)

    @property
    def program(self) -> BaseModel | Any:
        """What the engine starts: its model, or as it was written for other packages' engines."""
        return self.custom.program if self.custom is not None else getattr(self, self.engine)

    @property
    def file(self) -> str | None:
        """The program's file, relative to the pipeline's file; None where it is no file."""
        path: str | None = None
        if self.python is not None:
            run = self.python.run
            path = run if run.endswith(".py") or "/" in run else None
        elif self.spark is not None:
            path = self.spark.file
        elif self.dask is not None:
            path = self.dask.file
        elif self.h2o is not None:
            path = self.h2o.file
        return path
