"""The pods of an attempt: what they may do, and what their programs are told."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piecework.errors import InputError
from piecework.plan import labels
from piecework.plan.manifest import (
    Launcher,
    Object,
    environment_of,
    pods_of,
    request_of,
)
from piecework.plan.placement import placement_of
from piecework.spec.job import Job
from piecework.spec.pool import Pool
from tests.unit.plan.manifests import (
    CONTAINER,
    GROUPS,
    KARPENTER,
    LAUNCHER,
    PLAN,
    QUEUED,
    RUN,
    container_of,
    launch_of,
    plan_of,
    pod_for,
    pods_for,
    request_for,
)

# ------------------------------------------------------------------ what it may do

_FORBIDDEN_IN_SPEC = ("hostNetwork", "hostPID", "hostIPC", "ephemeralContainers")
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
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
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


def test_a_pod_alone_has_no_name_that_others_know() -> None:
    for job in ({"dask": "a.py"}, CONTAINER):
        (pod,) = pods_for(KARPENTER, job)
        assert labels.GANG not in pod["metadata"]["labels"]
        assert "subdomain" not in pod["spec"]
        assert "initContainers" not in pod["spec"]


@pytest.mark.parametrize(
    ("job", "meets"), [({"dask": "a.py"}, False), ({"python": "a.py"}, True)], ids=str
)
def test_a_program_on_each_machine_starts_when_all_are_there(
    job: dict[str, Any], meets: bool
) -> None:
    assert {order_of(pod)["meets"] for pod in pods_for(KARPENTER, job, count=2)} == {meets}


def test_containers_of_a_gang_meet_before_they_start_and_nothing_is_mounted_into_them() -> None:
    plan = plan_of(KARPENTER, CONTAINER, count=2)
    launch = launch_of(plan.job)
    gang = pods_of(request_for(plan), KARPENTER, launch, QUEUED, LAUNCHER)
    for index, pod in enumerate(gang):
        (container,), (meeting,) = pod["spec"]["containers"], pod["spec"]["initContainers"]
        assert "volumeMounts" not in container
        assert (meeting["name"], meeting["image"]) == (labels.MEETING, KARPENTER.image)
        assert meeting["securityContext"]["allowPrivilegeEscalation"] is False
        (order,) = (e["value"] for e in meeting["env"] if e["name"] == "PIECEWORK_ORDER")
        told = json.loads(order)
        assert (list(told), told["gang"]["index"]) == (["gang"], index)
        assert {e["name"]: e["value"] for e in container["env"]}["PIECEWORK_HEAD"] == (
            told["gang"]["head"]
        )
        mounted = {each["name"] for each in meeting["volumeMounts"]}
        assert mounted == {each["name"] for each in pod["spec"]["volumes"]}
    # Without an image of the pool's there is nothing that could wait.
    for pod in pods_of(request_for(plan), KARPENTER, launch, QUEUED):
        assert "initContainers" not in pod["spec"]
        assert "subdomain" in pod["spec"]


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
