"""Teams: who pays, and how much they may have at a time; piecework.toml's tables [teams.NAME].

A team that has no table has no limits of its own.
"""

from __future__ import annotations

from pydantic import Field

from piecework.config import Settings
from piecework.errors import ConfigError
from piecework.spec.model import Model, Name, Whole
from piecework.spec.pool import Price
from piecework.spec.tables import read_tables


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
    teams, wrong = read_tables(settings.teams, Team, "teams", "analytics", file)
    if wrong:
        raise ConfigError("\n".join(wrong))
    return teams
