"""How many events the ledger takes in a second, and how its answers slow down as it grows.

Events come as supervisors write them: the lives of machines and attempts, some thousands in a
call, and one in a call. `cost --by job --since 30d` is asked of one ledger when it holds 10,000,
100,000 and 1,000,000 attempts of 200 jobs, always spread over 60 days, so that 30 days are half
of it. The million are the hundred thousand ten times, under other names at the same times, copied
within the database; writing them would take some ten minutes more. `--quick` stops at 100,000.
"""

from __future__ import annotations

import contextlib
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from bench.timing import Figure, Result, Spread, measure
from piecework.ledger.events import Event, Kind
from piecework.ledger.store import Ledger, open_ledger
from piecework.report.cost import cost
from tests.postgres import find_programs, running_postgresql

_NOW = datetime(2026, 11, 23, 10, 17, 31, tzinfo=UTC)
_DAYS = 60
_JOBS = 200
#: Beyond this many attempts a ledger is made of copies.
_MOST_WRITTEN = 100_000
_PLENTY_PER_SECOND = 2000
_MOST_SECONDS = 0.5


def _stories(attempts: range) -> Iterator[list[Event]]:
    """Machines that two attempts had; wherever they are cut off, spread over the days before now.

    The golden ratio's multiples spread evenly: each next one falls into the largest gap.
    """
    for number in range(attempts.start // 2, attempts.stop // 2):
        share = number * 0.6180339887498949 % 1
        yield _story(number, _NOW - timedelta(days=_DAYS) * (1 - share))


def _story(number: int, begin: datetime) -> list[Event]:
    """The 17 events of a machine that two attempts had, one after the other."""
    source, machine = f"supervisor:host{number % 7}", f"machine-x{number:08x}"
    events: list[Event] = []

    def tell(subject: str, kind: Kind, seconds: float, sequence: int = 0, /, **data: Any) -> None:
        at = begin + timedelta(seconds=seconds)
        events.append(Event(source, subject, kind, sequence, at, at, data))

    ids = [f"flow{number % 20}.job{number % _JOBS}.x{number:08x}{half}.1" for half in "ab"]
    tell(
        machine,
        Kind.MACHINE_REQUESTED,
        1,
        pool="local",
        provider="local",
        instance_type="m7i.large",
        attempt=ids[0],
        as_if=True,
    )
    tell(machine, Kind.MACHINE_LAUNCHED, 1, minimum_seconds=60, billing="per-second", spot=False)
    tell(machine, Kind.MACHINE_PRICE, 1, usd_per_hour="0.1008", currency="USD", source="snapshot")
    clock = 1.0
    for index, attempt in enumerate(ids):
        seconds = 20 + (number * 37 + index * 11) % 900
        tell(
            attempt,
            Kind.ATTEMPT_QUEUED,
            clock - 1,
            run=attempt[:-2],
            attempt=1,
            job=f"job{number % _JOBS}",
            pipeline=f"flow{number % 20}",
            pipeline_run=f"scheduled-{number // _JOBS}",
            team=f"team{number % 5}",
            engine="python",
            pool="local",
            cpu="2",
            memory_bytes=8 << 30,
        )
        tell(machine, Kind.MACHINE_OCCUPIED, clock + 0.01, index, attempt=attempt)
        tell(attempt, Kind.ATTEMPT_ADMITTED, clock + 0.01, machines=[machine])
        tell(attempt, Kind.ATTEMPT_STARTED, clock + 0.05)
        use = {"cpu_seconds": seconds * 1.5, "peak_memory_bytes": 1 << 30}
        tell(attempt, Kind.ATTEMPT_ENDED, clock + seconds, outcome="success", use=use)
        tell(machine, Kind.MACHINE_VACATED, clock + seconds + 0.02, index, attempt=attempt)
        clock += seconds + 5
    tell(machine, Kind.MACHINE_RELEASED, clock, reason="idle")
    tell(machine, Kind.MACHINE_GONE, clock, cause="returned")
    return events


def _fill(ledger: Ledger, attempts: range) -> Spread:
    """Appends the stories, some 5,000 events in a call; returns events a second, call by call."""
    stories = _stories(attempts)
    rates = []
    done = attempts.start
    while portion := list(islice(stories, 290)):
        events = [event for story in portion for event in story]
        rates.append(len(events) / measure(partial(ledger.append, events)))
        done += 2 * len(portion)
        if len(rates) % 100 == 0:
            print(f"  {done:,} attempts in the ledger", file=sys.stderr, flush=True)
    return Spread.of(rates)


def _ask(ledger: Ledger, times: int) -> Spread:
    def ask() -> None:
        cost(ledger, "job", since=_NOW - timedelta(days=30), now=_NOW)

    ask()
    return Spread.of(measure(ask) for _ in range(times))


def _one_by_one(ledger: Ledger, stories: int) -> Spread:
    """Events a second where each is a call, and a transaction, of its own."""
    events = [event for story in _stories(range(2 * stories)) for event in story]
    return Spread.of(1 / measure(partial(ledger.append, [event])) for event in events)


def _taking(name: str, url: str, attempts: int) -> list[Figure]:
    with open_ledger(url) as ledger:
        one = _one_by_one(ledger, 10)
        many = _fill(ledger, range(20, attempts))
    unit = "events/s"
    return [
        Figure(f"events into {name}", many, unit, at_least=_PLENTY_PER_SECOND),
        Figure(f"events into {name}, one in a call", one, unit),
    ]


#: Every name of a machine or a run holds an x where a copy's number goes.
_RENAMED = (
    "replace(replace({0}, 'machine-x', 'machine-x' || :copy || '-'), '.x', '.x' || :copy || '-')"
)
_COPIES = (
    """INSERT INTO events (identity, subject, kind, source, sequence, at, learned_at, attempt, data)
    SELECT randomblob(16), {subject}, kind, source, sequence, at, learned_at, {attempt}, {data}
    FROM events WHERE id <= :last""",
    """INSERT INTO attempts SELECT {id}, {run}, number, job, pipeline, pipeline_run, team, state,
    outcome, seen_at FROM attempts WHERE run NOT LIKE '%-%'""",
    """INSERT INTO machines SELECT {id}, pool, open, seen_at, start, paid_until, reach, nanos,
    unpriced_microseconds, charges FROM machines WHERE id NOT LIKE 'machine-%-%'""",
)
_SUMS = """UPDATE sums SET nanos = nanos * :times, microseconds = microseconds * :times,
    unpriced_microseconds = unpriced_microseconds * :times"""


def _multiply(file: Path, times: int) -> None:
    """Makes a ledger so many times larger, by copies of all it holds under other names."""
    names = {n: _RENAMED.format(n) for n in ("subject", "attempt", "data", "id", "run")}
    with contextlib.closing(sqlite3.connect(file)) as connection:
        (last,) = connection.execute("SELECT max(id) FROM events").fetchone()
        for copy in range(1, times):
            with connection:
                for statement in _COPIES:
                    connection.execute(statement.format(**names), {"copy": copy, "last": last})
            print(f"  copied {copy + 1} of {times} times", file=sys.stderr, flush=True)
        with connection:
            connection.execute(_SUMS, {"times": times})


def _asking(folder: Path, sizes: list[int], times: int) -> tuple[list[Figure], str]:
    figures: list[Figure] = []
    asked: list[Spread] = []
    with open_ledger(f"sqlite:///{folder}/grown.sqlite") as ledger:
        before = 0
        for size in sizes:
            if size <= _MOST_WRITTEN:
                _fill(ledger, range(before, size))
            else:
                _multiply(folder / "grown.sqlite", size // before)
            before = size
            asked.append(_ask(ledger, times))
            label = f"cost --by job --since 30d, {size:,} attempts"
            figures.append(Figure(label, asked[-1], "s", at_most=_MOST_SECONDS))
        report = cost(ledger, "job", now=_NOW)
        assert report.total == report.machines_total, "the bills are not the charges"
    for size, spread in zip(sizes[1:], asked[1:], strict=True):
        least, first = asked[0].median, sizes[0]
        ratio = Spread.of([spread.least / least, spread.median / least, spread.most / least])
        figures.append(Figure(f"its time at {size:,} / at {first:,} attempts", ratio))
    size_mib = sum(file.stat().st_size for file in folder.glob("grown.sqlite*")) / 2**20
    return figures, f"the ledger of {sizes[-1]:,} attempts takes {size_mib:,.0f} MiB"


def run(quick: bool) -> Result:
    """Fills ledgers on SQLite and on PostgreSQL (where there is one), and asks the largest."""
    sizes = [10_000, 100_000] if quick else [10_000, 100_000, 1_000_000]
    attempts = 2_000 if quick else 10_000
    notes = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures = _taking("SQLite", f"sqlite:///{folder}/taking.sqlite", attempts)
        if find_programs() is None:
            notes.append("PostgreSQL was not measured: its initdb is missing")
        else:
            with running_postgresql(durable=True) as server:
                figures += _taking("PostgreSQL", server.create_database(), attempts)
        asked, size = _asking(folder, sizes, 5 if quick else 15)
    return Result("ledger", (*figures, *asked), (*notes, size))
