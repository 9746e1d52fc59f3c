"""What thousands of waiting runs cost the triggerer: piecework's triggers alone, in one process.

3,000 JobTriggers run in one event loop, as in Airflow's triggerer but without Airflow around them.
Each makes the gated pod of its run and waits. Measured twice: while nothing happens, and while a
keeper admits one run after the other to two machines, so that reasons and places in the queue
change. KWOK plays the machines; the API server and the keeper are real. Needs root.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bench import kwok_pool
from bench.cluster_platform import process_cpu_seconds
from bench.keeper_scale import running_keeper, watch_process
from bench.timing import Figure, Result, Spread
from piecework.kube.client import POD, Kube
from testbed import cluster, images, kwok, programs
from testbed.api import Api
from testbed.place import Place
from tests.cluster import cluster_pools

_NAME = "bench-triggers"
_POOL = "waiting"
_MACHINES = 2
_RUN_SECONDS = 10
_MOST_CORES = 0.5
_LONGEST_SECONDS = 600


def run(quick: bool) -> Result:
    """3,000 triggers (quick: 300)."""
    count, window = (300, 30) if quick else (3000, 60)
    programs.build_all(programs.say)
    try:
        here = cluster.up(_NAME, programs.say)
        kwok.start(here)
        with Api(here.admin) as api, tempfile.TemporaryDirectory() as folder:
            figures = _measure(here, api, Path(folder), count, window)
    finally:
        cluster.down(_NAME)
    return Result("triggers", tuple(figures))


def _measure(here: Place, api: Api, folder: Path, count: int, window: int) -> list[Figure]:
    pool = kwok_pool.make_pool(here, api, _POOL, folder, _MACHINES)
    kwok_pool.end_pods_after(api, _POOL, _RUN_SECONDS)
    home, keeper = folder / "home", folder / "keeper"
    cluster_pools.settings_from(pool.tables, home)
    cluster_pools.settings_from(pool.keeper_tables, keeper)
    image = images.name_in(here, images.SHELL)
    triggers = _start(home, count, image, folder / "triggers.log")
    try:
        kube = Kube.connect(here.admin)
        began = time.monotonic()
        while len(kube.list(POD, _POOL).items) < count:
            if triggers.poll() is not None or time.monotonic() > began + _LONGEST_SECONDS:
                log = (folder / "triggers.log").read_text()[-2000:]
                raise RuntimeError(f"the triggers have not made {count} pods: {log}")
            time.sleep(1)
        made = time.monotonic() - began
        spent = process_cpu_seconds(triggers.pid)
        programs.say(f"{count} pods made after {made:.0f} s")
        time.sleep(5)
        still, memory = watch_process(triggers.pid, window)
        with running_keeper(keeper, _POOL):
            first, _ = watch_process(triggers.pid, window)
            moving, most = watch_process(triggers.pid, window)
    finally:
        triggers.kill()
        triggers.wait()
    label = f"{count} waiting triggers"

    def figure(what: str, value: float, unit: str, at_most: float | None = None) -> Figure:
        return Figure(f"{label}: {what}", Spread.of([value]), unit, at_most=at_most)

    return [
        figure("until all pods are made", made, "s"),
        figure("CPU for that, a run", spent / count, "s"),
        figure("CPU while nothing happens", still, "cores", _MOST_CORES),
        figure("CPU while a keeper begins to tell them why they wait", first, "cores"),
        figure("CPU while a keeper admits one after the other", moving, "cores", _MOST_CORES),
        figure("memory (PSS)", max(memory, most), "MiB"),
    ]


def _start(home: Path, count: int, image: str, log: Path) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "PIECEWORK_HOME": str(home),
        "PIECEWORK_CONFIG": str(home / "piecework.toml"),
        "AIRFLOW_HOME": str(home / "airflow"),
    }
    with log.open("wb") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "bench.triggers", str(count), image],
            stdout=stream, stderr=stream, env=environment,
        )  # fmt: skip


async def _wait_all(count: int, image: str) -> None:
    """Runs the triggers until this process is killed."""
    from piecework.airflow.trigger import JobTrigger

    async def follow(number: int) -> None:
        trigger = JobTrigger(
            job_name="job",
            document={"machine": {"cpu": 2, "memory": "4Gi"}, "pool": _POOL},
            engine="container",
            program={"image": image, "command": ["true"]},
            args=[],
            env={},
            code="/",
            pipeline=None,
            params_spec=None,
            values={},
            max_tries=0,
            resume=True,
        )
        trigger.task_instance = _task_instance(number)
        async for _ in trigger.run():
            return

    await asyncio.gather(*(follow(number) for number in range(count)))


def _task_instance(number: int) -> Any:
    """What a trigger and the name of its log file ask of a task instance."""
    return SimpleNamespace(
        id=uuid.uuid4(), dag_id="bench", task_id="job", run_id="bench", map_index=number,
        try_number=1,
    )  # fmt: skip


def main(count: int, image: str) -> None:
    """What the bench starts as a process of its own."""
    with suppress(KeyboardInterrupt):
        asyncio.run(_wait_all(count, image))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
