"""The keeper with a thousand machines and three thousand pods: what it uses, and how far it lags.

KWOK plays the machines, so that a thousand fit on this host; API server, scheduler, Karpenter and
the keeper are real, and every machine is bought for its run. Three runs are asked for a machine:
at first a third of them run and two thirds wait; as runs end, machines are handed over until
nobody waits. An event's lag is from its own time, as Kubernetes wrote it (whole seconds, cut, so
half a second of the lag is none), to the time at which the keeper wrote it down. The keeper's part
of it begins when a watch beside it is told of the event. That part has the limit: while two CPUs
buy a thousand machines, Karpenter and KWOK write down late what they did when. Needs root.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import kwok_pool, witness
from bench.cluster_platform import process_cpu_seconds, process_memory_bytes
from bench.peer_list import percentile
from bench.timing import Figure, Result, Spread
from piecework.clock import now
from piecework.config import Settings
from piecework.engines.engine import launch
from piecework.ledger.events import Event, Kind
from piecework.ledger.store import open_ledger
from piecework.plan import labels
from piecework.plan.choose import plan_job
from piecework.plan.manifest import PodRequest, pods_of
from piecework.plan.price import load_price_book
from piecework.runners.runner import run_id
from piecework.spec.job import Job
from piecework.spec.pool import load_pools
from testbed import cluster, images, kwok, programs
from testbed.api import Api, Object, is_ready
from testbed.place import Place
from tests.cluster import cluster_pools
from tests.cluster.cluster_pools import ClusterPool

_NAME = "bench-keeper"
_POOL = "scale"
_WRITERS = 8
_LONGEST_SECONDS = 1200
_MEBIBYTE = 2**20
#: What the issue asks for.
_MOST_CORES, _MOST_MEMORY, _MOST_LAG = 0.5, 400.0, 2.0
#: Kinds whose time is that of something that happened in the cluster.
_PROMPT = (Kind.MACHINE_READY, Kind.ATTEMPT_STARTED, Kind.ATTEMPT_ENDED, Kind.MACHINE_GONE)


@dataclass(frozen=True, slots=True)
class Size:
    """How many machines and pods, how long runs last, and how long each phase is watched."""

    machines: int
    pods: int
    run_seconds: tuple[int, int]
    window_seconds: int


_FULL = Size(1000, 3000, (300, 600), 120)
_QUICK = Size(100, 300, (60, 120), 30)


def run(quick: bool) -> Result:
    """1,000 machines and 3,000 pods (quick: a tenth)."""
    size = _QUICK if quick else _FULL
    programs.build_all(programs.say)
    notes: list[str] = []
    try:
        here = cluster.up(_NAME, programs.say)
        kwok.start(here)
        with Api(here.admin) as api, tempfile.TemporaryDirectory() as folder:
            figures = _measure(here, api, Path(folder), size, notes)
    finally:
        cluster.down(_NAME)
    return Result("keeper_scale", tuple(figures), tuple(notes))


def _measure(here: Place, api: Api, folder: Path, size: Size, notes: list[str]) -> list[Figure]:
    pool = kwok_pool.make_pool(here, api, _POOL, folder, size.machines)
    settings = cluster_pools.settings_from(pool.keeper_tables, folder / "home")
    pods = _make_pods(here, settings, size)
    with (
        witness.watching(folder / "home", _POOL) as told,
        running_keeper(folder / "home", _POOL) as process,
    ):
        began, used = time.time(), process_cpu_seconds(process.pid)
        _create_all(here, pods)
        asked = time.time()
        _until(lambda: _machines(api) >= size.machines)
        full = time.time()
        burst = (process_cpu_seconds(process.pid) - used) / (full - began)
        programs.say(f"{size.machines} machines run after {full - began:.0f} s")
        steady, memory = watch_process(process.pid, size.window_seconds)
        _until(lambda: not _waiting(api, pool))
        changing = (process_cpu_seconds(process.pid) - used) / (time.time() - began)
        programs.say(f"nobody waits after {time.time() - began:.0f} s")
        settled, late = watch_process(process.pid, size.window_seconds)
        events = _events(settings)
    by_kind = {
        kind: [(e.learned_at - e.at).total_seconds() for e in events if e.kind is kind]
        for kind in _PROMPT
    }
    lags = [lag for some in by_kind.values() for lag in some]
    own = [
        max(0.0, (event.learned_at - told[event.kind, event.subject]).total_seconds())
        for event in events
        if (event.kind, event.subject) in told
    ]
    notes.append(f"the watch beside it told of {len(own)} of {len(lags)} events")
    notes += [
        f"{kind}: 95% of {len(some)} within {percentile(some, 0.95):.2f} s"
        for kind, some in by_kind.items()
        if some
    ]
    bought = sum(event.kind is Kind.MACHINE_REQUESTED for event in events)
    notes.append(
        f"pods created within {asked - began:.0f} s, {bought} machines bought, all running after "
        f"{full - began:.0f} s; {len(events)} events in the ledger"
    )
    label = f"{size.machines} machines, {size.pods} pods"
    return [
        _figure(f"{label}: keeper's CPU while machines are bought", burst, "cores"),
        _figure(f"{label}: while {size.machines} run and the rest waits", steady, "cores",
                _MOST_CORES),
        _figure(f"{label}: from the first pod until nobody waits", changing, "cores"),
        _figure(f"{label}: afterwards, as they end", settled, "cores", _MOST_CORES),
        _figure(f"{label}: memory (PSS), the most", max(memory, late), "MiB", _MOST_MEMORY),
        Figure(f"{label}: from event to ledger", Spread.of(lags), "s"),
        _figure(f"{label}: from event to ledger, 95%", percentile(lags, 0.95), "s"),
        Figure(f"{label}: of which the keeper's part", Spread.of(own), "s"),
        _figure(f"{label}: of which the keeper's part, 95%", percentile(own, 0.95), "s", _MOST_LAG),
    ]  # fmt: skip


def _figure(label: str, value: float, unit: str, at_most: float | None = None) -> Figure:
    return Figure(label, Spread.of([value]), unit, at_most=at_most)


def _make_pods(here: Place, settings: Settings, size: Size) -> list[Object]:
    pool = load_pools(settings)[_POOL]
    image = images.name_in(here, images.SHELL)
    job = Job.model_validate(
        {"container": {"image": image, "command": ["true"]}, "machine": {"cpu": 2, "memory": "4Gi"}}
    )
    plan = plan_job("job", job, pool=pool, prices=load_price_book(), settings=settings)
    told = launch(plan, settings.home).to_json()
    lengths = random.Random(5)
    made = []
    for number in range(size.pods):
        request = PodRequest(run_id(None, "job", str(number)), 1, plan, {"kind": "cli"})
        for pod in pods_of(request, pool, told, now()):
            seconds = lengths.randint(*size.run_seconds)
            pod["metadata"]["annotations"][kwok.RUN_FOR] = f"{seconds}s"
            # Nobody reads these runs' ends, and the keeper would wait for somebody who does.
            pod["metadata"]["annotations"][labels.SEEN] = "true"
            made.append(pod)
    return made


@contextmanager
def running_keeper(home: Path, pool: str) -> Iterator[subprocess.Popen[bytes]]:
    """A keeper as people start it."""
    environment = {
        **os.environ, "PIECEWORK_HOME": str(home), "PIECEWORK_CONFIG": str(home / "piecework.toml"),
    }  # fmt: skip
    with (home / "keeper.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "piecework", "keeper", "--pool", pool],
            stdout=log, stderr=log, env=environment,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def _create_all(here: Place, objects: Sequence[Object]) -> None:
    def create(share: Sequence[Object]) -> None:
        with Api(here.admin) as api:
            for item in share:
                api.create(item)

    with ThreadPoolExecutor(_WRITERS) as workers:
        list(workers.map(create, [objects[start::_WRITERS] for start in range(_WRITERS)]))


def _machines(api: Api) -> int:
    return sum(is_ready(node) for node in api.list("Node", selector=f"{labels.POOL}={_POOL}"))


def _waiting(api: Api, pool: ClusterPool) -> int:
    return sum(not pod["spec"].get("nodeName") for pod in api.list("Pod", pool.namespace))


def _until(check: Callable[[], bool]) -> None:
    """Looks rarely: a list of thousands of pods is work for the API server."""
    deadline = time.monotonic() + _LONGEST_SECONDS
    while not check():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not after {_LONGEST_SECONDS} s")
        time.sleep(3)


def watch_process(pid: int, seconds: int) -> tuple[float, float]:
    """The cores that a process uses from now on, on average, and the most memory in MiB."""
    began, used, most = time.monotonic(), process_cpu_seconds(pid), 0.0
    while time.monotonic() < began + seconds:
        most = max(most, process_memory_bytes(pid) / _MEBIBYTE)
        time.sleep(2)
    return (process_cpu_seconds(pid) - used) / (time.monotonic() - began), most


def _events(settings: Settings) -> list[Event]:
    with open_ledger(settings.ledger_url) as ledger:
        return list(ledger.events())
