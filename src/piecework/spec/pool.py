"""Machine pools: where machines come from, as configured in piecework.toml under [pools.NAME].

What enters are the tables as written; what leaves are checked pools. A field that a pool's provider
has no use for is refused: a limit that nobody enforces would cost money.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from pydantic_core import InitErrorDetails

from piecework.config import Settings
from piecework.errors import ConfigError, show
from piecework.spec.machine import InstanceTypeField
from piecework.spec.model import (
    CpuField,
    DurationField,
    MemoryField,
    Model,
    Name,
    PlainText,
    Truth,
    Whole,
)
from piecework.spec.tables import read_tables
from piecework.spec.wording import describe, fault, suggest

#: Where the pods of a pool go that names no namespace.
NAMESPACE = "piecework"

_OBJECT = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def _check_object(name: str) -> str:
    if not _OBJECT.fullmatch(name):
        raise ValueError(
            f"found {show(name)}; an object of Kubernetes has a name of up to 63 lower case "
            "letters, digits and '-', which begins and ends with a letter or digit"
        )
    return name


def _check_file(value: Any) -> Any:
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise ValueError(f"found {describe(value)}; the path of a file is right here")
    try:
        return Path(value).expanduser()
    except RuntimeError:  # ~somebody who is not known here
        raise ValueError(f"found {show(value)}, whose home folder is not known") from None


def _check_url(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError(f"found {show(value)}; an address is right here, like https://host:5000")
    return value


Price = Annotated[Decimal, Field(ge=0, le=1_000_000, allow_inf_nan=False)]
#: The name of an object of Kubernetes.
ObjectName = Annotated[str, AfterValidator(_check_object)]
FileField = Annotated[
    Path,
    BeforeValidator(_check_file),
    WithJsonSchema({"type": "string", "examples": ["~/.kube/config"]}),
]
NonEmpty = Annotated[PlainText, Field(min_length=1)]
Address = Annotated[
    NonEmpty,
    AfterValidator(_check_url),
    WithJsonSchema({"type": "string", "examples": ["https://host:5000"]}),
]


class NodeClass(Model):
    """The object that tells Karpenter how machines are made: image, network, disks."""

    group: NonEmpty = Field("karpenter.k8s.aws", description="The API group of the object.")
    kind: NonEmpty = Field("EC2NodeClass", description="Its kind.")
    name: NonEmpty = Field("default", description="Its name.")


class Group(Model):
    """An Auto Scaling group: machines of one type, of one zone, scaled from zero."""

    name: NonEmpty = Field(description="The group's name in the cloud.")
    type: InstanceTypeField = Field(description="The instance type of all its machines.")
    spot: Truth = Field(False, description="Whether its machines are spot capacity.")
    max: Whole = Field(10, ge=1, le=1000, description="The most machines it may have.")


class Reserve(Model):
    """What system and daemons take of each machine, instead of the shipped defaults."""

    cpu: CpuField | None = Field(None, description="CPUs withheld from jobs.")
    memory: MemoryField | None = Field(None, description="Memory withheld from jobs.")


class Pool(Model):
    """A kind of machine that can be bought: provider, types, limits, prices."""

    name: Name = Field(description="The pool's name: the table's, in piecework.toml.")
    provider: Literal["local", "karpenter", "asg"] = Field(
        "local",
        description="Who the machines come from: this host, Karpenter, or Auto Scaling groups.",
    )
    types: tuple[InstanceTypeField, ...] | None = Field(
        None, description="local, karpenter: instance types that may be bought."
    )
    max_machines: Whole | None = Field(
        None, ge=1, description="How many machines there may be at a time."
    )
    max_usd_per_hour: Price | None = Field(
        None, gt=0, description="Clusters: what all machines together may cost per hour."
    )
    prices: dict[InstanceTypeField, Price] | None = Field(
        None, description="USD per hour by instance type, instead of the shipped snapshot."
    )
    spot_prices: dict[InstanceTypeField, Price] | None = Field(
        None, description="USD per hour of spot capacity by instance type; there is no snapshot."
    )
    cpus: CpuField | None = Field(None, description="local: CPUs of this host that jobs may have.")
    memory: MemoryField | None = Field(None, description="local: memory that jobs may have.")
    keep: DurationField | None = Field(
        None, description="How long an idle machine is kept for the next run beyond its minimum."
    )
    kubeconfig: FileField | None = Field(
        None, description="Clusters: the file that says where the cluster is; else the usual one."
    )
    context: NonEmpty | None = Field(
        None, description="Clusters: the context of that file; else its current one."
    )
    namespace: ObjectName = Field(NAMESPACE, description="Clusters: where the pods go.")
    other_namespaces: tuple[ObjectName, ...] = Field(
        (),
        max_length=1000,
        description="Clusters: namespaces where others make pods for this pool (`on_machine`).",
    )
    image: NonEmpty | None = Field(
        None, description="Clusters: the image of Python, Spark and Dask jobs that name none."
    )
    service_account: ObjectName | None = Field(
        None, description="Clusters: the service account of the pods; no token is mounted."
    )
    queue: ObjectName | None = Field(
        None, description="Clusters: Kueue's local queue, where Kueue is installed."
    )
    spark_operator: Truth = Field(
        False,
        description="Clusters: whether Kubeflow's Spark operator looks after the namespace.",
    )
    start_timeout: DurationField = Field(
        timedelta(minutes=15),
        description="Clusters: how long an admitted run may wait for its machine.",
    )
    pull_timeout: DurationField = Field(
        timedelta(minutes=5),
        description="Clusters: how long pulling the image may fail before the attempt ends.",
    )
    lost_after: DurationField = Field(
        timedelta(minutes=2),
        description="Clusters: how long a machine may not answer before it counts as lost.",
    )
    join_timeout: DurationField = Field(
        timedelta(minutes=10),
        description="Clusters: how long a bought machine may take to join the cluster.",
    )
    reserve: Reserve = Field(
        default_factory=Reserve,
        description="Clusters: what system and daemons take of each machine.",
    )
    node_class: NodeClass = Field(
        default_factory=NodeClass, description="karpenter: how its machines are made."
    )
    groups: tuple[Group, ...] = Field(
        (), max_length=100, description="asg: the Auto Scaling groups that machines come from."
    )
    region: NonEmpty | None = Field(None, description="asg: the cloud's region of the groups.")
    cluster: NonEmpty | None = Field(
        None, description="asg: the cluster's name in the tags by which groups are found."
    )
    endpoint: Address | None = Field(
        None, description="asg: the address of the cloud's API, where it is not the public one."
    )

    @classmethod
    def find_faults(cls, data: Mapping[str, Any]) -> Iterator[InitErrorDetails]:
        """What does not go with the provider, and what the provider needs."""
        provider = data.get("provider", "local")
        if provider not in _FIELDS:
            return
        for name in data:
            providers = [each for each, fields in _FIELDS.items() if name in fields]
            if name in cls.model_fields and provider not in providers:
                theirs = " or ".join(providers)
                message = f"is for pools of provider {theirs}, and this one's is {provider}"
                yield fault((name,), message, data[name], "key")
        if provider == "local":
            return
        own = data.get("name")
        if isinstance(own, str) and not _OBJECT.fullmatch(own):
            message = (
                f"found {show(own)}; on a cluster a pool's name has lower case letters, digits "
                "and '-' only"
            )
            yield fault(("name",), message, own)
        if provider == "asg":
            yield from _find_faults_of_groups(data.get("groups"))

    @property
    def on_cluster(self) -> bool:
        """Whether its attempts are pods of a Kubernetes cluster."""
        return self.provider != "local"

    def allowed_types(self, spot: str = "prefer") -> frozenset[str] | None:
        """The instance types that may be bought for a job's `spot`; None: any."""
        if self.provider == "asg":
            return frozenset(group.type for group in self.groups_for(spot))
        return None if self.types is None else frozenset(self.types)

    def groups_for(self, spot: str) -> tuple[Group, ...]:
        """The groups that a job may have machines of, by its `spot`: never, prefer, only."""
        refused = {"never": True, "only": False}.get(spot)
        return tuple(group for group in self.groups if group.spot is not refused)


