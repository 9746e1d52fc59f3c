"""The pods of an attempt: their names, and who may share their machine."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piecework.plan import labels
from piecework.plan.manifest import (
    pods_of,
    request_of,
)
from piecework.spec.pool import Pool
from tests.unit.plan.manifests import (
    CONTAINER,
    GROUPS,
    KARPENTER,
    PLAN,
    QUEUED,
    RUN,
    container_of,
    expressions_of,
    launch_of,
    plan_of,
    pod_for,
    pods_for,
    request_for,
)

# ------------------------------------------------------------------ names

names = st.text(
    st.characters(codec="ascii", categories=["L", "N"], include_characters="-_"), min_size=1
)
texts = st.text(max_size=120)
runs = st.tuples(names, names, st.integers(0, 2**48 - 1)).map(
    lambda parts: f"{parts[0]}.{parts[1]}.{parts[2]:012x}"
)


def is_label(value: str) -> bool:
    return bool(re.fullmatch(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?", value))


def is_name(value: str) -> bool:
    return bool(re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", value))


@given(runs, st.integers(1, 200), texts, texts, st.sampled_from([1, 2, 12]))
def test_all_names_and_labels_are_ones_that_kubernetes_takes(
    run: str, number: int, pipeline: str, team: str, count: int
) -> None:
    plan = replace(PLAN, count=count)
    request = request_for(plan, run=run, number=number, pipeline=pipeline, team=team)
    pods = pods_of(request, KARPENTER, launch_of(plan.job), QUEUED)
    assert len({pod["metadata"]["name"] for pod in pods}) == count
    for pod in pods[:2] + pods[-1:]:
        assert is_name(pod["metadata"]["name"]), pod["metadata"]["name"]
        for value in pod["metadata"]["labels"].values():
            assert is_label(value), value


@given(runs, runs, st.integers(1, 99), st.integers(1, 99))
def test_different_attempts_have_different_pods_and_different_runs_other_labels(
    one: str, other: str, first: int, second: int
) -> None:
    if one.rpartition(".")[2] != other.rpartition(".")[2]:  # as run ids of different runs are
        assert labels.run_label(one) != labels.run_label(other)
        assert labels.pod_name(f"{one}.{first}") != labels.pod_name(f"{other}.{first}")
    if first != second:
        assert labels.pod_name(f"{one}.{first}") != labels.pod_name(f"{one}.{second}")


@given(texts, texts)
def test_different_names_are_different_labels(one: str, other: str) -> None:
    if one != other:
        assert labels.label_value(one) != labels.label_value(other)


def test_the_same_attempt_gives_the_same_pods() -> None:
    assert pods_for(GROUPS, count=3) == pods_for(GROUPS, count=3)


def test_a_pod_says_whose_it_is() -> None:
    plan = plan_of(GROUPS, CONTAINER)
    request = request_for(plan, team="Data & Insights", pipeline_run="scheduled__2026-11-24")
    (pod,) = pods_of(request, GROUPS, launch_of(plan.job), QUEUED)
    assert pod["metadata"]["namespace"] == "jobs"
    assert pod["metadata"]["name"] == "delays-7f3a9c1b04d2-1"
    found = pod["metadata"]["labels"]
    assert found[labels.RUN] == "delays-7f3a9c1b04d2"
    assert found[labels.ATTEMPT] == "delays-7f3a9c1b04d2-1"
    assert (found[labels.POOL], found[labels.JOB]) == ("groups", "delays")
    assert found[labels.TEAM].startswith("data-insights-")


# ------------------------------------------------------------------ the request


def test_the_request_says_all_that_the_ledger_wants_of_an_attempt() -> None:
    pool = GROUPS.model_copy(update={"prices": {"m6a.large": Decimal("0.10")}})
    plan = plan_of(pool, {**CONTAINER, "deadline": "2h", "on_deadline": "cancel", "timeout": "45m"})
    request = request_for(plan, team="analytics", priority=7, params={"secret": "x"})
    (pod,) = pods_of(request, pool, launch_of(plan.job), QUEUED)
    said = json.loads(pod["metadata"]["annotations"][labels.REQUEST])
    assert said == request_of(request, pool, QUEUED)
    assert said == {
        "run": RUN,
        "attempt": f"{RUN}.1",
        "number": 1,
        "job": "delays",
        "pipeline": "flights",
        "pipeline_run": None,
        "team": "analytics",
        "engine": "container",
        "pool": "groups",
        "provider": "asg",
        "priority": 7,
        "queued_at": "2026-11-24T06:00:00.000000Z",
        "count": 1,
        "index": 0,
        "led": False,
        "instance_type": "m6a.large",
        "alternatives": [],
        "spot": "never",
        "cpu": "1.73",
        "memory_bytes": plan.memory.bytes,
        "gpu": 0,
        "owner": {"kind": "cli"},
        "usd_per_hour": "0.10",
        "price_source": "prices of pool groups",
        "price_as_of": None,
        "deadline_seconds": 7200.0,
        "on_deadline": "cancel",
        "timeout_seconds": 2700.0,
    }
    assert "secret" not in json.dumps(pod["metadata"])


def test_an_unknown_price_is_not_zero() -> None:
    pool = GROUPS.model_copy(update={"prices": {"m5.large": Decimal(1)}})
    assert request_of(request_for(plan_of(pool, CONTAINER)), pool, QUEUED)["usd_per_hour"] is None


# ------------------------------------------------------------------ whose machine


@pytest.mark.parametrize("pool", [KARPENTER, GROUPS], ids=["karpenter", "asg"])
def test_a_pod_buys_nothing_before_its_gate_is_opened(pool: Pool) -> None:
    pod = pod_for(pool)
    assert pod["spec"]["schedulingGates"] == [{"name": labels.GATE}]
    assert pod["metadata"]["finalizers"] == [labels.FINALIZER]


def test_karpenters_machines_are_of_one_run() -> None:
    pod = pod_for(KARPENTER)
    assert pod["spec"]["nodeSelector"] == {
        labels.POOL: "burst",
        labels.RUN: pod["metadata"]["labels"][labels.RUN],
    }
    assert "podAntiAffinity" not in pod["spec"]["affinity"]


def test_on_groups_pods_of_other_runs_are_refused_in_all_namespaces() -> None:
    pod = pod_for(GROUPS)
    assert pod["spec"]["nodeSelector"] == {labels.POOL: "groups"}
    anti = pod["spec"]["affinity"]["podAntiAffinity"]
    (term,) = anti["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term == {
        "labelSelector": {"matchExpressions": [{"key": labels.RUN, "operator": "Exists"}]},
        "mismatchLabelKeys": [labels.RUN],
        "namespaceSelector": {},
        "topologyKey": "kubernetes.io/hostname",
    }


@pytest.mark.parametrize(("pool", "terms"), [(KARPENTER, 1), (GROUPS, 2)], ids=["karpenter", "asg"])
def test_each_pod_of_a_gang_has_a_machine_of_its_own(pool: Pool, terms: int) -> None:
    pods = pods_for(pool, count=3)
    assert [pod["metadata"]["name"][-2:] for pod in pods] == ["-0", "-1", "-2"]
    assert [pod["metadata"]["labels"][labels.INDEX] for pod in pods] == ["0", "1", "2"]
    for pod in pods:
        anti = pod["spec"]["affinity"]["podAntiAffinity"]
        found = anti["requiredDuringSchedulingIgnoredDuringExecution"]
        assert len(found) == terms
        run = pod["metadata"]["labels"][labels.RUN]
        assert found[-1]["labelSelector"] == {"matchLabels": {labels.RUN: run}}


def test_only_the_pools_taint_is_tolerated() -> None:
    tolerated = pod_for(KARPENTER)["spec"]["tolerations"]
    ours = [each for each in tolerated if each["effect"] == "NoSchedule"]
    assert ours == [
        {"key": labels.POOL, "operator": "Equal", "value": "burst", "effect": "NoSchedule"}
    ]


def test_what_is_stale_about_a_machine_that_karpenter_registers_is_tolerated() -> None:
    stale = {"key": "karpenter.sh/unregistered", "operator": "Exists", "effect": "NoExecute"}
    assert stale in pod_for(KARPENTER)["spec"]["tolerations"]
    assert stale not in pod_for(GROUPS)["spec"]["tolerations"]


def test_a_silent_machine_is_for_the_keeper_to_judge() -> None:
    tolerated = pod_for(GROUPS)["spec"]["tolerations"]
    silent = {e["key"]: e["tolerationSeconds"] for e in tolerated if e["effect"] == "NoExecute"}
    assert set(silent) == {"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"}
    assert min(silent.values()) > 3600


def test_the_planned_type_and_its_alternatives_will_do_and_no_other() -> None:
    plan = plan_of(KARPENTER, CONTAINER)
    assert plan.alternatives
    types = expressions_of(pod_for(KARPENTER))["node.kubernetes.io/instance-type"]
    assert types == [plan.instance_type.name, *plan.alternatives]


@pytest.mark.parametrize(
    ("spot", "karpenter", "groups"),
    [
        ("never", ["on-demand"], ["on-demand"]),
        ("prefer", ["spot", "on-demand"], None),
        ("only", ["spot"], ["spot"]),
    ],
)
def test_spot_capacity_is_had_as_the_job_says(
    spot: str, karpenter: list[str], groups: list[str] | None
) -> None:
    bought = expressions_of(pod_for(KARPENTER, spot=spot))
    assert bought["karpenter.sh/capacity-type"] == karpenter
    assert expressions_of(pod_for(GROUPS, spot=spot)).get(labels.CAPACITY) == groups


def test_groups_without_spot_capacity_need_no_label_for_it() -> None:
    pool = GROUPS.model_copy(update={"groups": GROUPS.groups[:1]})
    assert labels.CAPACITY not in expressions_of(pod_for(pool))


# ------------------------------------------------------------------ what it gets


def test_a_pod_asks_for_all_that_the_system_leaves() -> None:
    plan = plan_of(KARPENTER, CONTAINER)
    resources = container_of(pod_for(KARPENTER))["resources"]
    memory = str(plan.memory)
    assert resources == {
        "requests": {"cpu": f"{plan.cpus * 1000:.0f}m", "memory": memory},
        "limits": {"memory": memory},
    }


def test_gpus_are_asked_for_and_their_machines_taint_is_tolerated() -> None:
    pod = pod_for(KARPENTER, gpu=1)
    assert container_of(pod)["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" in [each["key"] for each in pod["spec"]["tolerations"]]


def test_an_attempt_has_its_time_limit_and_never_starts_twice() -> None:
    spec = pod_for(KARPENTER, {**CONTAINER, "timeout": "90.5s"})["spec"]
    assert spec["activeDeadlineSeconds"] == 91
    assert spec["restartPolicy"] == "Never"
    assert spec["priorityClassName"] == "piecework"


def test_autoscalers_leave_its_machine_alone_while_it_runs() -> None:
    annotations = pod_for(GROUPS)["metadata"]["annotations"]
    assert annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
    assert annotations["karpenter.sh/do-not-disrupt"] == "true"


def test_kueues_queue_is_named_where_the_pool_has_one() -> None:
    pool = GROUPS.model_copy(update={"queue": "analytics"})
    assert "kueue.x-k8s.io/queue-name" not in pod_for(GROUPS)["metadata"]["labels"]
    assert pod_for(pool)["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "analytics"
    gang = pods_for(pool, count=3)
    groups = {pod["metadata"]["labels"]["kueue.x-k8s.io/pod-group-name"] for pod in gang}
    assert groups == {"delays-7f3a9c1b04d2-1"}
    noted = gang[0]["metadata"]["annotations"]
    assert noted["kueue.x-k8s.io/pod-group-total-count"] == "3"
    assert noted["kueue.x-k8s.io/retriable-in-group"] == "false"
