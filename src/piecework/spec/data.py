"""How jobs reach their data, whatever their engine: piecework.toml's table [data].

What enters is the table as written; what leaves is the checked section, and the part of it that
the launcher is told (piecework.entrypoint.data says what becomes of it). Credentials are not among
it: on a cluster they come from a Secret that is only named here, or from the machine's role; on
one computer from the user's own environment.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field, StringConstraints, ValidationError
from pydantic_core import InitErrorDetails

from piecework.config import Settings
from piecework.errors import ConfigError, show
from piecework.spec.model import Model, Truth, check_plain
from piecework.spec.pool import ObjectName
from piecework.spec.tables import tell_faults
from piecework.spec.wording import fault

#: Where the files of Kerberos are in a pod: the keytab, and the configuration krb5.conf.
KEYTAB_FOLDER, KEYTAB = "/piecework/keytab", "keytab"
KERBEROS_FOLDER, KERBEROS_CONFIG = "/piecework/krb5", "krb5.conf"

_HOST_NAME = r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?"
_HOST_AND_PORT = re.compile(rf"(?P<host>{_HOST_NAME}):(?P<port>[0-9]{{1,5}})")
_NAME = r"[A-Za-z0-9._$-]+"
_LAST_PORT = 65_535


def _check_namenode(value: str) -> str:
    check_plain(value)
    found = _HOST_AND_PORT.fullmatch(value)
    if found is None or not 0 < int(found["port"]) <= _LAST_PORT:
        raise ValueError(
            f"found {show(value)}; a NameNode is written as HOST:PORT, like nn1.example.com:8020"
        )
    return value


def _matching(pattern: str, wanted: str) -> AfterValidator:
    """A printable word of that pattern; `wanted` says what is right."""

    def check(value: str) -> str:
        check_plain(value)
        if not re.fullmatch(pattern, value):
            raise ValueError(f"found {show(value)}; {wanted}")
        return value

    return AfterValidator(check)


NameNode = Annotated[str, AfterValidator(_check_namenode)]
Principal = Annotated[
    str, _matching(rf"{_NAME}(/{_NAME})?@{_NAME}", "a principal is written like etl@EXAMPLE.COM")
]
User = Annotated[
    str,
    _matching(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", "the name of a user is right here, like etl"),
]
Endpoint = Annotated[
    str, _matching(r"https?://[!-~]+", "an address is right here, like https://host:9000")
]
Region = Annotated[str, _matching(r"[a-z0-9-]{1,63}", "a region is written like us-east-1")]
#: A name service stands where a host's name does: hdfs://lake/flights.
ServiceName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$")
]


class NameService(Model):
    """One HDFS by a name of its own, whichever of its NameNodes is the active one."""

    namenodes: tuple[NameNode, ...] = Field(
        max_length=10, description="Its NameNodes, as HOST:PORT of their RPC."
    )

    @classmethod
    def find_faults(cls, data: Mapping[str, Any]) -> Iterator[InitErrorDetails]:
        """Not a matter of the field's own: that would be told of wrong entries, too."""
        if data.get("namenodes") in ([], ()):
            message = 'is empty; name them, like ["nn1.example.com:8020", "nn2.example.com:8020"]'
            yield fault(("namenodes",), message, data["namenodes"])


class Kerberos(Model):
    """Who jobs are where HDFS asks for Kerberos. A process has one identity, for all of HDFS."""

    principal: Principal = Field(description="The principal of the jobs.")
    keytab_secret: ObjectName | None = Field(
        None, description="Clusters: the Secret whose key `keytab` is the principal's keytab."
    )
    config_map: ObjectName | None = Field(
        None, description="Clusters: the ConfigMap whose key `krb5.conf` names the realm's servers."
    )
    namenode_principal: Principal | None = Field(
        None, description="The NameNodes' principal; default: `nn/_HOST` of the jobs' realm."
    )

    @property
    def servers(self) -> str:
        """The principal of the NameNodes; Hadoop puts the host's name in for _HOST."""
        return self.namenode_principal or f"nn/_HOST@{self.principal.rpartition('@')[2]}"


class S3(Model):
    """Where S3 is. For AWS's own an empty table will do, by which Spark reads s3:// URLs."""

    endpoint: Endpoint | None = Field(None, description="Its address, where it is not that of AWS.")
    region: Region | None = Field(None, description="Its region.")
    path_style: Truth = Field(
        False, description="Whether buckets are parts of the path, not of the host's name."
    )


class Data(Model):
    """What is the same for all jobs about how they reach their data."""

    secret: ObjectName | None = Field(
        None,
        description=(
            "Clusters: the Secret whose keys become variables of the jobs, like "
            "AWS_ACCESS_KEY_ID; in the namespace of the pool."
        ),
    )
    user: User | None = Field(
        None, description="Who jobs are to an HDFS that does not ask for Kerberos."
    )
    hdfs: dict[ServiceName, NameService] = Field(
        default_factory=dict, description="HDFS by the names of its services."
    )
    kerberos: Kerberos | None = Field(None, description="Who jobs are to HDFS by Kerberos.")
    s3: S3 | None = Field(None, description="Where S3 is.")

    @classmethod
    def find_faults(cls, data: Mapping[str, Any]) -> Iterator[InitErrorDetails]:
        """Two answers to one question: who the jobs are."""
        if data.get("user") is not None and data.get("kerberos") is not None:
            message = "goes without kerberos only, whose principal says who the jobs are"
            yield fault(("user",), message, data["user"], "key")

    def order(self, *, on_cluster: bool) -> dict[str, Any]:
        """What the launcher is told, as JSON; empty where there is nothing to tell."""
        told: dict[str, Any] = {}
        if self.hdfs:
            told["hdfs"] = {name: list(each.namenodes) for name, each in self.hdfs.items()}
        if self.user:
            told["user"] = self.user
        if self.s3:
            told["s3"] = self.s3.model_dump(exclude_defaults=True)
        if self.kerberos:
            known = {"principal": self.kerberos.principal, "servers": self.kerberos.servers}
            if on_cluster and self.kerberos.keytab_secret:
                known["keytab"] = f"{KEYTAB_FOLDER}/{KEYTAB}"
            if on_cluster and self.kerberos.config_map:
                known["config"] = f"{KERBEROS_FOLDER}/{KERBEROS_CONFIG}"
            told["kerberos"] = known
        return told


def load_data(settings: Settings) -> Data:
    """The section, checked. Raises ConfigError with all that is wrong with it, a line each."""
    try:
        return Data.model_validate(dict(settings.access))
    except ValidationError as error:
        file = settings.file or "piecework.toml"
        raise ConfigError("\n".join(tell_faults(error, file, "data"))) from error
