"""Options that several verbs share, and the types of their values."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from piecework.errors import InputError
from piecework.units import parse_duration

if TYPE_CHECKING:
    from piecework.spec.param import Param
    from piecework.spec.pipeline import Pipeline

F = TypeVar("F", bound=Callable[..., Any])


def json_option(command: F) -> F:
    """`--json`: the result as JSON, for programs."""
    option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
    return option(command)


def file_argument(command: F) -> F:
    """FILE: a pipeline file. Whether it can be read is the loader's to say, with file and line."""
    return click.argument("file", type=click.Path(path_type=Path))(command)


def param_option(command: F) -> F:
    """`--param NAME=VALUE`, repeated."""
    option = click.option(
        "-p",
        "--param",
        "params",
        multiple=True,
        metavar="NAME=VALUE",
        help="Set a parameter of the pipeline; repeat it for more.",
    )
    return option(command)


def read_params(given: Sequence[str], pipeline: Pipeline) -> dict[str, Any]:
    """NAME=VALUE as values, checked against the pipeline's parameters; the defaults are left out.

    Raises InputError where one is not written like that, SpecError with all that are wrong.
    """
    values: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InputError(f"--param {text}: found no NAME=VALUE; write it as year=2013")
        values[name] = _value(value, pipeline.params.get(name))
    filled = pipeline.fill_params(values)
    return {name: filled[name] for name in values}


def _value(text: str, param: Param | None) -> Any:
    """Text stays text, for the parameter to read, but where it holds a list or an object."""
    if param is None or param.type in ("string", "integer", "number", "boolean"):
        return text
    holds_more = param.type in ("array", "object") or isinstance(param.default, list | dict)
    if not holds_more and not (param.required and param.type is None):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


class Moment(click.ParamType[datetime]):
    """A point in time: how long ago (30d, 12h) or ISO 8601 (2026-11-23, 2026-11-23T06:00:00Z).

    A time that says no zone is in UTC.
    """

    name = "time"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """How help shows the value."""
        return "TIME"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """Reads the text; what is wrong with it is told as a usage error."""
        if isinstance(value, datetime):
            return value
        text = str(value).strip()
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            try:
                return datetime.now(UTC) - parse_duration(text)
            except (ValueError, OverflowError):
                self.fail(f"{text!r} is not like 30d, 12h, 2026-11-23 or 2026-11-23T06:00:00Z")
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
