"""Control groups: which processes belong to a testbed, and what they may use.

What enters are names below the root of the tree ("pwtb7/components/etcd"); what leaves are the
processes in them. A process can't leave its cgroup by forking or by losing its parent, so the
tree is the register of what runs: no process-id files, and nothing is missed after a crash.
Works on version 1 (a tree for each controller) and on version 2 (one tree).
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

from testbed.errors import TestbedError

_ROOT = Path("/sys/fs/cgroup")
_V2_CONTROLLERS = ("cpu", "memory", "pids", "cpuset", "io")


@cache
def hierarchies() -> tuple[Path, ...]:
    """Mount points of the trees; the first is the one in which processes are looked up."""
    if (_ROOT / "cgroup.controllers").exists():
        return (_ROOT,)
    found = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, kind, *_ = line.split()
        # A version 2 tree beside those of version 1 controls nothing, but runc uses it.
        if kind in ("cgroup", "cgroup2"):
            found.append(Path(point))
    if not found:
        raise TestbedError("no cgroups are mounted on this computer")
    return tuple(sorted(found, key=lambda path: path.name != "pids"))


def is_v2() -> bool:
    return hierarchies() == (_ROOT,)


def make(name: str) -> None:
    """Makes the group in every tree, with its parents, ready to take processes."""
    for tree in hierarchies():
        path = tree
        for part in Path(name).parts:
            if is_v2():
                _enable_controllers(path)
            path = path / part
            path.mkdir(exist_ok=True)
            _fill_cpuset(path)


def _enable_controllers(path: Path) -> None:
    available = (path / "cgroup.controllers").read_text().split()
    for controller in _V2_CONTROLLERS:
        if controller in available:
            # Refused where processes sit in the group itself; then its limits don't apply below.
            with suppress(OSError):
                (path / "cgroup.subtree_control").write_text(f"+{controller}")


def _fill_cpuset(path: Path) -> None:
    """Version 1 refuses processes in a cpuset that names no CPU or memory node."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        setting = path / name
        if not is_v2() and setting.exists() and not setting.read_text().strip():
            setting.write_text((path.parent / name).read_text())


def entry_files(name: str) -> list[str]:
    """Files into which a process writes its id to enter the group."""
    return [str(tree / name / "cgroup.procs") for tree in hierarchies()]


def limit(name: str, *, cpus: int, memory_bytes: int) -> None:
    """No more than this for all processes in the group and below."""
    cpus_here = os.cpu_count() or 1
    for tree in hierarchies():
        path = tree / name
        if is_v2():
            (path / "memory.max").write_text(str(memory_bytes))
            if cpus < cpus_here:
                (path / "cpu.max").write_text(f"{cpus * 100_000} 100000")
        if (path / "memory.limit_in_bytes").exists():
            (path / "memory.limit_in_bytes").write_text(str(memory_bytes))
        if (path / "cpu.cfs_quota_us").exists() and cpus < cpus_here:
            (path / "cpu.cfs_quota_us").write_text(str(cpus * 100_000))


def processes(name: str, *, below: bool = True) -> list[int]:
    """Ids of the processes in the group, and in the groups below it."""
    root = hierarchies()[0] / name
    found: set[int] = set()
    for path in _tree(root) if below else [root]:
        with suppress(OSError, ValueError):
            found.update(int(line) for line in (path / "cgroup.procs").read_text().split())
    return sorted(found - {0})


def _tree(root: Path) -> list[Path]:
    """A group's folder and those below it, parents first; others may vanish meanwhile."""
    return [Path(folder) for folder, _, _ in os.walk(root)]


def children(name: str) -> list[str]:
    """Names of the groups right below this one."""
    root = hierarchies()[0] / name
    return sorted(path.name for path in root.glob("*/")) if root.is_dir() else []


def signal_all(name: str, number: signal.Signals) -> None:
    """Sends a signal to every process in the group and below."""
    for process in processes(name):
        with suppress(ProcessLookupError):
            os.kill(process, number)


def kill(name: str, timeout_seconds: float = 30) -> None:
    """Kills everything in the group and below, until nothing is left; then removes the group."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        signal_all(name, signal.SIGKILL)
        if _remove(name):
            return
        if time.monotonic() > deadline:
            left = processes(name)
            raise TestbedError(f"cgroup {name} can't be emptied; left are processes {left}")
        time.sleep(0.02)


def _remove(name: str) -> bool:
    gone = True
    for tree in hierarchies():
        root = tree / name
        if not root.is_dir():
            continue
        for path in reversed(_tree(root)):
            try:
                path.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                gone = False
    return gone
