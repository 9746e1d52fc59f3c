"""The folder of one attempt on this host, and the order in it that its supervisor carries out.

Everything about an attempt is here, so that whoever dies, the rest can be told from the disk:
docs/architecture.md lists the files. Standard library only, and light: supervisors import this.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from piecework import clock
from piecework.errors import RunnerError
from piecework.ledger.events import Event, Kind
from piecework.machines import lock


@dataclass(frozen=True, slots=True)
class Order:
    """What a supervisor is to do: request.json. Everything in it is JSON; times are ISO 8601.

    `queued` is what the event attempt.queued says, `purchase` and `price` what the machine's events
    say. `cores` and `memory_bytes` are those of each of the `count` machines. `environ` is what the
    attempt's own variables are, `config` the settings file for whoever records the end.
    """

    attempt: str
    run: str
    number: int
    queued_at: str
    run_queued_at: str
    queued: Mapping[str, Any]
    purchase: Mapping[str, Any]
    price: Mapping[str, Any]
    count: int
    cores: int
    memory_bytes: int
    minimum_seconds: float
    keep_seconds: float
    timeout_seconds: float
    deadline_at: str | None
    owner: Mapping[str, Any]
    launch: Mapping[str, Any]
    environ: Mapping[str, str]
    host_cpus: int | None
    host_memory_bytes: int | None
    most_machines: int | None
    home: str
    config: str | None
    python: str
    grace_seconds: float = 10.0

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Order:
        """Reads what `to_json` wrote; raises ValueError or TypeError where it is something else."""
        return cls(**json.loads(text))


class AttemptFolder:
    """`$PIECEWORK_HOME/runs/RUN/NUMBER`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.request = path / "request.json"
        self.lock = path / "lock"
        self.supervisor = path / "supervisor.json"
        self.spool = path / "events.jsonl"
        self.log = path / "log"
        self.work = path / "work"
        self.artifacts = path / "artifacts"
        self.result = path / "result.json"
        self.cancel = path / "cancel"
        self.recorded = path / "recorded"
        self.mark = path.parent.parent.parent / "open" / f"{path.parent.name}.{path.name}"

    @property
    def attempt(self) -> str:
        """The attempt's id, made from the folder's place."""
        return f"{self.path.parent.name}.{self.path.name}"

    def write_order(self, order: Order) -> bool:
        """Writes request.json so that it is there in full or not at all; False where it was there.

        Two who start the same attempt at the same time: exactly one of them gets True.
        """
        self.path.parent.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path.parent.mkdir(exist_ok=True, mode=0o700)
        self.path.mkdir(exist_ok=True, mode=0o700)
        if self.request.exists():
            return False
        # Whatever is not recorded to its end has a mark, so that nobody reads all that ever was.
        self.mark.parent.mkdir(exist_ok=True, mode=0o700)
        self.mark.touch()
        draft = self.path / f".request.{os.getpid()}.{os.urandom(4).hex()}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w") as stream:
                stream.write(order.to_json())
                stream.flush()
                os.fsync(stream.fileno())
            os.link(draft, self.request)
        except FileExistsError:
            return False
        finally:
            draft.unlink(missing_ok=True)
        _sync_folder(self.path)
        return True

    def read_order(self) -> Order:
        """Raises RunnerError where the order is missing or broken."""
        try:
            return Order.from_json(self.request.read_text())
        except (OSError, ValueError, TypeError) as error:
            raise RunnerError(
                f"{self.request}: not the order of an attempt ({error}); the attempt cannot be "
                "carried out. Start the run again"
            ) from error

    def is_supervised(self) -> bool:
        """Whether the attempt's supervisor, or somebody who closes the attempt, is alive."""
        return lock.is_held(self.lock)

    def events(self) -> list[Event]:
        """What the spool holds. A line that a crash tore is left out."""
        return [event for event, _ in read_spool(self.spool)]

    def ended(self) -> Event | None:
        """The end, once it is written."""
        return next((e for e in self.events() if e.kind is Kind.ATTEMPT_ENDED), None)

    def append(self, event: Event) -> int:
        """Adds an event to the spool in one write; returns the descriptor's file size after it.

        `sync` makes it durable: a program's start does not wait for that.
        """
        descriptor = os.open(self.spool, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            line = event.to_json().encode() + b"\n"
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                line = b"\n" + line  # what a crash tore stays a line of its own, which nobody reads
            written = os.write(descriptor, line)
            if written != len(line):
                os.ftruncate(descriptor, size)
                raise OSError(28, f"{self.spool}: only {written} of {len(line)} bytes were written")
            return size + written
        finally:
            os.close(descriptor)

    def sync(self) -> None:
        """Makes the spool durable."""
        with suppress(FileNotFoundError):
            descriptor = os.open(self.spool, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def beat(self) -> None:
        """Says that the supervisor is alive: after a crash, when it was seen last."""
        with suppress(OSError):
            os.utime(self.lock)

    def seen_alive(self) -> datetime | None:
        """When there was the last sign of life, from any of the attempt's files."""
        times = []
        for file in (self.lock, self.spool, self.log):
            with suppress(OSError):
                times.append(file.stat().st_mtime)
        return clock.from_text(_time_text(max(times))) if times else None

    def cancel_cause(self) -> str | None:
        """Why the attempt is to end, if somebody asked for it."""
        try:
            return self.cancel.read_text(errors="replace").strip() or "cancelled"
        except OSError:
            return None

    def close(self) -> None:
        """Takes the mark away: the ledger knows the end."""
        self.mark.unlink(missing_ok=True)

    def request_cancel(self, cause: str) -> None:
        """Asks the supervisor to end the attempt; the first cause stays."""
        draft = self.path / f".cancel.{os.getpid()}.{os.urandom(4).hex()}"
        try:
            draft.write_text(cause)
            with suppress(FileExistsError):
                os.link(draft, self.cancel)
        finally:
            draft.unlink(missing_ok=True)


def open_attempts(home: Path) -> list[AttemptFolder]:
    """The folders of all attempts on this host whose end is not in the ledger yet."""
    marks = home / "open"
    if not marks.is_dir():
        return []
    found = (folder_of(home, mark.name) for mark in sorted(marks.iterdir()))
    return [folder for folder in found if folder is not None]


def folders_of_run(home: Path, run: str) -> list[AttemptFolder]:
    """The folders of one run's attempts, oldest first."""
    folder = home / "runs" / run
    if not folder.is_dir():
        return []
    numbers = sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdigit())
    return [AttemptFolder(folder / str(number)) for number in numbers]


def folder_of(home: Path, attempt: str) -> AttemptFolder | None:
    """The folder of an attempt by its id; None where there is none."""
    run, _, number = attempt.rpartition(".")
    if not run or not number.isdigit() or "/" in attempt or run.startswith("."):
        return None
    folder = AttemptFolder(home / "runs" / run / number)
    return folder if folder.request.exists() else None


def read_spool(path: Path, offset: int = 0) -> list[tuple[Event, int]]:
    """The events of a spool from `offset` on, each with the offset after it.

    A last line that is not finished is left for later; a torn line in between is left out.
    """
    try:
        with path.open("rb") as stream:
            stream.seek(offset)
            text = stream.read()
    except FileNotFoundError:
        return []
    found = []
    for line in text.splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break
        offset += len(line)
        with suppress(ValueError, KeyError, TypeError):
            found.append((Event.from_json(line.decode()), offset))
    return found


def _time_text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, tz=clock.now().tzinfo).isoformat()


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
