"""One list of jobs, run by what people use today and by piecework: what it costs, how long it is.

All go through the same real Airflow, the same real autoscalers and machines with real kubelets, one
after the other: KubernetesPodOperator (deferrable) with Karpenter's defaults, with the
cluster-autoscaler's fast flags and with its defaults; piecework on both kinds of pool. All machines
are of one type, on which one pod has room, and there are at most six. Times are the testbed's own
record of machines and the pods' own status. The autoscaler's defaults keep an idle machine for ten
minutes, so they get the list's first three jobs, and none of a quick one. Needs root on Linux.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from bench import cluster_platform
from bench.cluster_platform import ClusterPlatform
from bench.peer_list import Job, PeerRun, percentile, read_jobs
from bench.pod_watch import PodWatch, watching
from bench.timing import Figure, Result, Spread
from piecework.clock import now
from testbed import aws, cluster, components, found, images, karpenter, programs, record
from testbed.api import Api
from testbed.errors import MissingProgramError
from testbed.place import Place
from tests.cluster import cluster_pools
from tests.cluster.cluster_pools import ClusterPool

_NAME = "bench-peers"
_TYPE = "m6a.large"
_MOST = 6
#: Two vCPUs, less than which no second pod has room.
_CPU, _MEMORY = "1500m", "2Gi"
_RUN_SECONDS = 1800
_RETURN_SECONDS = 1200
_JOBS_WITH_DEFAULTS = 3
_DOCKERFILE = "ARG BASE\nFROM ${BASE}\nUSER 65532:65532\n"
_KARPENTER, _GROUP = "Karpenter", "group"
#: Flags that the testbed sets in its own way.
_OWN_FLAGS = ("--cloud-provider", "--node-group-auto-discovery")
_DAG_FILE = """\
from datetime import datetime
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import DAG
from kubernetes.client import models as k8s
from piecework.airflow.operator import JobOperator

BEGIN = datetime(2024, 1, 1)
RESOURCES = k8s.V1ResourceRequirements(
    requests={{"cpu": "{cpu}", "memory": "{memory}"}}, limits={{"memory": "{memory}"}}
)
for name in {plain}:
    with DAG(name, schedule=None, start_date=BEGIN, params={{"seconds": 1}}):
        KubernetesPodOperator(
            task_id="job",
            name="job",
            namespace=name,
            config_file="{kubeconfig}",
            in_cluster=False,
            image="{image}",
            cmds=["sleep", "{{{{ params.seconds }}}}"],
            container_resources=RESOURCES,
            node_selector={{"bench/pool": name}},
            tolerations=[k8s.V1Toleration(key="bench/pool", operator="Exists")],
            startup_timeout_seconds=1800,
            deferrable=True,
            get_logs=False,
        )
for name in {ours}:
    with DAG(name, schedule=None, start_date=BEGIN, params={{"seconds": 1}}):
        JobOperator(
            task_id="job",
            container={{"image": "{image}", "command": ["sleep", "{{{{ params.seconds }}}}"]}},
            machine={{"cpu": 2, "memory": "4Gi"}},
            machine_pool=name,
        )
"""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who runs the list. Its DAG, its namespace and its machines have the name `id`."""

    id: str
    label: str
    kind: str
    #: The autoscaler's flags, where there are groups.
    flags: tuple[str, ...] = ()

    @property
    def is_ours(self) -> bool:
        return self.label.startswith("piecework")


_PLAIN = (
    Peer("kpo-k", "KubernetesPodOperator, Karpenter's defaults", _KARPENTER),
    Peer("kpo-fast", "KubernetesPodOperator, autoscaler with fast flags", _GROUP, aws.FAST_FLAGS),
    Peer("kpo-slow", "KubernetesPodOperator, autoscaler's defaults", _GROUP),
)
_OURS = (
    Peer("pw-k", "piecework, Karpenter", _KARPENTER),
    Peer("pw-group", "piecework, Auto Scaling group", _GROUP),
)
#: What the issue asks for: give-back at 95% in seconds; paid seconds, boot apart, in least ones.
_MOST_GIVE_BACK = {_KARPENTER: 8.0, _GROUP: 15.0}
_MOST_PAID = {_KARPENTER: 1.15, _GROUP: 1.3}
_MOST_ADDED = 2.0


