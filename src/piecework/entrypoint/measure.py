"""What a container used, as its own control group says: for pods, whose group is theirs alone.

Enters: the folder in which a container sees its own group, /sys/fs/cgroup, of version 1 or 2.
Leaves: CPU seconds, the largest memory that could not have been given back, bytes of its devices,
and how often the kernel ended a process for want of memory.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TypeVar

from piecework.entrypoint.use import Use

N = TypeVar("N", int, float)
ROOT = Path("/sys/fs/cgroup")
#: Between two looks at the memory; the kernel's own peak counts caches, which cost nobody anything.
LOOK_SECONDS = 0.5


class Container(threading.Thread):
    """Looks at the container's memory again and again; `use` tells all at the end."""

    def __init__(self, root: Path = ROOT) -> None:
        super().__init__(daemon=True, name="memory of the container")
        self.root = root
        self.version = 2 if (root / "cgroup.controllers").exists() else 1
        self._peak_bytes: int | None = None
        self._stopping = threading.Event()

    def run(self) -> None:
        """Until `use` is asked for."""
        while True:
            self._look()
            if self._stopping.wait(LOOK_SECONDS):
                return

    def use(self) -> Use:
        """What the container used until now; what the kernel does not tell is None."""
        self._stopping.set()
        self._look()
        if self.out_of_memory_kills():
            self._peak_bytes = self._limit() or self._peak_bytes
        read, written = self._moved()
        return {
            "cpu_seconds": self._cpu_seconds(),
            "peak_memory_bytes": self._peak_bytes,
            "read_bytes": read,
            "written_bytes": written,
        }

    def out_of_memory_kills(self) -> int:
        """How many processes the kernel killed because the memory was used up."""
        name = "memory.events" if self.version == 2 else "memory/memory.oom_control"
        return self._fields(name).get("oom_kill", 0)

    def _look(self) -> None:
        names: tuple[str, ...] = ("total_rss", "total_shmem")
        fields = self._fields("memory/memory.stat")
        if self.version == 2:
            names = ("anon", "shmem", "kernel")
            fields = self._fields("memory.stat")
        if names[0] in fields:
            used = sum(fields.get(name, 0) for name in names)
            self._peak_bytes = max(self._peak_bytes or 0, used)

    def _limit(self) -> int | None:
        name = "memory.max" if self.version == 2 else "memory/memory.limit_in_bytes"
        text = self._text(name)
        return int(text) if text.isdigit() and int(text) < 2**60 else None

    def _cpu_seconds(self) -> float | None:
        if self.version == 2:
            micros = self._fields("cpu.stat").get("usage_usec")
            return None if micros is None else micros / 1e6
        text = self._text("cpuacct/cpuacct.usage") or self._text("cpu,cpuacct/cpuacct.usage")
        return int(text) / 1e9 if text.isdigit() else None

    def _moved(self) -> tuple[int | None, int | None]:
        """Bytes read from and written to all devices."""
        if self.version == 1:
            found = [line.split() for line in self._lines("blkio/blkio.throttle.io_service_bytes")]
            by_kind: dict[str, int] = {}
            for words in found:
                if len(words) == 3:
                    by_kind[words[1]] = by_kind.get(words[1], 0) + int(words[2])
            return by_kind.get("Read"), by_kind.get("Write")
        fields = [word.partition("=") for line in self._lines("io.stat") for word in line.split()]
        read = [int(value) for name, _, value in fields if name == "rbytes"]
        written = [int(value) for name, _, value in fields if name == "wbytes"]
        return (sum(read), sum(written)) if read else (None, None)

    def _fields(self, name: str) -> dict[str, int]:
        pairs = [line.split() for line in self._lines(name)]
        return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}

    def _lines(self, name: str) -> list[str]:
        return self._text(name).splitlines()

    def _text(self, name: str) -> str:
        try:
            return (self.root / name).read_text().strip()
        except OSError:
            return ""


def merge(container: Use, processes: Use) -> Use:
    """The larger of both, each: the group knows all processes, the kernel's sums are exact.

    What the engine tells is among what the processes told.
    """
    merged: Use = {
        "cpu_seconds": _largest(container["cpu_seconds"], processes["cpu_seconds"]),
        "peak_memory_bytes": _largest(
            container["peak_memory_bytes"], processes["peak_memory_bytes"]
        ),
        "read_bytes": _largest(container["read_bytes"], processes["read_bytes"]),
        "written_bytes": _largest(container["written_bytes"], processes["written_bytes"]),
    }
    if "spark" in processes:
        merged["spark"] = processes["spark"]
    if "dask" in processes:
        merged["dask"] = processes["dask"]
    return merged


def _largest(first: N | None, second: N | None) -> N | None:
    return max((each for each in (first, second) if each is not None), default=None)
