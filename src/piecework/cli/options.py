"""Options that several verbs share, and the types of their values."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import click

from piecework.errors import InputError
from piecework.units import parse_duration

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


def read_params(given: Sequence[str], defaults: Mapping[str, Any], pipeline: str) -> dict[str, Any]:
    """NAME=VALUE as values: text where the default is a text, JSON where it can be read as such.

    Raises InputError where the pipeline has no such parameter.
    """
    values: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InputError(f"--param {text!r}: found no '='; write it as NAME=VALUE")
        if name not in defaults:
            raise InputError(f"--param {name}: {_unknown(name, list(defaults), pipeline)}")
        values[name] = value if isinstance(defaults[name], str) else _json_or_text(value)
    return values


def _unknown(name: str, known: Sequence[str], pipeline: str) -> str:
    if not known:
        return f"pipeline {pipeline} has no parameters"
    return f"pipeline {pipeline} has no such parameter; {suggest(name, known)}"


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def suggest(name: str, known: Sequence[str]) -> str:
    """What to write instead: the closest name, or all of them."""
    close = get_close_matches(name, known, n=1)
    if close:
        return f"did you mean {close[0]}?"
    shown = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
    return f"there is {shown}" if known else "there is none"


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


class Duration(click.ParamType[timedelta]):
    """A duration like 45m or 2h."""

    name = "duration"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """How help shows the value."""
        return "DURATION"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        """Reads the text; what is wrong with it is told as a usage error."""
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error))
