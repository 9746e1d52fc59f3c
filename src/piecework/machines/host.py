"""The host that this runs on: what machines can be cut from, and which boot this is."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from piecework.entrypoint.size import cpu_limit, memory_limit

_GIBI = 2**30
#: Kept for the system and the platform: a tenth, at least 1 GiB, at most 8 GiB, never over half.
_RESERVED_SHARE, _RESERVED_LEAST, _RESERVED_MOST = 10, _GIBI, 8 * _GIBI


@dataclass(frozen=True, slots=True)
class Capacity:
    """What machines can be cut from: the numbers of the cores, and bytes of memory."""

    cores: tuple[int, ...]
    memory_bytes: int


def host_name() -> str:
    """The name of this host, as events carry it."""
    return os.uname().nodename


def boot_id() -> str:
    """The identity of this boot of the host; `PIECEWORK_BOOT_ID_FILE` names another file for it."""
    file = os.environ.get("PIECEWORK_BOOT_ID_FILE") or "/proc/sys/kernel/random/boot_id"
    try:
        return Path(file).read_text().strip()
    except OSError:
        return "unknown"


def capacity(cpus: int | None = None, memory_bytes: int | None = None) -> Capacity:
    """What this process may use of the host, or what the pool's settings say, where they do.

    `cpus` is a number of cores, `memory_bytes` what all machines together may have. More cores
    than there are cannot be given: machines never share one.
    """
    cores = sorted(os.sched_getaffinity(0))[: cpu_limit()]
    if cpus is not None:
        cores = cores[: max(1, cpus)]
    if memory_bytes is None:
        total = memory_limit()
        reserved = min(max(total // _RESERVED_SHARE, _RESERVED_LEAST), _RESERVED_MOST, total // 2)
        memory_bytes = total - reserved
    return Capacity(cores=tuple(cores), memory_bytes=memory_bytes)
