"""Pods name Secrets and hold none."""

from __future__ import annotations

from piecework.plan.credentials import files_of, variables_from
from piecework.spec.data import Data

LAKE = Data.model_validate(
    {
        "secret": "lake-credentials",
        "kerberos": {
            "principal": "etl@EXAMPLE.COM",
            "keytab_secret": "etl-keytab",
            "config_map": "krb5",
        },
    }
)


def test_without_the_section_a_pod_names_nothing() -> None:
    assert variables_from(Data()) == []
    assert files_of(Data()) == ([], [])


def test_a_secret_becomes_variables() -> None:
    assert variables_from(LAKE) == [{"secretRef": {"name": "lake-credentials"}}]


def test_what_kerberos_needs_is_mounted_where_the_launcher_is_told() -> None:
    volumes, mounts = files_of(LAKE)
    assert volumes[0]["secret"]["secretName"] == "etl-keytab"
    assert volumes[1]["configMap"]["name"] == "krb5"
    places = [
        f"{mount['mountPath']}/{name}"
        for mount, name in zip(mounts, ("keytab", "krb5.conf"), strict=True)
    ]
    told = LAKE.order(on_cluster=True)["kerberos"]
    assert places == [told["keytab"], told["config"]]
    assert all(mount["readOnly"] for mount in mounts)


def test_what_is_there_without_a_keytab_is_not_mounted() -> None:
    data = Data.model_validate({"kerberos": {"principal": "etl@EXAMPLE.COM"}})
    assert files_of(data) == ([], [])
