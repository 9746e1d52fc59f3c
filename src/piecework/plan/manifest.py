"""The pods of an attempt: what is sent to Kubernetes so that a machine is bought for it.

What enters is an attempt with its plan, its pool, and how its program is started; what leaves are
the pods' manifests, as JSON values. Pure: the same attempt gives the same pods, by the same names,
so that creating them twice finds the first.

A pod is born gated, so that waiting buys nothing; it fills its machine less what the system takes;
only machines of its pool will do, and only for its own run (`placement`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from piecework import clock
from piecework.errors import InputError
from piecework.plan import credentials, labels
from piecework.plan.executors import divide, has_executors, own_pods
from piecework.plan.followers import be_driver, followers_of
from piecework.plan.placement import placement_of, resources_of
from piecework.plan.plan import Plan
from piecework.spec.data import Data
from piecework.spec.pool import Pool
from piecework.units import format_cpu

Object = dict[str, Any]

#: The name of the container that runs the program.
CONTAINER = "job"
_MEETING_MEMORY = "64Mi"
#: Its priority class; it never preempts.
PRIORITY_CLASS = "piecework"
#: The user that piecework's own launcher runs as; no image needs to know it.
USER = 65532
#: How long a program has to end itself after SIGTERM.
GRACE_SECONDS = 30
#: Where the launcher, the code and the working folder are in the container.
LAUNCHER_FOLDER = "/piecework/launcher"
LAUNCHER_FILE = "launcher.pyz"
CODE_FOLDER = "/piecework/code"
CODE_FILE = "code.zip"
WORK_FOLDER = "/piecework/work"
#: Where a container of the user's own writes its result; Kubernetes keeps the first 4 KiB.
RESULT_FILE = "/dev/termination-log"

#: The headless Service by which the pods of a gang find each other, in each pool's namespace.
GANG_SERVICE = "piecework"
_LONGEST_HOST_NAME = 63
_UNPRIVILEGED: Object = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
#: Linux takes no longer string in a program's environment.
_LONGEST_VARIABLE = 128 * 1024 - 1


@dataclass(frozen=True, slots=True)
class PodRequest:
    """One try of a run: its identity, its plan and its owner.

    `owner` is JSON: who asked, and whose end ends it. `params` are those of the pipeline run;
    `env` is what the program is told besides its identity (`PIECEWORK_DATA`), `data` how it
    reaches its data.
    """

    run: str
    number: int
    plan: Plan
    owner: Mapping[str, Any]
    pipeline: str | None = None
    pipeline_run: str | None = None
    team: str | None = None
    priority: int = 0
    params: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    data: Data = field(default_factory=Data)

    @property
    def attempt(self) -> str:
        """The attempt's id: `flights.delays.7f3a9c1b04d2.1`."""
        return f"{self.run}.{self.number}"


@dataclass(frozen=True, slots=True)
class Launcher:
    """What piecework's own launcher needs, for engines that are started by it.

    `config_map` holds the launcher, `code` (where it is no URL) the zipped code; both are names of
    ConfigMaps in the pool's namespace. `order` is JSON: what the launcher is told.
    """

    config_map: str
    order: Mapping[str, Any]
    code: str | None = None


def pods_of(
    request: PodRequest,
    pool: Pool,
    launch: Mapping[str, Any],
    queued_at: datetime,
    launcher: Launcher | None = None,
) -> list[Object]:
    """The pods of an attempt, one a machine; or Spark's driver alone, which makes executors.

    `launch` is what the engine said (`Launch.to_json`). Engines other than `container` need a
    `launcher`; with one, containers of a gang start when all are there.
    Raises InputError where the program's start is too long to be told.
    """
    pods: list[Object] = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata_of(request, pool, queued_at, index),
            "spec": _spec_of(request, pool, launch, launcher, index),
        }
        for index in range(own_pods(request.plan))
    ]
    if launcher is not None and launch["starter"] != "container":
        for index, pod in enumerate(pods):
            _give_order(pod, request, launcher, index)
    return pods


