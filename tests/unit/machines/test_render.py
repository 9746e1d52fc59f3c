"""What is applied for pools: machines for one run alone, rights for nobody who needs none."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from piecework.config import Settings
from piecework.errors import InputError
from piecework.machines import groups
from piecework.machines.render import Object, Rendering, render
from piecework.plan import labels
from piecework.plan.choose import plan_job
from piecework.plan.manifest import (
    PodRequest,
    metadata_of,
    pods_of,
)
from piecework.plan.placement import placement_of
from piecework.plan.price import load_price_book
from piecework.spec.job import Job
from piecework.spec.pool import Group, NodeClass, Pool

QUEUED = datetime(2026, 11, 24, tzinfo=UTC)
BURST = Pool(name="burst", provider="karpenter", types=("m6a.large", "c6a.large"))
GROUPS = Pool(
    name="groups",
    provider="asg",
    namespace="jobs",
    cluster="production",
    groups=(
        Group(name="dear", type="m6a.xlarge", max=3),
        Group(name="cheap", type="m6a.large"),
        Group(name="spot", type="m6a.xlarge", spot=True),
        Group(name="gpu", type="g4dn.xlarge"),
    ),
)


def of_kind(rendering: Rendering, kind: str, name: str | None = None) -> list[Object]:
    return [
        found
        for found in rendering.objects
        if found["kind"] == kind and name in (None, found["metadata"]["name"])
    ]


def only(rendering: Rendering, kind: str, name: str | None = None) -> Object:
    (found,) = of_kind(rendering, kind, name)
    return found


def test_a_pool_needs_a_cluster_to_be_rendered() -> None:
    with pytest.raises(InputError, match="there is no pool on a cluster"):
        render([Pool(name="local")])


def test_all_is_text_and_numbers_that_yaml_and_kubernetes_take() -> None:
    rendering = render([BURST, GROUPS], keeper_image="registry.example.com/keeper:1")
    for found in rendering.objects:
        assert yaml.safe_load(yaml.safe_dump(found)) == found
        assert {"apiVersion", "kind", "metadata"} <= found.keys()
    named = [
        (each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"])
        for each in rendering.objects
    ]
    assert len(set(named)) == len(named)


def test_what_others_need_is_applied_before_them() -> None:
    kinds = [each["kind"] for each in render([BURST, GROUPS], keeper_image="a").objects]
    for first, then in (
        ("Namespace", "ServiceAccount"),
        ("ServiceAccount", "Deployment"),
        ("Role", "RoleBinding"),
        ("MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding"),
    ):
        assert kinds.index(first) < kinds.index(then)


def test_the_service_of_gangs_selects_the_pods_that_name_it_before_they_are_ready() -> None:
    services = of_kind(render([BURST, GROUPS]), "Service")
    assert [each["metadata"]["namespace"] for each in services] == ["piecework", "jobs"]
    plan = plan_job(
        "a",
        Job.model_validate({"dask": "a.py", "image": "a:1", "machine": {"count": 2}}),
        pool=BURST,
        prices=load_price_book(BURST),
        settings=Settings(home=Path("/nowhere"), ledger_url="sqlite://"),
    )
    for service in services:
        assert service["spec"]["clusterIP"] == "None"
        assert service["spec"]["publishNotReadyAddresses"] is True
        for index in range(2):
            request = PodRequest(run="a.b.7f3a9c1b04d2", number=1, plan=plan, owner={})
            carried = metadata_of(request, BURST, QUEUED, index)["labels"]
            assert service["spec"]["selector"].items() <= carried.items()


# ------------------------------------------------------------------ Karpenter


def node_pool(pool: Pool = BURST) -> Object:
    found: Object = only(render([pool]), "NodePool")["spec"]
    return found


def requirements_of(pool: Pool = BURST) -> dict[str, Any]:
    written = node_pool(pool)["template"]["spec"]["requirements"]
    return {each["key"]: each.get("values", each["operator"]) for each in written}


def test_karpenter_stamps_each_machine_with_its_run() -> None:
    assert requirements_of()[labels.RUN] == "Exists"


def test_the_taint_and_the_label_of_a_machine_name_its_pool() -> None:
    template = node_pool()["template"]
    assert template["metadata"]["labels"] == {labels.POOL: "burst"}
    assert template["spec"]["taints"] == [
        {"key": labels.POOL, "value": "burst", "effect": "NoSchedule"}
    ]


def test_karpenter_leaves_machines_to_the_keeper_but_not_for_ever() -> None:
    disruption = node_pool()["disruption"]
    assert disruption["consolidationPolicy"] == "WhenEmpty"
    assert disruption["consolidateAfter"] == "600s"
    kept = BURST.model_copy(update={"keep": timedelta(hours=1)})
    assert node_pool(kept)["disruption"]["consolidateAfter"] == f"{2 * 3660}s"


def test_no_machine_expires_or_drifts_away_under_its_job() -> None:
    spec = node_pool()
    assert spec["template"]["spec"]["expireAfter"] == "Never"
    assert {"nodes": "100%", "reasons": ["Empty"]} in spec["disruption"]["budgets"]
    assert {"nodes": "0", "reasons": ["Drifted"]} in spec["disruption"]["budgets"]
    assert "terminationGracePeriod" not in spec["template"]["spec"]


def test_a_pool_has_its_types_or_any_of_both_architectures() -> None:
    assert requirements_of()["node.kubernetes.io/instance-type"] == ["m6a.large", "c6a.large"]
    anything = requirements_of(BURST.model_copy(update={"types": None}))
    assert "node.kubernetes.io/instance-type" not in anything
    assert anything["kubernetes.io/arch"] == ["amd64", "arm64"]
    assert anything["karpenter.sh/capacity-type"] == ["spot", "on-demand"]


def test_a_limit_on_machines_is_a_fence_for_karpenter_too() -> None:
    assert "limits" not in node_pool()
    limited = BURST.model_copy(update={"max_machines": 8})
    assert node_pool(limited)["limits"] == {"nodes": "16"}


def test_a_node_class_of_another_cloud_is_named() -> None:
    own = NodeClass(group="karpenter.kwok.sh", kind="KWOKNodeClass", name="testbed")
    pool = BURST.model_copy(update={"node_class": own})
    assert node_pool(pool)["template"]["spec"]["nodeClassRef"] == {
        "group": "karpenter.kwok.sh",
        "kind": "KWOKNodeClass",
        "name": "testbed",
    }


def plan_on(pool: Pool, **machine: Any) -> Any:
    pool = pool.model_copy(update={"image": "registry.example.com/python:3.11"})
    return plan_job(
        "clean",
        Job.model_validate({"python": "a.py", "machine": machine}),
        pool=pool,
        prices=load_price_book(pool),
        settings=Settings(home=Path("/nowhere"), ledger_url="sqlite://"),
    )


@given(st.sampled_from(["never", "prefer", "only"]), st.integers(1, 2))
def test_every_pod_fits_the_machines_that_are_rendered_for_it(spot: str, cpu: int) -> None:
    pod = placement_of(plan_on(BURST, spot=spot, cpu=cpu), BURST, "a.b.c")
    required = requirements_of()
    assert pod["nodeSelector"].keys() <= {*required, labels.POOL}
    (term,) = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    for each in term["matchExpressions"]:
        assert set(each["values"]) & set(required[each["key"]])
    (taint,) = node_pool()["template"]["spec"]["taints"]
    assert {**taint, "operator": "Equal"} in pod["tolerations"]


# ------------------------------------------------------------------ Auto Scaling groups


def group_named(name: str, pool: Pool = GROUPS) -> groups.GroupSettings:
    (found,) = [each for each in render([pool]).groups if each.name == name]
    return found


def test_a_group_is_found_by_the_autoscaler_of_its_cluster() -> None:
    tags = group_named("cheap").tags
    assert tags["k8s.io/cluster-autoscaler/enabled"] == "true"
    assert tags["k8s.io/cluster-autoscaler/production"] == "owned"
    discovery = render([GROUPS]).flags[1]
    assert discovery.endswith("k8s.io/cluster-autoscaler/production")
    assert render([GROUPS], cluster="other").flags[1].endswith("/other")
    assert "k8s.io/cluster-autoscaler/other" in render([GROUPS], cluster="other").groups[0].tags


@pytest.mark.parametrize("name", ["dear", "cheap", "spot", "gpu"])
def test_tags_and_user_data_tell_of_the_same_machine(name: str) -> None:
    group = group_named(name)
    template = "k8s.io/cluster-autoscaler/node-template"
    tagged = {
        key.removeprefix(f"{template}/label/"): value
        for key, value in group.tags.items()
        if key.startswith(f"{template}/label/")
    }
    written, tainted = group.kubelet_flags
    assert written == "--node-labels=" + ",".join(f"{k}={v}" for k, v in tagged.items())
    assert tagged[labels.POOL] == "groups"
    assert tainted == f"--register-with-taints={labels.POOL}=groups:NoSchedule"
    assert group.tags[f"{template}/taint/{labels.POOL}"] == "groups:NoSchedule"
    for flag in group.kubelet_flags:
        assert f"    - {flag}\n" in group.node_config


def test_the_user_data_is_what_amazons_images_read() -> None:
    parts = group_named("cheap").node_config.split("--piecework\n")
    headers, _, body = parts[1].partition("\n\n")
    assert headers == "Content-Type: application/node.eks.aws"
    config = yaml.safe_load(body.removesuffix("--piecework--\n"))
    assert config["kind"] == "NodeConfig"
    assert len(config["spec"]["kubelet"]["flags"]) == 2


def test_a_groups_machines_say_what_capacity_they_are() -> None:
    label = "k8s.io/cluster-autoscaler/node-template/label/piecework.dev/capacity"
    assert group_named("spot").tags[label] == "spot"
    assert group_named("cheap").tags[label] == "on-demand"


def test_gpus_are_known_before_there_is_a_machine() -> None:
    tag = "k8s.io/cluster-autoscaler/node-template/resources/nvidia.com/gpu"
    assert group_named("gpu").tags[tag] == "1"
    assert tag not in group_named("cheap").tags
    # Else the autoscaler buys another machine while the device plug-in starts.
    assert "k8s.amazonaws.com/accelerator=nvidia" in group_named("gpu").kubelet_flags[0]


def test_idle_machines_go_at_once_or_when_the_pool_says() -> None:
    tag = "k8s.io/cluster-autoscaler/node-template/autoscaling-options/scaledownunneededtime"
    assert group_named("cheap").tags[tag] == "2s"
    kept = GROUPS.model_copy(update={"keep": timedelta(days=1, hours=1)})
    assert group_named("cheap", kept).tags[tag] == "25h"  # Go knows no days


def test_nothing_but_the_autoscaler_removes_machines_of_a_group() -> None:
    wanted = group_named("dear").to_json()
    assert wanted["SuspendedProcesses"] == ["AZRebalance"]
    assert wanted["NewInstancesProtectedFromScaleIn"] is True
    assert (wanted["MinSize"], wanted["MaxSize"]) == (0, 3)


def test_groups_are_bought_from_spot_first_then_by_price() -> None:
    ranked = groups.rank([GROUPS])
    order = [name for priority in sorted(ranked, reverse=True) for name in ranked[priority]]
    assert order == ["spot", "cheap", "dear", "gpu"]
    written = only(render([GROUPS]), "ConfigMap", "cluster-autoscaler-priority-expander")
    priorities = yaml.safe_load(written["data"]["priorities"])
    assert [priorities[each] for each in sorted(priorities)][-1] == ["^spot$"]


def test_a_group_without_a_price_comes_last_of_its_kind() -> None:
    pool = GROUPS.model_copy(update={"prices": {"m6a.xlarge": Decimal(1)}})
    ranked = groups.rank([pool])
    order = [name for priority in sorted(ranked, reverse=True) for name in ranked[priority]]
    assert order[:2] == ["spot", "dear"]


def test_every_flag_says_what_its_default_would_cost() -> None:
    assert all(value and why for value, why in groups.FLAGS.values())


# ------------------------------------------------------------------ rights


def rules_of(rendering: Rendering, name: str) -> set[tuple[str, str]]:
    """Verb and resource, wherever they are granted to this account."""
    roles = [
        *of_kind(rendering, "Role", name),
        *(each for each in of_kind(rendering, "ClusterRole") if name in each["metadata"]["name"]),
    ]
    return {
        (verb, resource)
        for role in roles
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_nobody_may_read_secrets_or_do_anything_to_everything() -> None:
    rendering = render([BURST, GROUPS], keeper_image="a")
    for name in ("piecework-keeper", "piecework-submitter"):
        granted = rules_of(rendering, name)
        assert granted
        assert not {each for each in granted if "*" in each or each[1] == "secrets"}


def test_the_keeper_never_buys() -> None:
    granted = rules_of(render([BURST]), "piecework-keeper")
    assert ("delete", "nodeclaims") in granted
    bought = {"nodeclaims", "nodepools", "nodes", "pods"}
    assert not {each for each in granted if each[0] == "create" and each[1] in bought}


def test_what_kubelets_are_shown_is_good_for_measurements_alone() -> None:
    rendering = render([BURST, GROUPS])
    assert only(rendering, "ClusterRole", "piecework-meter-piecework")["rules"] == [
        {"apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"]}
    ]
    assert rules_of(rendering, "piecework-keeper") & {("create", "serviceaccounts/token")} == set()
    tokens = only(rendering, "Role", "piecework-meter")
    assert [rule["resourceNames"] for rule in tokens["rules"]] == [["piecework-meter"]]
    (subject,) = only(rendering, "RoleBinding", "piecework-meter")["subjects"]
    assert subject["name"] == "piecework-keeper"


def test_keepers_of_two_namespaces_have_cluster_roles_of_their_own() -> None:
    elsewhere = BURST.model_copy(update={"namespace": "analytics"})
    for kind in ("ClusterRole", "ClusterRoleBinding"):
        names = [
            found["metadata"]["name"]
            for pool in (BURST, elsewhere)
            for found in of_kind(render([pool]), kind)
        ]
        assert len(set(names)) == len(names) == 4


def test_outside_the_pools_namespaces_pods_are_only_looked_at() -> None:
    role = only(render([BURST, GROUPS]), "ClusterRole", "piecework-keeper-piecework")
    verbs = {
        verb for rule in role["rules"] if "pods" in rule["resources"] for verb in rule["verbs"]
    }
    assert verbs == {"get", "list", "watch"}


def test_each_namespace_of_a_pool_gets_its_roles() -> None:
    rendering = render([BURST, GROUPS])
    assert {each["metadata"]["name"] for each in of_kind(rendering, "Namespace")} == {
        "piecework",
        "jobs",
    }
    for kind in ("Role", "RoleBinding"):
        for name in ("piecework-keeper", "piecework-submitter"):
            found = {each["metadata"]["namespace"] for each in of_kind(rendering, kind, name)}
            assert found == {"piecework", "jobs"}
    for name in ("piecework-keeper", "piecework-submitter"):
        for binding in of_kind(rendering, "RoleBinding", name):
            assert binding["subjects"][0]["namespace"] == "piecework"


def test_who_may_do_what_with_spark_applications_is_said_by_the_pools_of_the_namespace() -> None:
    operated = BURST.model_copy(update={"spark_operator": True})
    rendering = render([operated, GROUPS])
    wanted = {
        "piecework-keeper": {"get", "list", "watch", "patch", "delete"},
        "piecework-submitter": {"get", "list", "watch", "create", "patch", "delete"},
    }
    for name, verbs in wanted.items():
        for role in of_kind(rendering, "Role", name):
            rules = [r for r in role["rules"] if r["apiGroups"] == ["sparkoperator.k8s.io"]]
            granted = {
                (verb, what) for r in rules for what in r["resources"] for verb in r["verbs"]
            }
            there = role["metadata"]["namespace"] == BURST.namespace
            assert granted == ({(verb, "sparkapplications") for verb in verbs} if there else set())


def test_a_spark_driver_makes_and_ends_pods_of_its_namespace_and_nothing_else() -> None:
    pool = BURST.model_copy(update={"service_account": "job"})
    rendering = render([pool, GROUPS])
    (rules,) = (each["rules"] for each in of_kind(rendering, "Role", "piecework-driver")[:1])
    granted = {
        (verb, name) for rule in rules for name in rule["resources"] for verb in rule["verbs"]
    }
    assert granted == {
        (verb, "pods") for verb in ("get", "list", "watch", "create", "delete", "deletecollection")
    }
    for binding in of_kind(rendering, "RoleBinding", "piecework-driver"):
        namespace = binding["metadata"]["namespace"]
        named = [(each["name"], each["namespace"]) for each in binding["subjects"]]
        own = [("job", namespace)] if namespace == pool.namespace else []
        assert named == [("piecework-driver", namespace), *own]


def test_where_others_make_pods_the_keeper_may_do_with_pods_what_it_must() -> None:
    pool = BURST.model_copy(update={"other_namespaces": ("analytics", "piecework")})
    rendering = render([pool])
    assert len(of_kind(rendering, "Namespace")) == 1
    (role,) = [
        each for each in of_kind(rendering, "Role") if each["metadata"]["namespace"] == "analytics"
    ]
    assert role["metadata"]["name"] == "piecework-keeper"
    assert {name for rule in role["rules"] for name in rule["resources"]} == {"pods", "pods/log"}


def test_namespaces_are_held_to_the_restricted_standard() -> None:
    namespace = only(render([BURST]), "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_jobs_preempt_nobody() -> None:
    priority = only(render([BURST]), "PriorityClass", "piecework")
    assert priority["preemptionPolicy"] == "Never"
    assert priority["globalDefault"] is False


def test_a_jobs_service_account_mounts_no_token() -> None:
    pool = BURST.model_copy(update={"service_account": "job"})
    other = pool.model_copy(update={"name": "other"})
    account = only(render([pool, other]), "ServiceAccount", "job")
    assert account["automountServiceAccountToken"] is False


def test_the_keeper_has_the_credentials_of_the_store_where_there_are_some() -> None:
    def container(secret: str | None) -> Object:
        rendering = render([BURST], keeper_image="keeper:1", secret=secret)
        found: Object = only(rendering, "Deployment")["spec"]["template"]["spec"]["containers"][0]
        return found

    assert "envFrom" not in container(None)
    found = {"secretRef": {"name": "lake-credentials", "optional": True}}
    assert container("lake-credentials")["envFrom"] == [found]


def test_the_keeper_is_two_of_which_one_acts_and_has_no_password_in_its_manifest() -> None:
    assert of_kind(render([BURST]), "Deployment") == []
    deployment = only(render([BURST], keeper_image="registry.example.com/keeper:1"), "Deployment")
    assert deployment["spec"]["replicas"] == 2
    spec = deployment["spec"]["template"]["spec"]
    assert spec["volumes"][0] == {
        "name": "settings",
        "secret": {"secretName": "piecework-settings"},
    }
    (container,) = spec["containers"]
    mounted = {each["name"] for each in container["volumeMounts"]}
    assert mounted == {each["name"] for each in spec["volumes"]}
    assert container["image"] == "registry.example.com/keeper:1"
    assert container["securityContext"]["allowPrivilegeEscalation"] is False


# ------------------------------------------------------------------ admission policies


def test_the_policies_concern_what_carries_the_pools_label() -> None:
    for policy in of_kind(render([BURST]), "MutatingAdmissionPolicy"):
        selector = policy["spec"]["matchConstraints"]["objectSelector"]
        assert selector == {"matchExpressions": [{"key": labels.POOL, "operator": "Exists"}]}


def test_the_policies_know_the_names_that_pods_carry() -> None:
    request = PodRequest("a.b.c", 1, plan_on(BURST), {"kind": "cli"})
    metadata = metadata_of(request, BURST, QUEUED)
    pods, claims = of_kind(render([BURST]), "MutatingAdmissionPolicy")
    change = pods["spec"]["mutations"][0]["applyConfiguration"]["expression"]
    assert metadata["finalizers"][0] in change
    (pod,) = pods_of(
        replace(request, number=2),
        BURST,
        {"starter": "container", "program": {"image": "a"}},
        QUEUED,
    )
    assert pod["spec"]["schedulingGates"][0]["name"] in change
    assert metadata["finalizers"][0] in str(claims["spec"]["mutations"])


def test_older_clusters_do_without_policies() -> None:
    kinds = {each["kind"] for each in render([BURST], policies=False).objects}
    assert not {kind for kind in kinds if "Admission" in kind}
