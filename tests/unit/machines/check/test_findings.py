"""What is told of a whole cluster, and that nothing is told where all is as rendered."""

from __future__ import annotations

from datetime import timedelta

import pytest

from piecework.kube.client import Object
from piecework.machines.check.finding import Severity
from piecework.plan import labels
from tests.unit.machines.check.clusters import (
    BURST,
    GROUPS,
    FakeCloud,
    FakeCluster,
    check,
    cluster_for,
    hurting,
    lease,
    node,
    seen_for,
)


def test_nothing_hurts_where_all_is_as_rendered() -> None:
    cluster = cluster_for(BURST, GROUPS)
    cluster.objects += [node("one"), node("two", label="groups", taint="groups")]
    found = check(BURST, GROUPS, cluster=cluster, cloud=FakeCloud(seen_for(GROUPS)))
    assert hurting(found) == []


def test_on_an_empty_cluster_everything_is_missing_and_the_worst_is_told_first() -> None:
    found = check(BURST, cluster=FakeCluster())
    told = " ".join(each.what for each in found)
    for missing in ("namespace piecework", "priority class", "keeper", "NodePool burst"):
        assert missing in told
    severities = [each.severity for each in found]
    assert severities == sorted(severities, reverse=True)
    assert all(each.fix for each in found)


@pytest.mark.parametrize(
    ("kind", "name", "told"),
    [
        ("Namespace", "piecework", "there is no namespace piecework"),
        ("PriorityClass", "piecework", "every pod will be refused"),
        ("Service", "piecework", "machines of a job with `count` won't find each other"),
        ("Lease", "piecework-keeper", "no keeper has ever run"),
        ("NodePool", "burst", "there is no NodePool burst"),
        ("MutatingAdmissionPolicy", "piecework-pods", "admission policies are not there"),
    ],
)
def test_what_is_missing_is_told_with_what_follows(kind: str, name: str, told: str) -> None:
    cluster = cluster_for(BURST)
    cluster.remove(kind, name)
    (found,) = hurting(check(BURST, cluster=cluster))
    assert told in found.what


def test_a_keeper_that_died_is_no_keeper() -> None:
    cluster = cluster_for(BURST)
    cluster.remove("Lease", "piecework-keeper")
    cluster.objects.append(lease(timedelta(minutes=5)))
    (found,) = hurting(check(BURST, cluster=cluster))
    assert "not renewed since 2026-11-24 11:55 UTC: nothing is admitted" in found.what.replace(
        ")", ""
    )
    cluster.of("Lease", "piecework-keeper")["spec"]["renewTime"] = None
    (found,) = hurting(check(BURST, cluster=cluster))
    assert "given up" in found.what


def test_a_priority_class_that_preempts_is_told() -> None:
    cluster = cluster_for(BURST)
    cluster.of("PriorityClass", "piecework")["preemptionPolicy"] = "PreemptLowerPriority"
    (found,) = hurting(check(BURST, cluster=cluster))
    assert found.severity is Severity.WARNING


def test_a_service_of_gangs_that_hides_pods_until_they_are_ready_is_told() -> None:
    cluster = cluster_for(BURST)
    cluster.of("Service", "piecework")["spec"]["publishNotReadyAddresses"] = False
    (found,) = hurting(check(BURST, cluster=cluster))
    assert "is not as rendered" in found.what


def test_rights_that_are_missing_are_named() -> None:
    cluster = cluster_for(BURST)
    cluster.forbidden = {("create", "pods"), ("delete", "nodeclaims")}
    mine, keepers, drivers = hurting(check(BURST, cluster=cluster))
    assert mine.what.startswith("you may not: create pods in piecework")
    assert "may not: delete nodeclaims.karpenter.sh in the whole cluster" in keepers.what
    assert "can't make their executors" in drivers.what
    assert drivers.severity is Severity.WARNING