def run(quick: bool) -> Result:
    """Runs the list by each, and holds piecework's figures against the issue's limits."""
    programs.build_all(programs.say)
    try:
        found.find(aws.AUTOSCALER)
        kinds, notes = {_KARPENTER, _GROUP}, []
    except MissingProgramError as error:
        kinds, notes = {_KARPENTER}, [str(error)]
    try:
        here = cluster.up(_NAME, programs.say)
        with (
            Api(here.admin) as api,
            tempfile.TemporaryDirectory(prefix="piecework-bench-") as folder,
        ):
            runs = _run_all(here, api, Path(folder), kinds, quick)
    finally:
        cluster.down(_NAME)
    if quick:
        notes.append("the autoscaler's defaults are left out of a quick run: it takes ten minutes")
    jobs = read_jobs(quick)
    notes.append(
        f"{len(jobs)} jobs of {sum(job.seconds for job in jobs)} s, the last asked for after "
        f"{jobs[-1].arrival:.0f} s; at most {_MOST} machines of {_TYPE}"
    )
    return Result("peers", tuple(_compare(runs)), tuple(notes))


def _run_all(
    here: Place, api: Api, folder: Path, kinds: set[str], quick: bool
) -> dict[Peer, PeerRun]:
    plain = [p for p in _PLAIN if p.kind in kinds and not (quick and p.id == "kpo-slow")]
    ours = [_make_pool(here, api, peer, folder / peer.id) for peer in _OURS if peer.kind in kinds]
    for peer in plain:
        _make_plain(here, api, peer)
    image = _make_image(here, folder / "image")
    # Keeper and tasks read the same file here, so neither has the rights of its own account alone.
    tables = "\n".join(
        pool.tables.replace(str(pool.submitter_kubeconfig), str(here.admin)) for _, pool in ours
    )
    dags = _DAG_FILE.format(
        cpu=_CPU, memory=_MEMORY, kubeconfig=here.admin, image=image,
        plain=[peer.id for peer in plain], ours=[peer.id for peer, _ in ours],
    )  # fmt: skip
    runs = {}
    with (
        cluster_platform.running(here, tables, folder / "home") as platform,
        watching(here) as pods,
    ):
        peers = [*plain, *(peer for peer, _ in ours)]
        platform.add_dags("peers", dags, *(peer.id for peer in peers))
        for peer in peers:
            _set_autoscaler(here, peer)
            jobs = read_jobs(quick)
            if peer.id == "kpo-slow":
                jobs = jobs[:_JOBS_WITH_DEFAULTS]
            programs.say(f"{peer.label}: {len(jobs)} jobs")
            runs[peer] = _run_list(here, platform, pods, peer, jobs)
            for line in _sum_up(peer, runs[peer]):
                programs.say(line)
    return runs


def _make_pool(here: Place, api: Api, peer: Peer, folder: Path) -> tuple[Peer, ClusterPool]:
    """A pool of piecework, and the peer with the autoscaler's flags that were rendered for it."""
    more = f"max_machines = {_MOST}"
    if peer.kind == _KARPENTER:
        return peer, cluster_pools.make_karpenter_pool(here, api, peer.id, folder, [_TYPE], more)
    pool = cluster_pools.make_asg_pool(here, api, peer.id, folder, [_TYPE], more)
    flags = tuple(flag for flag in pool.rendering.flags if not flag.startswith(_OWN_FLAGS))
    return replace(peer, flags=flags), pool