def metadata_of(request: PodRequest, pool: Pool, queued_at: datetime, index: int = 0) -> Object:
    """A pod's name, labels, annotations and finalizer."""
    plan = request.plan
    named = {
        labels.JOB: plan.job_name,
        labels.PIPELINE: request.pipeline,
        labels.TEAM: request.team,
        labels.POOL: pool.name,
    }
    found = {
        "app.kubernetes.io/managed-by": "piecework",
        labels.RUN: labels.run_label(request.run),
        labels.ATTEMPT: labels.attempt_label(request.attempt),
        labels.INDEX: str(index),
        **{key: labels.label_value(name) for key, name in named.items() if name},
    }
    if is_gang(plan):
        found[labels.GANG] = "true"
    annotations = {
        labels.REQUEST: json.dumps(request_of(request, pool, queued_at, index), sort_keys=True),
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        "karpenter.sh/do-not-disrupt": "true",
    }
    if pool.queue:
        found["kueue.x-k8s.io/queue-name"] = pool.queue
        if own_pods(plan) > 1:
            found["kueue.x-k8s.io/pod-group-name"] = found[labels.ATTEMPT]
            annotations["kueue.x-k8s.io/pod-group-total-count"] = str(own_pods(plan))
            # Else Kueue holds on to the pods that ended, and waits for others in their place.
            annotations["kueue.x-k8s.io/retriable-in-group"] = "false"
    return {
        "name": labels.pod_name(request.attempt, index, own_pods(plan)),
        "namespace": pool.namespace,
        "labels": found,
        "annotations": annotations,
        "finalizers": [labels.FINALIZER],
    }


def is_gang(plan: Plan) -> bool:
    """Whether the attempt has several pods, which then find each other by their names."""
    return own_pods(plan) > 1


def is_led(plan: Plan) -> bool:
    """Whether it is a gang that works for the program of its first pod, whose end is the attempt's.

    In other gangs each pod runs the program, and all must succeed.
    """
    spark = plan.job.spark
    return is_gang(plan) and (
        plan.job.dask is not None or (spark is not None and spark.mode != "local")
    )


def head_of(request: PodRequest) -> str:
    """The name by which the pods of a gang find the first of them, within their namespace."""
    return f"{_host_name(request, 0)}.{GANG_SERVICE}"


def gang_of(request: PodRequest, index: int) -> Object:
    """What the launcher is told of its gang; see piecework.entrypoint.gang.

    The token is no secret: it keeps an attempt's pods from joining another's by mistake, and is
    the same whoever makes the pods.
    """
    token = hashlib.blake2b(
        request.attempt.encode(), digest_size=16, person=b"piecework"
    ).hexdigest()
    head = head_of(request)
    return {"head": head, "index": index, "count": request.plan.count, "token": token}


def _host_name(request: PodRequest, index: int) -> str:
    """The pod's name, or as much of its end as a host name may have: there it differs."""
    name = labels.pod_name(request.attempt, index, own_pods(request.plan))
    return name[-_LONGEST_HOST_NAME:].lstrip("-")


def request_of(request: PodRequest, pool: Pool, queued_at: datetime, index: int = 0) -> Object:
    """What the keeper needs of the attempt to admit and to record it: the annotation REQUEST.

    Parameters and environment are not among it: they may hold what is nobody else's business.
    """
    plan = request.plan
    machine, price = plan.instance_type, plan.price_per_hour
    return {
        "run": request.run,
        "attempt": request.attempt,
        "number": request.number,
        "job": plan.job_name,
        "pipeline": request.pipeline,
        "pipeline_run": request.pipeline_run,
        "team": request.team,
        "engine": plan.job.engine,
        "pool": pool.name,
        "provider": pool.provider,
        "priority": request.priority,
        "queued_at": clock.to_text(queued_at),
        "count": own_pods(plan),
        "index": index,
        "led": is_led(plan),
        **_room_for_followers(plan),
        "instance_type": machine.name,
        "alternatives": list(plan.alternatives),
        "spot": plan.spot,
        "cpu": format_cpu(plan.cpus),
        "memory_bytes": plan.memory.bytes,
        "gpu": plan.gpus,
        "owner": dict(request.owner),
        "usd_per_hour": None if price is None else price.decimal_text(),
        "price_source": machine.source,
        "price_as_of": machine.as_of.isoformat() if machine.as_of else None,
        "deadline_seconds": plan.deadline.total_seconds(),
        "on_deadline": plan.job.on_deadline,
        "timeout_seconds": plan.timeout.total_seconds(),
    }


