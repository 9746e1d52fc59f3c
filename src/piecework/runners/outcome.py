"""Why an attempt ended: from a wait status and what was seen, to an outcome and one sentence."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

from piecework.ledger.events import Outcome


@dataclass(frozen=True, slots=True)
class Ending:
    """Why an attempt ended. `exit_code` is None where the program did not exit by itself."""

    outcome: Outcome
    cause: str
    exit_code: int | None = None


def judge(
    status: int | None,
    *,
    asked: Ending | None = None,
    failed: str | None = None,
    out_of_memory: str | None = None,
) -> Ending:
    """The ending of a program.

    `status` is the wait status of the program's main process, None where nobody saw it end.
    `asked` is the ending that the supervisor brought about (cancelled, timeout, ...), if it did.
    `failed` says why the program could not be started. `out_of_memory` says that, and how, the
    memory ran out. A program that was killed is never a success; one that exits with 0 although
    one of its processes ran out of memory had coped with that.
    """
    code = None if status is None or not os.WIFEXITED(status) else os.WEXITSTATUS(status)
    if asked is not None:
        return Ending(asked.outcome, asked.cause, code)
    if failed is not None:
        return Ending(Outcome.ERROR, failed)
    if code == 0:
        return Ending(Outcome.SUCCESS, "exit code 0", 0)
    if out_of_memory is not None:
        return Ending(Outcome.OUT_OF_MEMORY, out_of_memory, code)
    if status is None:
        return Ending(Outcome.INTERRUPTED, "the process that started the program was killed")
    if code is not None:
        return Ending(Outcome.ERROR, f"exit code {code}", code)
    name = signal_name(os.WTERMSIG(status))
    return Ending(Outcome.ERROR, f"killed by signal {name}, which piecework did not send")


def signal_name(number: int) -> str:
    """SIGKILL, or the number where it has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
