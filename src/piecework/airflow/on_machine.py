"""`on_machine(...)`: a machine of its own for the pod of an unchanged KubernetesPodOperator.

In: the machine, and whatever else the operator is to get. Out: its keyword arguments, with which
its pod is born gated, selects its machine and keeps others off it, and says to the keeper what the
keeper needs to admit it, to meter it and to give its machine back. Who the task is, is only known
when the task starts, so labels and annotations are templates: KubernetesPodOperator renders them.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from piecework import clock, config
from piecework.airflow.choice import choose_machine
from piecework.errors import ConfigError
from piecework.plan import labels
from piecework.plan.manifest import (
    PRIORITY_CLASS,
    Object,
    PodRequest,
    metadata_of,
)
from piecework.plan.placement import placement_of, resources_of
from piecework.plan.plan import Plan
from piecework.plan.written_pod import MAIN_CONTAINER, leave_room, merge_affinity
from piecework.spec.job import Job
from piecework.spec.pool import Pool, load_pools

#: What KubernetesPodOperator's sidecar for results asks for, and a little more.
_SIDECAR = {"resources": {"requests": {"cpu": "10m", "memory": "32Mi"}}}
#: Stand in for what only the started task knows. All are texts in JSON until they are replaced.
_RUN, _DAG, _DAG_RUN, _TASK = "a.b.run", "@dag@", "@dag-run@", "@task@"
_INDEX, _TRIES, _TRY = -7_001, -7_002, 7_003

#: Makes `run` from the identity of a task instance: equal for all of its tries, else different.
#: Only letters, digits and '-' are in it, so that a part of it can be a label's value.
_IDENTITY = """\
{%- macro slug(text) -%}
{%- for c in text|lower -%}
{{ c if c in 'abcdefghijklmnopqrstuvwxyz0123456789' else ' ' }}
{%- endfor -%}
{%- endmacro -%}
{%- set index = -1 if ti.map_index is none else ti.map_index -%}
{%- set identity = [ti.dag_id, ti.task_id, run_id, index|string]|join('\\n') -%}
{%- set digest = macros.uuid.uuid5(macros.uuid.NAMESPACE_OID, identity).hex[:12] -%}
{%- set task = slug(ti.task_id)[:40].split()|join('-') or 'task' -%}
{%- set dag = slug(ti.dag_id)[:64].split()|join('-') or 'dag' -%}
{%- set run = dag ~ '.' ~ task ~ '.' ~ digest -%}
{%- set label = task ~ '-' ~ digest -%}
"""
_RUN_LABEL = _IDENTITY + "{{ label }}"
_ATTEMPT_LABEL = _IDENTITY + "{{ label }}-{{ ti.try_number }}"


def on_machine(
    *,
    cpu: float | str | None = None,
    memory: str | int | None = None,
    gpu: int = 0,
    spot: str | None = None,
    arch: str | None = None,
    type: str | None = None,  # noqa: A002 - the machine's field
    machine_pool: str | None = None,
    job: str | None = None,
    team: str | None = None,
    priority: int = 0,
    timeout: str | None = None,
    deadline: str | None = None,
    on_deadline: str | None = None,
    **kwargs: Any,
) -> dict[str, Any]:
    """The keyword arguments: `KubernetesPodOperator(..., **on_machine(cpu=16, memory="64Gi"))`.

    Arguments of the operator that have to do with these (labels, annotations, node_selector,
    tolerations, affinity, container_resources, full_pod_spec, namespace and the like) are given
    here, as KubernetesPodOperator takes them, and are kept. Raises InputError, NoMachineError.
    """
    settings = config.load()
    asked = {"cpu": cpu, "memory": memory, "gpu": gpu, "spot": spot, "arch": arch, "type": type}
    document = {
        "container": {"image": "program"},
        "machine": {name: value for name, value in asked.items() if value is not None},
        "team": team,
        "priority": priority,
        "timeout": timeout,
        "deadline": deadline,
    }
    if on_deadline is not None:
        document["on_deadline"] = on_deadline
    checked = Job.model_validate(document)
    pool = _find_pool(machine_pool or settings.pool, load_pools(settings))
    plan = choose_machine(job or "job", checked, pool, settings).plan
    found = {**_defaults(plan, pool, kwargs), **kwargs}
    metadata = _metadata(plan, pool, checked, job)
    found["labels"] = {**(kwargs.get("labels") or {}), **metadata["labels"]}
    main = kwargs.get("base_container_name") or "base"
    found["annotations"] = {
        **(kwargs.get("annotations") or {}),
        **metadata["annotations"],
        MAIN_CONTAINER: main,
    }
    _place(found, plan, pool)
    found["full_pod_spec"] = _born(kwargs.get("full_pod_spec"))
    return found


def _find_pool(name: str, pools: Mapping[str, Pool]) -> Pool:
    pool = pools.get(name)
    if pool is None or not pool.on_cluster:
        clusters = sorted(each.name for each in pools.values() if each.on_cluster)
        raise ConfigError(
            f"on_machine needs a machine pool on a cluster; found {name!r}, which is "
            f"{'not configured' if pool is None else 'of this host'}; there are "
            f"{', '.join(clusters) or 'none'}. Name one: on_machine(machine_pool=...)"
        )
    return pool


def _defaults(plan: Plan, pool: Pool, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What holds where the user says nothing: the cluster, and time enough to wait."""
    waits = math.ceil(plan.deadline.total_seconds())
    starts = math.ceil((pool.start_timeout + pool.pull_timeout).total_seconds())
    found: dict[str, Any] = {
        "namespace": pool.namespace,
        "priority_class_name": PRIORITY_CLASS,
        "active_deadline_seconds": max(1, math.ceil(plan.timeout.total_seconds())),
        "schedule_timeout_seconds": waits,
        "startup_timeout_seconds": starts,
    }
    if pool.kubeconfig is not None:
        found["config_file"] = str(Path(pool.kubeconfig))
    if pool.context is not None:
        found["cluster_context"] = pool.context
    if "service_account_name" not in kwargs:
        found["automount_service_account_token"] = False
        if pool.service_account:
            found["service_account_name"] = pool.service_account
    if kwargs.get("namespace", pool.namespace) == pool.namespace:
        found |= _restricted()
    return found


