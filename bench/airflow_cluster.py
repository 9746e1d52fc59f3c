"""Airflow's share of hundreds of jobs on a cluster: piecework beside KubernetesPodOperator.

As many mapped tasks of each, and as many of piecework's that are not mapped, one kind after the
other, on one real Airflow and one real control plane; KWOK plays the machines, which are there
already for KubernetesPodOperator (deferrable), and are bought for piecework by the real Karpenter.
Pods end by themselves after a time. Requests are counted by the API server, by who sent them: those
that read pods, and all, the keeper's included. CPU time is that of all of Airflow's processes,
ended workers included. Needs root on Linux.
"""

from __future__ import annotations

import re
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from bench import cluster_platform, kwok_pool
from bench.cluster_platform import ClusterPlatform
from bench.peer_list import median, percentile
from bench.pod_watch import PodTimes, PodWatch, watching
from bench.timing import Figure, Result, Spread
from piecework.airflow.configuration import PlatformFolder
from piecework.clock import from_text, now
from piecework.errors import ClusterError
from piecework.kube.transport import Transport, connect
from testbed import certificates, cluster, images, kwok, programs
from testbed.api import Api, Object
from testbed.place import Place
from testbed.provider import make_node
from testbed.size import size_of

_NAME = "bench-airflow"
_PLAIN, _OURS, _SINGLE = "plain", "ours", "single"
#: Each kind's DAG, whose namespace and pods' maker it is, and its name.
_KINDS = {
    _PLAIN: (_PLAIN, "KubernetesPodOperator"),
    _OURS: (_OURS, "piecework"),
    _SINGLE: (_OURS, "piecework, not mapped"),
}
_LONGEST_SECONDS = 1800
#: One machine of KWOK's takes as many pods of KubernetesPodOperator.
_PODS_A_NODE = 100
_SAMPLE_SECONDS = 2.0
#: The bench's own questions to Airflow are Airflow's work, too.
_ASK_SECONDS = 5.0
#: Schemas of the API server's flow control: by user, what reads pods and the rest.
_READS, _REST = "reads", "rest"
_FLOWS = "flowcontrol.apiserver.k8s.io/v1"
_DISPATCHED = re.compile(
    r'^apiserver_flowcontrol_dispatched_requests_total\{flow_schema="([^"]+)".*\} (\S+)$', re.M
)
#: What the issue asks for, in shares of KubernetesPodOperator's figures and in seconds.
_MOST_CREATION, _MOST_REQUESTS, _MOST_CPU = 0.25, 0.01, 0.2
_MOST_END_MEDIAN, _MOST_END_95 = 2.0, 5.0
#: Two files: a worker reads all of its task's, and should not load what another kind needs.
_PLAIN_FILE = """\
from datetime import datetime
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import DAG

with DAG("plain", schedule=None, start_date=datetime(2024, 1, 1)):
    KubernetesPodOperator.partial(
        task_id="job",
        name="job",
        namespace="plain",
        config_file="{plain}",
        in_cluster=False,
        image="{image}",
        cmds=["true"],
        node_selector={{"bench/pool": "plain"}},
        startup_timeout_seconds=1800,
        deferrable=True,
        get_logs=False,
    ).expand(env_vars=[{{"NUMBER": str(number)}} for number in range({count})])
"""
_OURS_FILE = """\
from datetime import datetime
from airflow.sdk import DAG
from piecework.airflow.operator import JobOperator

JOB = {{
    "container": {{"image": "{image}", "command": ["true"]}},
    "machine": {{"cpu": 2, "memory": "4Gi"}},
    "pool": "ours",
}}
with DAG("ours", schedule=None, start_date=datetime(2024, 1, 1)):
    JobOperator.partial(task_id="job").expand(
        job=[{{**JOB, "env": {{"NUMBER": str(number)}}}} for number in range({count})]
    )
with DAG("single", schedule=None, start_date=datetime(2024, 1, 1)):
    for number in range({count}):
        JobOperator(task_id=f"job{{number}}", job=JOB)
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """How many requests there had been at a time, by the schema that counted them."""

    at: datetime
    requests: dict[str, float]


@dataclass(slots=True)
class TasksRun:
    """What one kind of task did."""

    asked: datetime
    pods: list[PodTimes]
    #: When each task ended, by its name and map index, and how many did not succeed.
    ends: dict[tuple[str, int], datetime]
    failures: int
    cpu_seconds: float
    keeper_cpu_seconds: float
    samples: list[Sample] = field(default_factory=list)

    @property
    def creation_seconds(self) -> float:
        """From the request until all pods are there."""
        return (max(pod.created for pod in self.pods) - self.asked).total_seconds()

    @property
    def end_seconds(self) -> list[float]:
        """By task: from its pod's end to its own."""
        return [
            (self.ends[pod.task, pod.map_index] - pod.ended).total_seconds()
            for pod in self.pods
            if pod.ended and (pod.task, pod.map_index) in self.ends
        ]

    def requests_a_minute(self, schema: str) -> float:
        """While all wait: after the last pod's start and before the first one's end, where that
        is a while, else from the first pod's start to the last one's end.
        """
        starts = [pod.started for pod in self.pods if pod.started]
        ends = [pod.ended for pod in self.pods if pod.ended]
        inside = self._between(max(starts), min(ends))
        if len(inside) < 3:
            inside = self._between(min(starts), max(ends))
        minutes = (inside[-1].at - inside[0].at).total_seconds() / 60
        return (inside[-1].requests.get(schema, 0) - inside[0].requests.get(schema, 0)) / minutes

    def _between(self, start: datetime, end: datetime) -> list[Sample]:
        return [sample for sample in self.samples if start <= sample.at <= end]


