from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from piecework import config
from piecework.errors import ConfigError


def load(tmp_path: Path, toml: str = "", **environ: str) -> config.Settings:
    (tmp_path / "piecework.toml").write_text(toml)
    return config.load({"PIECEWORK_HOME": str(tmp_path / "home"), **environ}, tmp_path)


def test_settings_have_defaults(tmp_path: Path) -> None:
    home = tmp_path / "home"
    found = config.load({"PIECEWORK_HOME": str(home)}, tmp_path)
    assert (found.home, found.pool, found.file) == (home, "local", None)
    assert found.ledger_url == f"sqlite:///{home}/ledger.sqlite"
    assert found.data == str(home / "data")


def test_the_file_sets_them_and_the_environment_wins(tmp_path: Path) -> None:
    toml = 'timeout = "2h"\ndeadline = 3600\nairflow_port = 8080\n[pools.local]\ncpus = 2\n'
    found = load(tmp_path, toml, PIECEWORK_TIMEOUT="45m")
    assert found.timeout == timedelta(minutes=45)
    assert (found.deadline, found.airflow_port) == (timedelta(hours=1), 8080)
    assert found.pools == {"local": {"cpus": 2}}
    assert found.file == tmp_path / "piecework.toml"


def test_the_first_file_found_is_read(tmp_path: Path) -> None:
    home, beside, named = tmp_path / "home", tmp_path / "beside", tmp_path / "named.toml"
    for folder in (home, beside):
        folder.mkdir()
        (folder / "piecework.toml").write_text(f'pool = "{folder.name}"\n')
    named.write_text('pool = "named"\n')
    environ = {"PIECEWORK_HOME": str(home)}
    assert config.load(environ, tmp_path).pool == "home"
    assert config.load(environ, beside).pool == "beside"
    assert config.load({**environ, "PIECEWORK_CONFIG": str(named)}, beside).pool == "named"


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    toml = 'timout = "2h"\ndeadline = "soon"\npools = 3\nairflow_port = 70000\n'
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, toml, PIECEWORK_TIMEOUT="1:30", PIECEWORK_AIRFLOW_URL="localhost")
    lines = str(raised.value).splitlines()
    file = f"{tmp_path}/piecework.toml"
    assert [line.split(": ")[:2] for line in lines] == [
        [file, "'timout'"],
        [file, "airflow_port"],
        ["environment variable PIECEWORK_AIRFLOW_URL", lines[2].split(": ")[1]],
        [file, "deadline"],
        [file, "pools"],
        ["environment variable PIECEWORK_TIMEOUT", lines[5].split(": ")[1]],
    ]
    assert "did you mean timeout?" in lines[0]


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("airflow_port = true", "a port from 0 to 65535"),
        ("airflow_port = 1.5", "a port from 0 to 65535"),
        ('airflow_port = "²"', "a port from 0 to 65535"),
        ("home = 3", "a text is right here"),
        ('home = "~nobody-of-this-name/x"', "whose home folder is not known"),
        ('pool = ""', "leave the setting out"),
        ('ledger_url = "ledger.sqlite"', "sqlite:////var/lib/ledger.sqlite"),
        ("timeout = [1]", "a duration is written like"),
        ("pool = ", "cannot be read"),
        ("a = " + "[" * 20_000, "cannot be read"),
    ],
)
def test_a_wrong_setting_is_told_with_what_would_be_right(
    tmp_path: Path, toml: str, message: str
) -> None:
    (tmp_path / "piecework.toml").write_text(toml)
    with pytest.raises(ConfigError) as raised:
        config.load({}, tmp_path)
    assert message in str(raised.value)
    assert str(tmp_path) in str(raised.value)


def test_the_store_is_a_folder_or_a_url(tmp_path: Path) -> None:
    assert load(tmp_path).store == ""
    assert load(tmp_path, 'store = "s3://bucket/piecework"\n').store == "s3://bucket/piecework"
    assert load(tmp_path, 'store = "/srv/piecework"\n').store == "/srv/piecework"


def test_a_password_in_the_ledger_s_address_is_never_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, PIECEWORK_LEDGER_URL="user:secret@host/database")
    assert "secret" not in str(raised.value)


def test_a_file_that_is_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="which does not exist"):
        load(tmp_path, PIECEWORK_CONFIG=str(tmp_path / "none.toml"))
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path, PIECEWORK_CONFIG=str(tmp_path))


@given(st.binary(max_size=100))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_file_is_read_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.toml"
    path.write_bytes(content)
    try:
        config.load({"PIECEWORK_HOME": str(tmp_path), "PIECEWORK_CONFIG": str(path)}, tmp_path)
    except ConfigError as error:
        message = str(error)
    else:
        return
    assert str(path) in message
