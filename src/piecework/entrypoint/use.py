"""What a program used: CPU seconds, peak memory, bytes read and written.

From the process tree, exactly: the entrypoint adopts all orphans and collects every child, and the
kernel adds the use of a collected child to that of its parent.
"""

from __future__ import annotations

import resource
from pathlib import Path
from typing import TypedDict


class Use(TypedDict):
    """All may be unknown. Bytes are those that block devices moved, not what caches served."""

    cpu_seconds: float | None
    peak_memory_bytes: int | None
    read_bytes: int | None
    written_bytes: int | None


UNKNOWN: Use = {
    "cpu_seconds": None,
    "peak_memory_bytes": None,
    "read_bytes": None,
    "written_bytes": None,
}


def read_io(pid: int | str = "self") -> tuple[int | None, int | None]:
    """Bytes that the process and its collected children had read from and written to devices."""
    try:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    except OSError:
        return None, None
    values = dict(line.split(": ") for line in lines)
    return int(values["read_bytes"]), int(values["write_bytes"])


def use_of_children() -> Use:
    """What all collected children of this process used, their collected children included.

    `peak_memory_bytes` is the largest single process, a lower bound of the tree's peak.
    """
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    read, written = read_io()
    return {
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 6),
        "peak_memory_bytes": usage.ru_maxrss * 1024,
        "read_bytes": read,
        "written_bytes": written,
    }
