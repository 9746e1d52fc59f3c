"""A testbed's long-running programs: started, found, stopped, without a daemon above them.

What enters is a name and a command line; what leaves is a process of its own session in a cgroup
of its own, with a log. The cgroup is the record: whoever asks what runs, or kills it, reads it
there, also after the starter died at the worst moment.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from testbed import cgroups, network
from testbed.errors import TestbedError
from testbed.place import Place

# Enters the cgroups named up to the first --, opens the log named next, becomes the rest. Where one
# of them is gone, the machine was killed meanwhile: whoever did not enter all would survive that.
_ENTER = """
while [ "$1" != -- ]; do echo 0 > "$1" || exit 1; shift; done
shift
log=$1; shift
exec "$@" >> "$log" 2>&1
"""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a component uses now: proportional memory in bytes, CPU seconds since its start."""

    processes: int
    memory_bytes: int
    cpu_seconds: float


def group_of(place: Place, name: str) -> str:
    """The cgroup of a component."""
    return f"{place.id}/components/{name}"


def spawn(
    group: str,
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> None:
    """Starts a command in a cgroup, detached from the caller; returns when it is on its way."""
    cgroups.make(group)
    log.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["setsid", "--fork", "sh", "-c", _ENTER, "sh", *cgroups.entry_files(group),
         "--", str(log), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**_clean_environment(), **(environment or {})},
        cwd=folder or "/",
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise TestbedError(f"{command[0]} could not be started: {done.stderr.decode()}")


def _clean_environment() -> dict[str, str]:
    """Nothing of the caller's session leaks into a cluster: no proxies, no credentials."""
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/cni",
        "HOME": os.environ.get("HOME", "/root"),
        "LANG": "C.UTF-8",
    }


def start(
    place: Place,
    name: str,
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    *,
    in_hub: bool = True,
) -> None:
    """Starts a component; does nothing where it runs already."""
    if running(place, name):
        return
    prefix = network.in_hub(place) if in_hub else []
    spawn(group_of(place, name), [*prefix, *command], place.logs / f"{name}.log", environment)


def running(place: Place, name: str) -> bool:
    return bool(cgroups.processes(group_of(place, name)))


def names(place: Place) -> list[str]:
    """Components that were started and not stopped; one that died is still among them."""
    return cgroups.children(f"{place.id}/components")


def kill(place: Place, name: str) -> None:
    """Kills a component at once, as a crash would."""
    cgroups.kill(group_of(place, name))


def stop(place: Place, name: str, timeout_seconds: float = 10) -> None:
    """Asks a component to end, and kills it when it hasn't in time."""
    group = group_of(place, name)
    cgroups.signal_all(group, signal.SIGCONT)
    cgroups.signal_all(group, signal.SIGTERM)
    deadline = time.monotonic() + timeout_seconds
    while cgroups.processes(group) and time.monotonic() < deadline:
        time.sleep(0.02)
    cgroups.kill(group)


def freeze(place: Place, name: str) -> None:
    """Stops a component where it stands: its connections stay open and nobody answers."""
    cgroups.signal_all(group_of(place, name), signal.SIGSTOP)


def thaw(place: Place, name: str) -> None:
    """Lets a frozen component go on."""
    cgroups.signal_all(group_of(place, name), signal.SIGCONT)


def wait_until(
    what: str,
    check: Callable[[], bool],
    timeout_seconds: float,
    alive: Callable[[], bool] = lambda: True,
    log: Path | None = None,
) -> None:
    """Waits for a condition; raises TestbedError when it takes too long or its bearer is dead."""
    deadline = time.monotonic() + timeout_seconds
    while not check():
        if not alive() or time.monotonic() > deadline:
            why = "it has ended" if not alive() else f"it is not after {timeout_seconds:.0f} s"
            tail = _tail(log) if log else ""
            raise TestbedError(f"waited for {what}, but {why}{tail}")
        time.sleep(0.05)


def _tail(log: Path) -> str:
    with suppress(OSError):
        return f"; the end of {log}:\n" + "\n".join(log.read_text().splitlines()[-15:])
    return ""


def usage(group: str) -> Usage:
    """What the processes of a cgroup use; memory that is shared counts in parts (PSS)."""
    memory = 0
    ticks = 0
    ids = cgroups.processes(group)
    for process in ids:
        with suppress(OSError, ValueError, IndexError):
            for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    memory += int(line.split()[1]) * 1024
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return Usage(len(ids), memory, ticks / os.sysconf("SC_CLK_TCK"))
