"""The pods of executors: of the run, gated, without a token; and what their driver is told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from piecework.plan import labels
from piecework.plan.followers import followers_of
from piecework.plan.manifest import Launcher, Object, PodRequest, pods_of
from piecework.spec.pool import Pool
from tests.unit.plan.manifests import GROUPS, KARPENTER, QUEUED, plan_of, request_for

ORDER = {
    "launch": {"starter": "spark", "program": {"file": "a.py"}, "args": ["$x"], "env": {"A": "$1"}},
    "code": {"sha256": "0"},
    "store": "s3://somewhere",
}
LAUNCHER = Launcher("piecework-launcher-0123456789abcdef", ORDER, "piecework-code-0123")


def driver_for(pool: Pool = KARPENTER, **machine: Any) -> Object:
    asked = {"cpu": 4, "memory": "16Gi", "count": 3, **machine}
    plan = plan_of(pool, {"spark": {"file": "a.py", "mode": "kubernetes"}}, **asked)
    launch = {"engine": "spark", "starter": "spark", "program": {}}
    (pod,) = pods_of(request_for(plan), pool, launch, QUEUED, LAUNCHER)
    return pod


def variables_of(pod: Object) -> dict[str, str]:
    (container,) = pod["spec"]["containers"]
    return {each["name"]: each["value"] for each in container["env"] if "value" in each}


def order_of(pod: Object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(variables_of(pod)["PIECEWORK_ORDER"].replace("$$", "$"))
    return found


def executor_for(pod: Object) -> Object:
    found: Object = order_of(pod)["followers"]["template"]
    return found


@pytest.mark.parametrize("pool", [KARPENTER, GROUPS])
def test_the_driver_is_one_pod_that_leaves_room_on_its_machine(pool: Pool) -> None:
    pod = driver_for(pool, cpu=2, memory="8Gi")
    request = json.loads(pod["metadata"]["annotations"][labels.REQUEST])
    assert (request["count"], request["machines"]) == (1, 3)
    assert (request["per_machine"], request["beside_head"]) == (1, 1)
    (container,) = pod["spec"]["containers"]
    told = variables_of(pod)
    assert container["resources"]["requests"]["cpu"].endswith("m")
    assert float(told["PIECEWORK_CPUS"]) < 1
    assert int(told["PIECEWORK_MEMORY_BYTES"]) < 4 * 2**30
    assert pod["metadata"]["name"] == "delays-7f3a9c1b04d2-1"
    assert "hostname" not in pod["spec"]
    assert labels.GANG not in pod["metadata"]["labels"]
    # It must not keep the pods of its own run away.
    apart = pod["spec"]["affinity"].get("podAntiAffinity", {})
    assert "matchLabels" not in json.dumps(apart)


def test_only_the_driver_has_a_token() -> None:
    pod = driver_for()
    assert pod["spec"]["serviceAccountName"] == "piecework-driver"
    assert pod["spec"]["automountServiceAccountToken"] is True
    spec = executor_for(pod)["spec"]
    assert "serviceAccountName" not in spec
    assert spec["automountServiceAccountToken"] is False


def test_a_pools_own_account_makes_executors_where_there_is_one() -> None:
    pod = driver_for(KARPENTER.model_copy(update={"service_account": "cloud"}))
    assert pod["spec"]["serviceAccountName"] == "cloud"


def test_an_executor_is_a_gated_pod_of_the_run_that_decides_nothing() -> None:
    pod = driver_for()
    executor = executor_for(pod)
    named = executor["metadata"]["labels"]
    assert named[labels.ROLE] == labels.FOLLOWER
    for label in (labels.RUN, labels.ATTEMPT, labels.POOL, labels.JOB, labels.PIPELINE):
        assert named[label] == pod["metadata"]["labels"][label]
    assert labels.INDEX not in named
    annotations = executor["metadata"]["annotations"]
    assert annotations == pod["metadata"]["annotations"]
    assert "name" not in executor["metadata"]
    assert "finalizers" not in executor["metadata"]
    for name in (
        "schedulingGates",
        "nodeSelector",
        "tolerations",
        "affinity",
        "activeDeadlineSeconds",
        "securityContext",
        "restartPolicy",
    ):
        assert executor["spec"][name] == pod["spec"][name]


def test_an_executor_gets_the_code_and_not_the_drivers_program() -> None:
    executor = executor_for(driver_for())
    (container,) = executor["spec"]["containers"]
    names = [each["name"] for each in container["env"]]
    assert len(names) == len(set(names))
    assert "PIECEWORK_INDEX" not in names
    assert order_of(executor) == {
        "launch": {"starter": "spark_executor", "program": {}, "args": [], "env": {"A": "$1"}},
        "code": {"sha256": "0"},
    }
    mounted = {each["name"] for each in container["volumeMounts"]}
    assert mounted == {each["name"] for each in executor["spec"]["volumes"]}
    assert mounted == {"launcher", "work", "code", "spark-local-dir-1"}
    assert container["resources"] == {}


def test_the_launcher_is_told_how_many_executors_of_what_size() -> None:
    told = order_of(driver_for())["followers"]
    assert told["namespace"] == "piecework"
    assert told["pod"] == "delays-7f3a9c1b04d2-1"
    assert told["image"] == "registry.example.com/python:3.11"
    assert told["executors"]["instances"] == 3
    assert told["executors"]["cores"] == 4


def test_executors_take_the_gpus() -> None:
    pod = driver_for(gpu=1)
    (container,) = pod["spec"]["containers"]
    assert "nvidia.com/gpu" not in container["resources"]["limits"]
    (executor,) = executor_for(pod)["spec"]["containers"]
    assert executor["resources"]["limits"] == {"nvidia.com/gpu": "1"}


def test_other_jobs_are_told_of_no_followers() -> None:
    plan = plan_of(KARPENTER, {"spark": {"file": "a.py"}})
    launch = {"engine": "spark", "starter": "spark", "program": {}}
    (pod,) = pods_of(request_for(plan), KARPENTER, launch, QUEUED, LAUNCHER)
    assert order_of(pod) == ORDER
    assert "machines" not in json.loads(pod["metadata"]["annotations"][labels.REQUEST])


def test_the_template_does_not_change_the_drivers_pod() -> None:
    from piecework.plan.executors import divide

    plan = plan_of(KARPENTER, {"spark": {"file": "a.py", "mode": "kubernetes"}}, memory="16Gi")
    request: PodRequest = request_for(plan)
    launch = {"engine": "spark", "starter": "spark", "program": {}}
    (pod,) = pods_of(request, KARPENTER, launch, QUEUED, LAUNCHER)
    before = json.dumps(pod)
    followers_of(pod, divide(plan), {})
    assert json.dumps(pod) == before
