"""MachinePodOperator: a KubernetesPodOperator whose pod gets a machine of its own.

In: what people write for KubernetesPodOperator, and the machine. Out: an attempt whose pod is the
one that KubernetesPodOperator would create, with piecework's parts merged in (plan/written_pod.py).
KubernetesPodOperator builds the pod, here, in a worker; from then on the task is followed like any
job's, by a trigger, so none of its own ways to wait, to read logs and to clean up are used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

from airflow.providers.cncf.kubernetes.callbacks import ExecutionMode
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
)
from kubernetes.client import models as k8s

from piecework import config
from piecework.airflow.choice import choose_machine
from piecework.airflow.mapping import LOST_WORKERS, JobPartial
from piecework.airflow.operator import (
    RETRY_DELAY,
    ends_in_worker,
    render_or_fail,
    set_limits,
    take_priority,
)
from piecework.airflow.pod_trigger import PodTrigger
from piecework.config import Settings
from piecework.errors import ConfigError, InputError, NoMachineError
from piecework.spec.job import Job
from piecework.spec.pool import Pool, load_pools
from piecework.units import Memory, parse_cpu

_GPU = "nvidia.com/gpu"
#: More sizes than any price list has between what was asked for and what a machine has for jobs.
_MOST_SIZES = 50


class MachinePodOperator(KubernetesPodOperator):
    """Runs a pod on a machine of its own.

    Takes all of KubernetesPodOperator's arguments, and `machine` (by default what the pod's
    containers ask for), `machine_pool`, `team`, `priority`, `timeout` (by default
    `active_deadline_seconds` or `execution_timeout`), `deadline`, `on_deadline`, and `retries`, a
    number or by cause. The cluster is the machine pool's. With `do_xcom_push`, what the program
    writes to `/airflow/xcom/return.json` (up to 4 KiB, in place) is the task's XCom.
    How long it may wait is the pool's to say (`start_timeout`, `pull_timeout`), and what becomes of
    the pod the keeper's, so `startup_timeout_seconds`, `on_finish_action`, `deferrable`,
    `poll_interval` and the like have no effect.
    """

    # KubernetesPodOperator's, and its author's to set.
    name: str | None
    config_file: str | None
    cluster_context: str | None
    do_xcom_push: bool

    def __init__(
        self,
        *,
        machine: Any = None,
        machine_pool: str | None = None,
        team: str | None = None,
        priority: int | None = None,
        timeout: Any = None,
        deadline: Any = None,
        on_deadline: str | None = None,
        pipeline: str | None = None,
        retries: int | Mapping[str, int] | None = None,
        retry_delay: timedelta | float = RETRY_DELAY,
        execution_timeout: timedelta | None = None,
        priority_weight: int | None = None,
        weight_rule: Any = "absolute",
        mapped: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        fields = {
            "machine": machine,
            "pool": machine_pool,
            "team": team,
            "priority": priority,
            "timeout": timeout,
            "deadline": deadline,
            "on_deadline": on_deadline,
        }
        document = {name: value for name, value in fields.items() if value is not None}
        set_limits(document, None, kwargs.get("active_deadline_seconds"), None)
        set_limits(document, retries, execution_timeout, mapped)
        take_priority(document, priority_weight)
        checked = Job.model_validate({**document, "container": {"image": "program"}})
        super().__init__(
            retries=checked.retries.error + LOST_WORKERS,
            retry_delay=retry_delay,
            execution_timeout=None,
            priority_weight=checked.priority if priority_weight is None else priority_weight,
            weight_rule=weight_rule,
            **kwargs,
        )
        written = checked.model_dump(mode="json", exclude_unset=True)
        self.document = {name: value for name, value in written.items() if name != "container"}
        self.pipeline = pipeline

    @classmethod
    def partial(
        cls, *, retries: int | Mapping[str, int] | None = None, **kwargs: Any
    ) -> JobPartial:
        """As Airflow's; `retries` as the operator's."""
        return JobPartial.of(super().partial(**kwargs), retries)

    def render_template_fields(self, context: Any, jinja_env: Any = None) -> None:
        """As KubernetesPodOperator's, but `{{ ds }}` and the like hold for requested runs, too."""
        with render_or_fail(context):
            super().render_template_fields(context, jinja_env)

    def execute(self, context: Any) -> None:
        """In a worker: builds the pod, hands it over to the trigger, and is gone."""
        try:
            settings = config.load()
            pool = self._find_pool(settings)
            self.name = self._set_name(self.name)
            pod = self._build(context, pool)
            trigger = self._make_trigger(context, settings, pool, pod)
        except (InputError, NoMachineError) as error:  # no other try would do any better
            raise AirflowFailException(str(error)) from error
        if self.callbacks:
            attempt = trigger.begin(context["ti"])
            self._call("on_pod_creation", context, trigger.read_pod(attempt))
        self.defer(trigger=trigger, method_name="execute_complete")

    def execute_complete(self, context: Any, event: Mapping[str, Any]) -> Any:
        """Back in a worker, where callbacks need one or the run has failed."""
        self._finish_callbacks(context, event)
        if event["outcome"] == "success":
            return event["result"]
        if event["exit_code"] is not None and event["exit_code"] in self.skip_on_exit_code:
            raise AirflowSkipException(event["cause"])
        if event["final"]:
            raise AirflowFailException(event["cause"])
        raise AirflowException(event["cause"])

    def on_kill(self) -> None:
        """Nothing: only the task's state in Airflow says whether the pod is still wanted."""

    def _find_pool(self, settings: Settings) -> Pool:
        name = self.document.get("pool") or settings.pool
        pool = load_pools(settings).get(name)
        if pool is None or not pool.on_cluster:
            raise ConfigError(
                f"task {self.task_id!r} needs a machine pool on a cluster; found {name!r}, which "
                f"is {'not configured' if pool is None else 'of this host'}. Name one with "
                "machine_pool"
            )
        return pool

    def _build(self, context: Any, pool: Pool) -> k8s.V1Pod:
        """The pod as KubernetesPodOperator builds it, but without the sidecar for the result."""
        self._use_cluster_of(pool)
        # Where KubernetesPodOperator would fall back on the namespace "default".
        self._incluster_namespace = pool.namespace
        pushes, self.do_xcom_push = self.do_xcom_push, False
        try:
            pod = self.build_pod_request_obj(context)
        finally:
            self.do_xcom_push = pushes
        for callback in self.callbacks:
            callback.on_pod_manifest_created(
                pod_request=pod,
                client=self.client,
                mode=ExecutionMode.SYNC,
                context=context,
                operator=self,
            )
        return pod

    def _use_cluster_of(self, pool: Pool) -> None:
        if self.config_file is None and pool.kubeconfig is not None:
            self.config_file = str(pool.kubeconfig)
        self.cluster_context = self.cluster_context or pool.context

    def _make_trigger(
        self, context: Any, settings: Settings, pool: Pool, pod: k8s.V1Pod
    ) -> PodTrigger:
        manifest = self.client.api_client.sanitize_for_serialization(pod)
        document = dict(self.document)
        if "machine" not in document:
            document["machine"] = find_machine(manifest, self.task_id, pool, settings)
        namespace = pod.metadata.namespace
        return PodTrigger(
            job_name=self.task_id.rpartition(".")[2],
            document=document,
            engine="container",
            program={"image": pod.spec.containers[0].image or "image"},
            args=[],
            env={},
            code="/",
            pipeline=self.pipeline,
            params_spec=None,
            values={},
            max_tries=context["ti"].max_tries,
            resume=True,
            success_resumes=bool(self.callbacks) or ends_in_worker(self),
            manifest=manifest,
            namespace=namespace,
            gives_result=self.do_xcom_push,
            tells_pod=bool(self.callbacks),
        )

    def _finish_callbacks(self, context: Any, event: Mapping[str, Any]) -> None:
        """KubernetesPodOperator's calls at a pod's end; the pod is gone after the last one."""
        if not self.callbacks:
            return
        self._use_cluster_of(self._find_pool(config.load()))
        pod = event["pod"]
        self._call("on_operator_resuming", context, pod, event=dict(event))
        for name in ("on_pod_completion", "on_pod_teardown", "on_pod_cleanup"):
            self._call(name, context, pod)

    def _call(self, name: str, context: Any, pod: Mapping[str, Any] | None, **more: Any) -> None:
        found = None if pod is None else to_model(pod)
        for callback in self.callbacks:
            getattr(callback, name)(
                pod=found,
                client=self.client,
                mode=ExecutionMode.SYNC,
                context=context,
                operator=self,
                **more,
            )


