"""How large the machine is for this program, where the runner did not tell: what the cgroup allows.

Nothing enters but what the kernel says; environment variables for the program leave.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

_UNLIMITED = 2**60


def size_environment(told: Mapping[str, str]) -> dict[str, str]:
    """`told` with PIECEWORK_CPUS, PIECEWORK_MEMORY_BYTES and PIECEWORK_GPUS filled in."""
    sized = dict(told)
    if "PIECEWORK_CPUS" not in sized:
        sized["PIECEWORK_CPUS"] = str(cpu_limit())
    if "PIECEWORK_MEMORY_BYTES" not in sized:
        sized["PIECEWORK_MEMORY_BYTES"] = str(memory_limit())
    sized.setdefault("PIECEWORK_GPUS", "0")
    return sized


def cpu_limit() -> int:
    """Whole cores that this process may use, at least one: of its affinity and its CPU quota."""
    cores = len(os.sched_getaffinity(0))
    quota = _read_text("/sys/fs/cgroup/cpu.max").split()
    if len(quota) == 2 and quota[0] != "max":
        return max(1, min(cores, int(quota[0]) // int(quota[1])))
    micros = _read_text("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
    period = _read_text("/sys/fs/cgroup/cpu/cpu.cfs_period_us")
    if micros and period and int(micros) > 0:
        return max(1, min(cores, int(micros) // int(period)))
    return cores


def memory_limit() -> int:
    """Bytes of memory that this process may use: the cgroup's limit, at most what the host has."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for file in _memory_limit_files():
        text = _read_text(file)
        if text.isdigit() and int(text) < _UNLIMITED:
            total = min(total, int(text))
    return total


def _memory_limit_files() -> list[str]:
    """Where the limits of this process's cgroup and of those above it stand, versions 2 and 1."""
    files = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
    for line in _read_text("/proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            root, name = "/sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            root, name = "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        parts = path.strip("/").split("/") if path.strip("/") else []
        files += ["/".join([root, *parts[:depth], name]) for depth in range(1, len(parts) + 1)]
    return files


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