def _restricted() -> dict[str, Any]:
    """What the pool's own namespace asks of a pod (Pod Security's level "restricted")."""
    from kubernetes.client import models

    container = models.V1SecurityContext(
        allow_privilege_escalation=False, capabilities=models.V1Capabilities(drop=["ALL"])
    )
    return {
        "security_context": models.V1PodSecurityContext(
            run_as_non_root=True,
            seccomp_profile=models.V1SeccompProfile(type="RuntimeDefault"),
        ),
        "container_security_context": container,
        "xcom_sidecar_container_security_context": copy.deepcopy(container),
    }


def _metadata(plan: Plan, pool: Pool, job: Job, name: str | None) -> Object:
    """Labels and annotations of any of piecework's pods, as templates."""
    owner = {
        "kind": "airflow",
        "dag_id": _DAG,
        "dag_run_id": _DAG_RUN,
        "task_id": _TASK,
        "map_index": _INDEX,
        "max_tries": _TRIES,
        "try_number": _TRY,
    }
    request = PodRequest(
        run=_RUN, number=1, plan=plan, owner=owner, team=job.team, priority=job.priority
    )
    metadata = metadata_of(request, pool, clock.now())
    told = json.loads(metadata["annotations"][labels.REQUEST])
    # Not known before the task starts; the pod's birth stands for it.
    told |= {"queued_at": None, "pipeline": _DAG, "pipeline_run": _DAG_RUN, "attempt": "@attempt@"}
    told |= {"number": _TRY, "job": name or _TASK}
    found: dict[str, str] = dict(metadata["labels"])
    found |= {labels.RUN: _RUN_LABEL, labels.ATTEMPT: _ATTEMPT_LABEL}
    found[labels.JOB] = labels.label_value(name) if name else _IDENTITY + "{{ task }}"
    found[labels.PIPELINE] = _IDENTITY + "{{ dag[:63] }}"
    annotations = {**metadata["annotations"], labels.REQUEST: _IDENTITY + _to_template(told)}
    return {"labels": found, "annotations": annotations}


def _to_template(told: Mapping[str, Any]) -> str:
    """The request as JSON in which templates stand where the task is to be told."""
    text = json.dumps(told, sort_keys=True)
    for stand_in, template in (
        (json.dumps(_RUN), "run|tojson"),
        (json.dumps("@attempt@"), "(run ~ '.' ~ ti.try_number)|tojson"),
        (json.dumps(_DAG), "ti.dag_id|tojson"),
        (json.dumps(_DAG_RUN), "run_id|tojson"),
        (json.dumps(_TASK), "ti.task_id|tojson"),
        (str(_INDEX), "index"),
        (str(_TRIES), "ti.max_tries"),
        (str(_TRY), "ti.try_number"),
    ):
        text = text.replace(stand_in, "{{ " + template + " }}")
    return text


def _place(found: dict[str, Any], plan: Plan, pool: Pool) -> None:
    """Adds where the pod may run, and what it asks for, to what was given."""
    from kubernetes.client import models

    placement = placement_of(plan, pool, _RUN)
    selector = {**(found.get("node_selector") or {}), **placement["nodeSelector"]}
    if labels.RUN in selector:
        selector[labels.RUN] = _RUN_LABEL
    found["node_selector"] = selector
    found["tolerations"] = [*(found.get("tolerations") or []), *placement["tolerations"]]
    found["affinity"] = merge_affinity(_to_json(found.get("affinity")), placement["affinity"])
    beside = [_SIDECAR] if found.get("do_xcom_push") else []
    written = _to_json(found.get("container_resources"))
    found["container_resources"] = models.V1ResourceRequirements(
        **leave_room(written, resources_of(plan), beside)
    )


def _born(written: Any) -> Any:
    """The pod below the operator's own: with the gate, and the finalizer of the ledger."""
    from kubernetes.client import models

    pod = copy.deepcopy(written) if written is not None else models.V1Pod()
    pod.metadata = pod.metadata or models.V1ObjectMeta()
    pod.metadata.finalizers = [*(pod.metadata.finalizers or []), labels.FINALIZER]
    pod.spec = pod.spec or models.V1PodSpec(containers=[])
    gate = models.V1PodSchedulingGate(name=labels.GATE)
    pod.spec.scheduling_gates = [*(pod.spec.scheduling_gates or []), gate]
    return pod


def _to_json(model: Any) -> dict[str, Any]:
    """A model of the Kubernetes client as JSON values; a dict is that already."""
    from kubernetes.client import ApiClient, Configuration

    if not model:
        return {}
    found: dict[str, Any] = ApiClient(Configuration()).sanitize_for_serialization(model)
    return found