def _make_plain(here: Place, api: Api, peer: Peer) -> None:
    """A namespace and machines as people have them who use no piecework."""
    api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": peer.id}})
    api.wait("its account", lambda: api.get("ServiceAccount", "default", peer.id))
    labels, taints = {"bench/pool": peer.id}, {"bench/pool": f"{peer.id}:NoSchedule"}
    if peer.kind == _GROUP:
        aws.start(here)
        aws.make_group(here, aws.Group(peer.id, _TYPE, most=_MOST, labels=labels, taints=taints))
        return
    karpenter.start(here)
    types = {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": [_TYPE]}
    pool = karpenter.node_pool(peer.id, labels=labels, taints=taints, requirements=[types])
    pool["spec"]["limits"] = {"nodes": str(_MOST)}
    # What a NodePool has that says nothing of disruption.
    pool["spec"]["disruption"] = {
        "consolidationPolicy": "WhenEmptyOrUnderutilized", "consolidateAfter": "0s",
        "budgets": [{"nodes": "10%"}],
    }  # fmt: skip
    api.apply(pool)


def _make_image(here: Place, folder: Path) -> str:
    """An image whose user is not root, which piecework's namespaces ask for."""
    folder.mkdir(parents=True)
    (folder / "Dockerfile").write_text(_DOCKERFILE)
    return images.build(here, folder, "job:1", base=images.SHELL)


def _set_autoscaler(here: Place, peer: Peer) -> None:
    """Starts the autoscaler with this peer's flags, so that it finds all groups at once."""
    if peer.kind == _GROUP:
        components.stop(here, aws.AUTOSCALER)
        aws.start_autoscaler(here, peer.flags)


def _run_list(
    here: Place, platform: ClusterPlatform, pods: PodWatch, peer: Peer, jobs: Sequence[Job]
) -> PeerRun:
    """Asks for each job in its time, and waits until all have ended and all machines are gone."""
    began = now()
    asked: dict[int, datetime] = {}
    for job in jobs:
        time.sleep(max(0.0, job.arrival - (now() - began).total_seconds()))
        asked[job.number] = now()
        platform.client.trigger(peer.id, {"seconds": job.seconds}, _name(job))
    states = [platform.client.wait_for_run(peer.id, _name(job), _RUN_SECONDS) for job in jobs]
    machines = _until(lambda: _returned(here, began), f"the machines of {peer.label}")
    by_run = {pod.pipeline_run: pod for pod in pods.of(peer.id)}
    return PeerRun(
        jobs=tuple(jobs),
        asked=asked,
        pods={job.number: by_run[_name(job)] for job in jobs if _name(job) in by_run},
        machines=tuple(machines),
        failures=sum(state.state != "success" for state in states),
    )


def _name(job: Job) -> str:
    return f"job-{job.number:02}"


def _returned(here: Place, began: datetime) -> list[record.Life]:
    """The machines that were bought since then, once all are returned."""
    lives = [life for life in record.read(here).values() if life.bought and life.bought >= began]
    return lives if all(life.returned for life in lives) else []


def _until(look: Callable[[], list[Any]], what: str) -> list[Any]:
    deadline = time.monotonic() + _RETURN_SECONDS
    while not (found_now := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited for {what} to be returned, for {_RETURN_SECONDS} s")
        time.sleep(0.5)
    return found_now


def _sum_up(peer: Peer, run: PeerRun) -> list[str]:
    """What is also told while the bench goes on."""
    return [
        f"  {figure.label}: {figure.spread.median:.2f} {figure.unit}"
        for figure in _figures(peer, run)
    ]


def _compare(runs: dict[Peer, PeerRun]) -> list[Figure]:
    figures = [figure for peer, run in runs.items() for figure in _figures(peer, run)]
    beside = {peer.kind: run for peer, run in runs.items() if peer.id in ("kpo-k", "kpo-fast")}
    for peer, run in runs.items():
        if peer.is_ours and peer.kind in beside:
            added = run.added_seconds(beside[peer.kind])
            label = f"{peer.label}: adds to what KubernetesPodOperator's jobs wait, median"
            figures.append(Figure(label, Spread.of([added]), "s", at_most=_MOST_ADDED))
    return figures


def _figures(peer: Peer, run: PeerRun) -> list[Figure]:
    """What is printed of each; only piecework has limits to meet."""
    ours = peer.is_ours
    least, work = run.least_seconds(minimum=True), run.least_seconds(minimum=False)
    apart = run.paid_seconds(boot=False)
    given_back, waits = run.give_back_seconds(), [waited for _, waited in run.waits()]
    machines = len(run.machines) / len(run.jobs)

    def figure(label: str, value: float, unit: str, at_most: float | None = None) -> Figure:
        limit = at_most if ours else None
        return Figure(f"{peer.label}: {label}", Spread.of([value]), unit, at_most=limit)

    return [
        figure("machine time paid", run.paid_seconds(), "s"),
        figure("paid, boot apart, of the least with the minimum", apart / least, "x",
               _MOST_PAID[peer.kind]),
        figure("paid, boot apart, of the jobs' own time", apart / work, "x"),
        figure("machines bought a task", machines, "", 0.999),
        Figure(f"{peer.label}: given back after", Spread.of(given_back), "s"),
        figure("given back after, 95%", percentile(given_back, 0.95), "s",
               _MOST_GIVE_BACK[peer.kind]),
        Figure(f"{peer.label}: from submit to the pod", Spread.of(run.creation_seconds()), "s"),
        Figure(f"{peer.label}: from submit to start, less the boot", Spread.of(waits), "s"),
        figure("failures", run.failures, "", 0),
    ]  # fmt: skip
