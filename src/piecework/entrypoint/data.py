"""What programs are told so that they find their data on HDFS and S3, whatever their engine.

Enters: the launch's `data`, which is no secret (`piecework.spec.data.Data.order` writes it):

    {"hdfs": {"lake": ["nn1:8020", "nn2:8020"]}, "user": "etl",
     "kerberos": {"principal": "etl@EXAMPLE.COM", "servers": "nn/_HOST@EXAMPLE.COM",
                  "keytab": "/.../keytab", "config": "/.../krb5.conf"},
     "s3": {"endpoint": "http://host:9000", "region": "us-east-1", "path_style": true}}

Leaves: Hadoop's properties, for Spark and in a folder that HADOOP_CONF_DIR names, which every JVM
and hdfs-native read; and variables, which fsspec and the AWS SDKs read. Credentials come another
way: as variables and files from a Kubernetes Secret, from the machine's role, or from the user's
own environment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

_FAILOVER = "org.apache.hadoop.hdfs.server.namenode.ha.ConfiguredFailoverProxyProvider"
_S3A = "org.apache.hadoop.fs.s3a"
#: The files of a Hadoop configuration. Each client reads the first, those of HDFS the second too.
_FILES = ("core-site.xml", "hdfs-site.xml")


def settle(data: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Writes the folder of Hadoop's configuration, where one is needed; returns the variables."""
    variables = variables_of(data)
    if not ("hdfs" in data or "kerberos" in data):
        return variables  # a configuration that the image has stays the one that is read
    folder.mkdir(parents=True, exist_ok=True)
    text = _xml(hadoop_properties(data))
    for name in _FILES:
        (folder / name).write_text(text, encoding="utf-8")
    variables["HADOOP_CONF_DIR"] = str(folder)
    if "KRB5_CLIENT_KTNAME" in variables:
        variables["KRB5CCNAME"] = f"FILE:{folder}/tickets"
    return variables


def spark_properties(launch: Mapping[str, Any]) -> dict[str, str]:
    """Spark's own properties: they also reach executors on machines without the folder."""
    data = launch.get("data") or {}
    found = {f"spark.hadoop.{key}": value for key, value in hadoop_properties(data).items()}
    kerberos = data.get("kerberos") or {}
    if "keytab" in kerberos:
        found["spark.kerberos.principal"] = kerberos["principal"]
        found["spark.kerberos.keytab"] = kerberos["keytab"]
    return found


def hadoop_properties(data: Mapping[str, Any]) -> dict[str, str]:
    """The same in Hadoop's names."""
    return {
        **_of_services(data.get("hdfs") or {}),
        **_of_kerberos(data.get("kerberos")),
        **_of_s3(data.get("s3")),
    }


def variables_of(data: Mapping[str, Any]) -> dict[str, str]:
    """What is told by variables alone: to containers that nothing is mounted into, all of it."""
    found: dict[str, str] = {}
    if "user" in data:
        found["HADOOP_USER_NAME"] = data["user"]
    kerberos = data.get("kerberos") or {}
    if "keytab" in kerberos:
        # MIT's library gets tickets by it as soon as a program asks for them.
        found["KRB5_CLIENT_KTNAME"] = kerberos["keytab"]
    if "config" in kerberos:
        found["KRB5_CONFIG"] = kerberos["config"]
        found["JAVA_TOOL_OPTIONS"] = f"-Djava.security.krb5.conf={kerberos['config']}"
    s3 = data.get("s3") or {}
    options: dict[str, Any] = {}
    if "endpoint" in s3:
        found["AWS_ENDPOINT_URL_S3"] = options["endpoint_url"] = s3["endpoint"]
    if "region" in s3:
        found["AWS_REGION"] = found["AWS_DEFAULT_REGION"] = s3["region"]
        options["client_kwargs"] = {"region_name": s3["region"]}
    if s3.get("path_style"):
        options["config_kwargs"] = {"s3": {"addressing_style": "path"}}
    if options:
        found["FSSPEC_S3"] = json.dumps(options)
    return found


def _of_services(services: Mapping[str, Any]) -> dict[str, str]:
    if not services:
        return {}
    found = {"dfs.nameservices": ",".join(services)}
    for name, addresses in services.items():
        numbers = [f"nn{number}" for number in range(1, len(addresses) + 1)]
        found[f"dfs.ha.namenodes.{name}"] = ",".join(numbers)
        found[f"dfs.client.failover.proxy.provider.{name}"] = _FAILOVER
        for number, address in zip(numbers, addresses, strict=True):
            found[f"dfs.namenode.rpc-address.{name}.{number}"] = address
    return found


def _of_kerberos(kerberos: Mapping[str, str] | None) -> dict[str, str]:
    if not kerberos:
        return {}
    return {
        "hadoop.security.authentication": "kerberos",
        "dfs.namenode.kerberos.principal": kerberos["servers"],
    }


def _of_s3(s3: Mapping[str, Any] | None) -> dict[str, str]:
    """Those of hadoop-aws, under the scheme that everybody else uses, too."""
    if s3 is None:
        return {}
    found = {
        "fs.s3.impl": f"{_S3A}.S3AFileSystem",
        "fs.AbstractFileSystem.s3.impl": f"{_S3A}.S3A",
    }
    if "endpoint" in s3:
        found["fs.s3a.endpoint"] = s3["endpoint"]
        secure = not s3["endpoint"].startswith("http://")
        found["fs.s3a.connection.ssl.enabled"] = str(secure).lower()
    if "region" in s3:
        found["fs.s3a.endpoint.region"] = s3["region"]
    if s3.get("path_style"):
        found["fs.s3a.path.style.access"] = "true"
    return found


def _xml(properties: Mapping[str, str]) -> str:
    lines = [
        f"  <property><name>{escape(key)}</name><value>{escape(value)}</value></property>\n"
        for key, value in properties.items()
    ]
    return "<configuration>\n" + "".join(lines) + "</configuration>\n"
