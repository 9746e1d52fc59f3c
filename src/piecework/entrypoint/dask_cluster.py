"""The services of a Dask job: scheduler and workers on this machine, and their report.

config: {"workers": 2, "threads": 1, "memory_bytes": ..., "folder": "...", "report": "...html",
         "out_of_memory": "..."}
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from piecework.entrypoint.session import say

#: Variables that Dask sets to 1 for its workers, which have a thread a core already; it leaves
#: what the environment says alone, so they must be away while workers start.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Cluster:
    """A LocalCluster on the loopback interface, and a client that keeps its performance report."""

    def __init__(self, config: Mapping[str, Any], local: Any, client: Any) -> None:
        self.config = config
        self.local = local
        self.client = client
        self.report: Any = None

    @property
    def env(self) -> Mapping[str, str | None]:
        """A Client without arguments reads the address from Dask's configuration."""
        return {"DASK_SCHEDULER_ADDRESS": self.local.scheduler_address}

    def failure(self) -> str | None:
        """Nannies start workers again; nothing but the program's own errors ends it."""
        return None

    def start_report(self) -> None:
        """From here on all tasks of all clients are in the report."""
        from distributed import performance_report

        try:
            import bokeh  # noqa: F401
        except ImportError:
            say("bokeh is not installed, so Dask's performance report is not kept")
            return
        self.report = performance_report(filename=self.config["report"])
        self.report.__enter__()

    def program_ended(self) -> None:
        """Writes the report; a report that fails fails nobody's job."""
        if self.report is None:
            return
        try:
            self.report.__exit__(None, None, None)
        except Exception as error:
            say(f"Dask's performance report could not be written: {error}")


class _Exhausted(logging.Handler):
    """Leaves a mark when a worker is restarted because its share of the memory was used up."""

    def __init__(self, mark: Path) -> None:
        super().__init__(logging.WARNING)
        self.mark = mark

    def emit(self, record: logging.LogRecord) -> None:
        if "memory budget" in record.getMessage():
            with suppress(OSError):
                self.mark.touch()


@contextmanager
def services(config: Mapping[str, Any]) -> Iterator[Cluster]:
    """Starts scheduler and workers; at the end, closes workers first, then the scheduler."""
    kept = {name: os.environ.pop(name) for name in THREADS if name in os.environ}
    from distributed import Client, LocalCluster

    logging.getLogger("distributed.nanny.memory").addHandler(
        _Exhausted(Path(config["out_of_memory"]))
    )
    local = LocalCluster(
        n_workers=config["workers"],
        threads_per_worker=config["threads"],
        memory_limit=config["memory_bytes"],
        processes=True,
        host="127.0.0.1",
        # Its HTTP server would take the fixed port 8787 of all interfaces without an address.
        dashboard_address="127.0.0.1:0",
        scheduler_kwargs={"dashboard": False},
        local_directory=config["folder"],
    )
    try:
        os.environ.update(kept)
        client = Client(local, set_as_default=True)
        cluster = Cluster(config, local, client)
        cluster.start_report()
        yield cluster
    finally:
        with suppress(Exception):
            client.close(timeout=2)
        local.close(timeout=5)
