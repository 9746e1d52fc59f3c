"""The trigger that follows the run of a MachinePodOperator: a job whose pod somebody wrote.

In: what JobTrigger takes, and the pod as JSON. Out: the same event as any job's; where a worker
goes on, with the pod as it ended, for its callbacks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from piecework.airflow.following import Ending, find_pool
from piecework.airflow.trigger import JobTrigger
from piecework.plan import labels
from piecework.plan.written_pod import WrittenPod
from piecework.runners.runner import Runner
from piecework.spec.job import Job
from piecework.spec.pool import Pool, load_pools


class PodTrigger(JobTrigger):
    """Follows one task's run; see MachinePodOperator."""

    def __init__(
        self,
        *,
        manifest: Mapping[str, Any],
        namespace: str,
        gives_result: bool,
        tells_pod: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.tells_pod = tells_pod
        self.manifest = manifest
        self.namespace = namespace
        self.gives_result = gives_result

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The class's path and the arguments that make an equal trigger."""
        path, kwargs = super().serialize()
        own = {
            "manifest": self.manifest,
            "namespace": self.namespace,
            "gives_result": self.gives_result,
            "tells_pod": self.tells_pod,
        }
        return path, kwargs | own

    def written_pod(self, job: Job) -> WrittenPod:
        """The pod that the operator built."""
        pool = find_pool(self.job_name, job, self.load_settings())
        return WrittenPod(
            self.manifest,
            # Only the pool's own namespace is piecework's to restrict.
            restricted=self.namespace == pool.namespace,
            airflow_result=self.gives_result,
        )

    def find_runner(self, pool: Pool) -> Runner:
        """The runner of the pool, in the pod's namespace."""
        return super().find_runner(pool.model_copy(update={"namespace": self.namespace}))

    def result_of(self, ending: Ending) -> Any:
        """What the program wrote, where it was asked for that."""
        return super().result_of(ending) if self.gives_result else None

    def told_to_worker(self) -> dict[str, Any]:
        """The last attempt's pod, for callbacks; None where there is none any more."""
        if not self.tells_pod or self.assignment is None or self.runner is None:
            return {"pod": None}
        attempts = self.runner.attempts(self.assignment.run)
        return {"pod": self.read_pod(attempts[-1].attempt) if attempts else None}

    def read_pod(self, attempt: str) -> dict[str, Any] | None:
        """An attempt's pod as JSON; None where it is gone."""
        from piecework.kube.client import POD, Kube

        settings = self.load_settings()
        pool = load_pools(settings)[self.document.get("pool") or settings.pool]
        kube = Kube.connect(pool.kubeconfig, pool.context)
        found = kube.get(POD, labels.pod_name(attempt), self.namespace)
        return None if found is None else dict(found)
