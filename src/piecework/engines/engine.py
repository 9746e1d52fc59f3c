"""What an engine is, which engines there are, and what they hand to the entrypoint.

An engine turns a Plan into a Launch: which of the entrypoint's starters starts the program, with
what. Starters (`python`, `command`, `spark`, `dask`, `h2o`, `container`) live in
`piecework.entrypoint`, are part of every image, and size themselves from the machine that the
attempt got; an engine needs no code there. So a new engine is one object, found by the entry point
group `piecework.engines`:

    [project.entry-points."piecework.engines"]
    duckdb = "piecework_duckdb:engine"

The entry point's name is the field that users write in a job; its value is an object with the
members of `Engine`, or a class or function that makes one when called without arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pydantic import BaseModel, ValidationError

from piecework.errors import ConfigError, InputError
from piecework.plan.plan import Plan
from piecework.spec.job import ENGINES

GROUP = "piecework.engines"


@dataclass(frozen=True, slots=True)
class Launch:
    """What the entrypoint is told: one program and how to start it. Survives JSON unchanged.

    `engine` is the name that the user wrote, for people; `starter` is the entrypoint's part that
    starts it; `program` is what that starter needs (each starter's docstring names its fields).
    `args` and `env` are the user's; `code` is the folder that relative paths are relative to.
    """

    engine: str
    starter: str
    program: Mapping[str, Any]
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    code: str = ""

    def to_json(self) -> dict[str, Any]:
        """A value that `json.dumps` takes and `from_json` reads back."""
        return {
            "engine": self.engine,
            "starter": self.starter,
            "program": dict(self.program),
            "args": list(self.args),
            "env": dict(self.env),
            "code": self.code,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Launch:
        """Reads what `to_json` wrote."""
        return cls(
            engine=value["engine"],
            starter=value["starter"],
            program=value["program"],
            args=tuple(value.get("args", ())),
            env=dict(value.get("env", {})),
            code=value.get("code", ""),
        )


@runtime_checkable
class Engine(Protocol):
    """What a package that brings an engine must provide. See the module's docstring."""

    @property
    def name(self) -> str:
        """The field in a job that names this engine. Letters, digits, `_`; not a field of Job."""

    @property
    def program(self) -> type[BaseModel] | None:
        """The model of what the user writes under that field; None takes any JSON value."""

    def launch(self, plan: Plan, program: Any, code: str) -> Launch:
        """How to start `program` (an instance of the model above) on the planned machine.

        Pure, and quick: it is called on the machine of whoever asks for the run. `plan.job` has
        the arguments and the environment, with templates rendered. Raises InputError where the
        program cannot be started as written; the message says what would be right.
        """


@cache
def custom_engines() -> Mapping[str, EntryPoint]:
    """The engines of other installed packages by name, not loaded yet."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        if point.name not in ENGINES:  # nobody replaces what is built in
            found.setdefault(point.name, point)
    return found


def engine_names() -> tuple[str, ...]:
    """All engines that a job may name: the built-in ones first, then others in order of name."""
    return (*ENGINES, *sorted(custom_engines()))


@cache
def find_engine(name: str) -> Engine:
    """The engine of that name; loads the package that brings it.

    Raises ConfigError where there is none, or where what the package brings is not an engine.
    """
    if name in ENGINES:
        return _built_in(name)
    point = custom_engines().get(name)
    if point is None:
        raise ConfigError(
            f"there is no engine {name!r} here; there are {', '.join(engine_names())}. Install the "
            f"package that brings it (entry point group {GROUP})"
        )
    where = f"the engine {name!r} (entry point {point.value})"
    try:
        loaded = point.load()
        engine = loaded() if isinstance(loaded, type) or not isinstance(loaded, Engine) else loaded
    except Exception as error:
        raise ConfigError(f"{where} cannot be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(engine, Engine):
        raise ConfigError(f"{where} is a {type(engine).__name__} without name, program and launch")
    return engine


def _built_in(name: str) -> Engine:
    from piecework.engines import container, dask, h2o, python, spark

    built_in: dict[str, Engine] = {
        "python": python.PythonEngine(),
        "container": container.ContainerEngine(),
        "spark": spark.SparkEngine(),
        "dask": dask.DaskEngine(),
        "h2o": h2o.H2oEngine(),
    }
    return built_in[name]


def launch(plan: Plan, code: Path) -> Launch:
    """How to start the planned job's program; `code` is the folder of its pipeline file.

    Raises InputError where the program cannot be started as written.
    """
    engine, program = find_engine(plan.job.engine), plan.job.program
    if engine.program is not None and not isinstance(program, engine.program):
        try:
            program = engine.program.model_validate(program)
        except ValidationError as error:
            raise InputError(f"job {plan.job_name}: {engine.name}: {error}") from error
    return engine.launch(plan, program, str(code))
