"""Closes attempts whose supervisor is gone: ends what they left running, and writes their end.

Enters: the folders of attempts and the machines of this host. Leaves: no process without a
supervisor, and an end with its cause for every attempt. Supervisors that live are left alone.
Standard library only: a supervisor that waits for a machine sweeps as well.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from piecework import clock
from piecework.clock import Clock
from piecework.entrypoint import tree
from piecework.entrypoint.start import run_afterwards
from piecework.entrypoint.use import UNKNOWN
from piecework.errors import RunnerError
from piecework.ledger.events import Event, Kind, Outcome
from piecework.machines import cgroup, host, lock
from piecework.machines.local import Machines
from piecework.runners.folder import AttemptFolder, open_attempts
from piecework.runners.log import LogLimit
from piecework.runners.outcome import Ending

#: An entrypoint that lost its supervisor ends its tree by itself within this time.
ENTRYPOINT_SECONDS = 15.0
#: How long an order may lie without a supervisor: whoever wrote it starts one at once.
UNSTARTED_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Swept:
    """The attempts that were closed, and what went wrong with those that could not be."""

    closed: list[str]
    problems: list[str]


def sweep(home: Path, now: Clock = clock.now) -> Swept:
    """Closes every attempt that lost its supervisor. One that cannot be closed stops no other."""
    swept = Swept([], [])
    for folder in open_attempts(home):
        try:
            if close_dead(folder, home, now):
                swept.closed.append(folder.attempt)
        except (OSError, RunnerError) as error:
            swept.problems.append(f"attempt {folder.attempt} cannot be closed: {error}")
    _free_machines(home, now)
    return swept


def close_dead(folder: AttemptFolder, home: Path, now: Clock = clock.now) -> bool:
    """Closes one attempt, if its supervisor is gone; False where there was nothing to do.

    An attempt whose entrypoint is still ending the program, with its grace, is left for later.
    """
    if not folder.request.exists() or folder.ended() is not None or folder.is_supervised():
        return False
    if not folder.supervisor.exists() and not _is_stale(folder, now()):
        return False
    held = lock.hold(folder.lock)
    if held is None:
        return False  # somebody else closes it, or its supervisor has just started
    try:
        if folder.ended() is not None:
            return False
        seen = folder.seen_alive() or now()
        restarted = _boot_of(folder) not in (None, host.boot_id())
        left = _members(folder)
        if left and not restarted and (now() - seen).total_seconds() < ENTRYPOINT_SECONDS:
            return False
        group = _group(folder)
        if left and group is not None:
            group.stop_forks()
        tree.end_all(lambda: _members(folder), 0.0, on_tick=lambda: None)
        run_afterwards(folder.work)
        at = now() if left else min(seen, now())
        _write_end(folder, _why(folder, restarted), at, now())
        _vacate(folder, home, at, now, restarted)
        return True
    finally:
        os.close(held)


def _write_end(folder: AttemptFolder, ending: Ending, at: datetime, now: datetime) -> None:
    source = f"sweep:{host.host_name()}"
    order = folder.read_order()
    events = folder.events()
    if not any(event.kind is Kind.ATTEMPT_QUEUED for event in events):
        queued_at = clock.from_text(order.queued_at)
        folder.append(
            Event(source, order.attempt, Kind.ATTEMPT_QUEUED, 0, queued_at, now, order.queued)
        )
    group = _group(folder)
    use: dict[str, Any] = dict(UNKNOWN)
    if group is not None:
        use |= {"cpu_seconds": group.cpu_seconds(), "peak_memory_bytes": group.peak_bytes()}
    LogLimit(folder.log).finish()
    latest = max([at, *(event.at for event in events if event.at <= now)])
    data = {
        "outcome": str(ending.outcome),
        "cause": ending.cause,
        "exit_code": None,
        "use": use,
    }
    folder.append(Event(source, order.attempt, Kind.ATTEMPT_ENDED, 0, latest, now, data))
    folder.sync()
    remove_group(folder, patience_seconds=1.0)


def _why(folder: AttemptFolder, restarted: bool) -> Ending:
    kinds = {event.kind for event in folder.events()}
    cancel = folder.cancel_cause()
    if cancel is not None:
        return Ending(Outcome.CANCELLED, cancel)
    if not folder.supervisor.exists():
        return Ending(Outcome.NEVER_STARTED, "whoever asked for it died before it was started")
    what = "this computer was restarted" if restarted else "its supervisor was killed"
    if Kind.ATTEMPT_ADMITTED not in kinds:
        return Ending(Outcome.NEVER_STARTED, f"{what} while it waited for a machine")
    return Ending(Outcome.INTERRUPTED, what)


def _vacate(folder: AttemptFolder, home: Path, at: datetime, now: Clock, restarted: bool) -> None:
    with Machines(home, f"sweep:{host.host_name()}", _is_supervised) as machines:
        lost = "this computer was restarted" if restarted else "its run lost its supervisor"
        machines.vacate(folder.attempt, max(at, now()) if not restarted else at, 0.0, lost)


def _free_machines(home: Path, now: Clock) -> None:
    """Frees machines of attempts that have ended, or whose folder somebody removed."""
    if not (home / "host.sqlite").exists():
        return
    with Machines(home, f"sweep:{host.host_name()}", _is_supervised) as machines:
        for machine in machines.machines():
            if machine.attempt is None or machine.folder is None:
                continue
            folder = AttemptFolder(Path(machine.folder))
            ended = folder.ended()
            if folder.is_supervised() or (ended is None and folder.request.exists()):
                continue
            at = ended.at if ended is not None else now()
            machines.vacate(machine.attempt, at, 0.0, "its run ended without giving it back")


def _members(folder: AttemptFolder) -> list[tree.Process]:
    """What of the attempt still runs: by its cgroup, and by the variable that all inherit."""
    found = {p.pid: p for p in tree.with_environment("PIECEWORK_FOLDER", str(folder.path))}
    group = _group(folder)
    for pid in group.members() if group is not None else ():
        process = tree.read_process(pid)
        if process is not None and process.is_alive:
            found[pid] = process
    found.pop(os.getpid(), None)
    return list(found.values())


def remove_group(folder: AttemptFolder, patience_seconds: float = 0.0) -> None:
    """Removes the control groups of an attempt that has ended, where they are still there."""
    group = _group(folder)
    if group is not None:
        group.remove(patience_seconds)


def _group(folder: AttemptFolder) -> cgroup.Cgroup | None:
    with suppress(OSError, ValueError):
        return cgroup.find(json.loads((folder.path / "cgroup.json").read_text()))
    return None


def _boot_of(folder: AttemptFolder) -> str | None:
    with suppress(OSError, ValueError, KeyError):
        return str(json.loads(folder.supervisor.read_text())["boot_id"])
    return None


def _is_stale(folder: AttemptFolder, now: datetime) -> bool:
    queued_at = clock.from_text(folder.read_order().queued_at)
    return (now - queued_at).total_seconds() > UNSTARTED_SECONDS


def _is_supervised(folder: str) -> bool:
    return lock.is_held(f"{folder}/lock")
