"""The runner of this host: starts a detached supervisor per attempt, and reads what it leaves.

Enters: an AttemptRequest, with its Plan. Leaves: the attempt's folder, whose supervisor does the
rest (docs/architecture.md, "An attempt on this host"). Nothing here waits for a program.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from math import ceil
from pathlib import Path
from typing import Any

from piecework import clock
from piecework.clock import Clock
from piecework.config import Settings
from piecework.engines.engine import launch
from piecework.errors import RunnerError
from piecework.ledger.events import Event, Kind, Outcome
from piecework.machines import host, lock
from piecework.plan.plan import Host
from piecework.runners import detach, log
from piecework.runners.folder import AttemptFolder, Order, folder_of, folders_of_run
from piecework.runners.runner import AttemptRequest, AttemptStatus, Owner
from piecework.spec.data import load_data
from piecework.spec.pool import Pool, load_pools
from piecework.units import Memory, format_cpu

#: How long `wait_for_change` waits.
_LOOK_SECONDS = 0.2


class LocalRunner:
    """Attempts on this host. Holds nothing but settings: all state is in `settings.home`."""

    def __init__(self, settings: Settings, now: Clock = clock.now) -> None:
        self.settings = settings
        self.now = now

    def start(self, request: AttemptRequest) -> AttemptStatus:
        """Starts the attempt's supervisor, or finds the attempt where it was started before.

        Returns at once. Raises RunnerError where the order cannot be written or no supervisor be
        started, InputError where the program cannot be started as written.
        """
        folder = AttemptFolder(self.settings.home / "runs" / request.run / str(request.number))
        self._refuse_a_second(request)
        try:
            if not folder.request.exists():
                order = make_order(request, self.settings, self.now())
                folder.write_order(order)
        except OSError as error:
            raise RunnerError(
                f"attempt {request.attempt}: its order cannot be written to {folder.path}: "
                f"{error}. Make room, or correct the permissions of {self.settings.home}"
            ) from error
        if not folder.supervisor.exists() and folder.ended() is None:
            held = lock.hold(folder.lock)
            if held is not None:  # else somebody supervises it already
                try:
                    _start_supervisor(folder, request.attempt, held)
                finally:
                    os.close(held)
        status = self.status(request.attempt)
        assert status is not None
        return status

    def _refuse_a_second(self, request: AttemptRequest) -> None:
        """A run is never run twice at the same time, whoever asks."""
        for status in self.attempts(request.run):
            if status.state != "ended" and status.attempt != request.attempt:
                raise RunnerError(
                    f"attempt {request.attempt}: {status.attempt} of the same run has not ended; "
                    "cancel it, or wait for its end"
                )

    def status(self, attempt: str) -> AttemptStatus | None:
        """How the attempt is. One whose supervisor died is closed first, so that it has an end."""
        folder = folder_of(self.settings.home, attempt)
        if folder is None:
            return None
        if folder.supervisor.exists() and not folder.is_supervised() and folder.ended() is None:
            from piecework.keeper.orphans import close_dead

            close_dead(folder, self.settings.home, self.now)
        return read_status(folder)

    def attempts(self, run: str) -> list[AttemptStatus]:
        """All attempts of a run, oldest first."""
        found = []
        for folder in folders_of_run(self.settings.home, run):
            status = self.status(folder.attempt)
            if status is not None:
                found.append(status)
        return found

    def cancel(self, attempt: str, cause: str) -> None:
        """Asks the supervisor to end the attempt's whole process tree; returns at once."""
        folder = folder_of(self.settings.home, attempt)
        if folder is None:
            raise RunnerError(f"there is no attempt {attempt!r} in {self.settings.home}/runs")
        if folder.ended() is None:
            folder.request_cancel(cause)

    def read_log(self, attempt: str, offset: int, limit: int = 1 << 20) -> bytes:
        """Bytes of the attempt's log from `offset`; empty at its present end."""
        folder = folder_of(self.settings.home, attempt)
        if folder is None:
            return b""
        return log.read(folder.log, offset, limit, ended=folder.ended() is not None)

    def wait_for_change(self, run: str, timeout_seconds: float) -> None:  # noqa: ARG002
        """Waits as long as one looks at a folder before one looks again; nothing tells of it."""
        time.sleep(min(timeout_seconds, _LOOK_SECONDS))

    def acknowledge(self, attempt: str) -> None:
        """Nothing: the attempt's folder stays."""

    def listen(
        self,
        run: str,  # noqa: ARG002
        tell: Callable[[], object],  # noqa: ARG002
        tell_log: Callable[[], object],  # noqa: ARG002
    ) -> None:
        """Nobody tells here: what there is to know is in the attempt's folder."""
        return


