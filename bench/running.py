"""Runs one attempt to its end, as benches need it: by any runner, with its log where it failed."""

from __future__ import annotations

import time

from piecework.ledger.events import Outcome
from piecework.runners.runner import AttemptRequest, AttemptStatus, Runner


def run_to_success(
    runner: Runner, request: AttemptRequest, patience_seconds: float = 1800
) -> AttemptStatus:
    """Starts the attempt and returns its end; cancels it where that takes too long.

    Raises RuntimeError with its log where it was no success.
    """
    runner.start(request)
    until = time.monotonic() + patience_seconds
    while (status := runner.status(request.attempt)) is None or status.state != "ended":
        if time.monotonic() > until:
            runner.cancel(request.attempt, "the bench has waited long enough")
        time.sleep(0.05)
    if status.outcome is not Outcome.SUCCESS:
        log = runner.read_log(request.attempt, 0).decode(errors="replace")
        raise RuntimeError(f"{request.attempt}: {status.outcome}: {status.cause}\n{log}")
    return status
