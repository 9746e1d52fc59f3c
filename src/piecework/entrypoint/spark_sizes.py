"""How memory and cores are divided between the parts of a Spark application. Pure, and Spark's own.

Enters: what a machine, or a pod, has. Leaves: heaps in MiB, and cores. It is used on both sides:
in the job's process, and where a run's pods are planned. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from .start import CannotStart

MEBI = 2**20
#: Of what a process may have, this much is left alone: page cache, the shell, what nobody counts.
RESERVED = 0.07
#: A PySpark JVM and its Python workers need this many times the heap.
PER_HEAP = 1.4
#: Spark itself refuses to start below 450 MiB, as the JVM counts them.
LEAST_HEAP = 512
#: More cores in one executor and its garbage collector and its disks are in each other's way.
MOST_EXECUTOR_CORES, FEWEST_EXECUTOR_CORES = 8, 4


def executor_cores(cores: int) -> tuple[int, int]:
    """Cores of an executor and how many executors, so that the fewest cores stay unused."""
    if cores <= MOST_EXECUTOR_CORES:
        return cores, 1
    sizes = range(MOST_EXECUTOR_CORES, FEWEST_EXECUTOR_CORES - 1, -1)
    best = max(sizes, key=lambda size: (cores // size * size, size))
    return best, cores // best


def heap_of(memory_mib: float, off_heap_mib: float = 0) -> int:
    """MiB of heap that a process with so much memory may have, its Python workers included."""
    return int((memory_mib * (1 - RESERVED) - off_heap_mib) / PER_HEAP)


def memory_for(heap_mib: float, off_heap_mib: float = 0) -> int:
    """The opposite: MiB of memory that a process with such a heap needs."""
    return int((heap_mib * PER_HEAP + off_heap_mib) / (1 - RESERVED)) + 1


def off_heap(conf: Mapping[str, str]) -> float:
    """MiB that the job's conf sets aside outside the heap. Raises CannotStart as `parse_size`."""
    if conf.get("spark.memory.offHeap.enabled", "false").strip().lower() != "true":
        return 0
    key = "spark.memory.offHeap.size"
    return parse_size(conf.get(key, "0"), key) / MEBI


def parse_size(text: str, key: str = "spark.memory.offHeap.size") -> int:
    """Bytes in Spark's notation: 512m, 2g, 1073741824. Raises CannotStart where it is none."""
    match = re.fullmatch(r"\s*(\d+)\s*([kmgtp]?)i?b?\s*", text.lower())
    if not match:
        raise CannotStart(f"{key} is {text!r}; sizes are written like 2g")
    return int(match[1]) << 10 * " kmgtp".index(match[2] or " ")
