"""Other people's operators run here as they do anywhere: installed by Helm, from their charts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from testbed import charts, pods
from testbed.api import Object
from testbed.errors import MissingProgramError
from testbed.place import Place
from tests.cluster.conftest import Cluster, StartMachine

_KUEUE = "kueue.x-k8s.io/v1beta2"
_SPARK = "sparkoperator.k8s.io/v1beta2"


def _install(here: Place, name: str, namespace: str) -> None:
    try:
        charts.install(here, name, [namespace])
    except MissingProgramError as error:
        pytest.skip(str(error))  # with the autoscaler, all that CI may skip: no registry has them


@pytest.fixture
def kueue(here: Place, start_machine: StartMachine, namespace: str) -> Iterator[None]:
    """Kueue, with the namespace's local queue `jobs` of one CPU."""
    start_machine("m6a.xlarge")
    _install(here, "kueue", namespace)
    yield
    charts.uninstall(here, "kueue")


@pytest.fixture
def spark_operator(here: Place, start_machine: StartMachine, namespace: str) -> Iterator[None]:
    """The spark-operator, for the namespace."""
    start_machine("m6a.xlarge")
    _install(here, "spark-operator", namespace)
    yield
    charts.uninstall(here, "spark-operator")


def _quota(namespace: str) -> list[Object]:
    covered = {"name": "any", "resources": [{"name": "cpu", "nominalQuota": "1"}]}
    covered["resources"].append({"name": "memory", "nominalQuota": "4Gi"})  # type: ignore[attr-defined]  # the list above
    cluster_queue = f"all-{namespace}"
    return [
        {"apiVersion": _KUEUE, "kind": "ResourceFlavor", "metadata": {"name": "any"}},
        {
            "apiVersion": _KUEUE,
            "kind": "ClusterQueue",
            "metadata": {"name": cluster_queue},
            "spec": {
                "namespaceSelector": {},
                "resourceGroups": [{"coveredResources": ["cpu", "memory"], "flavors": [covered]}],
            },
        },
        {
            "apiVersion": _KUEUE,
            "kind": "LocalQueue",
            "metadata": {"name": "jobs", "namespace": namespace},
            "spec": {"clusterQueue": cluster_queue},
        },
    ]


def test_kueue_gates_pods_of_its_queue_and_admits_as_many_as_the_quota_allows(
    one: Cluster, here: Place, kueue: None, namespace: str
) -> None:
    one.api.apply(*_quota(namespace))
    queued = {"kueue.x-k8s.io/queue-name": "jobs"}
    for name in ("first", "second"):
        script = "sleep 5; date +%s"
        one.api.create(pods.make(name, namespace, one.shell, script, cpu="700m", labels=queued))

    def workloads() -> list[Object]:
        return one.api.list("Workload", namespace, _KUEUE)

    def admitted() -> list[Object]:
        return [
            item
            for item in workloads()
            for condition in item.get("status", {}).get("conditions", ())
            if condition["type"] == "Admitted" and condition["status"] == "True"
        ]

    one.api.wait("a Workload for each pod", lambda: len(workloads()) == 2)
    one.api.wait("one to be admitted", admitted)
    assert len(admitted()) == 1
    gated = [
        pod["metadata"]["name"]
        for pod in one.api.list("Pod", namespace)
        if pod["spec"].get("schedulingGates")
    ]
    assert len(gated) == 1
    for name in ("first", "second"):
        one.api.wait(f"pod {name}", partial(_is_over, one, name, namespace), 120)


def _is_over(one: Cluster, name: str, namespace: str) -> bool:
    return pods.is_over(one.api.get("Pod", name, namespace))


def test_the_spark_operator_makes_a_driver_and_tells_what_became_of_it(
    one: Cluster, here: Place, spark_operator: None, namespace: str
) -> None:
    application = {
        "apiVersion": _SPARK,
        "kind": "SparkApplication",
        "metadata": {"name": "pi", "namespace": namespace},
        "spec": {
            "type": "Python",
            "mode": "cluster",
            "image": one.shell,
            "mainApplicationFile": "local:///pi.py",
            "sparkVersion": "4.2.1",
            "driver": {"cores": 1, "memory": "512m"},
            "executor": {"cores": 1, "instances": 1, "memory": "512m"},
            "restartPolicy": {"type": "Never"},
            # From 4.2 on Spark makes a NetworkPolicy, which the chart gives nobody a right to.
            "sparkConf": {
                "spark.kubernetes.driver.pod.excludedFeatureSteps": (
                    "org.apache.spark.deploy.k8s.features.NetworkPolicyFeatureStep"
                )
            },
        },
    }
    one.api.create(application)

    def state() -> str:
        told = one.api.get("SparkApplication", "pi", namespace, _SPARK) or {}
        found: str = told.get("status", {}).get("applicationState", {}).get("state", "")
        return found

    driver = one.api.wait("its driver", lambda: one.api.get("Pod", "pi-driver", namespace), 120)
    assert driver["spec"]["containers"][0]["args"][0] == "driver"
    # The shell's image has no Spark to be a driver with.
    one.api.wait("its end", lambda: state() == "FAILED", 120)
