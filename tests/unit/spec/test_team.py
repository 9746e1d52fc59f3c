from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from piecework import config
from piecework.errors import ConfigError
from piecework.spec.team import load_teams


def settings_of(tmp_path: Path, toml: str) -> config.Settings:
    (tmp_path / "piecework.toml").write_text(toml)
    return config.load({"PIECEWORK_HOME": str(tmp_path)}, tmp_path)


def test_a_team_says_its_limits(tmp_path: Path) -> None:
    toml = "[teams.analytics]\nmax_machines = 10\nmax_usd_per_hour = 2.5\n[teams.research]\n"
    teams = load_teams(settings_of(tmp_path, toml))
    assert teams["analytics"].max_machines == 10
    assert teams["analytics"].max_usd_per_hour == Decimal("2.5")
    assert teams["research"].max_machines is None


def test_all_that_is_wrong_with_teams_is_told_at_once(tmp_path: Path) -> None:
    toml = """
[teams]
a = 3
[teams.b]
max_machines = 0
machines = 3
[teams.c]
name = "d"
"""
    with pytest.raises(ConfigError) as raised:
        load_teams(settings_of(tmp_path, toml))
    lines = [line.split("piecework.toml: ")[1] for line in str(raised.value).splitlines()]
    assert [line.split(":")[0] for line in lines] == [
        "teams.a",
        "teams.b.max_machines",
        "teams.b.machines",
        "teams.c.name",
    ]


def test_teams_are_tables(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"teams are tables, like \[teams\.analytics\]"):
        settings_of(tmp_path, "teams = 3\n")
