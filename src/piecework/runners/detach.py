"""Starts the supervisor of an attempt, detached: `python -I -S .../detach.py FOLDER`.

Run by its path so that it needs no installation and no site packages: every millisecond here is
between the user and the first line of his program. The lock is taken before anything else, so of
two supervisors for one attempt the second ends at once; then whoever started us is let go.
"""

from __future__ import annotations

import os
import sys


def main(folder: str) -> None:
    """Forks the supervisor and returns to the starter in the parent only."""
    sys.path.insert(0, __file__.rsplit("/", 3)[0])
    from piecework.machines import lock

    if lock.hold(f"{folder}/lock") is None:
        return  # somebody supervises it already
    if os.fork():
        os._exit(0)  # the lock stays with the child
    log = os.open(f"{folder}/supervisor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(folder)
    from piecework.runners.supervisor import supervise

    supervise(folder)


if __name__ == "__main__":
    main(sys.argv[1])
