"""Starts a Python file whose plain `dask.distributed.Client()` finds a cluster of the machine.

    program: {"file": "jobs/weather.py", "threads_per_worker": 2 | None}

The cluster lives in a process of its own beside the program (`dask_cluster`), so that what the
program does to its interpreter cannot hold up the scheduler, and its end ends the cluster. Of a
gang that is so on the first machine; on the others workers alone run (`dask_worker`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from piecework.entrypoint.gang import Gang, worker_argv, worker_file
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
from piecework.entrypoint.use import ENGINE_FILE

#: Of the machine's memory, this much is told to the workers: Dask acts on its own limit (it spills
#: at 60 %, pauses at 80 %, restarts a worker at 95 % of it), which must come before the machine's.
SHARE = 0.9
#: For the process of the cluster itself and for the program, which are Python with pandas in it.
BESIDE_MIB = 400
#: On machines of a gang that have workers alone: for the process that watches over them.
BESIDE_WORKERS_MIB = 200
#: A worker is a Python process with pandas and pyarrow: below this it would only spill.
LEAST_WORKER_MIB = 300
#: Threads of one worker where the job does not say: pandas lets go of the interpreter often enough.
MOST_THREADS = 4
MEBI = 2**20


def prepare(launch: Mapping[str, Any], environ: Mapping[str, str], work: Path) -> Start:
    """The session with the user's file in it; on other machines of a gang, their workers.

    Raises CannotStart where Dask is missing or the machine is too small for a worker.
    """
    own, gang = own_folder(work), Gang.of(launch)
    python = interpreter(environ)
    env = program_environment(launch, environ)
    if not find_packages(python, env, "distributed"):
        raise CannotStart(f"Dask is not installed for {python}; pip install 'piecework[dask]'")
    env["DASK_TEMPORARY_DIRECTORY"] = str(own / "dask")
    beside = BESIDE_MIB if gang is None or gang.is_head else BESIDE_WORKERS_MIB
    workers, threads, memory = cluster_sizes(
        Machine.from_environ(environ), launch["program"].get("threads_per_worker"), beside
    )
    config = {
        "workers": workers,
        "threads": threads,
        "memory_bytes": memory,
        "folder": str(own / "dask"),
        "out_of_memory": str(own / "out-of-memory"),
        "gang": None if gang is None else asdict(gang),
    }
    if gang is None or gang.is_head:
        session = Path(__file__).with_name("session.py")
        file, text = own / "session.json", _session(config, launch, environ, work)
        argv: tuple[str, ...] = (python, "-P", str(session), "dask_cluster", str(file))
    else:
        mark, offers = own / "out-of-memory", {"workers": workers, "threads": threads}
        file = own / "gang.json"
        text = worker_file(gang, "dask_worker", config, offers, mark)
        argv = worker_argv(python, file)
    return Start(
        argv=argv,
        env=env,
        files={str(file): text},
        folders=(str(own / "dask"),),
        out_of_memory=str(own / "out-of-memory"),
    )


def _session(
    config: Mapping[str, Any], launch: Mapping[str, Any], environ: Mapping[str, str], work: Path
) -> str:
    """What `dask_cluster` is told, as JSON: the workers of this machine, and the program."""
    program = program_file(launch, launch["program"]["file"])
    artifacts = Path(environ.get("PIECEWORK_ARTIFACTS") or work)
    return json.dumps(
        {
            **config,
            "argv": [interpreter(environ), program, *program_args(launch)],
            "report": str(artifacts / "dask-report.html"),
            "use": str(own_folder(work) / ENGINE_FILE),
        }
    )


def cluster_sizes(
    machine: Machine, threads: int | None, beside_mib: int = BESIDE_MIB
) -> tuple[int, int, int]:
    """Workers, threads of each, and bytes of memory of each.

    All cores are used by workers of up to four threads, so that a large machine is not one
    interpreter; fewer workers where the memory would not go round. Raises CannotStart where it
    does not suffice for one.
    """
    usable = int(machine.memory_bytes * SHARE) - beside_mib * MEBI
    most = usable // (LEAST_WORKER_MIB * MEBI)
    if most < 1:
        needs = int((LEAST_WORKER_MIB + beside_mib) / SHARE) + 1
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
