"""One component of the platform: Airflow's command line, or ours, tied to the life of its parent.

`python -m piecework.airflow.component scheduler ARGS...` asks the kernel to end it when the
foreman dies, whatever kills the foreman, and then is that component.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from piecework.airflow.configuration import KEEPER

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Asks the kernel for SIGTERM at the parent's death (Linux; prctl(2))."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit("the foreman has ended")


def main(arguments: list[str]) -> None:
    """Arguments: the foreman's process id, then the arguments of `airflow`."""
    die_with_parent(int(arguments[0]))
    if arguments[1:] == ["dag-processor"]:
        from piecework.airflow.processor import main as process_dags

        process_dags()
        return
    if arguments[1:] == [KEEPER]:
        # The kernel keeps its promise to the program that this process becomes.
        os.execv(sys.executable, [sys.executable, "-m", "piecework", KEEPER])  # noqa: S606
    sys.argv = ["airflow", *arguments[1:]]
    from airflow.__main__ import main as airflow

    airflow()


if __name__ == "__main__":
    main(sys.argv[1:])
