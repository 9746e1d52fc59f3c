"""What is told of Auto Scaling groups and of their autoscaler."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from piecework.machines.check.finding import Severity
from piecework.machines.check.survey import GroupSeen, read_flags
from piecework.machines.groups import TEMPLATE
from tests.unit.machines.check.clusters import (
    GROUPS,
    FakeCloud,
    autoscaler,
    check,
    cluster_for,
    hurting,
    seen_for,
)

AS_RENDERED = seen_for(GROUPS)["jobs-large"]
UNNEEDED = f"{TEMPLATE}autoscaling-options/scaledownunneededtime"


def told_of(**changes: Any) -> list[tuple[Severity, str]]:
    """What is told where one group is otherwise than rendered."""
    found = check(GROUPS, cluster=cluster_for(GROUPS), cloud=FakeCloud(seen_for(GROUPS, **changes)))
    assert {each.pool for each in hurting(found)} <= {"groups"}
    return [(each.severity, each.what) for each in hurting(found)]


def without(*parts: str) -> dict[str, str]:
    return {k: v for k, v in AS_RENDERED.tags.items() if not any(part in k for part in parts)}


def user_data(*lines: str) -> str:
    return "\n".join(lines)


LABEL = "--node-labels=piecework.dev/pool=groups"
TAINT = "--register-with-taints=piecework.dev/pool=groups:NoSchedule"


@pytest.mark.parametrize(
    ("changes", "severity", "told"),
    [
        ({"tags": without("cluster-autoscaler/production")}, Severity.ERROR, "does not find it"),
        ({"tags": without("label/piecework.dev/pool")}, Severity.ERROR, "buys nothing"),
        ({"tags": without("taint/piecework.dev/pool")}, Severity.ERROR, "buys nothing"),
        ({"tags": without("unneededtime")}, Severity.WARNING, "idle machines for 10m"),
        ({"min_size": 2}, Severity.WARNING, "at least 2 machines"),
        ({"max_size": 3}, Severity.WARNING, "at most 3 machines, and the pool says 10"),
        ({"instance_types": ("m6a.large", "m5.large")}, Severity.ERROR, "mixes the types"),
        ({"instance_types": ("m5.large",)}, Severity.ERROR, "buys m5.large, and the pool says"),
        ({"spot": True}, Severity.ERROR, "buys spot capacity, and the pool says on-demand"),
        ({"rebalances_capacity": True}, Severity.WARNING, "replaces spot machines"),
        ({"protected": False}, Severity.WARNING, "protect new machines from scale-in"),
        ({"zones": ("a", "b")}, Severity.WARNING, "has 2 zones (a, b)"),
        ({"user_data": ""}, Severity.ERROR, "neither the label nor the taint"),
        ({"user_data": LABEL}, Severity.ERROR, "the label of the pool without its taint"),
        ({"user_data": TAINT}, Severity.ERROR, "the taint of the pool without its label"),
    ],
)
def test_what_would_hurt_is_told(changes: dict[str, Any], severity: Severity, told: str) -> None:
    ((found, what),) = told_of(**changes)
    assert found is severity
    assert told in what


def test_balancing_over_zones_hurts_where_there_are_zones() -> None:
    found = told_of(zones=("a", "b"), suspended=frozenset())
    assert [severity for severity, _ in found] == [Severity.ERROR, Severity.WARNING]
    assert "ends running jobs" in found[0][1]
    assert told_of(suspended=frozenset()) == []


@pytest.mark.parametrize(
    "text",
    [
        user_data(LABEL, TAINT),
        user_data(TAINT, LABEL + ",other=1"),
        user_data(
            '[settings.kubernetes.node-labels]\n"piecework.dev/pool" = "groups"',
            '[settings.kubernetes.node-taints]\n"piecework.dev/pool" = ["groups:NoSchedule"]',
        ),
    ],
)
def test_user_data_is_understood_as_people_write_it(text: str) -> None:
    assert told_of(user_data=text) == []


def test_the_label_of_another_pool_is_not_ours() -> None:
    text = user_data(LABEL + "-2", TAINT)
    ((_, what),) = told_of(user_data=text)
    assert "without its label" in what


def test_user_data_that_cannot_be_read_is_a_note() -> None:
    assert told_of(user_data=None) == []


def test_a_group_that_is_not_there_is_told() -> None:
    cloud = FakeCloud({"jobs-spot": seen_for(GROUPS)["jobs-spot"]})
    (found,) = hurting(check(GROUPS, cluster=cluster_for(GROUPS), cloud=cloud))
    assert "there is no Auto Scaling group jobs-large in us-east-1" in found.what


def test_a_cloud_that_does_not_answer_is_a_gap() -> None:
    cloud = FakeCloud({}, error="no credentials")
    found = check(GROUPS, cluster=cluster_for(GROUPS), cloud=cloud)
    assert hurting(found) == []
    assert any("no credentials" in each.what for each in found)


def test_how_long_machines_idle_is_said_with_where_that_comes_from() -> None:
    ((_, what),) = told_of(tags={**AS_RENDERED.tags, UNNEEDED: "20m"})
    assert "for 20m (by its tag); each costs $0.0864/h" in what
    patient = GROUPS.model_copy(update={"keep": timedelta(minutes=30)})
    cloud = FakeCloud(seen_for(patient))
    assert hurting(check(patient, cluster=cluster_for(patient), cloud=cloud)) == []


# ------------------------------------------------------------------ the autoscaler


def told_of_flags(*flags: str, groups: dict[str, GroupSeen] | None = None) -> list[str]:
    cluster = cluster_for(GROUPS)
    cluster.remove("Deployment", "cluster-autoscaler")
    cluster.objects.append(autoscaler(*flags))
    cloud = FakeCloud(seen_for(GROUPS) if groups is None else groups)
    return [each.what for each in hurting(check(GROUPS, cluster=cluster, cloud=cloud))]


def test_the_autoscalers_defaults_hurt() -> None:
    told = " ".join(told_of_flags("--cloud-provider=aws"))
    for flag in ("scale-down-delay-after-add=10m", "unremovable-node-recheck-timeout=5m"):
        assert f"--{flag}" in told
    assert "a pod with a scratch folder" in told
    assert "does not know that spot" in told


def test_an_autoscaler_of_another_cluster_is_told() -> None:
    discovery = "asg:tag=k8s.io/cluster-autoscaler/enabled,k8s.io/cluster-autoscaler/other"
    told = " ".join(told_of_flags(f"--node-group-auto-discovery={discovery}"))
    assert "looks for other groups than those of cluster production" in told


def test_a_flag_for_all_groups_counts_where_a_group_has_no_tag() -> None:
    groups = seen_for(GROUPS, tags=without("unneededtime"))
    rendered = [f"--{name}={value}" for name, value in cluster_flags().items()]
    told = told_of_flags(*rendered, "--scale-down-unneeded-time=15m", groups=groups)
    assert "for 15m (by the autoscaler's flag)" in told[0]
    assert told_of_flags(*rendered, "--scale-down-unneeded-time=5s", groups=groups) == []


def cluster_flags() -> dict[str, str]:
    deployment = cluster_for(GROUPS).of("Deployment", "cluster-autoscaler")
    return read_flags(deployment["spec"]["template"]["spec"]["containers"][0]["command"])


def test_priorities_that_nobody_wrote_are_missed() -> None:
    cluster = cluster_for(GROUPS)
    cluster.remove("ConfigMap", "cluster-autoscaler-priority-expander")
    (found,) = hurting(check(GROUPS, cluster=cluster, cloud=FakeCloud(seen_for(GROUPS))))
    assert "ranks groups by the ConfigMap" in found.what


def test_an_autoscaler_that_runs_elsewhere_is_a_note() -> None:
    cluster = cluster_for(GROUPS)
    cluster.remove("Deployment", "cluster-autoscaler")
    assert hurting(check(GROUPS, cluster=cluster, cloud=FakeCloud(seen_for(GROUPS)))) == []


def test_flags_are_read_as_people_write_them() -> None:
    assert read_flags(["./cluster-autoscaler", "--a=1", "--b", "2", "-c", "--d"]) == {
        "a": "1",
        "b": "2",
        "c": "true",
        "d": "true",
    }