def _room_for_followers(plan: Plan) -> Object:
    """Where an engine makes pods of its own: how many machines its run may hold, and how many of
    them fit on each.
    """
    if not has_executors(plan):
        return {}
    fitting = divide(plan).per_machine
    return {"machines": plan.count, "per_machine": fitting, "beside_head": fitting}


def environment_of(request: PodRequest, index: int = 0) -> dict[str, str]:
    """What every program is told: who it is, its parameters, and what it may use of its machine."""
    plan = request.plan
    return {
        "PIECEWORK_RUN": request.run,
        "PIECEWORK_ATTEMPT": request.attempt,
        "PIECEWORK_JOB": plan.job_name,
        "PIECEWORK_PIPELINE": request.pipeline or "",
        "PIECEWORK_PIPELINE_RUN": request.pipeline_run or "",
        "PIECEWORK_TEAM": request.team or "",
        "PIECEWORK_PARAMS": json.dumps(dict(request.params)),
        "PIECEWORK_CPUS": format_cpu(plan.cpus),
        "PIECEWORK_MEMORY_BYTES": str(plan.memory.bytes),
        "PIECEWORK_GPUS": str(plan.gpus),
        "PIECEWORK_INDEX": str(index),
        "PIECEWORK_COUNT": str(plan.count),
        **({"PIECEWORK_HEAD": head_of(request)} if is_gang(plan) else {}),
        **request.env,
    }


def _spec_of(
    request: PodRequest,
    pool: Pool,
    launch: Mapping[str, Any],
    launcher: Launcher | None,
    index: int,
) -> Object:
    plan = request.plan
    security: Object = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    spec: Object = {
        "schedulingGates": [{"name": labels.GATE}],
        "restartPolicy": "Never",
        "priorityClassName": PRIORITY_CLASS,
        "activeDeadlineSeconds": max(1, math.ceil(plan.timeout.total_seconds())),
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        **placement_of(plan, pool, request.run),
    }
    if pool.service_account:
        spec["serviceAccountName"] = pool.service_account
    if is_gang(plan):
        spec.update(hostname=_host_name(request, index), subdomain=GANG_SERVICE)
    told = environment_of(request, index)
    if launch["starter"] == "container":
        container = _container_as_it_is(launch, told)
        if is_gang(plan) and launcher is not None:
            meeting, spec["volumes"] = _meeting(request, pool, launcher, index)
            spec["initContainers"] = [meeting]
    else:
        container, spec["volumes"] = _container_with_launcher(plan, pool, launcher, told)
        security.update(runAsUser=USER, runAsGroup=USER, fsGroup=USER)
        volumes, mounts = credentials.files_of(request.data)
        spec["volumes"] += volumes
        container["volumeMounts"] += mounts
    if request.data.secret:
        container["envFrom"] = credentials.variables_from(request.data)
    container["name"] = CONTAINER
    container["resources"] = resources_of(plan)
    container["securityContext"] = _UNPRIVILEGED
    spec.update(securityContext=security, containers=[container])
    if has_executors(plan):
        be_driver(spec, divide(plan))
    return spec


