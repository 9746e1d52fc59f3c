"""The supervisor of one attempt on this host: waits for its machine, runs it, ends it, says so.

Enters: the attempt's folder with its order. Leaves: events in the folder's spool, the log, and a
host on which nothing of the attempt runs. It lives from the attempt's start to its end, whoever
started it; one attempt has one supervisor, ever. It is light on purpose: standard library only.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from piecework import clock
from piecework.entrypoint import tree
from piecework.ledger.events import Event, Kind, Outcome
from piecework.machines import host, lock
from piecework.machines.local import Grant, Machines, Wish
from piecework.runners.folder import AttemptFolder, Order
from piecework.runners.outcome import Ending, judge
from piecework.runners.program import Program

T = TypeVar("T")
#: An entrypoint: process id, descriptor to tell it, descriptor to hear it.
Booted = tuple[int, int, int]

#: How long one look at the program's state lasts at most; what is asked meanwhile waits as long.
TICK_SECONDS = 0.1
#: How often the first in the queue, and the others, look for a free machine.
FIRST_POLL_SECONDS, POLL_SECONDS = 0.05, 0.25
#: How often a new reason to wait is written, at most.
REASON_SECONDS = 5.0
#: How often it is looked whether others' supervisors have died, while waiting for their machines.
SWEEP_SECONDS = 5.0
BEAT_SECONDS = 2.0
#: How long a full disk is borne before the attempt is left to the sweep.
FULL_DISK_SECONDS = 3600.0


def supervise(path: str, booted: Booted | None = None) -> None:
    """Carries the order in the folder out. The folder's lock is held by this process already.

    `booted` is an entrypoint that waits for its launch.
    """
    folder = AttemptFolder(Path(path))
    if folder.supervisor.exists() or folder.ended() is not None:
        return  # it had its supervisor; if that one died, the sweep closes the attempt
    Supervisor(folder, folder.read_order(), booted).run()


class Supervisor:
    """One attempt, from its queueing to its end."""

    def __init__(self, folder: AttemptFolder, order: Order, booted: Booted | None = None) -> None:
        self.booted = booted
        self.folder = folder
        self.order = order
        self.home = Path(order.home)
        self.source = f"supervisor:{host.host_name()}"
        self.stopped: Ending | None = None
        self.owner: Any = None
        self.beaten = 0.0
        self.reasons = 0

    def run(self) -> None:
        """From the queue to the end; the last thing is that the ledger hears of it."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        tree.adopt_orphans()
        _insist(self._sign)
        self.say(Kind.ATTEMPT_QUEUED, self.order.queued, clock.from_text(self.order.queued_at))
        with _insist(lambda: Machines(self.home, self.source, _is_supervised)) as machines:
            got = self._wait_for_machine(machines)
            if isinstance(got, Ending):
                machines.leave(self.order.attempt)
                self._send_away()
                self._end(got, None)
            else:
                program = self._carry_out(got)
                _insist(
                    lambda: machines.vacate(
                        self.order.attempt, clock.now(), self.order.keep_seconds
                    )
                )
                program.remove()
        self._record()

    def say(self, kind: Kind, data: Mapping[str, Any], at: datetime, sequence: int = 0) -> None:
        """Writes an event of the attempt into its spool, waiting while the disk is full."""
        now = clock.now()
        event = Event(self.source, self.order.attempt, kind, sequence, at, now, data)
        _insist(lambda: self.folder.append(event))

    def _sign(self) -> None:
        own = tree.read_process(os.getpid())
        start = own.start if own else None
        signature = {"pid": os.getpid(), "start": start, "boot_id": host.boot_id()}
        draft = self.folder.supervisor.with_suffix(".draft")
        draft.write_text(json.dumps(signature))
        draft.replace(self.folder.supervisor)

    def _wait_for_machine(self, machines: Machines) -> Grant | Ending:
        order = self.order
        wish = _wish(order, str(self.folder.path))
        available = host.capacity(order.host_cpus, order.host_memory_bytes)
        queued = False
        written, written_at, swept_at, version = "", -REASON_SECONDS, time.monotonic(), -1
        looked_at = 0.0
        while True:
            ending = self.reason_to_end(None)
            if ending is not None:
                return ending
            now = time.monotonic()
            current = machines.version()
            if current != version or now - looked_at > 1.0:
                version, looked_at = current, now
                got = _insist(lambda: machines.take(wish, available, clock.now()))
                if isinstance(got, Grant):
                    return got
                self._send_away()
                if not queued:
                    _insist(lambda: machines.enqueue(wish))
                    queued = True
                    continue
                if got != written and now - written_at >= REASON_SECONDS:
                    self.say(Kind.ATTEMPT_WAITING, {"reason": got}, clock.now(), self.reasons)
                    self.reasons += 1
                    written, written_at = got, now
            self.beat()
            if now - swept_at > SWEEP_SECONDS:
                swept_at = now
                self._sweep(machines)
            first = machines.waiting()[:1] == [order.attempt]
            time.sleep(FIRST_POLL_SECONDS if first else POLL_SECONDS)

    def _send_away(self) -> None:
        """Ends the entrypoint that was booted too early: nothing lies about while it waits."""
        if self.booted is not None:
            pid, tell, hear = self.booted
            self.booted = None
            os.close(tell)
            os.close(hear)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)

    def _sweep(self, machines: Machines) -> None:
        """Frees machines whose attempts have lost their supervisors."""
        if all(m.folder is None or _is_supervised(m.folder) for m in machines.machines()):
            return
        from piecework.keeper.orphans import sweep

        with suppress(OSError):
            sweep(self.home)

    def _carry_out(self, grant: Grant) -> Program:
        order = self.order
        program = Program(self.folder, order, grant)
        try:
            program.launch(self.booted)
        except OSError as error:
            program.finish()
            self._end(Ending(Outcome.NEVER_STARTED, f"its machine was not usable: {error}"), None)
            return program
        data = {
            "machines": list(grant.machines),
            "instance_type": order.purchase["instance_type"],
            "handed_over": grant.handed_over,
        }
        self.say(Kind.ATTEMPT_ADMITTED, data, clock.now())
        started_at: float | None = None
        poll = select.poll()
        poll.register(program.report, select.POLLIN)
        while True:
            wait = TICK_SECONDS if program.started is None or started_at else 0.0
            if poll.poll(wait * 1000):
                program.read_reports()
                if program.gone:
                    break
            if program.started is not None and started_at is None:
                started_at = time.monotonic()
                self.say(Kind.ATTEMPT_STARTED, {}, program.started)
                self.folder.sync()
            program.look()
            if program.asked is None:
                ending = self.reason_to_end(started_at)
                if ending is not None:
                    program.ask_to_end(ending)
            self.beat()
        use = program.finish()
        self._end(judge(**program.seen()), use)
        return program

    def _end(self, ending: Ending, use: Mapping[str, Any] | None) -> None:
        data = {
            "outcome": str(ending.outcome),
            "cause": ending.cause,
            "exit_code": ending.exit_code,
            "use": dict(use) if use is not None else None,
        }
        self.say(Kind.ATTEMPT_ENDED, data, clock.now())
        _insist(self.folder.sync)

    def reason_to_end(self, started_at: float | None) -> Ending | None:
        """Why the attempt must end now, if it must. `started_at` is on the monotonic clock."""
        order = self.order
        if self.stopped is not None:
            return self.stopped
        cause = self.folder.cancel_cause()
        if cause is not None:
            return Ending(Outcome.CANCELLED, cause)
        if started_at is not None and time.monotonic() - started_at >= order.timeout_seconds:
            return Ending(
                Outcome.TIMEOUT, f"ran longer than its timeout of {order.timeout_seconds:g} s"
            )
        if order.deadline_at and clock.now() >= clock.from_text(order.deadline_at):
            return Ending(
                Outcome.CANCELLED,
                f"its deadline, {order.deadline_at}, has passed (on_deadline: cancel)",
            )
        return self._owner_over()

    def _owner_over(self) -> Ending | None:
        if self.order.owner.get("kind") != "airflow":
            return None
        if self.owner is None:
            from piecework.runners.owner import OwnerWatch

            self.owner = OwnerWatch(self.order.owner, self.home)
            self.owner.start()
        over: str | None = self.owner.over
        return Ending(Outcome.CANCELLED, over) if over is not None else None

    def beat(self) -> None:
        """Leaves a sign of life now and then."""
        now = time.monotonic()
        if now - self.beaten >= BEAT_SECONDS:
            self.beaten = now
            self.folder.beat()

    def _on_signal(self, number: int, _frame: object) -> None:
        if number == signal.SIGTERM:
            self.stopped = Ending(
                Outcome.INTERRUPTED, "its supervisor was told to stop (SIGTERM): a shutdown?"
            )

    def _record(self) -> None:
        """Becomes the keeper for a moment, so that the ledger hears of the end at once."""
        environ = {**os.environ, "PIECEWORK_HOME": self.order.home}
        if self.order.config:
            environ["PIECEWORK_CONFIG"] = self.order.config
        else:
            environ.pop("PIECEWORK_CONFIG", None)
        os.chdir("/")
        os.nice(10)
        sys.stdout.flush()
        os.execve(self.order.python, [self.order.python, "-m", "piecework.keeper"], environ)  # noqa: S606 - our own


def _wish(order: Order, folder: str) -> Wish:
    return Wish(
        attempt=order.attempt,
        folder=folder,
        priority=int(order.queued["priority"]),
        since=clock.from_text(order.run_queued_at),
        number=order.number,
        count=order.count,
        cores=order.cores,
        memory_bytes=order.memory_bytes,
        minimum_seconds=order.minimum_seconds,
        keep_seconds=order.keep_seconds,
        purchase=order.purchase,
        price=order.price,
        most_machines=order.most_machines,
    )


def _is_supervised(folder: str) -> bool:
    return lock.is_held(f"{folder}/lock")


def _insist(step: Callable[[], T]) -> T:
    """Repeats a step that a full disk refuses, until it is done: what happened must be told."""
    from sqlite3 import OperationalError

    until = time.monotonic() + FULL_DISK_SECONDS
    while True:
        try:
            return step()
        except (OSError, OperationalError) as error:
            if time.monotonic() > until:
                raise
            with suppress(OSError):
                sys.stderr.write(f"piecework: {error}; trying again\n")
            time.sleep(0.5)
