"""The platform's processes: who they are, whether they live, and ending all of a session.

A process is known by its id, its start time and the boot that it belongs to, so that another
process with a reused id is never taken for it. Each component leads a session of its own; what it
forks (LocalExecutor workers, parsers) stays in that session, while attempts leave it: their
supervisors are detached on purpose and are never touched here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from piecework.airflow.configuration import PLATFORM_VARIABLE

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Identity:
    """One process of one boot. `start` is in clock ticks since boot, as /proc tells it."""

    pid: int
    start: int
    boot: str

    @property
    def alive(self) -> bool:
        return self.boot == boot_id() and _start_of(self.pid) == self.start

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Identity:
        return cls(pid=int(raw["pid"]), start=int(raw["start"]), boot=str(raw["boot"]))


def boot_id() -> str:
    """The kernel's name for this boot."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def identify(pid: int) -> Identity | None:
    """Who the process with this id is now; None where there is none."""
    start = _start_of(pid)
    return None if start is None else Identity(pid, start, boot_id())


def members(leader: Identity, platform: Path) -> list[int]:
    """The processes of the session that `leader` leads or led, if they belong to the platform."""
    if leader.boot != boot_id():
        return []
    present = _start_of(leader.pid)
    if present is not None and present != leader.start:
        return []  # the id was reused, so the session is somebody else's
    return [
        pid
        for pid, session in _sessions()
        if session == leader.pid and (pid == leader.pid or _belongs(pid, platform))
    ]


def end_session(leader: Identity, platform: Path, patience_seconds: float) -> None:
    """SIGTERM to the leader, then SIGKILL to whatever of its session is left after the patience."""
    if leader.alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(leader.pid, signal.SIGTERM)
        wait_until(lambda: not leader.alive, patience_seconds)
    # A member may fork while the list is read, so look again until there is none.
    for _ in range(50):
        left = members(leader, platform)
        if not left:
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition held within so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(0.05)
    return True


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the third on (state, parent, group, session...)."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except (OSError, UnicodeDecodeError):
        return None
    return text.rpartition(")")[2].split()


def _start_of(pid: int) -> int | None:
    """Start time of a living process; a zombie has ended."""
    stat = _stat(pid)
    return None if stat is None or stat[0] in "ZX" else int(stat[19])


def _sessions() -> Iterator[tuple[int, int]]:
    for entry in os.listdir(_PROC):  # noqa: PTH208 - names are enough
        if entry.isdigit():
            stat = _stat(int(entry))
            if stat is not None and stat[0] not in "ZX":
                yield int(entry), int(stat[3])


def _belongs(pid: int, platform: Path) -> bool:
    """By its environment, or its folder: Airflow's workers write their title over the former."""
    marker = f"{PLATFORM_VARIABLE}={platform}".encode()
    try:
        if (_PROC / str(pid) / "cwd").readlink() == platform.resolve():
            return True
        return marker in (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return False
