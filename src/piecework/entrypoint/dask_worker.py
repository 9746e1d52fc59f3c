"""The workers of a Dask cluster whose scheduler is elsewhere: `python -P dask_worker.py CONFIG`.

CONFIG is JSON, made by `worker` from what this machine has and what the head has handed out:

    {"scheduler": "tcp://10.0.0.7:8786", "host": "10.0.0.8", "name": "2", "workers": 2,
     "threads": 4, "memory_bytes": ..., "folder": "...", "out_of_memory": "..."}

It runs until it is ended, or one of its workers gives up for good.
"""

from __future__ import annotations

import sys

if not __package__:  # run as a file, by the interpreter of the program
    sys.path.insert(0, __file__.rsplit("/", 3)[0])

import asyncio
import json
import os
import signal
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from piecework.entrypoint.gang import Gang, own_address


def worker(
    config: Mapping[str, Any], told: Mapping[str, Any]
) -> tuple[list[str], Mapping[str, str]]:
    """The command line of this machine's workers; `told` is {"scheduler": address}."""
    gang = Gang(**config["gang"])
    own = {key: value for key, value in config.items() if key != "gang"}
    wanted = {**own, **told, "host": own_address(gang), "name": str(gang.index)}
    return [sys.executable, "-P", str(Path(__file__)), json.dumps(wanted)], {}


async def run(config: Mapping[str, Any]) -> int:
    """Starts the workers, each under a nanny that starts it again; returns the exit code."""
    from distributed import Nanny

    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    async with AsyncExitStack() as stack:
        nannies = [
            await stack.enter_async_context(
                Nanny(
                    config["scheduler"],
                    host=config["host"],
                    name=f"{config['name']}-{number}",
                    nthreads=config["threads"],
                    memory_limit=config["memory_bytes"],
                    local_directory=config["folder"],
                    dashboard=False,
                )
            )
            for number in range(config["workers"])
        ]
        waits = [asyncio.create_task(nanny.finished()) for nanny in nannies]
        waits.append(asyncio.create_task(ended.wait()))
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    return 0 if ended.is_set() else 1


def main() -> int:
    """Reads the command line."""
    from piecework.entrypoint.dask_cluster import THREADS, mark_exhaustion

    config = json.loads(sys.argv[1])
    for name in THREADS:
        os.environ.pop(name, None)
    mark_exhaustion(Path(config["out_of_memory"]))
    return asyncio.run(run(config))


if __name__ == "__main__":
    sys.exit(main())