def _give_order(pod: Object, request: PodRequest, launcher: Launcher, index: int) -> None:
    """Tells the launcher in the pod what to start; and of its gang, or of the executors to come."""
    plan, order = request.plan, dict(launcher.order)
    if is_gang(plan):
        order["gang"] = gang_of(request, index)
        order["meets"] = not is_led(plan)
    if has_executors(plan):
        launch = {**order["launch"], "starter": "spark_executor", "program": {}, "args": []}
        executor = {"launch": launch, "code": order.get("code")}
        order["followers"] = followers_of(pod, divide(plan), executor)
    told = json.dumps(order, separators=(",", ":"))
    # Kubernetes' own escapes make it no longer: the program sees it without them.
    if len(told.encode()) > _LONGEST_VARIABLE - len("PIECEWORK_ORDER="):
        raise InputError(
            f"job {plan.job_name!r}: its arguments, environment and parameters have {len(told):,} "
            "characters, and a program's start is told in at most 131,000; write them into a file"
        )
    pod["spec"]["containers"][0]["env"] += _variables({"PIECEWORK_ORDER": told})


def _container_as_it_is(launch: Mapping[str, Any], told: Mapping[str, str]) -> Object:
    """The user's image, with nothing mounted into it and nothing changed in it."""
    program = launch["program"]
    container: Object = {
        "image": program["image"],
        "env": _variables({**launch.get("env", {}), **told, "PIECEWORK_RESULT": RESULT_FILE}),
    }
    if program.get("command") is not None:
        container["command"] = [_literal(part) for part in program["command"]]
    if launch.get("args"):
        container["args"] = [_literal(part) for part in launch["args"]]
    return container


def _meeting(
    request: PodRequest, pool: Pool, launcher: Launcher, index: int
) -> tuple[Object, list[Object]]:
    """What runs before a container of the user's own, from the pool's image: it ends when all of
    the gang are there. And its volumes.
    """
    told = json.dumps({"gang": gang_of(request, index)}, separators=(",", ":"))
    container, volumes = _container_with_launcher(
        request.plan, pool, launcher, {"PIECEWORK_ORDER": told}
    )
    container["name"] = labels.MEETING
    container["resources"] = {
        "requests": {"cpu": "10m", "memory": _MEETING_MEMORY},
        "limits": {"memory": _MEETING_MEMORY},
    }
    container["securityContext"] = {**_UNPRIVILEGED, "runAsUser": USER, "runAsGroup": USER}
    return container, volumes


def _container_with_launcher(
    plan: Plan,
    pool: Pool,
    launcher: Launcher | None,
    told: Mapping[str, str],
) -> tuple[Object, list[Object]]:
    """The image with Python, in which piecework's launcher starts the program; and its volumes.

    The launcher writes the termination message itself; the program's result is a part of it.
    """
    job_name, image = plan.job_name, plan.job.image or pool.image
    if launcher is None or image is None:
        raise InputError(
            f"job {job_name!r} is started by piecework's launcher, which needs an image with "
            f"Python; found none in the job and none in pool {pool.name!r}"
        )
    volumes: list[Object] = [
        {"name": "launcher", "configMap": {"name": launcher.config_map}},
        {"name": "work", "emptyDir": {}},
    ]
    mounts: list[Object] = [
        {"name": "launcher", "mountPath": LAUNCHER_FOLDER, "readOnly": True},
        {"name": "work", "mountPath": WORK_FOLDER},
    ]
    if launcher.code is not None:
        volumes.append({"name": "code", "configMap": {"name": launcher.code}})
        mounts.append({"name": "code", "mountPath": CODE_FOLDER, "readOnly": True})
    container: Object = {
        "image": image,
        "command": ["python3", f"{LAUNCHER_FOLDER}/{LAUNCHER_FILE}"],
        "workingDir": WORK_FOLDER,
        "env": _variables({"HOME": WORK_FOLDER, **told}),
        "volumeMounts": mounts,
    }
    return container, volumes


def _variables(environment: Mapping[str, str]) -> list[Object]:
    return [{"name": name, "value": _literal(value)} for name, value in environment.items()]


def _literal(text: str) -> str:
    """Kubernetes would replace $(NAME) in what programs are told; a doubled $ stands for one."""
    return text.replace("$", "$$")
