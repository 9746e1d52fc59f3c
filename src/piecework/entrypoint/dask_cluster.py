"""The services of a Dask job: scheduler and workers on this machine, and their report.

config: {"workers": 2, "threads": 1, "memory_bytes": ..., "folder": "...", "report": "...html",
         "use": "...json", "out_of_memory": "...", "gang": {...} | null}

In a gang the other machines bring workers of their own (`dask_worker`); the program starts when all
are there.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from piecework.entrypoint.gang import Gang, GangError, Head, own_address
from piecework.entrypoint.session import say

#: Variables that Dask sets to 1 for its workers, which have a thread a core already; it leaves
#: what the environment says alone, so they must be away while workers start.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


#: How long workers of other machines may take to reach the scheduler, once these have joined.
WORKERS_SECONDS = 120.0


class Cluster:
    """A LocalCluster, a client that keeps its performance report, and the head of its gang."""

    def __init__(
        self, config: Mapping[str, Any], local: Any, client: Any, head: Head | None
    ) -> None:
        self.config = config
        self.local = local
        self.client = client
        self.head = head
        self.threads: int = config["workers"] * config["threads"]
        self.report: Any = None
        self._started = time.monotonic()

    @property
    def env(self) -> Mapping[str, str | None]:
        """A Client without arguments reads the address from Dask's configuration."""
        return {"DASK_SCHEDULER_ADDRESS": self.local.scheduler_address}

    def failure(self) -> str | None:
        """Nannies start workers again; nothing but the program's own errors ends it."""
        return None

    def gather(self, head: Head) -> None:
        """Waits for the other machines, and for their workers. Raises GangError."""
        offers = head.gather({"scheduler": self.local.scheduler_address}).values()
        self.threads += sum(each["workers"] * each["threads"] for each in offers)
        wanted = self.config["workers"] + sum(each["workers"] for each in offers)
        until = time.monotonic() + WORKERS_SECONDS
        while (found := len(self.local.scheduler.workers)) < wanted:
            if head.lost or time.monotonic() > until:
                raise GangError(
                    f"{found} of {wanted} Dask workers have come after {WORKERS_SECONDS:g} s; the "
                    "logs of the other pods say what the rest are doing"
                )
            time.sleep(0.05)

    def start_report(self) -> None:
        """From here on all tasks of all clients are in the report."""
        from distributed import performance_report

        self._started = time.monotonic()
        try:
            import bokeh  # noqa: F401
        except ImportError:
            say("bokeh is not installed, so Dask's performance report is not kept")
            return
        self.report = performance_report(filename=self.config["report"])
        self.report.__enter__()

    def program_ended(self) -> None:
        """Writes report and use; what fails here fails nobody's job. Then the gang is done."""
        try:
            self._write_use()
            if self.report is not None:
                self.report.__exit__(None, None, None)
        except Exception as error:
            say(f"Dask's performance report could not be written: {error}")
        if self.head is None:
            return
        if any(word.get("out_of_memory") for word in self.head.finish()):
            with suppress(OSError):
                Path(self.config["out_of_memory"]).touch()

    def _write_use(self) -> None:
        """How busy the threads of all machines were, as the scheduler knows it."""
        use = {
            "threads": self.threads,
            "busy_seconds": round(float(self.client.run_on_scheduler(busy_seconds)), 3),
            "wall_seconds": round(time.monotonic() - self._started, 3),
        }
        Path(self.config["use"]).write_text(json.dumps({"dask": use}), encoding="utf-8")


def busy_seconds(dask_scheduler: Any) -> float:
    """Seconds for which threads of workers computed tasks, all in all, of tasks that succeeded."""
    prefixes = dask_scheduler.task_prefixes.values()
    return float(sum(prefix.all_durations["compute"] for prefix in prefixes))


def mark_exhaustion(mark: Path) -> None:
    """Has a file made when a worker of this process is restarted for want of memory."""
    logging.getLogger("distributed.nanny.memory").addHandler(_Exhausted(mark))


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
    gang = None if config["gang"] is None else Gang(**config["gang"])
    with ExitStack() as stack:
        try:
            head = None if gang is None else stack.enter_context(Head.listen(gang))
            local = stack.enter_context(_local_cluster(config, gang))
            cluster = Cluster(config, local, stack.enter_context(_client(local)), head)
            if head is not None:
                cluster.gather(head)
        except (GangError, OSError) as error:
            say(str(error))
            raise SystemExit(1) from error
        cluster.start_report()
        yield cluster


@contextmanager
def _local_cluster(config: Mapping[str, Any], gang: Gang | None) -> Iterator[Any]:
    """Without others it listens on the loopback interface, else where they can reach it."""
    kept = {name: os.environ.pop(name) for name in THREADS if name in os.environ}
    from distributed import LocalCluster

    mark_exhaustion(Path(config["out_of_memory"]))
    local = LocalCluster(
        n_workers=config["workers"],
        threads_per_worker=config["threads"],
        memory_limit=config["memory_bytes"],
        processes=True,
        host="127.0.0.1" if gang is None else own_address(gang),
        # Its HTTP server would take the fixed port 8787 of all interfaces without an address.
        dashboard_address="127.0.0.1:0",
        scheduler_kwargs={"dashboard": False},
        local_directory=config["folder"],
    )
    try:
        os.environ.update(kept)
        yield local
    finally:
        local.close(timeout=5)


@contextmanager
def _client(local: Any) -> Iterator[Any]:
    from distributed import Client

    client = Client(local, set_as_default=True)
    try:
        yield client
    finally:
        with suppress(Exception):
            client.close(timeout=2)
