"""What is told of a NodePool that somebody changed, or wrote himself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from piecework.kube.client import Object
from piecework.machines.check.finding import Severity
from tests.unit.machines.check.clusters import BURST, FakeCluster, check, cluster_for, hurting

Change = Callable[[Object], Any]


def node_pool(cluster: FakeCluster) -> Object:
    found: Object = cluster.of("NodePool", "burst")["spec"]
    return found


def requirement(spec: Object, key: str) -> Object:
    written = spec["template"]["spec"]["requirements"]
    found: Object = next(each for each in written if each["key"] == key)
    return found


def without_requirement(key: str) -> Change:
    def change(spec: Object) -> None:
        spec["template"]["spec"]["requirements"].remove(requirement(spec, key))

    return change


def disruption(**values: Any) -> Change:
    return lambda spec: spec["disruption"].update(values)


def machine(**values: Any) -> Change:
    return lambda spec: spec["template"]["spec"].update(values)


def capacity(*values: str) -> Change:
    return lambda spec: requirement(spec, "karpenter.sh/capacity-type").update(values=list(values))


def without_label(spec: Object) -> None:
    spec["template"]["metadata"].clear()


@pytest.mark.parametrize(
    ("change", "severity", "told"),
    [
        (without_requirement("piecework.dev/run"), Severity.ERROR, "no job will get a machine"),
        (without_label, Severity.ERROR, "no label piecework.dev/pool=burst"),
        (machine(taints=[]), Severity.ERROR, "no taint piecework.dev/pool=burst"),
        (machine(expireAfter="720h"), Severity.WARNING, "expire after 720h"),
        (machine(terminationGracePeriod="5m"), Severity.WARNING, "ends pods 5m after"),
        (capacity("spot"), Severity.WARNING, "spot capacity only"),
        (
            disruption(consolidationPolicy="WhenEmptyOrUnderutilized"),
            Severity.WARNING,
            "looks for cheaper machines",
        ),
        (disruption(consolidateAfter="0s"), Severity.WARNING, "after 0s, before they could be"),
        (disruption(consolidateAfter="30s"), Severity.WARNING, "after 30s, before they could be"),
        (lambda spec: spec.update(limits={"nodes": "4"}), Severity.WARNING, "limited to 4"),
        (
            lambda spec: requirement(spec, "node.kubernetes.io/instance-type").update(
                values=["m6a.large"]
            ),
            Severity.ERROR,
            "may not buy c6a.large",
        ),
    ],
)
def test_what_would_hurt_is_told(change: Change, severity: Severity, told: str) -> None:
    cluster = cluster_for(BURST)
    change(node_pool(cluster))
    (found,) = hurting(check(BURST, cluster=cluster))
    assert (found.severity, found.pool) == (severity, "burst")
    assert told in found.what


def test_the_default_budget_of_a_tenth_throttles_and_lets_machines_drift() -> None:
    cluster = cluster_for(BURST)
    del node_pool(cluster)["disruption"]["budgets"]
    throttled, drifting = hurting(check(BURST, cluster=cluster))
    assert "a disruption budget of 10% for empty machines" in throttled.what
    assert "configuration has drifted" in drifting.what


def test_of_several_budgets_the_least_is_told() -> None:
    cluster = cluster_for(BURST)
    budgets = [{"nodes": "50%"}, {"nodes": "3", "reasons": ["Empty"]}, {"nodes": "0"}]
    node_pool(cluster)["disruption"]["budgets"] = budgets
    (throttled,) = hurting(check(BURST, cluster=cluster))
    assert "a disruption budget of 0 " in throttled.what


def test_another_taint_keeps_the_jobs_off() -> None:
    cluster = cluster_for(BURST)
    taints = node_pool(cluster)["template"]["spec"]["taints"]
    taints.append({"key": "example.com/own", "value": "x", "effect": "NoSchedule"})
    (found,) = hurting(check(BURST, cluster=cluster))
    assert "example.com/own, which jobs do not tolerate" in found.what


def test_karpenter_says_why_it_is_not_ready() -> None:
    cluster = cluster_for(BURST)
    message = "node class default not found"
    ready = {"type": "Ready", "status": "False", "message": message}
    cluster.of("NodePool", "burst")["status"] = {"conditions": [ready]}
    (found,) = hurting(check(BURST, cluster=cluster))
    assert message in found.what


def test_a_cluster_without_karpenter_buys_nothing() -> None:
    cluster = cluster_for(BURST)
    cluster.unknown = {"NodePool"}
    (found,) = hurting(check(BURST, cluster=cluster))
    assert "Karpenter is not installed" in found.what
