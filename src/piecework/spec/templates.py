"""Templates: `{{ ... }}` in arguments, environment values and the program's fields.

Airflow renders them in its tasks; `render_job` renders them where there is no Airflow. jinja2 is
imported only when a text holds a template, because most hold none and importing takes long.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from piecework.errors import Problem, SpecError, show
from piecework.spec.custom import BUILT_IN
from piecework.spec.model import message_of
from piecework.spec.tree import field_path

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment

    from piecework.spec.job import Job

#: Longer ones are programs; they belong into files.
MOST_CHARACTERS = 16_384


def holds_template(text: str) -> bool:
    """Whether rendering the text could change it."""
    return "{{" in text or "{%" in text or "{#" in text


def find_problems(text: str) -> str | None:
    """Why the text does not parse as a template; None where it does, or where it is none."""
    if not holds_template(text):
        return None
    if len(text) > MOST_CHARACTERS:
        return f"found a template of {len(text):,} characters; it has at most {MOST_CHARACTERS:,}"
    from jinja2 import TemplateSyntaxError

    try:
        _environment().parse(text)
    except TemplateSyntaxError as error:
        message = " ".join((error.message or "it does not parse").split()).rstrip(".")
        return f"found {show(text)}, which does not parse as a template: {message}"
    except (RecursionError, MemoryError, ValueError, OverflowError):
        return f"found {show(text)}, a template that nests too deeply; make it simpler"
    return None


def render_job(job: Job, context: Mapping[str, Any]) -> Job:
    """The job with its templates rendered from `context`, checked anew.

    Raises SpecError with everything that does not render, or is no longer right once rendered.
    """
    if not any(holds_template(text) for text in _texts(_templated(job))):
        return job
    problems: list[Problem] = []

    def render(text: str, location: tuple[str | int, ...]) -> str:
        try:
            return _render(text, context)
        except ValueError as error:
            problems.append(Problem("(rendered)", 0, 0, field_path(location), str(error)))
            return text

    rendered = _walk(_templated(job), (), render)
    if problems:
        raise SpecError(problems)
    written = job.model_dump(mode="json", exclude_unset=True) | rendered
    try:
        return type(job).model_validate(written)
    except ValidationError as error:
        raise SpecError(
            [
                Problem("(rendered)", 0, 0, field_path(found["loc"]), message_of(found))
                for found in error.errors(include_url=False)
            ]
        ) from error


def _templated(job: Job) -> dict[str, Any]:
    """The fields of a job in which templates are rendered, as plain values."""
    fields = {"args", "env", "custom", *BUILT_IN}
    return job.model_dump(mode="json", include=fields, exclude_unset=True)


def _texts(value: Any) -> list[str]:
    found: list[str] = []
    _walk(value, (), lambda text, _: found.append(text) or text)  # type: ignore[func-returns-value]
    return found


def _walk(
    value: Any,
    location: tuple[str | int, ...],
    render: Callable[[str, tuple[str | int, ...]], str],
) -> Any:
    """The value with each text in it (not the keys) rendered."""
    if isinstance(value, str):
        return render(value, location)
    if isinstance(value, Mapping):
        return {key: _walk(each, (*location, key), render) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_walk(each, (*location, at), render) for at, each in enumerate(value)]
    return value


def _render(text: str, context: Mapping[str, Any]) -> str:
    """Raises ValueError with what would be right."""
    if not holds_template(text):
        return text
    from jinja2 import TemplateError

    try:
        return _environment().from_string(text).render(context)
    except TemplateError as error:
        reason = " ".join((error.message or type(error).__name__).split()).rstrip(".")
        known = ", ".join(sorted(str(name) for name in context))
        raise ValueError(
            f"found {show(text)}, which does not render: {reason}; known names are {known}"
        ) from error
    except Exception as error:  # a template runs what its author wrote: anything may happen
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"found {show(text)}, which does not render: {reason}") from error


@cache
def _environment() -> SandboxedEnvironment:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
