"""The processes of a program: finding all of them, and ending all of them.

A process tree cannot get away: its root adopts orphans (`adopt_orphans`), so a daemon that forks
twice and leaves its session is still a descendant. Signals go through pidfds, after a look at the
start time, so that a process id that was given to somebody else in between is never hit.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

_PR_SET_CHILD_SUBREAPER = 36
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Process(NamedTuple):
    """One process as /proc shows it. `start` are clock ticks since boot; (pid, start) is unique."""

    pid: int
    parent: int
    start: int
    state: str
    threads: int
    resident_bytes: int

    @property
    def is_alive(self) -> bool:
        """A zombie is not; but one whose other threads still run only looks like one."""
        return self.state not in "ZX" or self.threads > 1


def adopt_orphans() -> None:
    """Makes this process the parent of all descendants whose own parent ends."""
    import ctypes

    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl(PR_SET_CHILD_SUBREAPER): {os.strerror(code)}")


def read_process(pid: int) -> Process | None:
    """The process of that id; None where there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:  # noqa: PTH123 - pathlib takes 5 times as long
            text = stream.read()
    except OSError:
        return None
    fields = text[text.rindex(b")") + 2 :].split()
    return Process(
        pid=pid,
        parent=int(fields[1]),
        start=int(fields[19]),
        state=fields[0].decode(),
        threads=int(fields[17]),
        resident_bytes=int(fields[21]) * _PAGE,
    )


def processes() -> list[Process]:
    """All living processes of this host."""
    found = (read_process(int(name)) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208 - names are enough
    return [process for process in found if process and process.is_alive]


def descendants(root: int) -> list[Process]:
    """All living descendants of a process, parents before their children."""
    children: dict[int, list[Process]] = {}
    for process in processes():
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    waiting = [root]
    while waiting:
        below = children.pop(waiting.pop(), [])
        found += below
        waiting += [process.pid for process in below]
    return found


def with_environment(variable: str, value: str) -> list[Process]:
    """All living processes that were started with that variable, as far as this user may see."""
    wanted = f"{variable}={value}".encode()
    found = []
    for process in processes():
        try:
            with open(f"/proc/{process.pid}/environ", "rb") as stream:  # noqa: PTH123 - speed
                environment = stream.read()
        except OSError:
            continue
        if wanted in environment.split(b"\0"):
            found.append(process)
    return found


def send(process: Process, number: int) -> bool:
    """Sends a signal to exactly this process; False where it is gone."""
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        now = read_process(process.pid)
        if now is None or now.start != process.start:
            return False
        signal.pidfd_send_signal(handle, number)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def reap() -> dict[int, int]:
    """Collects all children that have ended: wait status by process id."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended[pid] = status


def end_all(
    find: Callable[[], Iterable[Process]],
    grace_seconds: float,
    on_tick: Callable[[], object] = reap,
    before_kill: Callable[[], object] | None = None,
) -> int:
    """Ends every process that `find` returns, until it returns none.

    SIGTERM first where there is grace, then SIGKILL, again and again: a process may fork while it
    is being ended. Returns how many were found at first. `on_tick` is called between looks,
    `before_kill` once before SIGKILL is sent, if it comes to that.
    """
    on_tick()
    first = list(find())
    if not first:
        return 0
    if grace_seconds > 0:
        for process in first:
            send(process, signal.SIGTERM)
        _wait_until_gone(find, grace_seconds, on_tick)
    pause = 0.001
    while True:
        left = list(find())
        if not left:
            return len(first)
        if before_kill is not None:
            before_kill()
            before_kill = None
        for process in left:
            send(process, signal.SIGKILL)
        on_tick()
        time.sleep(pause)
        pause = min(0.1, pause * 2)
        on_tick()


def _wait_until_gone(
    find: Callable[[], Iterable[Process]], seconds: float, on_tick: Callable[[], object]
) -> None:
    until = time.monotonic() + seconds
    pause = 0.005
    while time.monotonic() < until:
        on_tick()
        if not list(find()):
            return
        time.sleep(pause)
        pause = min(0.1, pause * 2)
