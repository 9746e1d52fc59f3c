from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piecework import config
from piecework.errors import ConfigError
from piecework.spec.data import Data, load_data


def settings_of(tmp_path: Path, toml: str, **environ: str) -> config.Settings:
    (tmp_path / "piecework.toml").write_text(toml)
    return config.load({"PIECEWORK_HOME": str(tmp_path), **environ}, tmp_path)


def _written() -> st.SearchStrategy[str]:
    """Texts that are nearly right."""
    rest = st.text(max_size=8)
    return st.one_of(
        st.builds("nn{}:8020".format, rest),
        st.builds("etl{}@EXAMPLE.COM".format, rest),
        st.builds("http://host{}".format, rest),
    )


LAKE = """
[data]
url = "hdfs://lake/flights"
secret = "lake-credentials"
[data.hdfs.lake]
namenodes = ["nn1.example.com:8020", "nn2.example.com:8020"]
[data.kerberos]
principal = "etl@EXAMPLE.COM"
keytab_secret = "etl-keytab"
config_map = "krb5"
[data.s3]
endpoint = "http://s3.example.com:9000"
path_style = true
"""


def test_without_the_section_nothing_is_told(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, 'data = "s3://bucket/data"\n')
    assert (settings.data, settings.access) == ("s3://bucket/data", {})
    assert load_data(settings).order(on_cluster=True) == {}


def test_the_section_says_where_the_data_is_and_how_it_is_reached(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, LAKE)
    assert settings.data == "hdfs://lake/flights"
    data = load_data(settings)
    assert data.secret == "lake-credentials"
    assert data.order(on_cluster=True) == {
        "hdfs": {"lake": ["nn1.example.com:8020", "nn2.example.com:8020"]},
        "kerberos": {
            "principal": "etl@EXAMPLE.COM",
            "servers": "nn/_HOST@EXAMPLE.COM",
            "keytab": "/piecework/keytab/keytab",
            "config": "/piecework/krb5/krb5.conf",
        },
        "s3": {"endpoint": "http://s3.example.com:9000", "path_style": True},
    }


def test_on_this_computer_kerberos_takes_the_tickets_that_its_user_has(tmp_path: Path) -> None:
    told = load_data(settings_of(tmp_path, LAKE)).order(on_cluster=False)
    assert told["kerberos"] == {"principal": "etl@EXAMPLE.COM", "servers": "nn/_HOST@EXAMPLE.COM"}


def test_the_environment_changes_the_url_and_nothing_else(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, LAKE, PIECEWORK_DATA="s3://other/place")
    assert settings.data == "s3://other/place"
    assert load_data(settings).secret == "lake-credentials"


def test_a_section_without_url_leaves_the_data_where_it_is_by_default(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "[data.s3]\n")
    assert settings.data == str(tmp_path / "data")
    assert load_data(settings).order(on_cluster=True) == {"s3": {}}


def test_all_that_is_wrong_with_the_section_is_told_at_once(tmp_path: Path) -> None:
    toml = """
[data]
secrt = "lake"
user = "a b"
[data.hdfs.lake]
namenodes = ["nn1", "nn2:0", "nn3:8020"]
[data.hdfs.empty]
namenodes = []
[data.hdfs."a b"]
namenodes = ["nn1:8020"]
[data.kerberos]
principal = "etl"
keytab_secret = "Not An Object"
[data.s3]
endpoint = "s3.example.com"
secret_access_key = "never here"
"""
    with pytest.raises(ConfigError) as raised:
        load_data(settings_of(tmp_path, toml))
    lines = str(raised.value).splitlines()
    told = [line.removeprefix(f"{tmp_path}/piecework.toml: data.") for line in lines]
    assert sorted(line.split(":")[0] for line in told) == [
        "hdfs.'a b'.'[key]'",
        "hdfs.empty.namenodes",
        "hdfs.lake.namenodes[0]",
        "hdfs.lake.namenodes[1]",
        "kerberos.keytab_secret",
        "kerberos.principal",
        "s3.endpoint",
        "s3.secret_access_key",
        "secrt",
        "user",
        "user",
    ]
    assert "never here" not in str(raised.value)
    assert "like nn1.example.com:8020" in str(raised.value)


def test_a_url_is_a_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.url: found 3; a text is right here"):
        settings_of(tmp_path, "[data]\nurl = 3\n")
    with pytest.raises(ConfigError, match="data: found 3; a text is right here"):
        settings_of(tmp_path, "data = 3\n")


_TABLES: dict[str, Callable[[str], dict[str, object]]] = {
    "namenode": lambda text: {"hdfs": {"lake": {"namenodes": [text]}}},
    "principal": lambda text: {"kerberos": {"principal": text}},
    "user": lambda text: {"user": text},
    "endpoint": lambda text: {"s3": {"endpoint": text}},
    "region": lambda text: {"s3": {"region": text}},
}


@given(st.sampled_from(sorted(_TABLES)), st.one_of(st.text(max_size=40), _written()))
def test_any_text_is_taken_or_refused_and_what_is_taken_is_one_printable_word(
    field: str, text: str
) -> None:
    settings = config.Settings(Path(), "", access=_TABLES[field](text))
    try:
        load_data(settings)
    except ConfigError:
        return
    assert text
    assert all("!" <= character <= "~" for character in text)


@given(st.integers(1, 65_535), st.integers(1, 10))
def test_every_namenode_is_told_in_its_order(port: int, count: int) -> None:
    addresses = [f"nn{number}:{port}" for number in range(count)]
    data = Data.model_validate({"hdfs": {"lake": {"namenodes": addresses}}})
    assert data.order(on_cluster=True) == {"hdfs": {"lake": addresses}}