def to_model(pod: Mapping[str, Any]) -> k8s.V1Pod:
    """A pod's JSON as the model that callbacks know."""
    from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator

    return PodGenerator.deserialize_model_dict(dict(pod))


def find_machine(
    manifest: Mapping[str, Any], task_id: str, pool: Pool, settings: Settings
) -> dict[str, Any]:
    """The machine that has for jobs what the pod's containers ask for; in a job's words.

    Raises NoMachineError where there is none.
    """
    cpus, memory, gpus = _sum_requests(manifest["spec"])
    machine: dict[str, Any] = {"cpu": str(cpus or 1), "memory": str(memory or Memory(2 << 30))}
    if gpus:
        machine["gpu"] = gpus
    for _ in range(_MOST_SIZES):
        job = Job.model_validate({"container": {"image": "program"}, "machine": machine})
        plan = choose_machine(task_id, job, pool, settings).plan
        if plan.cpus >= cpus and plan.memory.bytes >= memory.bytes:
            break
        # What is asked for is a machine's nameplate; the system takes some of it.
        if plan.cpus < cpus:
            machine["cpu"] = str(plan.instance_type.vcpus + 1)
        if plan.memory < memory:
            machine["memory"] = str(Memory(plan.instance_type.memory.bytes + (1 << 20)))
    return machine


def _sum_requests(spec: Mapping[str, Any]) -> tuple[Decimal, Memory, int]:
    containers: Sequence[Mapping[str, Any]] = [
        *spec["containers"],
        *(one for one in spec.get("initContainers") or [] if one.get("restartPolicy")),
    ]
    cpus, memory, gpus = Decimal(0), 0, 0
    for container in containers:
        resources = container.get("resources") or {}
        asked = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
        cpus += parse_cpu(asked["cpu"]) if asked.get("cpu") else 0
        memory += Memory.parse(asked["memory"]).bytes if asked.get("memory") else 0
        gpus += int(asked.get(_GPU, 0))
    return cpus, Memory(memory), gpus
