"""Starts a Python file whose plain `dask.distributed.Client()` finds a cluster of the machine.

    program: {"file": "jobs/weather.py", "threads_per_worker": 2 | None}

The cluster lives in a process of its own beside the program (`dask_cluster`), so that what the
program does to its interpreter cannot hold up the scheduler, and its end ends the cluster.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from piecework.entrypoint.start import (
    CannotStart,
    Machine,
    Start,
    find_packages,
    interpreter,
    own_folder,
    program_args,
    program_environment,
    program_file,
)

#: Of the machine's memory, this much is told to the workers: Dask acts on its own limit (it spills
#: at 60 %, pauses at 80 %, restarts a worker at 95 % of it), which must come before the machine's.
SHARE = 0.9
#: For the process of the cluster itself and for the program, which are Python with pandas in it.
BESIDE_MIB = 400
#: A worker is a Python process with pandas and pyarrow: below this it would only spill.
LEAST_WORKER_MIB = 300
#: Threads of one worker where the job does not say: pandas lets go of the interpreter often enough.
MOST_THREADS = 4
MEBI = 2**20


def prepare(launch: Mapping[str, Any], environ: Mapping[str, str], work: Path) -> Start:
    """The session with the user's file in it.

    Raises CannotStart where Dask is missing or the machine is too small for a worker.
    """
    program, own = launch["program"], own_folder(work)
    python = interpreter(environ)
    env = program_environment(launch, environ)
    if not find_packages(python, env, "distributed"):
        raise CannotStart(f"Dask is not installed for {python}; pip install 'piecework[dask]'")
    workers, threads, memory = cluster_sizes(
        Machine.from_environ(environ), program.get("threads_per_worker")
    )
    config = {
        "argv": [python, program_file(launch, program["file"]), *program_args(launch)],
        "workers": workers,
        "threads": threads,
        "memory_bytes": memory,
        "folder": str(own / "dask"),
        "report": str(Path(environ.get("PIECEWORK_ARTIFACTS") or work) / "dask-report.html"),
        "out_of_memory": str(own / "out-of-memory"),
    }
    env["DASK_TEMPORARY_DIRECTORY"] = str(own / "dask")
    session = Path(__file__).with_name("session.py")
    return Start(
        argv=(python, "-P", str(session), "dask_cluster", str(own / "session.json")),
        env=env,
        files={str(own / "session.json"): json.dumps(config)},
        folders=(str(own / "dask"),),
        out_of_memory=str(own / "out-of-memory"),
    )


def cluster_sizes(machine: Machine, threads: int | None) -> tuple[int, int, int]:
    """Workers, threads of each, and bytes of memory of each.

    All cores are used by workers of up to four threads, so that a large machine is not one
    interpreter; fewer workers where the memory would not go round. Raises CannotStart where it
    does not suffice for one.
    """
    usable = int(machine.memory_bytes * SHARE) - BESIDE_MIB * MEBI
    most = usable // (LEAST_WORKER_MIB * MEBI)
    if most < 1:
        needs = int((LEAST_WORKER_MIB + BESIDE_MIB) / SHARE) + 1
        raise CannotStart(
            f"Dask needs a machine with {needs} MiB of memory to itself, and this one has "
            f"{machine.memory_bytes // MEBI} MiB; ask for more (machine: memory)"
        )
    each = threads or min(MOST_THREADS, machine.cores)
    workers = max(1, machine.cores // each)
    if workers > most:
        workers = most
        each = threads or machine.cores // workers
    return workers, each, usable // workers
