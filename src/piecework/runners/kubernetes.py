"""The runner of a Kubernetes cluster: an attempt is one pod, or a gang of them.

Enters: an AttemptRequest, with its Plan. Leaves: gated pods, named by the attempt, which the keeper
admits and records, and which the kubelet runs to their end whoever watches. All state is on the
pods; the processes that ask share one watch each (piecework.runners.pod_view).

Of a Spark job in mode `operator` the pod is made by the Spark operator, from the SparkApplication
that is made here; until it is there that stands for it (piecework.runners.spark_operator).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from typing import Any
from weakref import WeakKeyDictionary

from piecework import clock
from piecework.clock import Clock
from piecework.config import Settings
from piecework.engines.engine import launch
from piecework.entrypoint.data import variables_of
from piecework.errors import ClusterError, InputError, RunnerError
from piecework.kube.client import (
    POD,
    SPARK_APPLICATION,
    AlreadyThereError,
    ConflictError,
    MissingKindError,
    Object,
    RefusedError,
)
from piecework.kube.transport import UnreachableError
from piecework.ledger.events import Outcome
from piecework.plan import labels
from piecework.plan.executors import divide, own_pods
from piecework.plan.manifest import Launcher, PodRequest, pods_of
from piecework.plan.spark_application import application_of
from piecework.plan.written_pod import merge_pod
from piecework.runners.code import Shelf, bundle
from piecework.runners.pod_fields import deleted_at
from piecework.runners.pod_log import PodLog
from piecework.runners.pod_status import attempt_status
from piecework.runners.pod_view import OTHERS_LEFT_OUT, PodView, view_of
from piecework.runners.pods import (
    End,
    attempt_of,
    end_of,
    is_final,
    read_request,
    started_at,
)
from piecework.runners.runner import AttemptRequest, AttemptStatus
from piecework.runners.source import check_source
from piecework.runners.spark_operator import application_name, ended, is_stand_in, stand_in
from piecework.runners.store import Store, fetch_result
from piecework.spec.data import load_data
from piecework.spec.pool import Pool

#: How often a change is tried on a pod that others change at the same time.
_CONFLICTS = 10


class KubernetesRunner:
    """Attempts of one pool. Light: the watch behind it is the process's."""

    def __init__(
        self,
        pool: Pool,
        settings: Settings,
        now: Clock = clock.now,
        view: PodView | None = None,
    ) -> None:
        self.pool = pool
        self.settings = settings
        self.now = now
        self._given = view
        self._seen: dict[str, int] = {}
        self._logs: dict[str, PodLog] = {}
        #: Who is told, by run, when a log of it has grown.
        self._on_log: dict[str, Callable[[], object]] = {}
        self._fetched: dict[str, AttemptStatus] = {}
        self._lock = threading.Lock()

    @property
    def view(self) -> PodView:
        """The pods of the pool's namespace, as this process knows them."""
        pool = self.pool
        return self._given or view_of(
            pool.kubeconfig, pool.context, pool.namespace, applications=pool.spark_operator
        )

    def start(self, request: AttemptRequest) -> AttemptStatus:
        """Makes the attempt's pods, or finds them where they were made before.

        Raises InputError where the program cannot be started as written, RunnerError where another
        attempt of the run has not ended or the cluster refuses the pods, and ClusterError.
        """
        known = self._list(labels.RUN, labels.run_label(request.run))
        own = [pod for pod in known if attempt_of(pod) == request.attempt]
        for pod in own:
            self.view.note(pod)
        if len(own) < own_pods(request.plan):
            self._refuse_a_second(request, known)
            queued_at = _first_queued(request, known) or self.now()
            own = self._create(request, self._make(request, queued_at))
        self._note_version(request.run)
        return self._with_result(attempt_status(own, self.now()))

    def status(self, attempt: str) -> AttemptStatus | None:
        """How the attempt is; None where the cluster has no pod of it (any more)."""
        self._note_version(attempt.rpartition(".")[0])
        pods = self._pods(attempt)
        return self._with_result(attempt_status(pods, self.now())) if pods else None

    def attempts(self, run: str) -> list[AttemptStatus]:
        """The attempts of a run whose pods are still there, oldest first."""
        self._note_version(run)
        return [self._with_result(found) for found in self._attempts(labels.run_label(run))]

    def find(self, name: str) -> list[AttemptStatus]:
        """The attempts of the run of that name, or of that attempt; empty where there is none.

        A run may be named by its id, or by the beginning or the end of it, where that is one run's.
        """
        known = [self._attempts(label) for label in self.view.runs()]
        of_name: dict[str, list[AttemptStatus]] = {}
        for attempts in known:
            run = attempts[-1].attempt.rpartition(".")[0] if attempts else ""
            if run and (run == name or name in [each.attempt for each in attempts]):
                return attempts
            if run and (run.startswith(name) or run.endswith(f".{name}")):
                of_name[run] = attempts
        return next(iter(of_name.values())) if len(of_name) == 1 else []

    def _attempts(self, run_label: str) -> list[AttemptStatus]:
        groups: dict[str, list[Object]] = {}
        for pod in self.view.pods(run_label):
            groups.setdefault(attempt_of(pod), []).append(pod)
        ordered = sorted(groups.items(), key=lambda each: _number(each[0]))
        return [attempt_status(pods, self.now()) for _, pods in ordered]

    def cancel(self, attempt: str, cause: str) -> None:
        """Ends the attempt's pods, with the cause written on them; returns at once."""
        pods = self._pods(attempt) or self._list(labels.ATTEMPT, labels.attempt_label(attempt))
        if not pods:
            raise RunnerError(
                f"there is no pod of attempt {attempt!r} in pool {self.pool.name}, namespace "
                f"{self.pool.namespace}"
            )
        for pod in pods:
            if not is_final(pod):
                self._end(pod, End(Outcome.CANCELLED, cause, self.now()))

    def read_log(self, attempt: str, offset: int, limit: int = 1 << 20) -> bytes:
        """Bytes of the attempt's log from `offset`; empty at its present end.

        Of a gang, that of its first pod. Once the pod is gone, what the keeper kept in the store.
        """
        log = self._logs.get(attempt)
        if log is None:
            first = self._first_pod(attempt)
            if first is None:
                return self._read_kept(attempt, offset, limit)
            if started_at(first) is None:
                return b""
            log = self._follow(attempt, first)
        data = log.read(offset, limit, wait=self._is_over(attempt))
        if not data and log.complete and log.error is not None:
            return self._read_kept(attempt, offset, limit)
        return data

    def listen(
        self, run: str, tell: Callable[[], object], tell_log: Callable[[], object]
    ) -> Callable[[], None]:
        """See Runner: `tell` is called by the watch's thread, `tell_log` by that of the log."""
        self._on_log[run] = tell_log
        stop = self.view.listen(labels.run_label(run), tell)

        def stop_both() -> None:
            self._on_log.pop(run, None)
            stop()

        return stop_both

    def wait_for_change(self, run: str, timeout_seconds: float) -> None:
        """Waits for a change since this runner was last asked about the run."""
        label = labels.run_label(run)
        seen = self._seen.get(label)
        if seen is None:
            seen = self.view.version(label)
        self.view.wait(label, seen, timeout_seconds)

    def acknowledge(self, attempt: str) -> None:
        """Writes on the pods that their end and log were read, so nothing waits for that."""
        self._logs.pop(attempt, None)
        seen = {"metadata": {"annotations": {labels.SEEN: "true"}}}
        for pod in self._pods(attempt):
            annotations = pod["metadata"].get("annotations") or {}
            if is_final(pod) and labels.SEEN not in annotations:
                metadata = pod["metadata"]
                self.view.kube.patch(POD, metadata["name"], seen, metadata["namespace"])
                name = application_name(pod)
                if name is not None:
                    # Nothing is lost where the operator's own admission does not answer.
                    with suppress(ClusterError):
                        self.view.kube.patch(SPARK_APPLICATION, name, seen, metadata["namespace"])

    def _make(self, request: AttemptRequest, queued_at: datetime) -> list[Object]:
        """The attempt's pods, with the code where they can get it; or what stands for one."""
        plan, data = request.plan, load_data(self.settings)
        check_source(plan, request.code)
        start = launch(plan, request.code).to_json()
        told = data.order(on_cluster=True)
        env = {"PIECEWORK_DATA": request.data} if "://" in request.data else {}
        if start["starter"] == "container":
            env |= variables_of({**told, "kerberos": None})  # whose files are not mounted there
        elif told:
            start["data"] = told
        asked = PodRequest(
            run=request.run,
            number=request.number,
            plan=plan,
            owner=asdict(request.owner),
            pipeline=request.pipeline,
            pipeline_run=request.pipeline_run,
            team=request.team,
            priority=request.priority,
            params=request.params,
            env=env,
            data=data,
        )
        launcher = None
        if start["starter"] != "container":
            launcher = self._put_code(request, start)
        elif plan.count > 1 and self.pool.image:
            shelf = _shelf_of(self.view, self.settings)
            launcher = Launcher(config_map=shelf.put_launcher(), order={})
        pods = pods_of(asked, self.pool, start, queued_at, launcher)
        try:
            if request.pod is not None:
                pods = [merge_pod(request.pod, pod) for pod in pods]
        except ValueError as error:
            raise InputError(f"job {plan.job_name}: {error}") from error
        spark = plan.job.spark
        if spark is not None and spark.mode == "operator":
            return [application_of(pods[0], divide(plan), spark.file)]
        return pods

    def _put_code(self, request: AttemptRequest, start: dict[str, Any]) -> Launcher:
        shelf = _shelf_of(self.view, self.settings)
        code = shelf.put_code(bundle(request.code))
        # Where the code is on the asking computer is nothing to the pod.
        order: dict[str, Any] = {"launch": {**start, "code": ""}, "code": code.order()}
        if self.settings.store:
            order["store"] = self.settings.store
        return Launcher(config_map=shelf.put_launcher(), order=order, code=code.config_map)

    def _create(self, request: AttemptRequest, objects: Sequence[Object]) -> list[Object]:
        """Makes each object, or finds it: ten who start the same attempt make the same ones."""
        made = []
        for obj in objects:
            kind = SPARK_APPLICATION if is_stand_in(obj) else POD
            name = obj["metadata"]["name"]
            what = f"attempt {request.attempt}: its {kind.kind} {name}"
            try:
                found: Object | None = self.view.kube.create(kind, obj)
            except AlreadyThereError:
                found = self.view.kube.get(kind, name, self.pool.namespace)
            except RefusedError as error:
                raise RunnerError(
                    f"{what} was refused: {error}. What a pool needs in the cluster (namespace, "
                    "rights, priority class) is printed by `piecework pools render`"
                ) from error
            if found is None:
                raise UnreachableError(f"{what} was there and is gone; start it again")
            if kind is SPARK_APPLICATION:
                found = stand_in(found)
            if attempt_of(found) != request.attempt:
                raise RunnerError(
                    f"attempt {request.attempt}: there is a {kind.kind} {name} already, and it is "
                    f"not of this attempt but of {attempt_of(found)}; delete it, or start another "
                    "run"
                )
            self.view.note(found)
            made.append(found)
        return made

    def _refuse_a_second(self, request: AttemptRequest, known: Iterable[Object]) -> None:
        """A run is never run twice at the same time, whoever asks."""
        for pod in known:
            other = attempt_of(pod)
            if other != request.attempt and not is_final(pod):
                raise RunnerError(
                    f"attempt {request.attempt}: {other} of the same run has not ended; cancel it, "
                    "or wait for its end"
                )

    def _end(self, pod: Object, end: End) -> None:
        """Writes why on the pod, unless somebody else did, and deletes it."""
        if is_stand_in(pod):
            self._end_application(pod, end)
            return
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        current: Object | None = pod
        for _ in range(_CONFLICTS):
            if current is None or is_final(current):
                return
            if end_of(current) is not None:
                break
            try:
                current = self._write_end(current, end)
            except ConflictError:  # it changed meanwhile; it may even have ended
                current = self.view.kube.get(POD, name, namespace)
                continue
            break
        if current is None or current["metadata"].get("deletionTimestamp"):
            return
        # With the grace that the pod itself asks for.
        self.view.kube.delete(POD, name, namespace, uid=current["metadata"]["uid"])
        # The clock here may be ahead of the API server's.
        current = self.view.kube.get(POD, name, namespace)
        written = None if current is None else end_of(current)
        if current is not None and written is not None:
            with suppress(ConflictError):
                self._write_end(current, written)

    def _write_end(self, pod: Object, end: End) -> Object | None:
        """Writes END on a pod that has not changed since; its deletion may have been before."""
        end = end.not_after(deleted_at(pod))
        if end == end_of(pod):
            return pod
        metadata = pod["metadata"]
        change = {
            "metadata": {
                "resourceVersion": metadata["resourceVersion"],
                "annotations": {labels.END: end.to_json()},
            }
        }
        changed = self.view.kube.patch(POD, metadata["name"], change, metadata["namespace"])
        if changed is not None:
            self.view.note(changed)
        return changed

    def _end_application(self, pod: Object, end: End) -> None:
        """Ends what has no pod yet. The operator's own admission may be away: no matter."""
        name, namespace = str(application_name(pod)), pod["metadata"]["namespace"]
        self.view.note(ended(pod, end))
        note = {"metadata": {"annotations": {labels.END: end.to_json()}}}
        with suppress(ClusterError):
            self.view.kube.patch(SPARK_APPLICATION, name, note, namespace)
        self.view.kube.delete(SPARK_APPLICATION, name, namespace, uid=pod["metadata"]["uid"])

    def _pods(self, attempt: str) -> list[Object]:
        run = labels.run_label(attempt.rpartition(".")[0])
        return [pod for pod in self.view.pods(run) if attempt_of(pod) == attempt]

    def _list(self, label: str, value: str) -> list[Object]:
        """Asks the API server itself, where what another process has just done matters."""
        kube, namespace, chosen = self.view.kube, self.pool.namespace, f"{label}={value}"
        pods = kube.list(POD, namespace, labels=f"{chosen},{OTHERS_LEFT_OUT}").items
        if not self.pool.spark_operator:
            return pods
        known = {pod["metadata"]["name"] for pod in pods}
        try:
            applications = kube.list(SPARK_APPLICATION, namespace, labels=chosen).items
        except MissingKindError:
            return pods
        stand_ins = [stand_in(application) for application in applications]
        return [*pods, *(pod for pod in stand_ins if pod["metadata"]["name"] not in known)]

    def _note_version(self, run: str) -> None:
        label = labels.run_label(run)
        self._seen[label] = self.view.version(label)

    def _follow(self, attempt: str, pod: Object) -> PodLog:
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        container = pod["spec"]["containers"][0]["name"]
        kube = self.view.kube

        def open_log(since: datetime | None, follow: bool) -> Iterable[bytes]:
            return kube.open_log(
                name,
                namespace,
                follow=follow,
                timestamps=True,
                since_time=since,
                container=container,
            )

        def tell() -> None:
            self._on_log.get(attempt.rpartition(".")[0], lambda: None)()

        with self._lock:
            log = self._logs.get(attempt)
            if log is None:
                log = PodLog(name, open_log, lambda: self._is_over(attempt), on_growth=tell)
                self._logs[attempt] = log
                log.start()
        return log

    def _first_pod(self, attempt: str) -> Object | None:
        """The only pod of an attempt, or of a gang the one whose log is the attempt's."""
        pods = self._pods(attempt)
        return min(pods, key=lambda pod: str(pod["metadata"]["name"]), default=None)

    def _is_over(self, attempt: str) -> bool:
        """Whether no more of its log will come."""
        first = self._first_pod(attempt)
        return first is None or is_final(first)

    def _read_kept(self, attempt: str, offset: int, limit: int) -> bytes:
        store = Store.of(self.settings)
        return b"" if store is None else store.read_log(attempt, offset, limit)

    def _with_result(self, status: AttemptStatus) -> AttemptStatus:
        """The same with its result, where that is in the store; it is read once."""
        if status.kept is None:
            return status
        if status.attempt not in self._fetched:
            self._fetched[status.attempt] = fetch_result(self.settings, status)
        return self._fetched[status.attempt]


def _first_queued(request: AttemptRequest, known: Iterable[Object]) -> datetime | None:
    """When the run's first attempt was queued: retries keep their place and their deadline.

    Attempts from before their task was cleared (see Owner.max_tries) are of an earlier request.
    """
    times = []
    for pod in known:
        asked = read_request(pod)
        owner = asked.get("owner") or {}
        if owner.get("max_tries", 0) >= request.owner.max_tries and asked.get("queued_at"):
            times.append(clock.from_text(asked["queued_at"]))
    return min(times, default=None)


def _number(attempt: str) -> int:
    number = attempt.rpartition(".")[2]
    return int(number) if number.isdigit() else 0


def _shelf_of(view: PodView, settings: Settings) -> Shelf:
    """The process's one shelf beside that view: it remembers what it has put there."""
    with _shelves_lock:
        shelves = _shelves.setdefault(view, {})
        if settings.store not in shelves:
            shelves[settings.store] = Shelf.of(view.kube, view.namespace, settings)
        return shelves[settings.store]


_shelves: WeakKeyDictionary[PodView, dict[str, Shelf]] = WeakKeyDictionary()
_shelves_lock = threading.Lock()
