"""The pods of an attempt: their names, who may share their machine, and what they may do."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piecework.config import Settings
from piecework.errors import InputError
from piecework.plan import labels
from piecework.plan.choose import plan_job
from piecework.plan.manifest import (
    Launcher,
    Object,
    PodRequest,
    environment_of,
    placement_of,
    pods_of,
    request_of,
)
from piecework.plan.plan import Plan
from piecework.plan.price import load_price_book
from piecework.spec.job import Job
from piecework.spec.pool import Group, Pool

SETTINGS = Settings(home=Path("/nowhere"), ledger_url="sqlite://")
QUEUED = datetime(2026, 11, 24, 6, 0, tzinfo=UTC)
KARPENTER = Pool(name="burst", provider="karpenter", image="registry.example.com/python:3.11")
GROUPS = Pool(
    name="groups",
    provider="asg",
    namespace="jobs",
    image="registry.example.com/python:3.11",
    groups=(Group(name="a", type="m6a.large"), Group(name="b", type="m6a.large", spot=True)),
)
CONTAINER = {"container": {"image": "registry.example.com/score:3"}}
RUN = "flights.delays.7f3a9c1b04d2"
LAUNCHER = Launcher("piecework-launcher-0123456789abcdef", {"launch": {}}, "piecework-code-0123")


def plan_of(pool: Pool, job: dict[str, Any], **machine: Any) -> Plan:
    return plan_job(
        "delays",
        Job.model_validate({**job, "machine": {"cpu": 2, **machine}}),
        pool=pool,
        prices=load_price_book(pool),
        settings=SETTINGS,
    )


def request_for(plan: Plan, **more: Any) -> PodRequest:
    given = {"run": RUN, "number": 1, "owner": {"kind": "cli"}, "pipeline": "flights", **more}
    return PodRequest(plan=plan, **given)


def launch_of(job: Job) -> dict[str, Any]:
    """As the engines write it."""
    if job.container is None:
        return {"engine": job.engine, "starter": job.engine, "program": {}}
    command = job.container.command
    return {
        "engine": "container",
        "starter": "container",
        "program": {
            "image": job.container.image,
            "command": None if command is None else list(command),
        },
        "args": list(job.args),
        "env": dict(job.env),
    }


def pods_for(
    pool: Pool = KARPENTER, job: dict[str, Any] = CONTAINER, **machine: Any
) -> list[Object]:
    plan = plan_of(pool, job, **machine)
    return pods_of(request_for(plan), pool, launch_of(plan.job), QUEUED, LAUNCHER)


def pod_for(pool: Pool = KARPENTER, job: dict[str, Any] = CONTAINER, **machine: Any) -> Object:
    (pod,) = pods_for(pool, job, **machine)
    return pod


def container_of(pod: Object) -> Object:
    (container,) = pod["spec"]["containers"]
    found: Object = container
    return found


PLAN = plan_of(KARPENTER, CONTAINER)


def expressions_of(pod: Object) -> dict[str, list[str]]:
    """What the pod's machine must be, by label."""
    affinity = pod["spec"]["affinity"]["nodeAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    return {each["key"]: each["values"] for each in term["matchExpressions"]}


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


# ------------------------------------------------------------------ what it may do

_FORBIDDEN_IN_SPEC = ("hostNetwork", "hostPID", "hostIPC", "initContainers", "ephemeralContainers")
_ALLOWED_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def violations(pod: Object) -> list[str]:
    """What the restricted Pod Security standard forbids of it."""
    spec, found = pod["spec"], [f for f in _FORBIDDEN_IN_SPEC if pod["spec"].get(f)]
    for volume in spec.get("volumes", []):
        found += sorted(set(volume) - {"name"} - _ALLOWED_VOLUMES)
    for container in spec["containers"]:
        whole, own = spec["securityContext"], container["securityContext"]
        if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
            found.append("privilege escalation")
        if own["capabilities"].get("drop") != ["ALL"] or own["capabilities"].get("add"):
            found.append("capabilities")
        if whole.get("runAsNonRoot") is not True or own.get("runAsNonRoot") is False:
            found.append("root")
        if whole.get("runAsUser") == 0 or own.get("runAsUser") == 0:
            found.append("user 0")
        if whole.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            found.append("seccomp")
        if any("hostPort" in port for port in container.get("ports", [])):
            found.append("host port")
    return found


@pytest.mark.parametrize("pool", [KARPENTER, GROUPS], ids=["karpenter", "asg"])
@pytest.mark.parametrize("job", [CONTAINER, {"python": "a.py"}, {"spark": "a.py"}], ids=str)
def test_a_pod_keeps_to_the_restricted_pod_security_standard(
    pool: Pool, job: dict[str, Any]
) -> None:
    for pod in pods_for(pool, job, count=2):
        assert violations(pod) == []
        assert pod["spec"]["automountServiceAccountToken"] is False


def test_a_container_keeps_its_own_user_and_gets_nothing_mounted() -> None:
    pod = pod_for(KARPENTER)
    assert "runAsUser" not in pod["spec"]["securityContext"]
    assert "volumes" not in pod["spec"]
    container = container_of(pod)
    assert not {"command", "args", "workingDir", "volumeMounts"} & container.keys()
    told = {each["name"]: each["value"] for each in container["env"]}
    assert told["PIECEWORK_RESULT"] == "/dev/termination-log"


def test_a_container_is_told_what_the_user_wrote_dollars_and_all() -> None:
    job = {
        "container": {"image": "registry.example.com/a:1", "command": ["sh", "-c", "echo $(date)"]},
        "args": ["$$", "$HOME"],
        "env": {"PRICE": "$5 $(HOME)"},
    }
    container = container_of(pod_for(KARPENTER, job))
    assert [expanded(part) for part in container["command"]] == ["sh", "-c", "echo $(date)"]
    assert [expanded(part) for part in container["args"]] == ["$$", "$HOME"]
    (price,) = [each["value"] for each in container["env"] if each["name"] == "PRICE"]
    assert expanded(price) == "$5 $(HOME)"


def expanded(text: str) -> str:
    """What Kubernetes makes of a text in command, args and env: $$ is $, $(NAME) a variable."""
    return re.sub(r"\$(\$|\((\w+)\))", lambda match: "$" if match[1] == "$" else "replaced", text)


@given(st.text(st.sampled_from("$()AB "), max_size=20))
def test_kubernetes_replaces_nothing_in_what_a_program_is_told(text: str) -> None:
    launch = {**launch_of(PLAN.job), "args": [text]}
    (pod,) = pods_of(request_for(PLAN), KARPENTER, launch, QUEUED)
    assert expanded(container_of(pod)["args"][0]) == text


def test_a_program_is_told_who_it_is_and_what_it_may_use() -> None:
    plan = plan_of(KARPENTER, CONTAINER, count=2)
    request = request_for(plan, params={"year": 2013}, env={"PIECEWORK_DATA": "s3://bucket/x"})
    told = environment_of(request, 1)
    assert told["PIECEWORK_ATTEMPT"] == f"{RUN}.1"
    assert json.loads(told["PIECEWORK_PARAMS"]) == {"year": 2013}
    assert (told["PIECEWORK_INDEX"], told["PIECEWORK_COUNT"]) == ("1", "2")
    assert Decimal(told["PIECEWORK_CPUS"]) == plan.cpus
    assert told["PIECEWORK_DATA"] == "s3://bucket/x"


# ------------------------------------------------------------------ gangs


def order_of(pod: Object) -> Any:
    told = {each["name"]: each["value"] for each in container_of(pod)["env"]}
    return json.loads(told["PIECEWORK_ORDER"])


@pytest.mark.parametrize("job", [{"dask": "a.py"}, {"python": "a.py"}], ids=str)
def test_the_pods_of_a_gang_find_the_first_of_them_by_its_name(job: dict[str, Any]) -> None:
    gang = pods_for(KARPENTER, job, count=3)
    for index, pod in enumerate(gang):
        assert pod["metadata"]["labels"][labels.GANG] == "true"
        assert pod["spec"]["subdomain"] == "piecework"
        assert pod["spec"]["hostname"] == pod["metadata"]["name"]
        told = order_of(pod)["gang"]
        assert (told["index"], told["count"]) == (index, 3)
        assert told["head"] == f"{gang[0]['spec']['hostname']}.piecework"
        variables = {each["name"]: each["value"] for each in container_of(pod)["env"]}
        assert variables["PIECEWORK_HEAD"] == told["head"]
    assert len({order_of(pod)["gang"]["token"] for pod in gang}) == 1


def test_attempts_do_not_share_a_token() -> None:
    plan = plan_of(KARPENTER, {"dask": "a.py"}, count=2)
    tokens = {
        order_of(pod)["gang"]["token"]
        for number in (1, 2)
        for pod in pods_of(
            request_for(plan, number=number), KARPENTER, launch_of(plan.job), QUEUED, LAUNCHER
        )
    }
    assert len(tokens) == 2


@pytest.mark.parametrize(("job", "count"), [({"dask": "a.py"}, 1), (CONTAINER, 3)], ids=str)
def test_pods_alone_and_containers_of_the_users_own_are_no_such_gang(
    job: dict[str, Any], count: int
) -> None:
    for pod in pods_for(KARPENTER, job, count=count):
        assert labels.GANG not in pod["metadata"]["labels"]
        assert "subdomain" not in pod["spec"]


@pytest.mark.parametrize(
    ("job", "led"),
    [
        ({"dask": "a.py"}, True),
        ({"spark": {"file": "a.py", "mode": "standalone"}}, True),
        ({"spark": "a.py"}, False),
        ({"python": "a.py"}, False),
        (CONTAINER, False),
    ],
    ids=str,
)
def test_a_gang_is_led_where_only_its_first_pod_runs_the_program(
    job: dict[str, Any], led: bool
) -> None:
    plan = plan_of(KARPENTER, job, count=2)
    assert request_of(request_for(plan), KARPENTER, QUEUED)["led"] is led
    alone = plan_of(KARPENTER, job)
    assert request_of(request_for(alone), KARPENTER, QUEUED)["led"] is False


@given(st.text("abcdefgh-", min_size=1, max_size=80), st.integers(1, 999), st.integers(2, 300))
def test_a_host_name_is_never_too_long_and_never_anothers(
    name: str, number: int, count: int
) -> None:
    plan = replace(PLAN, job=Job(dask="a.py"), count=count)
    request = request_for(plan, run=f"flights.{name}.7f3a9c1b04d27f3a9c1b", number=number)
    pods = pods_of(request, KARPENTER, launch_of(plan.job), QUEUED, LAUNCHER)
    names = {pod["spec"]["hostname"] for pod in pods}
    assert len(names) == count
    assert all(re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", each) for each in names)


# ------------------------------------------------------------------ piecework's launcher


def test_python_is_started_by_the_launcher_with_its_order_and_code() -> None:
    pod = pod_for(KARPENTER, {"python": "a.py"})
    container = container_of(pod)
    assert container["image"] == "registry.example.com/python:3.11"
    assert container["command"] == ["python3", "/piecework/launcher/launcher.pyz"]
    told = {each["name"]: each["value"] for each in container["env"]}
    assert json.loads(told["PIECEWORK_ORDER"]) == {"launch": {}}
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    assert volumes["launcher"]["configMap"]["name"] == LAUNCHER.config_map
    assert volumes["code"]["configMap"]["name"] == LAUNCHER.code
    assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
    assert pod["spec"]["securityContext"]["runAsUser"] == 65532


def test_a_jobs_own_image_is_taken_before_the_pools() -> None:
    pod = pod_for(KARPENTER, {"python": "a.py", "image": "registry.example.com/own:1"})
    assert container_of(pod)["image"] == "registry.example.com/own:1"


def test_code_from_a_url_needs_no_config_map() -> None:
    plan = plan_of(KARPENTER, {"python": "a.py"})
    launcher = Launcher("launcher", {"code": {"url": "s3://bucket/code.zip"}})
    (pod,) = pods_of(request_for(plan), KARPENTER, launch_of(plan.job), QUEUED, launcher)
    assert {volume["name"] for volume in pod["spec"]["volumes"]} == {"launcher", "work"}


def test_a_start_that_is_too_long_to_be_told_is_refused_in_words() -> None:
    plan = plan_of(KARPENTER, {"python": "a.py"})
    launcher = Launcher("launcher", {"args": ["x" * 140_000]})
    with pytest.raises(InputError, match=r"140,\d+ characters.*write them into a file"):
        pods_of(request_for(plan), KARPENTER, launch_of(plan.job), QUEUED, launcher)


def test_others_pods_get_the_same_machine() -> None:
    plan = plan_of(GROUPS, CONTAINER)
    placement = placement_of(plan, GROUPS, RUN)
    spec = pod_for(GROUPS)["spec"]
    assert placement == {key: spec[key] for key in ("nodeSelector", "tolerations", "affinity")}


def test_a_time_limit_is_never_less_than_a_second() -> None:
    plan = plan_of(KARPENTER, {**CONTAINER, "timeout": "1ms"})
    assert plan.timeout == timedelta(milliseconds=1)
    (pod,) = pods_of(request_for(plan), KARPENTER, launch_of(plan.job), QUEUED)
    assert pod["spec"]["activeDeadlineSeconds"] == 1