_ANY = {"name", "provider", "max_machines", "prices", "spot_prices", "keep"}
_CLUSTER = {
    *_ANY,
    "max_usd_per_hour",
    "kubeconfig",
    "context",
    "namespace",
    "other_namespaces",
    "image",
    "service_account",
    "queue",
    "spark_operator",
    "start_timeout",
    "pull_timeout",
    "lost_after",
    "join_timeout",
    "reserve",
}
#: The fields that each provider has a use for.
_FIELDS = {
    "local": {*_ANY, "types", "cpus", "memory"},
    "karpenter": {*_CLUSTER, "types", "node_class"},
    "asg": {*_CLUSTER, "groups", "region", "cluster", "endpoint"},
}


def _find_faults_of_groups(groups: Any) -> Iterator[InitErrorDetails]:
    if groups in (None, [], ()):
        message = 'is missing; list the groups, like groups = [{name = "jobs", type = "m6a.large"}]'
        yield fault(("groups",), message, groups)
        return
    names = _names_of(groups)
    for index, name in enumerate(names):
        if name is not None and name in names[:index]:
            message = f"found {show(name)} twice; each group is listed once"
            yield fault(("groups", index, "name"), message, name)


def _names_of(groups: Any) -> list[Any]:
    if not isinstance(groups, Iterable):
        return []
    return [
        group.name if isinstance(group, Group) else _get_name(group) for group in list(groups)[:100]
    ]


def _get_name(group: Any) -> Any:
    name = group.get("name") if isinstance(group, Mapping) else None
    return name if isinstance(name, str) else None


def load_pools(settings: Settings) -> dict[str, Pool]:
    """The pools by name; always one named "local".

    A kubeconfig is found from the folder of the settings' file.
    Raises ConfigError with all that is wrong with them, a line each.
    """
    file = settings.file or "piecework.toml"
    found, wrong = read_tables(settings.pools, Pool, "pools", "local", file)
    pools = {"local": Pool(name="local")}
    pools |= {name: _resolve(pool, settings) for name, pool in found.items()}
    if not wrong and settings.pool not in pools:
        wrong.append(f"{file}: pool: found {show(settings.pool)}; {suggest(settings.pool, pools)}")
    if wrong:
        raise ConfigError("\n".join(wrong))
    return pools


def _resolve(pool: Pool, settings: Settings) -> Pool:
    """Processes that start elsewhere must find the same file."""
    if pool.kubeconfig is None or settings.file is None:
        return pool
    kubeconfig = settings.file.absolute().parent / pool.kubeconfig
    return pool.model_copy(update={"kubeconfig": kubeconfig})
