"""What every runner can do: start an attempt from its request, tell how it is, end it.

A runner is found by the pool that the machines come from: `runner_for(pool, settings)`.
Everything here can be done twice: starting an attempt that exists finds it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from piecework.config import Settings
from piecework.errors import RunnerError
from piecework.ledger.events import Outcome
from piecework.plan.plan import Plan
from piecework.plan.written_pod import WrittenPod
from piecework.runners.pod_fields import Kept
from piecework.spec.pool import Pool
from piecework.units import Memory

#: Providers whose machines are nodes of a Kubernetes cluster.
ON_KUBERNETES = ("karpenter", "asg")


@dataclass(frozen=True, slots=True)
class Owner:
    """Who asked for a run, and whose end ends it.

    kind "airflow": a task instance, by `dag_id`, `dag_run_id`, `task_id`, `map_index`.
    `max_tries` is the task instance's when it asked: Airflow raises it when somebody clears the
    task, and only then, so a higher one means that this run is asked for anew.
    `try_number` is the try that started the attempt.
    kind "cli": nobody but the user's `cancel` ends it before its time limit.
    """

    kind: str
    dag_id: str | None = None
    dag_run_id: str | None = None
    task_id: str | None = None
    map_index: int = -1
    max_tries: int = 0
    try_number: int = 0


@dataclass(frozen=True, slots=True)
class AttemptRequest:
    """One try of a run: its identity, its plan, its owner, and the program with templates rendered.

    `run` names the run for people and folders (`flights.delays.7f3a9c1b04d2`); `number` counts
    from 1.
    `code` is the folder that the job's relative paths are relative to.
    `data` is the folder or URL in which the jobs of one pipeline run exchange data.
    `pod` is a pod that somebody wrote (a KubernetesPodOperator's), where the attempt's own is made
    from one: `plan.written_pod` merges the two.
    """

    run: str
    number: int
    plan: Plan
    owner: Owner
    code: Path
    data: str
    pipeline: str | None = None
    pipeline_run: str | None = None
    team: str | None = None
    priority: int = 0
    params: Mapping[str, Any] = field(default_factory=dict)
    pod: WrittenPod | None = None

    @property
    def attempt(self) -> str:
        """The attempt's id: `flights.delays.7f3a9c1b04d2.1`."""
        return f"{self.run}.{self.number}"


@dataclass(frozen=True, slots=True)
class AttemptStatus:
    """How an attempt is. `state`: "waiting", "running" or "ended".

    `reason` says why it waits, or what pods of its engine wait for while it runs, `since` since
    when, where that is known; `outcome`, `cause` and the times are set as they become known.
    `result` is what the job wrote as its result (JSON), once it succeeded; where it was too long
    for its pod, `kept` says what is in the store. `lost` says why a result cannot be had any more.
    `owner` is who asked for the attempt, `memory` what it may use of each of its machines.
    """

    attempt: str
    state: str
    reason: str | None = None
    machines: tuple[str, ...] = ()
    queued_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    outcome: Outcome | None = None
    cause: str | None = None
    exit_code: int | None = None
    result: Any = None
    owner: Owner | None = None
    memory: Memory | None = None
    since: datetime | None = None
    kept: Kept | None = None
    lost: str | None = None


class Runner(Protocol):
    """Starts attempts somewhere. Raises RunnerError or ClusterError where that does not answer."""

    def start(self, request: AttemptRequest) -> AttemptStatus:
        """Starts the attempt, or finds it where it was started before."""

    def status(self, attempt: str) -> AttemptStatus | None:
        """How the attempt is; None where there is no such attempt."""

    def attempts(self, run: str) -> list[AttemptStatus]:
        """All attempts of a run, oldest first."""

    def cancel(self, attempt: str, cause: str) -> None:
        """Ends the attempt's whole process tree; returns at once. Ended ones stay as they are."""

    def read_log(self, attempt: str, offset: int, limit: int = 1 << 20) -> bytes:
        """Bytes of the attempt's log from `offset`; empty at its present end."""

    def listen(
        self, run: str, tell: Callable[[], object], tell_log: Callable[[], object]
    ) -> Callable[[], None] | None:
        """Has `tell` called, by any thread, when something about the run may have changed.

        `tell_log` is called when a log of it that has been read once has grown. Returns how to
        stop that; None where this runner cannot tell, so that one has to look.
        """

    def wait_for_change(self, run: str, timeout_seconds: float) -> None:
        """Waits until something about the run may have changed, at most as long as said."""

    def acknowledge(self, attempt: str) -> None:
        """Says that the attempt's end and log were read: its machine need not wait for that."""


def run_id(pipeline: str | None, job: str, pipeline_run: str | None, map_index: int = -1) -> str:
    """The name of a run: `flights.delays.7f3a9c1b04d2`. Equal for equal arguments, else different.

    Names a folder and is read by people, so it has only letters, digits, `_`, `-` and `.`. A job
    without a pipeline run is asked for once: give it a `pipeline_run` of its own.
    """
    identity = "\0".join([pipeline or "", job, pipeline_run or "", str(map_index)])
    digest = hashlib.blake2b(identity.encode(), digest_size=6).hexdigest()
    names = [re.sub(r"[^A-Za-z0-9_-]", "-", name)[:64] for name in (pipeline, job) if name]
    return ".".join([*names, digest])


def runner_for(pool: Pool | str, settings: Settings) -> Runner:
    """The runner of a pool's machines; "local" stands for this host's, whatever its pool is.

    Raises RunnerError where there is none for the pool's provider.
    """
    provider = pool if isinstance(pool, str) else pool.provider
    if provider == "local":
        from piecework.runners.local import LocalRunner

        return LocalRunner(settings)
    if isinstance(pool, Pool) and provider in ON_KUBERNETES:
        from piecework.runners.kubernetes import KubernetesRunner

        return KubernetesRunner(pool, settings)
    raise RunnerError(
        f"there is no runner for machines of provider {provider!r}; there is one for local, "
        f"{', '.join(ON_KUBERNETES)}, each found by its pool"
    )
