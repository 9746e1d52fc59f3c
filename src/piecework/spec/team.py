"""Teams: who pays, and how much they may have at a time; piecework.toml's tables [teams.NAME].

A team that has no table has no limits of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError

from piecework.config import Settings
from piecework.errors import ConfigError, show
from piecework.spec.model import Model, Name, Whole, message_of
from piecework.spec.pool import Price
from piecework.spec.tree import field_path
from piecework.spec.wording import describe


class Team(Model):
    """The limits of those who share one name, over all pools of a cluster."""

    name: Name = Field(description="The team's name: the table's, in piecework.toml.")
    max_machines: Whole | None = Field(
        None, ge=1, description="How many machines the team may have at a time."
    )
    max_usd_per_hour: Price | None = Field(
        None, gt=0, description="What all of its machines together may cost per hour."
    )


def load_teams(settings: Settings) -> dict[str, Team]:
    """The teams by name. Raises ConfigError with all that is wrong with them, a line each."""
    file = settings.file or "piecework.toml"
    teams: dict[str, Team] = {}
    wrong: list[str] = []
    for name, table in settings.teams.items():
        if not isinstance(table, Mapping):
            found = f"found {describe(table)}; a team is a table, like [teams.analytics]"
            wrong.append(f"{file}: teams.{name}: {found}")
            continue
        data: dict[str, Any] = {"name": name, **table}
        if data["name"] != name:
            found = f"found {show(data['name'])}; the table's name, {name}, is the team's"
            wrong.append(f"{file}: teams.{name}.name: {found}")
            continue
        try:
            teams[name] = Team.model_validate(data)
        except ValidationError as error:
            wrong += [
                f"{file}: {field_path(('teams', name, *found['loc']))}: {message_of(found)}"
                for found in error.errors(include_url=False)
            ]
    if wrong:
        raise ConfigError("\n".join(wrong))
    return teams
