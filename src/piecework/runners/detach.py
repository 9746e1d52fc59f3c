"""Starts the supervisor of an attempt, detached: `python -I -S .../detach.py FOLDER LOCK`.

LOCK is the descriptor of the folder's lock, taken by the starter: of two starters one has it.
Run by its path so that it needs no installation and no site packages: every millisecond here is
between the user and the first line of his program. So the program's entrypoint is booted here
already, beside the supervisor; it is sent away again where the machine is not free at once.
"""

from __future__ import annotations

import os
import signal
import sys


def main(folder: str, lock: int) -> None:
    """Forks the supervisor; the parent, which the starter waits for, ends at once."""
    if os.fork():
        os._exit(0)  # the lock stays with the child
    os.set_inheritable(lock, False)
    log = os.open(f"{folder}/supervisor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(folder)
    booted = boot(folder)
    sys.path.insert(0, __file__.rsplit("/", 3)[0])
    from piecework.runners.supervisor import supervise

    supervise(folder, booted)


def boot(folder: str) -> tuple[int, int, int]:
    """Starts the entrypoint of the attempt in `folder`, which then waits for what it is to launch.

    Returns its process id, the descriptor to talk to it, and the one to hear from it.
    """
    run, number = folder.rsplit("/", 2)[1:]
    entrypoint = __file__.rsplit("/", 2)[0] + "/entrypoint"
    log = os.open(f"{folder}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    control, tell = os.pipe()
    hear, report = os.pipe()
    os.set_inheritable(control, True)
    os.set_inheritable(report, True)
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", "-S", entrypoint, str(control), str(report)],
        {**os.environ, "PIECEWORK_ATTEMPT": f"{run}.{number}", "PIECEWORK_FOLDER": folder},
        file_actions=[(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)],
        setsid=True,
        setsigdef=[signal.SIGTERM, signal.SIGINT, signal.SIGHUP],
    )
    for descriptor in (log, control, report):
        os.close(descriptor)
    return pid, tell, hear


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
