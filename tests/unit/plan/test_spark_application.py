"""What the Spark operator is asked for: the pod of any attempt, in the operator's words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from piecework.errors import ConfigError
from piecework.plan import labels
from piecework.plan.executors import divide
from piecework.plan.manifest import Object, pods_of
from piecework.plan.spark_application import DRIVER, application_of
from piecework.spec.pool import Pool
from piecework.units import MEBI, Memory
from tests.unit.plan.manifests import GROUPS, KARPENTER, QUEUED, plan_of, request_for
from tests.unit.plan.test_followers import LAUNCHER

SPARK = {"spark": {"file": "jobs/a.py", "mode": "operator"}}


def operated(pool: Pool) -> Pool:
    return pool.model_copy(update={"spark_operator": True})


def made_of(pool: Pool, **machine: Any) -> tuple[Object, Object]:
    """The pod that any runner would make, and the application instead of it."""
    pool = operated(pool)
    plan = plan_of(pool, SPARK, **{"cpu": 4, "memory": "16Gi", "count": 3, **machine})
    launch = {"engine": "spark", "starter": "spark", "program": {}}
    (pod,) = pods_of(request_for(plan), pool, launch, QUEUED, LAUNCHER)
    return pod, application_of(pod, divide(plan), "jobs/a.py")


@pytest.mark.parametrize("pool", [KARPENTER, GROUPS])
def test_the_whole_pod_is_the_drivers_template(pool: Pool) -> None:
    pod, application = made_of(pool, cpu=2, memory="8Gi")
    driver = application["spec"]["driver"]
    template = driver["template"]
    assert application["metadata"]["name"] == driver["podName"] == pod["metadata"]["name"]
    assert template["metadata"]["finalizers"] == [labels.FINALIZER]
    assert template["metadata"]["labels"] == pod["metadata"]["labels"]
    request = template["metadata"]["annotations"][labels.REQUEST]
    assert json.loads(request) == json.loads(pod["metadata"]["annotations"][labels.REQUEST])
    (container,), (own,) = template["spec"].pop("containers"), pod["spec"].pop("containers")
    assert template["spec"] == pod["spec"]
    assert container == {**own, "name": DRIVER}


def test_what_spark_writes_over_a_template_is_said_once_more_and_is_the_same() -> None:
    pod, application = made_of(KARPENTER)
    driver, (own,) = application["spec"]["driver"], pod["spec"]["containers"]
    asked = own["resources"]["requests"]
    assert driver["coreRequest"] == asked["cpu"]
    whole = sum(int(driver[part].removesuffix("m")) for part in ("memory", "memoryOverhead"))
    assert whole == Memory.parse(asked["memory"]).bytes // MEBI
    assert application["spec"]["image"] == own["image"]
    assert driver["serviceAccount"] == pod["spec"]["serviceAccountName"]


def test_the_operator_never_runs_it_twice() -> None:
    _, application = made_of(KARPENTER)
    assert application["spec"]["restartPolicy"] == {"type": "Never"}


def test_it_says_how_many_executors_the_driver_will_make() -> None:
    _, application = made_of(KARPENTER)
    executor = application["spec"]["executor"]
    assert (executor["instances"], executor["cores"]) == (3, 4)


def test_it_has_a_name_that_the_operator_takes() -> None:
    pod, _ = made_of(KARPENTER)
    pod["metadata"]["name"] = "7days-0a1b-1"
    plan = plan_of(operated(KARPENTER), SPARK, cpu=4, memory="16Gi")
    application = application_of(pod, divide(plan), "a.py")
    assert application["metadata"]["name"] == "spark-7days-0a1b-1"
    assert application["spec"]["driver"]["podName"] == "7days-0a1b-1"


def test_a_pool_without_an_operator_refuses_the_mode_and_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"spark_operator = true in \[pools\..*mode: kubernetes"):
        plan_of(KARPENTER, SPARK)
