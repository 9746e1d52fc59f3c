"""The program of one attempt as its supervisor sees it: its start, its limits, its use, its end."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from contextlib import suppress
from datetime import datetime
from typing import Any, TypedDict

from piecework import clock
from piecework.entrypoint import tree
from piecework.entrypoint.start import run_afterwards
from piecework.entrypoint.use import UNKNOWN, Use, use_of_children
from piecework.machines import cgroup
from piecework.machines.local import Grant
from piecework.runners.detach import boot
from piecework.runners.folder import AttemptFolder, Order
from piecework.runners.log import LogLimit
from piecework.runners.outcome import Ending

#: What the entrypoint gets beyond the program's grace before everything is killed over its head.
ENTRYPOINT_SECONDS = 4.0
#: A look at the process tree may take this share of the time between two looks, at most.
WATCH_SHARE = 0.05


class Seen(TypedDict):
    """What `judge` wants to know."""

    status: int | None
    asked: Ending | None
    failed: str | None
    out_of_memory: str | None


class Program:
    """A started entrypoint and all that runs below it."""

    def __init__(self, folder: AttemptFolder, order: Order, grant: Grant) -> None:
        self.folder = folder
        self.order = order
        self.grant = grant
        self.group: cgroup.Cgroup | None = None
        self.log_limit = LogLimit(folder.log)
        self.report = -1
        self.control = -1
        self.entrypoint: tree.Process | None = None
        self.started: datetime | None = None
        self.gone = False
        self.asked: Ending | None = None
        self.peak_bytes = 0
        self._buffer = b""
        self._status: int | None = None
        self._failed: str | None = None
        self._engine_out_of_memory = False
        self._out_of_memory: str | None = None
        self._use: Use = UNKNOWN
        self._force_at: float | None = None
        self._look_at = 0.0

    def launch(self, booted: tuple[int, int, int] | None = None) -> None:
        """Makes the machine's limits and tells the entrypoint what to start within them.

        `booted` is an entrypoint that waits already (`detach.boot`); else one is started.
        """
        for path in (self.folder.work, self.folder.artifacts):
            path.mkdir(exist_ok=True)
        pid, self.control, self.report = booted or boot(str(self.folder.path))
        self.entrypoint = tree.read_process(pid)
        self.group = cgroup.create(self._group_name(), self.grant.memory_bytes, self.grant.cores)
        if self.group is not None:
            # Found by the sweep, should this supervisor not live to remove it.
            (self.folder.path / "cgroup.json").write_text(json.dumps(cgroup.folders_of(self.group)))
        launch = {
            "launch": self.order.launch,
            "environ": {
                **_environment(self.order),
                "PIECEWORK_CPUS": str(len(self.grant.cores)),
                "PIECEWORK_MEMORY_BYTES": str(self.grant.memory_bytes),
            },
            "work": str(self.folder.work),
            "cores": list(self.grant.cores),
            "cgroups": self.group.join_files if self.group else [],
            "forks": self.group.fork_files if self.group else [],
            "grace_seconds": self.order.grace_seconds,
        }
        self._tell(json.dumps(launch))

    def read_reports(self) -> None:
        """Takes what the entrypoint has said since; `gone` once it will say no more."""
        part = os.read(self.report, 1 << 16)
        if not part:
            self.gone = True
            return
        *lines, self._buffer = (self._buffer + part).split(b"\n")
        for line in lines:
            message: dict[str, Any] = json.loads(line)
            if "started" in message:
                self.started = clock.now()
            elif "failed" in message:
                self._failed = message["failed"]
            elif "exited" in message:
                self._status = message["exited"]
                self._engine_out_of_memory = message["out_of_memory"]
            elif "use" in message:
                self._use = message["use"]

    def look(self) -> None:
        """Enforces the limits; call it every tick."""
        self.log_limit.enforce()
        now = time.monotonic()
        if self._force_at is not None and now >= self._force_at:
            self._kill()
        if now < self._look_at:
            return
        self._measure()
        spent = time.monotonic() - now
        self._look_at = now + spent / WATCH_SHARE

    def ask_to_end(self, ending: Ending) -> None:
        """SIGTERM, the grace, SIGKILL: by the entrypoint, else by us. The first reason stays."""
        if self.asked is None:
            self.asked = ending
            self._force_at = time.monotonic() + self.order.grace_seconds + ENTRYPOINT_SECONDS
            self._tell("end")

    def finish(self) -> Use:
        """Ends whatever is left of the tree; returns what all of it used."""
        if self.group is not None:
            self.group.stop_forks()
        tree.end_all(self._members, 0.0)
        run_afterwards(self.folder.work)  # where the entrypoint was killed before it could
        for descriptor in (self.report, self.control):
            if descriptor >= 0:
                os.close(descriptor)
        self.log_limit.finish()
        return self._total_use()

    def seen(self) -> Seen:
        """What is known of the end, after `finish`."""
        self._measure()
        out_of_memory = self._out_of_memory
        if out_of_memory is None and self._engine_out_of_memory:
            out_of_memory = f"{self.order.launch['engine']} ran out of the memory it was given"
        return {
            "status": self._status,
            "asked": self.asked,
            "failed": self._failed,
            "out_of_memory": out_of_memory,
        }

    def remove(self) -> None:
        """Gives the cgroup back."""
        if self.group is not None:
            self.group.remove()

    def _group_name(self) -> str:
        """Unique on this host, where other homes may have attempts of the same name."""
        place = hashlib.blake2b(str(self.folder.path).encode(), digest_size=4).hexdigest()
        return f"piecework-{self.order.attempt}-{place}"

    def _measure(self) -> None:
        limit = self.grant.memory_bytes
        if self.group is not None:
            self.peak_bytes = max(self.peak_bytes, self.group.memory_bytes() or 0)
            exceeded = self.group.kills() > 0
            if exceeded:
                self.peak_bytes = max(self.peak_bytes, self.group.peak_bytes() or 0)
        else:
            used = _used_bytes(self._members(), limit)
            self.peak_bytes = max(self.peak_bytes, used)
            exceeded = used > limit
        if exceeded and self._out_of_memory is None:
            self._out_of_memory = (
                f"used all of its {_gibi(limit)} of memory (peak {_gibi(self.peak_bytes)})"
            )
            if not self.gone and self._status is None:
                self._kill()

    def _kill(self) -> None:
        """Kills the program, not the entrypoint, which then tells what was used; or both."""
        over = self._force_at is not None and time.monotonic() >= self._force_at
        own = self.entrypoint.pid if self.entrypoint and not over else 0
        for process in self._members():
            if process.pid != own:
                tree.send(process, signal.SIGKILL)

    def _members(self) -> list[tree.Process]:
        found = {process.pid: process for process in tree.descendants(os.getpid())}
        for pid in self.group.members() if self.group else ():
            if pid not in found:
                process = tree.read_process(pid)
                if process is not None and process.is_alive:
                    found[pid] = process
        return list(found.values())

    def _total_use(self) -> Use:
        """The cgroup's figures where there is one, else what the kernel adds up of children."""
        tree.reap()
        own = use_of_children()
        cpu = [self.group.cpu_seconds() if self.group else None, self._use["cpu_seconds"]]
        known = [seconds for seconds in cpu if seconds is not None] or [own["cpu_seconds"] or 0.0]
        peak = max(self.peak_bytes, self._use["peak_memory_bytes"] or own["peak_memory_bytes"] or 0)
        return {
            **self._use,  # with what the engine told
            "cpu_seconds": round(max(known), 6),
            "peak_memory_bytes": peak,
            "read_bytes": _most(self._use["read_bytes"], own["read_bytes"]),
            "written_bytes": _most(self._use["written_bytes"], own["written_bytes"]),
        }

    def _tell(self, line: str) -> None:
        with suppress(OSError):  # it is gone, which the report will show
            os.write(self.control, line.encode() + b"\n")


def _environment(order: Order) -> dict[str, str]:
    """What the program inherits from whoever asked for the run, without what is piecework's own."""
    own = ("PIECEWORK_", "AIRFLOW_", "_AIRFLOW", "PYTHONWARNINGS", "PYTHONDONTWRITE")
    kept = {name: text for name, text in os.environ.items() if not name.startswith(own)}
    return {**kept, **order.environ}


def _used_bytes(members: list[tree.Process], limit: int) -> int:
    """Memory of a process tree. Shared pages count once, but that is only asked when it matters."""
    resident = sum(process.resident_bytes for process in members)
    if resident <= limit * 0.9:
        return resident
    return sum(_proportional_bytes(process) for process in members)


def _proportional_bytes(process: tree.Process) -> int:
    try:
        with open(f"/proc/{process.pid}/smaps_rollup", "rb") as stream:  # noqa: PTH123 - speed
            for line in stream:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        return 0
    return process.resident_bytes


def _most(*values: int | None) -> int | None:
    known = [value for value in values if value is not None]
    return max(known) if known else None


def _gibi(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
