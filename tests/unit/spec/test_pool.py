from __future__ import annotations

from datetime import timedelta
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


KARPENTER = """
[pools.burst]
provider = "karpenter"
types = ["m6a.large", "m6a.xlarge"]
kubeconfig = "cluster.kubeconfig"
image = "registry.example.com/python:3.11"
max_usd_per_hour = 12.5
start_timeout = "20m"
reserve = {cpu = "500m"}
node_class = {group = "karpenter.kwok.sh", kind = "KWOKNodeClass"}
spot_prices = {"m6a.large" = 0.03}
"""

GROUPS = """
[pools.groups]
provider = "asg"
region = "eu-west-1"
cluster = "jobs"
endpoint = "https://aws.example.com"
groups = [
  {name = "jobs-large", type = "m6a.large", max = 20},
  {name = "jobs-large-spot", type = "m6a.large", spot = true},
  {name = "jobs-xlarge-spot", type = "m6a.xlarge", spot = true},
]
"""


def test_a_karpenter_pool_says_where_its_cluster_is(tmp_path: Path) -> None:
    burst = load_pools(settings_of(tmp_path, KARPENTER))["burst"]
    assert burst.on_cluster
    assert (burst.namespace, burst.context) == ("piecework", None)
    assert burst.kubeconfig == tmp_path / "cluster.kubeconfig"
    assert burst.start_timeout == timedelta(minutes=20)
    assert (burst.reserve.cpu, burst.reserve.memory) == (Decimal("0.5"), None)
    assert burst.node_class.name == "default"
    assert burst.allowed_types() == frozenset({"m6a.large", "m6a.xlarge"})


def test_a_pool_of_groups_has_the_types_of_its_groups(tmp_path: Path) -> None:
    pool = load_pools(settings_of(tmp_path, GROUPS))["groups"]
    assert [group.max for group in pool.groups] == [20, 10, 10]
    assert pool.allowed_types("never") == frozenset({"m6a.large"})
    assert pool.allowed_types("only") == frozenset({"m6a.large", "m6a.xlarge"})
    assert [group.name for group in pool.groups_for("prefer")] == [
        "jobs-large",
        "jobs-large-spot",
        "jobs-xlarge-spot",
    ]


@pytest.mark.parametrize(
    ("toml", "field", "message"),
    [
        ('provider = "local"\nnamespace = "x"', "namespace", "karpenter or asg, and this one's is"),
        ('provider = "karpenter"\ncpus = 2', "cpus", "for pools of provider local"),
        ('provider = "karpenter"\ngroups = []', "groups", "for pools of provider asg"),
        ('provider = "asg"', "groups", "is missing; list the groups"),
        (
            'provider = "asg"\ngroups = [{name = "a", type = "t"}, {name = "a", type = "t"}]',
            "groups[1].name",
            "found 'a' twice",
        ),
        ('provider = "asg"\ngroups = ["a"]', "groups[0]", "found the text 'a'"),
        ('provider = "karpenter"\nnamespace = "A_b"', "namespace", "lower case"),
        ('provider = "karpenter"\nkubeconfig = 3', "kubeconfig", "the path of a file"),
        ('provider = "karpenter"\nmax_usd_per_hour = 0', "max_usd_per_hour", "more than 0"),
        (
            'provider = "asg"\nendpoint = "aws"\ngroups = [{name = "a", type = "m6a.large"}]',
            "endpoint",
            "an address is right here",
        ),
    ],
)
def test_what_does_not_go_with_the_provider_is_told(
    tmp_path: Path, toml: str, field: str, message: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        load_pools(settings_of(tmp_path, f"[pools.a]\n{toml}\n"))
    (line,) = str(raised.value).splitlines()
    assert line.startswith(f"{tmp_path}/piecework.toml: pools.a.{field}: ")
    assert message in line


def test_a_pool_of_a_cluster_has_a_name_that_kubernetes_takes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"pools\.Big_Ones\.name: found 'Big_Ones'; on a cluster"):
        load_pools(settings_of(tmp_path, '[pools.Big_Ones]\nprovider = "karpenter"\n'))
