"""How much of the machines that were paid for an attempt used.

Enters: an attempt, and the seconds that its machines were paid for. Leaves: shares from 0 on, None
where nobody measured. Paid are cores times seconds, from the purchase to the give-back; a share of
the CPUs above 1 means that more cores worked than the plan took the machine to have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from piecework.ledger.occupancy import Attempt
from piecework.units import parse_cpu


@dataclass(frozen=True, slots=True)
class MachineUse:
    """What an attempt used of its machines.

    `counted_seconds` is how much of its time that is, where a kubelet counted and no launcher
    measured; the memory is then the highest that the kubelet saw when it looked.
    `cores` and `memory_bytes` are what it could use of each. `cpu_share` is of all the time that
    was paid for, `running_share` of the time in which its program ran.
    """

    cores: int | None
    memory_bytes: int | None
    cpu_seconds: float | None
    cpu_share: float | None
    running_share: float | None
    memory_share: float | None
    spark: Mapping[str, float]
    dask: Mapping[str, float]
    counted_seconds: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "cores": self.cores,
            "memory_bytes": self.memory_bytes,
            "cpu_seconds": self.cpu_seconds,
            "cpu_share": self.cpu_share,
            "running_share": self.running_share,
            "memory_share": self.memory_share,
            "spark": dict(self.spark) or None,
            "dask": dict(self.dask) or None,
            "counted_seconds": self.counted_seconds,
        }


def use_of(attempt: Attempt, paid_seconds: float, running_seconds: float) -> MachineUse:
    """`paid_seconds` and `running_seconds` are those of all its machines together."""
    cores, memory = cores_of(attempt), _memory_of(attempt)
    cpu = cpu_seconds_of(attempt)
    paid = None if cores is None else cores * paid_seconds
    running = None if cores is None else cores * running_seconds
    return MachineUse(
        cores=cores,
        memory_bytes=memory,
        cpu_seconds=cpu,
        cpu_share=_share(cpu, paid),
        running_share=_share(cpu, running),
        memory_share=_share(attempt.peak_memory_bytes, memory),
        spark=_with_shares_of_spark(attempt.spark),
        dask=_with_shares_of_dask(attempt.dask),
        counted_seconds=attempt.counted_seconds,
    )


def cores_of(attempt: Attempt) -> int | None:
    """How many cores each of its machines had for it: on a cluster, 3.9 of 4 are 4."""
    try:
        return max(1, round(parse_cpu(attempt.asked["cpu"])))
    except (KeyError, ValueError):
        return None


def cpu_seconds_of(attempt: Attempt) -> float | None:
    """What was measured; where Spark's JVMs tell of more, they ran where nobody measured."""
    told = [attempt.cpu_seconds, attempt.spark.get("cpu_seconds")]
    return max((seconds for seconds in told if seconds is not None), default=None)


def _memory_of(attempt: Attempt) -> int | None:
    found = attempt.asked.get("memory_bytes")
    return found if isinstance(found, int) and not isinstance(found, bool) and found > 0 else None


def _with_shares_of_spark(told: Mapping[str, float]) -> Mapping[str, float]:
    """Shares of the slots' time, which add up to 1: on tasks, beside tasks, the driver alone."""
    wall, busy, idle = (told.get(name) for name in ("wall_seconds", "busy_seconds", "idle_seconds"))
    if not wall or busy is None or idle is None or not busy + idle:
        return told
    busy_share = busy / (busy + idle)
    driver_share = min(told.get("driver_seconds", 0.0) / wall, 1 - busy_share)
    return {
        **told,
        "busy_share": round(busy_share, 4),
        "idle_share": round(max(0.0, 1 - busy_share - driver_share), 4),
        "driver_share": round(driver_share, 4),
    }


def _with_shares_of_dask(told: Mapping[str, float]) -> Mapping[str, float]:
    wall, threads = told.get("wall_seconds"), told.get("threads")
    if not wall or not threads or "busy_seconds" not in told:
        return told
    busy_threads = told["busy_seconds"] / wall
    return {
        **told,
        "busy_threads": round(busy_threads, 2),
        "busy_share": round(busy_threads / threads, 4),
    }


def _share(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else round(part / whole, 4)
