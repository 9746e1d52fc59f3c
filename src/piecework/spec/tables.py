"""Tables of piecework.toml, one a thing with a name: [pools.NAME], [teams.NAME].

What enters are the tables as written and the model of what they hold; what leaves are the checked
things by name, and all that is wrong with the others, a line each.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from piecework.errors import show
from piecework.spec.model import Model, message_of
from piecework.spec.tree import field_path
from piecework.spec.wording import describe

Named = TypeVar("Named", bound=Model)


def read_tables(
    tables: Mapping[str, Any], model: type[Named], section: str, example: str, file: Path | str
) -> tuple[dict[str, Named], list[str]]:
    """Those that are right, and what is wrong. `section` is the plural, `example` one's name."""
    one = section.removesuffix("s")
    found: dict[str, Named] = {}
    wrong: list[str] = []
    for name, table in tables.items():
        if not isinstance(table, Mapping):
            said = f"found {describe(table)}; a {one} is a table, like [{section}.{example}]"
            wrong.append(f"{file}: {section}.{name}: {said}")
            continue
        data: dict[str, Any] = {"name": name, **table}
        if data["name"] != name:
            said = f"found {show(data['name'])}; the table's name, {name}, is the {one}'s"
            wrong.append(f"{file}: {section}.{name}.name: {said}")
            continue
        try:
            found[name] = model.model_validate(data)
        except ValidationError as error:
            wrong += tell_faults(error, file, section, name)
    return found, wrong


def tell_faults(error: ValidationError, file: Path | str, *table: str) -> list[str]:
    """What is wrong with a table, a line each; `table` are the parts of its name."""
    return [
        f"{file}: {field_path((*table, *fault['loc']))}: {message_of(fault)}"
        for fault in error.errors(include_url=False)
    ]
