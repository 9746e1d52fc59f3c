"""Parameters of a pipeline: what each pipeline run may be given, and what else holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_core import InitErrorDetails

from piecework.errors import show
from piecework.spec.model import Model, Text, check_plain
from piecework.spec.wording import describe, fault, suggest

ParamType = Literal["string", "integer", "number", "boolean", "array", "object"]

_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list, tuple),
    "object": (dict,),
}
_MOST_LEVELS = 50


def check_json(
    value: Any, check: Callable[[str], object] = check_plain, levels: int = _MOST_LEVELS
) -> Any:
    """The value as it was; raises ValueError where JSON could not hold it.

    `check` raises ValueError where a text in it is wrong.
    """
    if levels == 0:
        raise ValueError(f"found more than {_MOST_LEVELS} levels of nesting; make it flatter")
    if isinstance(value, str):
        check(value)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"found {value}, which is not a number that can be counted with")
    elif isinstance(value, Mapping):
        for key, each in value.items():
            if not isinstance(key, str):
                raise ValueError(f"found {show(key)} as a name; a name is a text: quote it")
            check_json(each, check, levels - 1)
    elif isinstance(value, list | tuple):
        for each in value:
            check_json(each, check, levels - 1)
    elif value is not None and not isinstance(value, bool | int | float):
        raise ValueError(f"found {describe(value)}; what JSON can hold is right here: quote it")
    return value


def _check_value(value: Any) -> Any:
    return check_json(value)


JsonField = Annotated[Any, AfterValidator(_check_value)]


class Param(Model):
    """One parameter. Without a default, each pipeline run must be given a value."""

    default: JsonField = Field(None, description="The value where a pipeline run is given none.")
    description: Text | None = Field(None, description="What it is for, for people.")
    type: ParamType | None = Field(None, description="What values are taken; the default's type.")
    enum: tuple[JsonField, ...] | None = Field(
        None, min_length=1, max_length=1000, description="The only values that are taken."
    )

    @classmethod
    def find_faults(cls, data: Mapping[str, Any]) -> Iterator[InitErrorDetails]:
        """The default must be a value that would be taken."""
        if "default" not in data:
            return
        kind, enum, default = data.get("type"), data.get("enum"), data["default"]
        wrong = None
        if isinstance(kind, str) and kind in _TYPES:
            wrong = _mismatch(default, kind)
        if wrong is None and isinstance(enum, list | tuple) and enum:
            wrong = _not_in(default, enum)
        if wrong is not None:
            yield fault(("default",), wrong, default)

    @property
    def required(self) -> bool:
        """Whether each pipeline run must be given a value."""
        return "default" not in self.model_fields_set

    def read(self, value: Any) -> Any:
        """The value as this parameter takes it: texts become numbers where it is a number.

        Raises ValueError with what would be right.
        """
        kind = self.type or (None if self.required else _type_of(self.default))
        kind = "number" if self.type is None and kind == "integer" else kind
        if isinstance(value, str) and kind in ("integer", "number", "boolean"):
            value = _from_text(value, kind)
        check_json(value)
        wrong = _mismatch(value, kind) if kind is not None else None
        if wrong is None and self.enum is not None:
            wrong = _not_in(value, self.enum)
        if wrong is not None:
            raise ValueError(wrong)
        return value


def _type_of(value: Any) -> str | None:
    if isinstance(value, bool):
        return "boolean"
    return next((name for name, types in _TYPES.items() if isinstance(value, types)), None)


def _from_text(text: str, kind: str) -> Any:
    if kind == "boolean":
        return {"true": True, "false": False}.get(text.lower(), text)
    for read in (int, float) if kind == "number" else (int,):
        try:
            return read(text) if len(text) <= 40 else text
        except ValueError:
            continue
    return text


def _mismatch(value: Any, kind: str) -> str | None:
    right = isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))
    return None if right else f"found {describe(value)}; this parameter is of the type {kind}"


def _not_in(value: Any, enum: Any) -> str | None:
    if any(type(value) is type(each) and value == each for each in enum):
        return None
    hint = suggest(value, [each for each in enum if isinstance(each, str)], "")
    right = ", ".join(show(each) for each in list(enum)[:20])
    return f"found {show(value)}; one of {right} is right" + (f"; {hint}" if hint else "")