def run(quick: bool) -> Result:
    """200 tasks of 120 s of each kind (quick: 40 of 30 s)."""
    count, seconds = (40, 30) if quick else (200, 120)
    programs.build_all(programs.say)
    try:
        here = cluster.up(_NAME, programs.say)
        kwok.start(here)
        with (
            Api(here.admin) as api,
            tempfile.TemporaryDirectory(prefix="piecework-bench-") as folder,
        ):
            runs = _run_all(here, api, Path(folder), count, seconds)
    finally:
        cluster.down(_NAME)
    return Result("airflow_cluster", tuple(_compare(runs, count)))


def _run_all(here: Place, api: Api, folder: Path, count: int, seconds: int) -> dict[str, TasksRun]:
    pool = kwok_pool.make_pool(here, api, _OURS, folder, count)
    _make_plain(api, count)
    users = {name: _make_user(here, api, folder, name) for name in (_PLAIN, _OURS)}
    for namespace in (_PLAIN, _OURS):
        kwok_pool.end_pods_after(api, namespace, seconds)
    tables = pool.tables.replace(str(pool.submitter_kubeconfig), str(users[_OURS]))
    image = images.name_in(here, images.SHELL)
    with (
        cluster_platform.running(here, tables, folder / "home") as platform,
        watching(here) as pods,
    ):
        plain = _PLAIN_FILE.format(plain=users[_PLAIN], image=image, count=count)
        platform.add_dags(_PLAIN, plain, _PLAIN)
        platform.add_dags(_OURS, _OURS_FILE.format(image=image, count=count), _OURS, _SINGLE)
        runs = {}
        for dag in _KINDS:
            runs[dag] = _run_tasks(platform, pods, dag, count)
            for figure in _figures(dag, runs[dag], count):
                programs.say(f"  {figure.label}: {figure.spread.median:.2f} {figure.unit}")
        return runs


def _make_plain(api: Api, count: int) -> None:
    """A namespace, and machines with room for all pods."""
    api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": _PLAIN}})
    api.wait("its account", lambda: api.get("ServiceAccount", "default", _PLAIN))
    for number in range(1 + count // _PODS_A_NODE):
        size = size_of("m6a.4xlarge")
        api.create(make_node(f"plain-{number}", size, {"bench/pool": _PLAIN}))


def _make_user(here: Place, api: Api, folder: Path, name: str) -> Path:
    """Somebody who may do everything, and whose requests the API server counts."""
    user = f"bench-{name}"
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}
    api.apply(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": user},
            "roleRef": role,
            "subjects": [subject],
        },
        _flow(user, _READS, 500, ["get", "list", "watch"], ["pods", "pods/log", "pods/status"]),
        _flow(user, _REST, 600, ["*"], ["*"]),
    )
    return certificates.write_kubeconfig(here, folder / f"{name}.kubeconfig", user)


def _flow(user: str, what: str, precedence: int, verbs: list[str], resources: list[str]) -> Object:
    """Counts a user's requests: flow control names the schema that each belongs to."""
    rule = {
        "verbs": verbs,
        "apiGroups": ["*"],
        "resources": resources,
        "clusterScope": True,
        "namespaces": ["*"],
    }
    return {
        "apiVersion": _FLOWS,
        "kind": "FlowSchema",
        "metadata": {"name": f"{user}-{what}"},
        "spec": {
            "matchingPrecedence": precedence,
            "priorityLevelConfiguration": {"name": "workload-high"},
            "distinguisherMethod": {"type": "ByUser"},
            "rules": [
                {
                    "subjects": [{"kind": "User", "user": {"name": user}}],
                    "resourceRules": [rule],
                }
            ],
        },
    }


