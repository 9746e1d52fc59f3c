"""What is wrong, in sentences: what was found, and what would be right.

What enters are pydantic's findings about one model; what leaves are the same findings, worded for
people who have never heard of pydantic, at the same locations.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from piecework.errors import show

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

#: The type of every finding that is already worded.
WORDED = "piecework"
#: More problems than this are counted, not told: nobody reads on, and hostile files have millions.
MOST_PROBLEMS = 200

NAME_RULE = (
    "a name has up to 63 letters, digits, '-' and '_', and begins and ends with a letter or digit"
)
TEMPLATE_RULE = "templates are rendered in args, env and the program's fields, not here"


def fault(
    location: Sequence[str | int], message: str, found: object = None, at: str = "value"
) -> InitErrorDetails:
    """One finding, worded, for `ValidationError.from_exception_data`.

    `at` is "key" where the field's name is what is wrong, not its value.
    """
    error = PydanticCustomError(WORDED, "{message}", {"message": message, "at": at})
    return InitErrorDetails(type=error, loc=tuple(location), input=found)


def suggest(
    word: object, known: Iterable[str], otherwise: str | None = None, *, alike: float = 0.6
) -> str:
    """Asks "did you mean X?"; or else says `otherwise`, or else lists what is known.

    `alike` is how similar the two must be, from 0 to 1.
    """
    known = list(known)
    close: list[str] = []
    if isinstance(word, str) and len(word) <= 100 and len(known) <= 1000:
        by_lower = {name.lower(): name for name in known}
        close = get_close_matches(word.lower(), by_lower, n=1, cutoff=alike)
        close = [by_lower[name] for name in close]
    if close:
        return f"did you mean {close[0]}?"
    if otherwise is not None:
        return otherwise
    shown = ", ".join(sorted(known)[:40])
    return f"known are {shown}" if shown else "there is none"


def describe(value: object) -> str:
    """A found value with its kind, where the kind is what is wrong about it."""
    described = show(value)
    if value is None:
        described = "nothing"
    elif isinstance(value, bool):
        described = f"the truth value {str(value).lower()}"
    elif isinstance(value, int | float):
        described = f"the number {show(value)}"
    elif isinstance(value, datetime):
        described = f"the time {value.isoformat()}"
    elif isinstance(value, date):
        described = f"the date {value.isoformat()}"
    elif isinstance(value, str):
        described = f"the text {show(value)}"
    elif isinstance(value, Mapping):
        described = "a mapping" if value else "an empty mapping"
    elif isinstance(value, list | tuple):
        described = "a list" if value else "an empty list"
    return described


def reword(
    error: ErrorDetails, fields: Mapping[str, FieldInfo], known: Iterable[str], what: str
) -> InitErrorDetails:
    """A finding of pydantic about a model with these fields, worded.

    `known` are the names that a misspelt field may have meant; `what` is the model's name.
    """
    location, found, kind = error["loc"], error["input"], error["type"]
    if kind == WORDED:
        return fault(location, error["ctx"]["message"], found, error["ctx"]["at"])
    if kind == "extra_forbidden" and len(location) == 1:
        return fault(location, f"unknown field; {suggest(location[0], known)}", found, "key")
    if kind == "missing":
        name = str(location[-1])
        description = fields[name].description if name in fields else None
        explained = (
            f": {description[0].lower()}{description[1:].rstrip('.')}" if description else ""
        )
        return fault(location, f"is missing{explained}", found)
    at = "key" if location[-1:] == ("[key]",) else "value"
    return fault(location, _sentence(error, what), found, at)


def _sentence(error: ErrorDetails, what: str) -> str:
    found, kind, context = error["input"], error["type"], error.get("ctx", {})
    if isinstance(found, str) and ("{{" in found or "{%" in found) and kind != "value_error":
        return f"found {show(found)}; {TEMPLATE_RULE}"
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        names = [name.strip("'") for name in _literals(context["expected"])]
        hint = suggest(found, names, "")
        return f"found {describe(found)}; one of {', '.join(names)} is right" + (
            f"; {hint}" if hint else ""
        )
    if kind == "string_pattern_mismatch":
        return f"found {show(found)}; {NAME_RULE}"
    expected = _EXPECTED.get(kind)
    if expected is not None:
        return f"found {describe(found)}; {expected}{_quote_hint(kind, found)}"
    limit = _limit(kind, context)
    if limit is not None:
        return f"found {show(found) if kind in _COMPARED else describe(found)}; {limit}"
    if kind in ("model_type", "model_attributes_type", "dataclass_type"):
        return f"found {describe(found)}; {what} is written as a mapping of its fields"
    message = error["msg"]
    return f"found {describe(found)}; {message[0].lower()}{message[1:]}"


_EXPECTED = {
    "string_type": "a text is right here",
    "int_type": "a whole number is right here",
    "bool_type": "true or false is right here",
    "dict_type": "a mapping is right here, like {name: value}",
    "list_type": "a list is right here, like [a, b]",
    "tuple_type": "a list is right here, like [a, b]",
    "date_type": "a date is right here, like 2024-01-31",
    "date_parsing": "a date is right here, like 2024-01-31",
    "date_from_datetime_parsing": "a date is right here, like 2024-01-31",
    "date_from_datetime_inexact": "a date without a time is right here, like 2024-01-31",
    "decimal_type": "a number is right here",
    "decimal_parsing": "a number is right here",
    "finite_number": "a finite number is right here",
    "invalid_key": "a name is a text",
}
_COMPARED = ("greater_than_equal", "less_than_equal", "greater_than", "less_than")


def _quote_hint(kind: str, found: object) -> str:
    if kind == "string_type" and isinstance(found, bool | int | float | date):
        return ": quote it"
    if kind in ("tuple_type", "list_type") and isinstance(found, str):
        short = len(found) <= 40 and found.isprintable()
        return f"; did you mean [{found}]?" if short else ""
    if kind in ("int_type", "bool_type") and isinstance(found, str):
        return ", without quotes"
    return ""


def _limit(kind: str, context: Mapping[str, Any]) -> str | None:
    if kind in ("string_too_short", "too_short"):
        least = context["min_length"]
        return "it must not be empty" if least == 1 else f"it has at least {least} entries"
    if kind == "string_too_long":
        return f"it has at most {context['max_length']:,} characters"
    if kind == "too_long":
        return f"it has at most {context['max_length']:,} entries"
    bounds = {
        "greater_than_equal": ("ge", "the least is {}"),
        "less_than_equal": ("le", "the most is {}"),
        "greater_than": ("gt", "it must be more than {}"),
        "less_than": ("lt", "it must be less than {}"),
    }
    if kind in bounds:
        key, text = bounds[kind]
        return text.format(context[key])
    return None


def _literals(expected: str) -> list[str]:
    """Splits what pydantic writes, "'never', 'prefer' or 'only'"."""
    return [part for piece in expected.split(" or ") for part in piece.split(", ")]
