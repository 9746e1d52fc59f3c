"""What a program used: CPU seconds, peak memory, bytes read and written; and its engine.

From the process tree, exactly: the entrypoint adopts all orphans and collects every child, and the
kernel adds the use of a collected child to that of its parent. What only an engine knows (how busy
its slots were) comes from Spark's event log, or from a file that the engine's services left.
"""

from __future__ import annotations

import json
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

#: The engines that tell how busy they were, by the names that a use has them under.
ENGINES = ("spark", "dask")
#: In the attempt's `.piecework`: JSON {"dask": {...}}, as an engine's services leave it.
ENGINE_FILE = "engine-use.json"
#: An engine tells a few numbers: a pod's last message has 4 KiB for everything.
_MOST_NUMBERS = 20


class Use(TypedDict):
    """All may be unknown. Bytes are those that block devices moved, not what caches served.

    `spark`: see `spark_use`; `dask`: threads, busy_seconds, wall_seconds. Where it was not that
    engine they are missing.
    """

    cpu_seconds: float | None
    peak_memory_bytes: int | None
    read_bytes: int | None
    written_bytes: int | None
    spark: NotRequired[Mapping[str, float]]
    dask: NotRequired[Mapping[str, float]]


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


def use_of_engine(
    environ: Mapping[str, str], work: Path, seconds: float
) -> dict[str, Mapping[str, float]]:
    """What the program's engine tells of its slots, by the engine's name; it takes that long.

    What an engine left in disorder is left out: a use that is not known fails nobody's job.
    """
    found: dict[str, Mapping[str, float]] = {}
    artifacts = Path(environ.get("PIECEWORK_ARTIFACTS") or work)
    logs = [log for log in (artifacts / "spark-events", work / "eventlog") if log.is_dir()]
    if logs:
        from piecework.entrypoint.spark_use import read_use

        told = read_use(logs, seconds)
        if told is not None:
            found["spark"] = told
    try:
        left = json.loads((work / ".piecework" / ENGINE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return found
    for name in ENGINES:
        numbers = _numbers(left.get(name) if isinstance(left, dict) else None)
        if numbers:
            found[name] = numbers
    return found


def _numbers(told: Any) -> dict[str, float]:
    if not isinstance(told, dict):
        return {}
    numbers = {
        name: value
        for name, value in told.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**62
    }
    return dict(list(numbers.items())[:_MOST_NUMBERS])
