"""An unchanged KubernetesPodOperator on a machine of its own: the pod that it builds."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from piecework.airflow.on_machine import on_machine
from piecework.errors import ConfigError
from piecework.plan import labels
from piecework.runners.pods import attempt_of, read_request

pytest.importorskip("airflow.providers.cncf.kubernetes", reason="needs the Kubernetes provider")

_POOLS = """
pool = "bought"
[pools.bought]
provider = "karpenter"
kubeconfig = "/srv/kubeconfig"
types = ["m6a.large", "m6a.xlarge", "m6a.2xlarge"]

[pools.groups]
provider = "asg"
groups = [{name = "g", type = "m6a.large"}]
"""


@pytest.fixture(autouse=True)
def _pools(home: Path) -> None:
    home.mkdir()
    (home / "piecework.toml").write_text(_POOLS)


def build(try_number: int = 1, map_index: int = -1, **kwargs: Any) -> dict[str, Any]:
    """The pod of a KubernetesPodOperator as it would be sent, templates rendered."""
    from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
    from airflow.sdk import DAG
    from airflow.sdk.execution_time.context import MacrosAccessor
    from kubernetes.client import ApiClient, Configuration

    with DAG("Reports.v2", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
        task = KubernetesPodOperator(task_id="a_task", image="image:1", **kwargs)
    ti = SimpleNamespace(
        dag_id=dag.dag_id, task_id="a_task", map_index=map_index, try_number=try_number, max_tries=2
    )
    context: Any = {"ti": ti, "run_id": "manual__2026", "macros": MacrosAccessor(), "dag": dag}
    task.render_template_fields(context)
    pod = task.build_pod_request_obj(context=None, dry_run=True)
    found: dict[str, Any] = ApiClient(Configuration()).sanitize_for_serialization(pod)
    return found


def test_the_pod_is_gated_held_and_says_what_the_keeper_needs() -> None:
    pod = build(**on_machine(cpu=2, memory="8Gi", team="analytics"))
    assert pod["spec"]["schedulingGates"] == [{"name": labels.GATE}]
    assert pod["metadata"]["finalizers"] == [labels.FINALIZER]
    request = read_request(pod)
    assert request["attempt"] == f"{request['run']}.1" == attempt_of(pod)
    assert request["instance_type"] == "m6a.large"
    assert request["team"] == "analytics"
    assert request["owner"] == {
        "kind": "airflow",
        "dag_id": "Reports.v2",
        "dag_run_id": "manual__2026",
        "task_id": "a_task",
        "map_index": -1,
        "max_tries": 2,
        "try_number": 1,
    }


def test_its_labels_are_those_of_its_run_and_attempt() -> None:
    pod = build(**on_machine(cpu=2, memory="8Gi"))
    found, request = pod["metadata"]["labels"], read_request(pod)
    assert found[labels.RUN] == labels.run_label(request["run"])
    assert found[labels.ATTEMPT] == labels.attempt_label(request["attempt"])
    assert pod["spec"]["nodeSelector"][labels.RUN] == found[labels.RUN]
    for value in found.values():
        assert re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", value)


def test_tries_are_attempts_of_one_run_and_mapped_tasks_are_runs_of_their_own() -> None:
    first, second = (build(number, **on_machine(cpu=1)) for number in (1, 2))
    assert read_request(first)["run"] == read_request(second)["run"]
    assert read_request(second)["number"] == 2
    mapped = build(map_index=3, **on_machine(cpu=1))
    assert read_request(mapped)["run"] != read_request(first)["run"]
    assert read_request(mapped)["owner"]["map_index"] == 3


def test_what_the_user_says_is_kept() -> None:
    from kubernetes.client import models as k8s

    zone = k8s.V1NodeSelectorRequirement("zone", "In", ["a"])
    wanted = on_machine(
        cpu=2,
        memory="8Gi",
        labels={"mine": "yes"},
        annotations={"note": "mine"},
        node_selector={"disk": "fast"},
        tolerations=[{"key": "mine", "operator": "Exists"}],
        affinity=k8s.V1Affinity(
            node_affinity=k8s.V1NodeAffinity(
                required_during_scheduling_ignored_during_execution=k8s.V1NodeSelector(
                    [k8s.V1NodeSelectorTerm(match_expressions=[zone])]
                )
            )
        ),
        full_pod_spec=k8s.V1Pod(metadata=k8s.V1ObjectMeta(finalizers=["mine/too"])),
        container_resources=k8s.V1ResourceRequirements(requests={"ephemeral-storage": "1Gi"}),
        namespace="theirs",
    )
    pod = build(**wanted)
    assert pod["metadata"]["labels"]["mine"] == "yes"
    assert pod["metadata"]["annotations"]["note"] == "mine"
    assert pod["metadata"]["finalizers"] == ["mine/too", labels.FINALIZER]
    assert pod["metadata"]["namespace"] == "theirs"
    spec = pod["spec"]
    assert spec["nodeSelector"]["disk"] == "fast"
    assert spec["tolerations"][0] == {"key": "mine", "operator": "Exists"}
    (term,) = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    assert {"key": "zone", "operator": "In", "values": ["a"]} in term["matchExpressions"]
    assert any(e["key"] == "node.kubernetes.io/instance-type" for e in term["matchExpressions"])
    assert spec["containers"][0]["resources"]["requests"]["ephemeral-storage"] == "1Gi"
    assert not spec.get("securityContext")  # in a namespace of theirs nothing is forced on them


def test_on_an_auto_scaling_group_pods_of_other_runs_are_refused() -> None:
    pod = build(**on_machine(cpu=2, memory="8Gi", machine_pool="groups"))
    assert labels.RUN not in pod["spec"]["nodeSelector"]
    (term,) = pod["spec"]["affinity"]["podAntiAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]
    assert term["mismatchLabelKeys"] == [labels.RUN]
    assert term["namespaceSelector"] == {}


def test_the_sidecar_for_results_has_room_beside_the_program() -> None:
    alone, beside = (
        build(**on_machine(cpu=2, memory="8Gi", do_xcom_push=push)) for push in (False, True)
    )
    asked = [pod["spec"]["containers"][0]["resources"]["requests"] for pod in (alone, beside)]
    assert int(asked[0]["cpu"][:-1]) - int(asked[1]["cpu"][:-1]) == 10


def test_a_pool_of_this_host_is_refused_with_those_that_will_do() -> None:
    with pytest.raises(ConfigError, match="'local', which is of this host; there are bought, gro"):
        on_machine(cpu=1, machine_pool="local")


def test_the_request_is_one_line_of_json_without_what_stood_in() -> None:
    text = build(**on_machine(cpu=1))["metadata"]["annotations"][labels.REQUEST]
    assert json.loads(text)
    assert "@" not in text
    assert "700" not in text
