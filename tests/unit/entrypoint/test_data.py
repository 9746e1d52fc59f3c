"""What programs are told of HDFS and S3."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from fsspec.config import set_conf_env
from hypothesis import given
from hypothesis import strategies as st

from piecework.entrypoint.data import (
    hadoop_properties,
    settle,
    spark_properties,
    variables_of,
)

LAKE = {"hdfs": {"lake": ["nn1:8020", "nn2:8020"]}}
KERBEROS = {
    "kerberos": {
        "principal": "etl@EXAMPLE.COM",
        "servers": "nn/_HOST@EXAMPLE.COM",
        "keytab": "/piecework/keytab/keytab",
        "config": "/piecework/krb5/krb5.conf",
    }
}
S3 = {"s3": {"endpoint": "http://host:9000", "region": "eu-west-1", "path_style": True}}


def read(file: Path) -> dict[str, str]:
    """A Hadoop configuration, as Hadoop reads it."""
    root = ET.fromstring(file.read_text())
    return {each.findtext("name") or "": each.findtext("value") or "" for each in root}


def test_a_name_service_has_its_namenodes_and_fails_over() -> None:
    assert hadoop_properties(LAKE) == {
        "dfs.nameservices": "lake",
        "dfs.ha.namenodes.lake": "nn1,nn2",
        "dfs.client.failover.proxy.provider.lake": (
            "org.apache.hadoop.hdfs.server.namenode.ha.ConfiguredFailoverProxyProvider"
        ),
        "dfs.namenode.rpc-address.lake.nn1": "nn1:8020",
        "dfs.namenode.rpc-address.lake.nn2": "nn2:8020",
    }


def test_every_client_of_hadoop_finds_the_same_configuration(tmp_path: Path) -> None:
    variables = settle({**LAKE, **S3}, tmp_path / "hadoop")
    folder = Path(variables["HADOOP_CONF_DIR"])
    for name in ("core-site.xml", "hdfs-site.xml"):
        assert read(folder / name) == hadoop_properties({**LAKE, **S3})
    properties = spark_properties({"data": {**LAKE, **S3}})
    assert properties == {
        f"spark.hadoop.{name}": value for name, value in hadoop_properties({**LAKE, **S3}).items()
    }


def test_a_configuration_that_the_image_has_is_left_alone_where_only_s3_is_told(
    tmp_path: Path,
) -> None:
    assert "HADOOP_CONF_DIR" not in settle(S3, tmp_path / "hadoop")
    assert not (tmp_path / "hadoop").exists()


def test_fsspec_is_told_of_s3_by_its_own_variable() -> None:
    found: dict[str, Any] = {}
    set_conf_env(found, variables_of(S3))
    assert found == {
        "s3": {
            "endpoint_url": "http://host:9000",
            "client_kwargs": {"region_name": "eu-west-1"},
            "config_kwargs": {"s3": {"addressing_style": "path"}},
        }
    }


def test_the_sdks_are_told_of_s3_by_theirs() -> None:
    found = variables_of(S3)
    assert found["AWS_ENDPOINT_URL_S3"] == "http://host:9000"
    assert found["AWS_REGION"] == found["AWS_DEFAULT_REGION"] == "eu-west-1"


def test_spark_reads_s3_under_the_name_that_everybody_uses() -> None:
    found = spark_properties({"data": {"s3": {}}})
    assert found == {
        "spark.hadoop.fs.s3.impl": "org.apache.hadoop.fs.s3a.S3AFileSystem",
        "spark.hadoop.fs.AbstractFileSystem.s3.impl": "org.apache.hadoop.fs.s3a.S3A",
    }
    assert hadoop_properties(S3)["fs.s3a.connection.ssl.enabled"] == "false"
    assert hadoop_properties(S3)["fs.s3a.path.style.access"] == "true"


def test_kerberos_is_told_to_java_to_mit_and_to_spark(tmp_path: Path) -> None:
    variables = settle(KERBEROS, tmp_path)
    assert variables["KRB5_CLIENT_KTNAME"] == "/piecework/keytab/keytab"
    assert variables["KRB5_CONFIG"] == "/piecework/krb5/krb5.conf"
    assert variables["JAVA_TOOL_OPTIONS"] == "-Djava.security.krb5.conf=/piecework/krb5/krb5.conf"
    found = read(tmp_path / "core-site.xml")
    assert found["hadoop.security.authentication"] == "kerberos"
    assert found["dfs.namenode.kerberos.principal"] == "nn/_HOST@EXAMPLE.COM"
    spark = spark_properties({"data": KERBEROS})
    assert spark["spark.kerberos.keytab"] == "/piecework/keytab/keytab"
    assert spark["spark.kerberos.principal"] == "etl@EXAMPLE.COM"


def test_tickets_of_this_computers_user_are_taken_where_there_is_no_keytab(tmp_path: Path) -> None:
    told = {"kerberos": {"principal": "etl@EXAMPLE.COM", "servers": "nn/_HOST@EXAMPLE.COM"}}
    variables = settle(told, tmp_path)
    assert set(variables) == {"HADOOP_CONF_DIR"}
    assert "spark.kerberos.keytab" not in spark_properties({"data": told})


def test_who_a_program_is_without_kerberos_is_told() -> None:
    assert variables_of({"user": "etl"}) == {"HADOOP_USER_NAME": "etl"}
    assert spark_properties({"data": {}}) == spark_properties({}) == {}


@given(st.text("<>&\"'abc", min_size=1, max_size=20))
def test_hadoop_reads_what_was_written(tmp_path_factory: Any, text: str) -> None:
    folder = tmp_path_factory.mktemp("hadoop")
    settle({"hdfs": {"lake": [text]}, "s3": {"endpoint": text}}, folder)
    found = read(folder / "hdfs-site.xml")
    assert found["dfs.namenode.rpc-address.lake.nn1"] == found["fs.s3a.endpoint"] == text
    assert json.loads(variables_of({"s3": {"endpoint": text}})["FSSPEC_S3"]) == {
        "endpoint_url": text
    }