def _run_tasks(platform: ClusterPlatform, pods: PodWatch, dag: str, count: int) -> TasksRun:
    programs.say(f"{dag}: {count} tasks")
    cpu, keeper = platform.cpu_seconds(), platform.keeper_cpu_seconds()
    with _sampling(platform.here) as samples:
        asked = now()
        name = platform.client.trigger(dag, {}, f"{dag}-1")
        platform.client.wait_for_run(dag, name, _LONGEST_SECONDS, _ASK_SECONDS)
    ends, failures = _read_ends(platform, dag)
    return TasksRun(
        asked=asked,
        pods=[pod for pod in pods.of(_KINDS[dag][0]) if pod.pipeline_run == name],
        ends=ends,
        failures=failures,
        cpu_seconds=platform.cpu_seconds() - cpu,
        keeper_cpu_seconds=platform.keeper_cpu_seconds() - keeper,
        samples=samples,
    )


@contextmanager
def _sampling(here: Place) -> Iterator[list[Sample]]:
    """Asks the API server again and again how many requests there were."""
    samples: list[Sample] = []
    over = threading.Event()

    def sample() -> None:
        server = connect(here.admin, None)
        while not over.is_set():
            with suppress(ClusterError):  # a busy API server breaks off now and then
                samples.append(Sample(now(), _read_requests(server)))
            over.wait(_SAMPLE_SECONDS)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def _read_requests(server: Transport) -> dict[str, float]:
    answer = server.send("GET", "/metrics", {}, None, {"Accept": "text/plain"})
    found: dict[str, float] = {}
    for schema, number in _DISPATCHED.findall(answer.read().decode()):
        found[schema] = found.get(schema, 0) + float(number)
    return found


def _read_ends(platform: ClusterPlatform, dag: str) -> tuple[dict[tuple[str, int], datetime], int]:
    """When tasks ended, as Airflow's own database says."""
    database = PlatformFolder(platform.settings.home).database
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        rows = connection.execute(
            "select task_id, map_index, state, end_date from task_instance where dag_id = ?",
            (dag,),
        ).fetchall()
    ends = {
        (task, index): from_text(end.replace(" ", "T") + "Z") for task, index, _, end in rows if end
    }
    return ends, sum(state != "success" for _, _, state, _ in rows)


def _compare(runs: dict[str, TasksRun], count: int) -> list[Figure]:
    figures = [figure for dag, run_ in runs.items() for figure in _figures(dag, run_, count)]
    for dag in (_OURS, _SINGLE):
        figures += _ratios(dag, runs[_PLAIN], runs[dag])
    return figures


def _figures(dag: str, run_: TasksRun, count: int) -> list[Figure]:
    """What is printed of each kind; only piecework has limits to meet."""
    ours, who = dag != _PLAIN, _KINDS[dag][1]
    airflow = (run_.cpu_seconds - run_.keeper_cpu_seconds) / count
    ends = run_.end_seconds

    def figure(label: str, value: float, unit: str, at_most: float | None = None) -> Figure:
        limit = at_most if ours else None
        return Figure(f"{who}: {label}", Spread.of([value]), unit, at_most=limit)

    return [
        figure("until all pods are created", run_.creation_seconds, "s"),
        figure("from a pod's end to its task's, median", median(ends), "s", _MOST_END_MEDIAN),
        figure("from a pod's end to its task's, 95%", percentile(ends, 0.95), "s", _MOST_END_95),
        figure("reads of pods while waiting", _requests(run_, dag, _READS), "a minute"),
        figure("other requests meanwhile", _requests(run_, dag, _REST), "a minute"),
        figure("CPU of Airflow a task", airflow, "s"),
        figure("CPU of the keeper a task", run_.keeper_cpu_seconds / count, "s"),
        figure("failures", run_.failures, "", 0.0),
    ]


def _requests(run_: TasksRun, dag: str, what: str) -> float:
    return run_.requests_a_minute(f"bench-{_KINDS[dag][0]}-{what}")


def _ratios(dag: str, plain: TasksRun, ours: TasksRun) -> list[Figure]:
    who = _KINDS[dag][1]

    def share(label: str, mine: float, theirs: float, at_most: float) -> Figure:
        label = f"{who}'s share of KubernetesPodOperator's: {label}"
        return Figure(label, Spread.of([mine / theirs]), "x", at_most)

    return [
        share("until all pods are created", ours.creation_seconds, plain.creation_seconds,
              _MOST_CREATION),
        share("reads of pods while waiting", _requests(ours, dag, _READS),
              _requests(plain, _PLAIN, _READS), _MOST_REQUESTS),
        share("CPU of Airflow a task", ours.cpu_seconds - ours.keeper_cpu_seconds,
              plain.cpu_seconds - plain.keeper_cpu_seconds, _MOST_CPU),
    ]  # fmt: skip
