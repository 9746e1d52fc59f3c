"""A pod that somebody wrote, merged with piecework's: nothing is lost, and the machine is alone."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piecework.config import Settings, load
from piecework.plan import labels
from piecework.plan.choose import plan_job
from piecework.plan.manifest import PodRequest, pods_of
from piecework.plan.price import load_price_book
from piecework.plan.written_pod import (
    AIRFLOW_RESULT_FILE,
    WrittenPod,
    leave_room,
    merge_affinity,
    merge_pod,
)
from piecework.spec.job import Job
from piecework.spec.pool import Pool
from piecework.units import Memory, parse_cpu

WRITTEN: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "theirs-x7",
        "namespace": "theirs",
        "labels": {"dag_id": "d", labels.RUN: "forged"},
        "annotations": {"note": "mine"},
    },
    "spec": {
        "restartPolicy": "OnFailure",
        "serviceAccountName": "loader",
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "mine", "operator": "Exists"}],
        "volumes": [{"name": "data", "emptyDir": {}}],
        "initContainers": [{"name": "fetch", "image": "fetch:1"}],
        "containers": [
            {
                "name": "base",
                "image": "job:1",
                "command": ["run"],
                "env": [{"name": "MODE", "value": "$(HOST)"}],
                "envFrom": [{"secretRef": {"name": "key"}}],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                "resources": {"requests": {"cpu": "1", "ephemeral-storage": "1Gi"}},
            },
            {
                "name": "side",
                "image": "side:1",
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
            },
        ],
    },
}


def own_pod() -> dict[str, Any]:
    pool = Pool(name="bought", provider="karpenter", types=("m6a.large",))
    settings: Settings = load({}, None)
    job = Job.model_validate({"container": {"image": "x"}, "machine": {"cpu": 2}, "timeout": "9m"})
    plan = plan_job("j", job, pool=pool, prices=load_price_book(pool), settings=settings)
    request = PodRequest("p.j.0a1b", 1, plan, {"kind": "airflow"}, env={"PIECEWORK_DATA": "/d"})
    launch = {"starter": "container", "program": {"image": "x"}, "env": {"LEFT": "out"}}
    (pod,) = pods_of(request, pool, launch, datetime(2026, 11, 24, tzinfo=UTC))
    return pod


def merged(**how: bool) -> dict[str, Any]:
    return merge_pod(WrittenPod(WRITTEN, **how), own_pod())


def test_what_was_written_stays() -> None:
    before = copy.deepcopy(WRITTEN)
    pod = merged(restricted=False)
    assert before == WRITTEN
    spec, base = pod["spec"], pod["spec"]["containers"][0]
    assert pod["metadata"]["annotations"]["note"] == "mine"
    assert pod["metadata"]["labels"]["dag_id"] == "d"
    assert spec["volumes"] == WRITTEN["spec"]["volumes"]
    assert spec["initContainers"] == WRITTEN["spec"]["initContainers"]
    assert spec["serviceAccountName"] == "loader"
    assert "automountServiceAccountToken" not in spec
    assert spec["nodeSelector"]["disk"] == "fast"
    assert (base["image"], base["command"]) == ("job:1", ["run"])
    assert base["envFrom"] == [{"secretRef": {"name": "key"}}]
    assert base["env"][-1] == {"name": "MODE", "value": "$(HOST)"}
    assert base["resources"]["requests"]["ephemeral-storage"] == "1Gi"
    assert "securityContext" not in base


def test_identity_gate_and_limits_are_pieceworks() -> None:
    pod, own = merged(), own_pod()
    assert pod["metadata"]["name"] == own["metadata"]["name"]
    assert pod["metadata"]["labels"][labels.RUN] == own["metadata"]["labels"][labels.RUN]
    assert pod["metadata"]["finalizers"] == [labels.FINALIZER]
    spec = pod["spec"]
    assert spec["schedulingGates"] == [{"name": labels.GATE}]
    assert (spec["restartPolicy"], spec["activeDeadlineSeconds"]) == ("Never", 540)
    assert spec["nodeSelector"][labels.POOL] == "bought"
    env = {each["name"]: each["value"] for each in spec["containers"][0]["env"]}
    assert env["PIECEWORK_RUN"] == "p.j.0a1b"
    assert env["PIECEWORK_DATA"] == "/d"
    assert env["PIECEWORK_RESULT"] == "/dev/termination-log"
    assert "LEFT" not in env


def test_the_program_gets_what_its_sidecar_leaves_of_the_machine() -> None:
    whole = own_pod()["spec"]["containers"][0]["resources"]
    found = merged()["spec"]["containers"][0]["resources"]
    assert parse_cpu(found["requests"]["cpu"]) == parse_cpu(whole["requests"]["cpu"]) - parse_cpu(
        "100m"
    )
    left = Memory.parse(whole["limits"]["memory"]).bytes - Memory.parse("64Mi").bytes
    assert Memory.parse(found["limits"]["memory"]).bytes == left
    assert "cpu" not in found["limits"]


def test_an_image_for_kubernetespodoperator_writes_its_result_where_it_always_did() -> None:
    base = merged(airflow_result=True)["spec"]["containers"][0]
    assert base["terminationMessagePath"] == AIRFLOW_RESULT_FILE
    env = {each["name"]: each["value"] for each in base["env"]}
    assert env["PIECEWORK_RESULT"] == AIRFLOW_RESULT_FILE


def test_in_a_restricted_namespace_what_is_not_said_is_filled_in() -> None:
    written = copy.deepcopy(WRITTEN)
    written["spec"]["securityContext"] = {"runAsUser": 7}
    spec = merge_pod(WrittenPod(written, restricted=True), own_pod())["spec"]
    assert spec["securityContext"]["runAsUser"] == 7
    assert spec["securityContext"]["runAsNonRoot"] is True
    for container in [*spec["containers"], *spec["initContainers"]]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False


def test_sidecars_that_want_all_of_the_machine_are_told_so() -> None:
    own = {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "1Gi"}}
    greedy = [{"resources": {"requests": {"cpu": "1"}}}]
    with pytest.raises(ValueError, match="ask for all of the machine"):
        leave_room({}, own, greedy)


_expressions = st.lists(
    st.fixed_dictionaries({"key": st.sampled_from("abc"), "operator": st.just("Exists")}),
    max_size=2,
)
_terms = st.lists(st.fixed_dictionaries({"matchExpressions": _expressions}), max_size=3)


@given(_terms)
def test_no_term_of_theirs_lets_the_pod_onto_another_machine(terms: list[dict[str, Any]]) -> None:
    ours = own_pod()["spec"]["affinity"]
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    needed = ours["nodeAffinity"][required]["nodeSelectorTerms"][0]["matchExpressions"]
    theirs = {"nodeAffinity": {required: {"nodeSelectorTerms": terms}}} if terms else {}
    found = merge_affinity(theirs, ours)["nodeAffinity"][required]["nodeSelectorTerms"]
    assert len(found) == max(1, len(terms))
    for merged_term, term in zip(found, terms or [{"matchExpressions": []}], strict=True):
        assert merged_term["matchExpressions"] == [*term["matchExpressions"], *needed]
