from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from piecework import config
from piecework.errors import ConfigError
from piecework.spec.pool import load_pools


def settings_of(tmp_path: Path, toml: str) -> config.Settings:
    (tmp_path / "piecework.toml").write_text(toml)
    return config.load({"PIECEWORK_HOME": str(tmp_path)}, tmp_path)


def test_there_is_always_a_local_pool(tmp_path: Path) -> None:
    assert list(load_pools(config.load({"PIECEWORK_HOME": str(tmp_path)}, tmp_path))) == ["local"]


def test_a_pool_says_its_limits_and_prices(tmp_path: Path) -> None:
    toml = '[pools.local]\ncpus = 2\nmemory = "8Gi"\n[pools.local.prices]\n"m7a.large" = 0.1\n'
    local = load_pools(settings_of(tmp_path, toml))["local"]
    assert (local.cpus, str(local.memory)) == (Decimal(2), "8Gi")
    assert local.prices == {"m7a.large": Decimal("0.1")}


def test_all_that_is_wrong_with_pools_is_told_at_once(tmp_path: Path) -> None:
    toml = """
[pools]
b = 3
[pools.local]
cpus = "two"
typs = ["a"]
[pools.c]
provider = "locl"
[pools.c.prices]
"m7a.large" = -1
[pools.d]
name = "e"
["pools"."f g"]
"""
    with pytest.raises(ConfigError) as raised:
        load_pools(settings_of(tmp_path, toml))
    lines = str(raised.value).splitlines()
    assert all(line.startswith(f"{tmp_path}/piecework.toml: pools.") for line in lines)
    told = [line.removeprefix(f"{tmp_path}/piecework.toml: pools.") for line in lines]
    assert [line.split(":")[0] for line in told] == [
        "b",
        "local.cpus",
        "local.typs",
        "c.provider",
        "c.prices.'m7a.large'",
        "d.name",
        "'f g'.name",
    ]


def test_the_pool_of_jobs_that_name_none_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"pool: found 'locl'; did you mean local\?"):
        load_pools(settings_of(tmp_path, 'pool = "locl"\n'))