def host_for_plans(pool: Pool) -> Host:
    """What this host can give to the jobs of a local pool, for `plan_job`."""
    available = host.capacity(*_limits(pool))
    return Host(cpus=len(available.cores), memory=Memory(available.memory_bytes))


def make_order(request: AttemptRequest, settings: Settings, now: datetime) -> Order:
    """What the supervisor is told. Everything that it must not compute itself is settled here."""
    plan, job = request.plan, request.plan.job
    pool = load_pools(settings).get(plan.pool) or Pool(name=plan.pool)
    host_cpus, host_memory = _limits(pool)
    available = host.capacity(host_cpus, host_memory)
    run_queued_at = _first_queued(settings.home, request) or now
    deadline = run_queued_at + plan.deadline
    folder = AttemptFolder(settings.home / "runs" / request.run / str(request.number))
    return Order(
        attempt=request.attempt,
        run=request.run,
        number=request.number,
        queued_at=clock.to_text(now),
        run_queued_at=clock.to_text(run_queued_at),
        queued=_queued(request),
        purchase={
            "pool": plan.pool,
            "provider": plan.provider,
            "instance_type": plan.instance_type.name,
            "as_if": plan.as_if,
        },
        price=_price(request),
        count=plan.count,
        cores=max(1, min(ceil(plan.cpus), len(available.cores))),
        memory_bytes=min(plan.memory.bytes, available.memory_bytes // plan.count),
        minimum_seconds=plan.minimum.total_seconds(),
        keep_seconds=pool.keep.total_seconds() if pool.keep else 0.0,
        timeout_seconds=plan.timeout.total_seconds(),
        deadline_at=clock.to_text(deadline) if job.on_deadline == "cancel" else None,
        owner=asdict(request.owner),
        launch=_launch(request, settings),
        environ=_environ(request, folder),
        host_cpus=host_cpus,
        host_memory_bytes=host_memory,
        most_machines=pool.max_machines,
        home=str(settings.home),
        config=str(settings.file.absolute()) if settings.file else None,
        python=sys.executable,
    )


def read_status(folder: AttemptFolder) -> AttemptStatus:
    """How the attempt is, from its spool."""
    last: dict[Kind, Event] = {event.kind: event for event in folder.events()}
    order = folder.read_order()
    ended, started = last.get(Kind.ATTEMPT_ENDED), last.get(Kind.ATTEMPT_STARTED)
    admitted, waiting = last.get(Kind.ATTEMPT_ADMITTED), last.get(Kind.ATTEMPT_WAITING)
    state = "ended" if ended else "running" if admitted else "waiting"
    reason = None
    if state == "waiting":
        reason = waiting.data["reason"] if waiting else "is being queued"
    outcome = Outcome(ended.data["outcome"]) if ended else None
    return AttemptStatus(
        attempt=folder.attempt,
        state=state,
        reason=reason,
        machines=tuple(admitted.data["machines"]) if admitted else (),
        queued_at=clock.from_text(order.queued_at),
        started_at=started.at if started else None,
        ended_at=ended.at if ended else None,
        outcome=outcome,
        cause=ended.data["cause"] if ended else None,
        exit_code=ended.data["exit_code"] if ended else None,
        result=_result(folder) if outcome is Outcome.SUCCESS else None,
        owner=Owner(**order.owner),
        memory=Memory(order.memory_bytes),
    )


def _start_supervisor(folder: AttemptFolder, attempt: str, held: int) -> None:
    # What belongs to Airflow, its secrets among it, is no business of a job's.
    environ = {n: v for n, v in os.environ.items() if not n.startswith(("AIRFLOW_", "_AIRFLOW"))}
    try:
        finished = subprocess.run(
            [sys.executable, "-I", "-S", detach.__file__, str(folder.path), str(held)],
            pass_fds=[held],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environ,
            start_new_session=True,
            check=False,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RunnerError(f"attempt {attempt}: no supervisor could be started: {error}") from error
    if finished.returncode != 0:
        message = finished.stderr.decode(errors="replace").strip()
        raise RunnerError(f"attempt {attempt}: its supervisor could not start: {message}")


def _limits(pool: Pool) -> tuple[int | None, int | None]:
    cpus = int(pool.cpus) if pool.cpus is not None else None
    return cpus, pool.memory.bytes if pool.memory is not None else None


def _launch(request: AttemptRequest, settings: Settings) -> dict[str, Any]:
    start = launch(request.plan, request.code).to_json()
    data = load_data(settings).order(on_cluster=False)
    return {**start, "data": data} if data else start


def _queued(request: AttemptRequest) -> dict[str, Any]:
    plan = request.plan
    return {
        "run": request.run,
        "attempt": request.number,
        "job": plan.job_name,
        "pipeline": request.pipeline,
        "pipeline_run": request.pipeline_run,
        "team": request.team,
        "engine": plan.job.engine,
        "pool": plan.pool,
        "priority": request.priority,
        "cpu": format_cpu(plan.cpus),
        "memory_bytes": plan.memory.bytes,
        "gpu": plan.gpus,
        "count": plan.count,
        "owner": asdict(request.owner),
    }


def _price(request: AttemptRequest) -> dict[str, Any]:
    machine = request.plan.instance_type
    price = machine.usd_per_hour
    return {
        "usd_per_hour": None if price is None else f"{price:f}",
        "currency": "USD",
        "source": machine.source,
        "as_of": machine.as_of.isoformat() if machine.as_of else None,
        "as_if": request.plan.as_if,
    }


def _environ(request: AttemptRequest, folder: AttemptFolder) -> dict[str, str]:
    return {
        "PIECEWORK_RUN": request.run,
        "PIECEWORK_ATTEMPT": request.attempt,
        "PIECEWORK_FOLDER": str(folder.path),
        "PIECEWORK_JOB": request.plan.job_name,
        "PIECEWORK_PIPELINE": request.pipeline or "",
        "PIECEWORK_PIPELINE_RUN": request.pipeline_run or "",
        "PIECEWORK_TEAM": request.team or "",
        "PIECEWORK_GPUS": str(request.plan.gpus),
        "PIECEWORK_CODE": str(request.code),
        "PIECEWORK_DATA": request.data,
        "PIECEWORK_ARTIFACTS": str(folder.artifacts),
        "PIECEWORK_RESULT": str(folder.result),
        "PIECEWORK_PYTHON": sys.executable,
        "PIECEWORK_PARAMS": json.dumps(dict(request.params)),
    }


def _first_queued(home: Path, request: AttemptRequest) -> datetime | None:
    """When the run's first attempt was queued: retries keep their place and their deadline.

    Attempts from before their task was cleared (see Owner.max_tries) are of an earlier request.
    """
    for folder in folders_of_run(home, request.run):
        if folder.request.exists():
            order = folder.read_order()
            if order.owner.get("max_tries", 0) >= request.owner.max_tries:
                return clock.from_text(order.run_queued_at)
    return None


def _result(folder: AttemptFolder) -> Any:
    try:
        return json.loads(folder.result.read_text())
    except (OSError, ValueError):
        return None
