"""The machines of this host and the queue for them, in `$PIECEWORK_HOME/host.sqlite`.

A machine is a slice of this host: cores that no other machine has, and an amount of memory. An
attempt queues with a ticket and takes its machines in one transaction; whatever happens to a
machine is written in the same transaction as an event into the outbox, from where the keeper
records it, so no crash can separate the two.

Order is strict: priority, then age. The first in the queue takes what becomes free; nobody smaller
overtakes it, so nobody starves (docs/decisions/local-queue-order.md).

Standard library only, and light: a supervisor imports this before the program starts.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

from piecework import clock
from piecework.ledger.events import Event, Kind
from piecework.machines.host import Capacity

_SCHEMA = """
CREATE TABLE IF NOT EXISTS tickets (
    attempt TEXT PRIMARY KEY, folder TEXT NOT NULL, priority INTEGER NOT NULL,
    since TEXT NOT NULL, number INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS machines (
    id TEXT PRIMARY KEY, pool TEXT NOT NULL, instance_type TEXT NOT NULL, cores TEXT NOT NULL,
    memory_bytes INTEGER NOT NULL, launched_at TEXT NOT NULL, minimum_until TEXT NOT NULL,
    attempt TEXT, folder TEXT, since TEXT NOT NULL, idle_until TEXT,
    occupancies INTEGER NOT NULL, shares_cores INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, event TEXT NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Wish:
    """What an attempt wants: `count` machines of `cores` cores and `memory_bytes` each.

    `since` is when its run was first queued: a retry keeps its place. `purchase` is what the event
    machine.requested says (pool, provider, instance_type, as_if), `price` what machine.price says,
    `minimum_seconds` how long a machine is paid for at least, `most_machines` the pool's limit.
    """

    attempt: str
    folder: str
    priority: int
    since: datetime
    number: int
    count: int
    cores: int
    memory_bytes: int
    minimum_seconds: float
    keep_seconds: float
    purchase: Mapping[str, Any]
    price: Mapping[str, Any]
    most_machines: int | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """The machines that an attempt got: their ids, their cores together, their memory together."""

    machines: tuple[str, ...]
    cores: tuple[int, ...]
    memory_bytes: int
    handed_over: bool


@dataclass(frozen=True, slots=True)
class LocalMachine:
    """One machine of this host. `attempt` is None while it is idle, until `idle_until`."""

    id: str
    pool: str
    instance_type: str
    cores: tuple[int, ...]
    memory_bytes: int
    launched_at: datetime
    minimum_until: datetime
    attempt: str | None
    folder: str | None
    since: datetime
    idle_until: datetime | None
    occupancies: int
    shares_cores: bool


class Machines:
    """The machines of this host and the queue for them. One connection, for one thread."""

    def __init__(self, home: Path, source: str, is_alive: Callable[[str], bool]) -> None:
        """`source` names who writes events; `is_alive` tells whether a folder's attempt lives."""
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._source = source
        self._is_alive = is_alive
        self._db = sqlite3.connect(home / "host.sqlite", timeout=60, isolation_level=None)
        try:
            if not self._db.execute("PRAGMA user_version").fetchone()[0]:
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version=1; COMMIT")
            # Every commit reaches the disk: a reboot must not forget who was charged.
            self._db.execute("PRAGMA synchronous=FULL")
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> Machines:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Can be done twice."""
        self._db.close()

    def version(self) -> int:
        """Changes when another process has written. Cheap: the queue is polled with it."""
        return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def enqueue(self, wish: Wish) -> None:
        """Takes a place in the queue; the second time finds the first."""
        self._db.execute(
            "INSERT OR IGNORE INTO tickets VALUES (?, ?, ?, ?, ?)",
            (wish.attempt, wish.folder, wish.priority, clock.to_text(wish.since), wish.number),
        )

    def leave(self, attempt: str) -> None:
        """Gives the place in the queue up."""
        self._db.execute("DELETE FROM tickets WHERE attempt = ?", (attempt,))

    def take(self, wish: Wish, capacity: Capacity, now: datetime) -> Grant | str:
        """The machines for an attempt whose turn it is; else why it waits, in words for its user.

        Occupies them at once. Idle machines that fit are handed over; those in the way are given
        back. Taking what the attempt has taken already returns it again.
        """
        reason = self._reason_to_wait(wish, capacity)
        if reason is not None:  # a look without the write lock, as most looks end here
            return reason
        with self._transaction():
            self._forget_dead(wish)
            reason = self._reason_to_wait(wish, capacity)
            if reason is not None:
                return reason
            return self._occupy(wish, capacity, now)

    def vacate(self, attempt: str, now: datetime, keep_seconds: float, lost: str = "") -> None:
        """The attempt's last process is gone: its machines become idle, or are given back.

        `lost` says why they are not fit for another run; they count as gone at once.
        """
        with self._transaction():
            self._db.execute("DELETE FROM tickets WHERE attempt = ?", (attempt,))
            for machine in self.machines():
                if machine.attempt != attempt:
                    continue
                at = max(now, machine.since)
                self._say(
                    machine, Kind.MACHINE_VACATED, at, now, machine.occupancies, attempt=attempt
                )
                idle_until = max(machine.minimum_until, at + timedelta(seconds=keep_seconds))
                if lost:
                    self._release(machine, at, now, lost, cause="lost")
                elif idle_until <= at or machine.shares_cores:
                    self._release(machine, at, now, "its run has ended")
                else:
                    self._db.execute(
                        "UPDATE machines SET attempt = NULL, folder = NULL, since = ?, "
                        "idle_until = ? WHERE id = ?",
                        (clock.to_text(at), clock.to_text(idle_until), machine.id),
                    )

    def release_expired(self, now: datetime) -> int:
        """Gives back idle machines whose time is up, as of that moment; returns how many."""
        if not any(_expired(machine, now) for machine in self.machines()):
            return 0
        with self._transaction():
            expired = [machine for machine in self.machines() if _expired(machine, now)]
            for machine in expired:
                assert machine.idle_until is not None
                self._release(machine, machine.idle_until, now, "nobody needed it")
        return len(expired)

    def machines(self) -> list[LocalMachine]:
        """All machines of this host, busy and idle, oldest first."""
        rows = self._db.execute("SELECT * FROM machines ORDER BY launched_at, id").fetchall()
        return [_machine(row) for row in rows]

    def waiting(self) -> list[str]:
        """The attempts that wait, in the order in which they will be served."""
        rows = self._db.execute(
            "SELECT attempt FROM tickets ORDER BY priority DESC, since, number, attempt"
        )
        return [row[0] for row in rows]

    def tickets(self) -> list[tuple[str, str]]:
        """Attempt and folder of all that wait."""
        return list(self._db.execute("SELECT attempt, folder FROM tickets"))

    def outbox(self, limit: int = 1000) -> list[tuple[int, Event]]:
        """The oldest events that are not recorded yet, each with its number."""
        rows = self._db.execute("SELECT id, event FROM outbox ORDER BY id LIMIT ?", (limit,))
        return [(number, Event.from_json(text)) for number, text in rows]

    def forget(self, numbers: Sequence[int]) -> None:
        """Drops events from the outbox, once the ledger has them."""
        with self._transaction():
            self._db.executemany("DELETE FROM outbox WHERE id = ?", [(n,) for n in numbers])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._db.in_transaction:  # a full disk rolls back by itself
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _ahead(self, wish: Wish) -> list[tuple[str, str]]:
        mine = (-wish.priority, clock.to_text(wish.since), wish.number, wish.attempt)
        rows = self._db.execute("SELECT attempt, folder, priority, since, number FROM tickets")
        return [
            (attempt, folder)
            for attempt, folder, priority, since, number in rows
            if (-priority, since, number, attempt) < mine and self._is_alive(folder)
        ]

    def _forget_dead(self, wish: Wish) -> None:
        for attempt, folder in self.tickets():
            if attempt != wish.attempt and not self._is_alive(folder):
                self._db.execute("DELETE FROM tickets WHERE attempt = ?", (attempt,))

    def _reason_to_wait(self, wish: Wish, capacity: Capacity) -> str | None:
        machines = self.machines()
        if any(machine.attempt == wish.attempt for machine in machines):
            return None
        ahead = len(self._ahead(wish))
        busy = [machine for machine in machines if machine.attempt is not None]
        taken = {core for machine in busy for core in machine.cores}
        free_cores = len(set(capacity.cores) - taken)
        free_memory = capacity.memory_bytes - sum(machine.memory_bytes for machine in busy)
        fits = (
            free_cores >= _cores_together(wish, capacity)
            and free_memory >= wish.count * wish.memory_bytes
        )
        pool = [machine for machine in busy if machine.pool == wish.purchase["pool"]]
        full = wish.most_machines is not None and len(pool) + wish.count > wish.most_machines
        if fits and not ahead and not full:
            return None
        parts = []
        if full:
            parts.append(
                f"the pool {wish.purchase['pool']} may have {wish.most_machines} machines at a "
                f"time, of which {len(pool)} are busy"
            )
        if busy:
            parts.append(
                f"{_count(len(busy), 'machine')} of this host {'is' if len(busy) == 1 else 'are'} "
                f"busy: {len(taken)} of {len(capacity.cores)} cores and "
                f"{_gibi(capacity.memory_bytes - free_memory)} of {_gibi(capacity.memory_bytes)} "
                "are taken"
            )
        if ahead:
            parts.append(f"{_count(ahead, 'run')} {'is' if ahead == 1 else 'are'} ahead")
        return "; ".join(parts) or "this host has too few cores or too little memory"

    def _occupy(self, wish: Wish, capacity: Capacity, now: datetime) -> Grant:
        machines = self.machines()
        mine = [machine for machine in machines if machine.attempt == wish.attempt]
        handed_over = False
        if not mine:
            mine = self._idle_that_fit(wish, machines, now)
            handed_over = bool(mine)
            self._make_room(wish, capacity, [m for m in machines if m not in mine], mine, now)
            mine += self._launch(wish, capacity, wish.count - len(mine), now)
            for machine in mine:
                self._give(machine, wish, now)
        self._db.execute("DELETE FROM tickets WHERE attempt = ?", (wish.attempt,))
        return Grant(
            machines=tuple(machine.id for machine in mine),
            cores=tuple(sorted({core for machine in mine for core in machine.cores})),
            memory_bytes=sum(machine.memory_bytes for machine in mine),
            handed_over=handed_over,
        )

    def _idle_that_fit(
        self, wish: Wish, machines: Sequence[LocalMachine], now: datetime
    ) -> list[LocalMachine]:
        fitting = [
            machine
            for machine in machines
            if machine.attempt is None
            and not _expired(machine, now)
            and machine.pool == wish.purchase["pool"]
            and machine.instance_type == wish.purchase["instance_type"]
            and len(machine.cores) == wish.cores
            and machine.memory_bytes == wish.memory_bytes
        ]
        return fitting[: wish.count]

    def _make_room(
        self,
        wish: Wish,
        capacity: Capacity,
        others: Sequence[LocalMachine],
        mine: Sequence[LocalMachine],
        now: datetime,
    ) -> None:
        """Gives idle machines back that are in the way, those whose time is up first."""
        idle = [machine for machine in others if machine.attempt is None]
        idle.sort(key=lambda machine: machine.idle_until or now)
        staying = list(idle)
        new = wish.count - len(mine)
        for machine in idle:
            kept = [m for m in others if m.attempt is not None] + staying + list(mine)
            free = set(capacity.cores) - {core for m in kept for core in m.cores}
            memory = capacity.memory_bytes - sum(m.memory_bytes for m in kept)
            enough = min(new * wish.cores, _cores_together(wish, capacity))
            fits = len(free) >= enough and memory >= new * wish.memory_bytes
            if _expired(machine, now) or not fits:
                staying.remove(machine)
                at = machine.idle_until if _expired(machine, now) else now
                self._release(machine, max(at or now, machine.since), now, "its place was needed")

    def _launch(
        self, wish: Wish, capacity: Capacity, count: int, now: datetime
    ) -> list[LocalMachine]:
        taken = {core for machine in self.machines() for core in machine.cores}
        free = [core for core in capacity.cores if core not in taken]
        launched: list[LocalMachine] = []
        shares = count * wish.cores > len(free)  # a gang on a host with too few cores for it
        for number in range(count):
            first = number * wish.cores
            cores = tuple(sorted({free[(first + i) % len(free)] for i in range(wish.cores)}))
            machine = LocalMachine(
                id=f"local-{os.urandom(5).hex()}",
                pool=str(wish.purchase["pool"]),
                instance_type=str(wish.purchase["instance_type"]),
                cores=cores,
                memory_bytes=wish.memory_bytes,
                launched_at=now,
                minimum_until=now + timedelta(seconds=wish.minimum_seconds),
                attempt=None,
                folder=None,
                since=now,
                idle_until=None,
                occupancies=-1,
                shares_cores=shares,
            )
            self._db.execute(
                "INSERT INTO machines VALUES (?, ?, ?, ?, ?, ?, ?, NULL, NULL, ?, NULL, -1, ?)",
                (
                    machine.id,
                    machine.pool,
                    machine.instance_type,
                    json.dumps(machine.cores),
                    machine.memory_bytes,
                    clock.to_text(machine.launched_at),
                    clock.to_text(machine.minimum_until),
                    clock.to_text(now),
                    shares,
                ),
            )
            self._say(
                machine, Kind.MACHINE_REQUESTED, now, now, attempt=wish.attempt, **wish.purchase
            )
            self._say(
                machine,
                Kind.MACHINE_LAUNCHED,
                now,
                now,
                minimum_seconds=wish.minimum_seconds,
                increment_seconds=1,
                billing="per-second",
                spot=False,
                cores=list(cores),
            )
            self._say(machine, Kind.MACHINE_PRICE, now, now, **wish.price)
            self._say(machine, Kind.MACHINE_JOINED, now, now)
            self._say(machine, Kind.MACHINE_READY, now, now)
            launched.append(machine)
        return launched

    def _give(self, machine: LocalMachine, wish: Wish, now: datetime) -> None:
        number = machine.occupancies + 1
        at = max(now, machine.since)
        self._db.execute(
            "UPDATE machines SET attempt = ?, folder = ?, since = ?, idle_until = NULL, "
            "occupancies = ? WHERE id = ?",
            (wish.attempt, wish.folder, clock.to_text(at), number, machine.id),
        )
        self._say(machine, Kind.MACHINE_OCCUPIED, at, now, number, attempt=wish.attempt)

    def _release(
        self,
        machine: LocalMachine,
        at: datetime,
        now: datetime,
        reason: str,
        cause: str = "returned",
    ) -> None:
        self._say(machine, Kind.MACHINE_RELEASED, at, now, reason=reason)
        self._say(machine, Kind.MACHINE_GONE, at, now, cause=cause)
        self._db.execute("DELETE FROM machines WHERE id = ?", (machine.id,))

    def _say(
        self,
        machine: LocalMachine,
        kind: Kind,
        at: datetime,
        now: datetime,
        sequence: int = 0,
        **data: object,
    ) -> None:
        event = Event(self._source, machine.id, kind, sequence, at, now, data)
        self._db.execute("INSERT INTO outbox (event) VALUES (?)", (event.to_json(),))


def _expired(machine: LocalMachine, now: datetime) -> bool:
    return machine.idle_until is not None and machine.idle_until <= now


def _cores_together(wish: Wish, capacity: Capacity) -> int:
    """A gang that is larger than the host shares the host's cores within itself."""
    return min(wish.count * wish.cores, len(capacity.cores))


def _machine(row: Sequence[Any]) -> LocalMachine:
    return LocalMachine(
        id=row[0],
        pool=row[1],
        instance_type=row[2],
        cores=tuple(json.loads(row[3])),
        memory_bytes=row[4],
        launched_at=clock.from_text(row[5]),
        minimum_until=clock.from_text(row[6]),
        attempt=row[7],
        folder=row[8],
        since=clock.from_text(row[9]),
        idle_until=None if row[10] is None else clock.from_text(row[10]),
        occupancies=row[11],
        shares_cores=bool(row[12]),
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _gibi(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