def test_without_the_right_to_ask_kubelets_the_use_of_containers_stays_unknown() -> None:
    cluster = cluster_for(BURST)
    cluster.forbidden = {("create", "serviceaccounts"), ("get", "nodes")}
    found = [each for each in hurting(check(BURST, cluster=cluster)) if "kubelets" in each.what]
    assert [each.severity for each in found] == [Severity.WARNING]
    assert "create serviceaccounts/token of piecework-meter in piecework" in found[0].what
    assert "get nodes/metrics in the whole cluster" in found[0].what


def test_the_keepers_rights_are_asked_of_its_service_account_where_it_has_one() -> None:
    cluster = cluster_for(BURST)
    check(BURST, cluster=cluster)
    users = {each["user"] for each in cluster.asked if "user" in each}
    driver = "system:serviceaccount:piecework:piecework-driver"
    accounts = [f"system:serviceaccount:piecework:piecework-{name}" for name in ("keeper", "meter")]
    assert users == {*accounts, driver}
    assert {"subresource": "log"}.items() <= next(
        each["resourceAttributes"].items()
        for each in cluster.asked
        if "subresource" in each["resourceAttributes"]
    )
    cluster.remove("ServiceAccount", "piecework-keeper")
    cluster.asked.clear()
    check(BURST, cluster=cluster)
    assert {each["user"] for each in cluster.asked if "user" in each} == {driver}


def test_clusters_that_know_no_policies_do_without() -> None:
    cluster = cluster_for(BURST)
    cluster.unknown = {"MutatingAdmissionPolicy"}
    assert hurting(check(BURST, cluster=cluster)) == []


@pytest.mark.parametrize("kind", ["Node", "NodePool", "Lease", "SubjectAccessReview", "Namespace"])
def test_what_may_not_be_looked_at_is_a_gap_and_no_fault(kind: str) -> None:
    cluster = cluster_for(BURST)
    cluster.refused = {kind}
    found = check(BURST, cluster=cluster)
    assert hurting(found) == []
    assert any("could not be looked at" in each.what for each in found)


# ------------------------------------------------------------------ machines that are there


@pytest.mark.parametrize(
    ("label", "taint", "told"),
    [
        (None, "burst", "the taint piecework.dev/pool without the label"),
        ("burst", None, "the label piecework.dev/pool without the taint"),
        ("burst", "other", "the label of pool burst and the taint of pool other"),
    ],
)
def test_a_machine_with_half_of_the_two_is_told(
    label: str | None, taint: str | None, told: str
) -> None:
    cluster = cluster_for(BURST)
    cluster.objects.append(node("one", label=label, taint=taint))
    (found,) = hurting(check(BURST, cluster=cluster))
    assert (found.severity, found.pool) == (Severity.ERROR, "burst")
    assert told in found.what


def test_others_machines_are_others_business() -> None:
    cluster = cluster_for(BURST)
    cluster.objects += [node("a", label=None, taint=None), node("b", label="x", taint=None)]
    assert hurting(check(BURST, cluster=cluster)) == []


def pod(name: str, **metadata: object) -> Object:
    return {
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", **metadata},
        "spec": {"nodeName": "one"},
    }


def test_whoever_shares_a_jobs_machine_is_named() -> None:
    cluster = cluster_for(BURST)
    daemon = [{"kind": "DaemonSet", "name": "d"}]
    cluster.objects += [
        node("one"),
        pod("job", labels={labels.RUN: "r"}),
        pod("daemon", ownerReferences=daemon),
        pod("guest"),
    ]
    (found,) = hurting(check(BURST, cluster=cluster))
    assert "pod default/guest runs on machine one" in found.what


# ------------------------------------------------------------------ prices


def test_prices_that_nobody_knows_are_told() -> None:
    prices = {"m6a.large": "0.1"}
    pool = BURST.model_validate({**BURST.model_dump(exclude_unset=True), "prices": prices})
    (found,) = hurting(check(pool, cluster=cluster_for(pool)))
    assert "the price of c6a.large is not known" in found.what
    notes = [each for each in check(pool, cluster=cluster_for(pool)) if not each.severity]
    assert any("the spot price of c6a.large, m6a.large" in each.what for each in notes)
