"""What all models of the spec share: strictness, readable errors, and fields that read units.

One pydantic model stands behind YAML, Python and the JSON Schema. Called in Python, a model
raises SpecError with the caller's file and line; validated by the loader, it raises pydantic's
ValidationError, whose findings are already worded and located. Either way all findings are told.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from datetime import timedelta
from decimal import Decimal
from itertools import islice
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ModelWrapValidatorHandler,
    PlainSerializer,
    Strict,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import InitErrorDetails

from piecework.errors import Problem, SpecError, show
from piecework.spec.tree import field_path
from piecework.spec.wording import MOST_PROBLEMS, TEMPLATE_RULE, reword
from piecework.units import Memory, format_cpu, format_duration, parse_cpu, parse_duration

if TYPE_CHECKING:
    from pydantic import BaseModel as _Base
else:
    _ModelMetaclass = type(BaseModel)

    class _TellInPython(_ModelMetaclass):
        """Turns pydantic's error into ours where a user's Python calls a model.

        Only direct calls come here: pydantic builds nested models without calling the class.
        """

        def __call__(cls, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 - of a metaclass
            try:
                return super().__call__(*args, **kwargs)
            except ValidationError as error:
                file, line, column = _caller(sys._getframe(1))
                raise SpecError(
                    [
                        Problem(file, line, column, field_path(found["loc"]), message_of(found))
                        for found in error.errors(include_url=False)
                    ]
                ) from error

    class _Base(BaseModel, metaclass=_TellInPython):
        pass


class Model(_Base):
    """Frozen, and strict: an unknown field is an error, and all errors are told at once."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @classmethod
    def rewrite(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Replaces what may be written shorter by what it stands for; by default, nothing."""
        return data

    @classmethod
    def find_faults(cls, data: Mapping[str, Any]) -> Iterable[InitErrorDetails]:
        """What is wrong between fields. Called with what was written, whether or not each field
        is right by itself, so that everything can be told at once.
        """
        del data
        return ()

    @classmethod
    def field_names(cls) -> Iterable[str]:
        """The names that a misspelt field may have meant."""
        return cls.model_fields

    @model_validator(mode="wrap")
    @classmethod
    def _find_all(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if isinstance(data, cls):
            return handler(data)
        if isinstance(data, Mapping):
            data = cls.rewrite(dict(data))
        faults: list[InitErrorDetails] = []
        model: Self | None = None
        try:
            model = handler(data)
        except ValidationError as error:
            names = list(cls.field_names())
            faults += [
                reword(found, cls.model_fields, names, f"a {cls.__name__.lower()}")
                for found in error.errors(include_url=False)[: 2 * MOST_PROBLEMS]
            ]
        if isinstance(data, Mapping):
            faults += islice(cls.find_faults(data), 2 * MOST_PROBLEMS)
        if faults or model is None:
            raise ValidationError.from_exception_data(cls.__name__, faults)
        return model


def message_of(found: Mapping[str, Any]) -> str:
    """The sentence of one finding, on one line."""
    return " ".join(str(found.get("ctx", {}).get("message", found["msg"])).split())


def _caller(frame: FrameType) -> tuple[str, int, int]:
    """File, line and column of the call that the frame is at."""
    positions = next(islice(frame.f_code.co_positions(), frame.f_lasti // 2, None), None)
    line, _, column, _ = positions or (None, None, None, None)
    return frame.f_code.co_filename, line or frame.f_lineno or 0, (column or 0) + 1


#: Less is a slip: a number without a unit counts bytes.
_LEAST_MEMORY = Memory(2**20)


def _memory(value: Any) -> Memory:
    _refuse_template(value)
    memory = Memory.parse(value)
    if memory < _LEAST_MEMORY:
        meant = f"; did you mean {value}Gi?" if str(value).isdigit() else ""
        raise ValueError(f"found {show(value)}, which is less than 1Mi{meant}")
    return memory


def _cpu(value: Any) -> Decimal:
    _refuse_template(value)
    return parse_cpu(value)


def _duration(value: Any) -> timedelta:
    _refuse_template(value)
    return parse_duration(value)


def _refuse_template(value: Any) -> None:
    if isinstance(value, str) and ("{{" in value or "{%" in value):
        raise ValueError(f"found {show(value)}; {TEMPLATE_RULE}")


def check_text(value: str) -> str:
    """Texts go into files, environments and command lines, which take neither NUL nor halves."""
    if "\0" in value:
        raise ValueError(f"found {show(value)}, which holds the character NUL; take it out")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"found {show(value)}, which is not valid Unicode")
    return value


def check_plain(value: str) -> str:
    """A text in which no template is rendered."""
    _refuse_template(value)
    return check_text(value)


MemoryField = Annotated[
    Memory,
    BeforeValidator(_memory),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": ["string", "integer"], "examples": ["4Gi", "512Mi"]}),
]
CpuField = Annotated[
    Decimal,
    BeforeValidator(_cpu),
    PlainSerializer(format_cpu, return_type=str),
    WithJsonSchema({"type": ["number", "string"], "examples": [2, 0.5, "500m"]}),
]
DurationField = Annotated[
    timedelta,
    BeforeValidator(_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": ["string", "number"], "examples": ["45m", "2h", "1h30m"]}),
]
#: Whole numbers and truth values are not made from texts.
Whole = Annotated[int, Strict()]
Truth = Annotated[bool, Strict()]
#: A text in which templates may be rendered; no longer than one argument of a program can be.
Text = Annotated[str, StringConstraints(max_length=131_071), AfterValidator(check_text)]
#: A text in which they are not.
PlainText = Annotated[str, StringConstraints(max_length=131_071), AfterValidator(check_plain)]
#: Names of jobs, pipelines, teams and pools: they become parts of folders, labels and DAG ids.
NAME_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
