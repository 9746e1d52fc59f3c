"""Engines of other packages, as far as the spec knows them: their names and their program models.

They are found by the entry point group `piecework.engines`, whose names are the fields that users
write in a job. Nothing is looked up before a job has a field that piecework does not know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails

from piecework.spec.wording import fault, reword

GROUP = "piecework.engines"
#: The engines whose programs the spec itself knows; no other package replaces them.
BUILT_IN = ("python", "container", "spark", "dask", "h2o")


@cache
def registered() -> Mapping[str, EntryPoint]:
    """The engines of other installed packages by name, not loaded."""
    points = entry_points(group=GROUP)
    return {point.name: point for point in points if point.name not in BUILT_IN}


def program_model(name: str) -> type[BaseModel] | None:
    """The model of what is written under the engine's name; None where it takes anything.

    Raises whatever loading the package raises.
    """
    loaded = registered()[name].load()
    made_by_calling = isinstance(loaded, type) or not hasattr(loaded, "program")
    model = getattr(loaded() if made_by_calling else loaded, "program", None)
    return model if isinstance(model, type) and issubclass(model, BaseModel) else None


def find_faults(name: str, program: Any, location: Sequence[str | int]) -> list[InitErrorDetails]:
    """What is wrong with a program, where the engine of that name is installed and has a model."""
    if name not in registered():
        return []
    try:
        model = program_model(name)
    except Exception as error:  # whatever a foreign package does while it is imported
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        message = f"the engine {name} is installed, but cannot be loaded: {reason}"
        return [fault(location, message, program)]
    if model is None:
        return []
    try:
        model.model_validate(program)
    except ValidationError as error:
        found = []
        for details in error.errors(include_url=False):
            known = list(model.model_fields)
            worded = reword(details, model.model_fields, known, f"a program of {name}")
            worded["loc"] = (*location, *details["loc"])
            found.append(worded)
        return found
    return []
