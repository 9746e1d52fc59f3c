"""A control group for one attempt: its memory limit enforced by the kernel, its use counted.

Version 2 where an ancestor of this process delegates the memory controller to this user, version 1
where its memory hierarchy can be written; else None, and the supervisor watches the tree instead.
The groups lie inside the one that this process is in, so limits from outside hold.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
#: Set to "watch" to do without cgroups even where they could be used.
ENFORCEMENT_VARIABLE = "PIECEWORK_ENFORCEMENT"


@dataclass(frozen=True, slots=True)
class Cgroup:
    """The folders of one attempt's control groups. `memory` is also the one in version 2."""

    version: int
    memory: Path
    others: tuple[Path, ...] = ()

    @property
    def join_files(self) -> list[str]:
        """Files into which a process writes 0 to move itself, and all that it starts, inside."""
        return [str(folder / "cgroup.procs") for folder in (self.memory, *self.others)]

    def members(self) -> list[int]:
        """The processes inside."""
        return [int(pid) for pid in _read(self.memory / "cgroup.procs").split()]

    def memory_bytes(self) -> int | None:
        """What is in use now, without the file cache that the kernel would drop first."""
        if self.version == 2:
            used, cache = _read(self.memory / "memory.current"), "inactive_file "
        else:
            used, cache = _read(self.memory / "memory.usage_in_bytes"), "total_inactive_file "
        if not used.isdigit():
            return None
        for line in _read(self.memory / "memory.stat").splitlines():
            if line.startswith(cache):
                return max(0, int(used) - int(line.split()[1]))
        return int(used)

    def peak_bytes(self) -> int | None:
        """The most that was in use at any time, file cache included: never less than the truth."""
        name = "memory.peak" if self.version == 2 else "memory.max_usage_in_bytes"
        text = _read(self.memory / name)
        return int(text) if text.isdigit() else None

    def kills(self) -> int:
        """How many processes the kernel has killed because the limit was reached."""
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        for line in _read(self.memory / name).splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
        return 0

    def cpu_seconds(self) -> float | None:
        """CPU time of all that ever ran inside."""
        if self.version == 2:
            for line in _read(self.memory / "cpu.stat").splitlines():
                if line.startswith("usage_usec "):
                    return int(line.split()[1]) / 1e6
            return None
        for folder in self.others:
            text = _read(folder / "cpuacct.usage")
            if text.isdigit():
                return int(text) / 1e9
        return None

    @property
    def fork_files(self) -> list[str]:
        """Files that hold how many processes there may be inside."""
        folders = (self.memory, *self.others)
        return [str(f / "pids.max") for f in folders if (f / "pids.max").exists()]

    def stop_forks(self) -> None:
        """No process inside can start another any more: what forks without end can be ended."""
        for file in self.fork_files:
            with suppress(OSError):
                Path(file).write_text("0")

    def remove(self, patience_seconds: float = 30.0) -> bool:
        """Removes the groups; their processes must have ended. Can be done twice.

        The kernel may still be taking a large process apart: False where that took too long.
        """
        until = time.monotonic() + patience_seconds
        left = [self.memory, *self.others]
        while True:
            left = [folder for folder in left if not _remove(folder)]
            if not left or time.monotonic() >= until:
                return not left
            time.sleep(0.02)


def create(name: str, memory_bytes: int, cores: Sequence[int]) -> Cgroup | None:
    """A new group with that limit and those cores; None where this process may not make one."""
    if os.environ.get(ENFORCEMENT_VARIABLE) == "watch":
        return None
    paths = _own_paths()
    return _create_v1(name, memory_bytes, cores, paths) or _create_v2(
        name, memory_bytes, cores, paths
    )


def find(folders: Sequence[str]) -> Cgroup | None:
    """The group of those folders, as `folders_of` named them, if it is still there."""
    if not folders or not Path(folders[0]).is_dir():
        return None
    version = 2 if (Path(folders[0]) / "cgroup.events").exists() else 1
    return Cgroup(version, Path(folders[0]), tuple(Path(folder) for folder in folders[1:]))


def folders_of(group: Cgroup | None) -> list[str]:
    """What `find` needs to find the group again."""
    return [] if group is None else [str(folder) for folder in (group.memory, *group.others)]


def _create_v1(
    name: str, memory_bytes: int, cores: Sequence[int], paths: dict[str, str]
) -> Cgroup | None:
    if "memory" not in paths:
        return None
    memory = _make(ROOT / "memory", paths["memory"], name)
    if memory is None:
        return None
    try:
        (memory / "memory.limit_in_bytes").write_text(str(memory_bytes))
        with suppress(OSError):  # where swap is not counted
            (memory / "memory.memsw.limit_in_bytes").write_text(str(memory_bytes))
    except OSError:
        memory.rmdir()
        return None
    others = []
    for controller in ("cpuacct", "pids"):
        made = _make(ROOT / controller, paths.get(controller, "/"), name)
        if made is not None:
            others.append(made)
    cpuset = _make(ROOT / "cpuset", paths.get("cpuset", "/"), name)
    if cpuset is not None:
        try:
            (cpuset / "cpuset.mems").write_text(_read(cpuset.parent / "cpuset.mems"))
            (cpuset / "cpuset.cpus").write_text(",".join(str(core) for core in cores))
            others.append(cpuset)
        except OSError:
            cpuset.rmdir()
    return Cgroup(1, memory, tuple(others))


def _create_v2(
    name: str, memory_bytes: int, cores: Sequence[int], paths: dict[str, str]
) -> Cgroup | None:
    folder = ROOT / paths.get("", "/").strip("/")
    while folder.is_relative_to(ROOT):
        delegated = _read(folder / "cgroup.subtree_control").split()
        if "memory" in delegated and os.access(folder / "cgroup.procs", os.W_OK):
            group = folder / name
            try:
                group.mkdir()
                (group / "memory.max").write_text(str(memory_bytes))
                with suppress(OSError):  # where there is no swap
                    (group / "memory.swap.max").write_text("0")
                (group / "memory.oom.group").write_text("1")
                if "cpuset" in delegated:
                    (group / "cpuset.cpus").write_text(",".join(str(core) for core in cores))
            except OSError:
                with suppress(OSError):
                    group.rmdir()
                return None
            return Cgroup(2, group)
        folder = folder.parent
    return None


def _remove(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _make(root: Path, inside: str, name: str) -> Path | None:
    """A new folder in this process's own group, or in the root where that is not in sight."""
    for parent in (root / inside.strip("/"), root):
        if parent.is_dir():
            try:
                (parent / name).mkdir()
            except OSError:
                return None
            return parent / name
    return None


def _own_paths() -> dict[str, str]:
    """The group of this process by controller; version 2 under the empty name."""
    paths = {}
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            paths[controller] = path
    return paths


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
