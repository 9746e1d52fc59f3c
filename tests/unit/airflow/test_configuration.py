"""The platform's configuration: chosen once, private, and without what a cluster needs."""

from __future__ import annotations

import configparser
import json
import stat
from pathlib import Path

import pytest

from piecework.airflow.configuration import (
    COMPONENTS,
    KEEPER,
    PlatformFolder,
    components_of,
    configure,
    read_json,
)
from piecework.airflow.foreman import environment
from piecework.config import load

pytestmark = pytest.mark.enable_socket


def read_config(home: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(PlatformFolder(home).config)
    return parser


def test_port_and_secrets_stay_as_they_were_chosen(home: Path) -> None:
    folder = PlatformFolder(home)
    url = configure(load())
    before = read_json(folder.state)
    assert configure(load()) == url
    assert read_json(folder.state) == before


def test_whatever_holds_a_secret_is_readable_by_its_owner_alone(home: Path) -> None:
    configure(load())
    folder = PlatformFolder(home)
    password = read_json(folder.state)["password"]
    for path in home.rglob("*"):
        if path.is_file() and password in path.read_text():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE(folder.root.stat().st_mode) == 0o700
    assert json.loads(folder.access.read_text())["password"] == password


def test_airflow_listens_on_this_computer_alone(home: Path) -> None:
    url = configure(load())
    found = read_config(home)
    assert found["api"]["host"] == "127.0.0.1"
    assert url == f"http://127.0.0.1:{found['api']['port']}"
    assert found["core"]["load_examples"] == "False"


def test_no_other_airflows_settings_reach_the_platform(home: Path) -> None:
    found = environment(
        load(), {"AIRFLOW__CORE__EXECUTOR": "Other", "AIRFLOW_HOME": "/x", "A": "b"}
    )
    assert "AIRFLOW__CORE__EXECUTOR" not in found
    assert found["AIRFLOW_HOME"] == str(PlatformFolder(home).root)
    assert found["A"] == "b"
    assert found["PIECEWORK_HOME"] == str(home)


def test_what_needs_no_proxy_for_the_user_needs_none_for_the_platform(home: Path) -> None:
    found = environment(load(), {"NO_PROXY": "cluster.example.com"})
    assert found["NO_PROXY"] == found["no_proxy"] == "cluster.example.com,127.0.0.1,localhost"


def test_a_damaged_state_file_is_as_good_as_none(tmp_path: Path) -> None:
    broken = tmp_path / "state.json"
    for text in ("", "{", "[1]"):
        broken.write_text(text)
        assert read_json(broken) == {}
    assert read_json(tmp_path / "absent.json") == {}


def test_a_keeper_belongs_to_the_platform_where_a_pool_is_on_a_cluster(home: Path) -> None:
    home.mkdir()
    settings = home / "piecework.toml"
    settings.write_text("[pools.local]\ncpus = 2\n")
    assert KEEPER not in components_of(load())
    settings.write_text("[pools.bought]\nprovider = 'karpenter'\n")
    assert components_of(load()) == (*COMPONENTS, KEEPER)
