"""Events in, machines and attempts out: who had which machine from when to when.

What enters are events in any order, with any repeats, from several sources; what leaves does not
depend on that order. Where sources disagree about the time of something that happens once
(launched, started, ended, gone), the earliest counts. Where clocks stepped, times are clamped so
that no interval is negative. An instant of a machine belongs to one attempt at most: where
occupancies overlap, the later one ends the earlier.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from piecework.ledger.events import Event, Kind, Outcome

#: Prices are stated in this currency (`usd_per_hour`); one in another is no price to us.
CURRENCY = "USD"
#: Nothing real goes beyond these; they keep sums inside what a database can hold.
_MOST_USD_PER_HOUR = 1_000_000
_MOST_METER_SECONDS = 366 * 86400
_MOST_CPU_SECONDS = 10**12
_MOST_ENGINE_NUMBER = 2**62
_MOST_ENGINE_NUMBERS = 32


@dataclass(frozen=True, slots=True)
class Price:
    """What a machine costs from `at` on. `usd_per_hour` is None where that is unknown."""

    at: datetime
    usd_per_hour: Decimal | None
    source: str | None
    as_of: str | None


@dataclass(frozen=True, slots=True)
class Occupancy:
    """A machine belongs to one attempt, alone. `end` is None while it lasts.

    `vacated` is False where nobody saw the attempt leave the machine: either it has not yet, or
    that event is lost, and then the attempt's own end or whatever came next is the end.
    """

    machine: str
    attempt: str
    start: datetime
    end: datetime | None
    vacated: bool


@dataclass(frozen=True, slots=True)
class Machine:
    """One bought computer and its life. Times are None where they are not known (yet)."""

    id: str
    pool: str | None
    provider: str | None
    instance_type: str | None
    bought_for: str | None
    as_if: bool
    first_seen_at: datetime
    requested_at: datetime | None
    launched_at: datetime | None
    joined_at: datetime | None
    ready_at: datetime | None
    released_at: datetime | None
    release_reason: str | None
    gone_at: datetime | None
    gone_cause: str | None
    billing: str | None
    minimum_seconds: Decimal | None
    increment_seconds: Decimal | None
    spot: bool
    prices: tuple[Price, ...]
    occupancies: tuple[Occupancy, ...]

    @property
    def metered_from(self) -> datetime | None:
        """When its meter started: launched, or where that is lost the first sign of life."""
        if self.launched_at is not None:
            return self.launched_at
        signs = [self.joined_at, self.ready_at, *(o.start for o in self.occupancies)]
        return min((at for at in signs if at is not None), default=None)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of a run, and its life. Fields are None where they are not known (yet)."""

    id: str
    run: str
    number: int
    job: str | None
    pipeline: str | None
    pipeline_run: str | None
    team: str | None
    engine: str | None
    pool: str | None
    instance_type: str | None
    machines: tuple[str, ...]
    first_seen_at: datetime
    queued_at: datetime | None
    waiting_reason: str | None
    admitted_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    outcome: Outcome | None
    cause: str | None
    exit_code: int | None
    cpu_seconds: float | None
    peak_memory_bytes: int | None
    read_bytes: int | None
    written_bytes: int | None
    asked: Mapping[str, Any] = field(default_factory=dict)
    #: How many files it left in the store of its cluster.
    artifacts: int = 0
    #: How much of its time its use is of, where it was counted from outside; None where it was
    #: measured from the beginning to the end.
    counted_seconds: float | None = None
    #: What Spark and Dask told of their slots and threads; empty where it was another engine.
    spark: Mapping[str, float] = field(default_factory=dict)
    dask: Mapping[str, float] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """One of "waiting" (until it has its machines), "running" and "ended"."""
        if self.ended_at is not None:
            return "ended"
        if self.admitted_at is not None or self.started_at is not None:
            return "running"
        return "waiting"


@dataclass(frozen=True, slots=True)
class Timeline:
    """Machines and attempts by their ids."""

    machines: Mapping[str, Machine]
    attempts: Mapping[str, Attempt]


def read_timeline(events: Iterable[Event]) -> Timeline:
    """Puts events together; the same events in any order and with repeats give the same."""
    of_machines: dict[str, list[Event]] = defaultdict(list)
    of_attempts: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        about = of_machines if event.kind.value.startswith("machine.") else of_attempts
        about[event.subject].append(event)
    attempts = {subject: _attempt(subject, told) for subject, told in of_attempts.items()}
    machines = {subject: _machine(subject, told, attempts) for subject, told in of_machines.items()}
    return Timeline(machines, attempts)


def _order(event: Event) -> tuple[datetime, datetime, str, int]:
    return event.at, event.learned_at, event.source, event.sequence


def _by_kind(told: Sequence[Event]) -> dict[Kind, list[Event]]:
    by_kind: dict[Kind, list[Event]] = defaultdict(list)
    for event in sorted(told, key=_order):
        by_kind[event.kind].append(event)
    return by_kind


def _first(by_kind: Mapping[Kind, list[Event]], kind: Kind) -> Event | None:
    told = by_kind.get(kind)
    return told[0] if told else None


def _at(event: Event | None) -> datetime | None:
    return None if event is None else event.at


def _data(event: Event | None) -> Mapping[str, Any]:
    return {} if event is None or not isinstance(event.data, Mapping) else event.data


def text_of(data: Mapping[str, Any], name: str) -> str | None:
    """The text under a name, None where there is none or something else. Ids, names, reasons."""
    value = data.get(name)
    return value if isinstance(value, str) and value else None


def _decimal(value: Any, below: int) -> Decimal | None:
    """A finite number from 0 on and below a bound, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        return None
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return None
    sane = number.is_finite() and 0 <= number < below
    exponent = number.as_tuple().exponent
    return number if sane and isinstance(exponent, int) and exponent >= -30 else None


def _integer(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if abs(value) < 2**62 else None


def _numbers(told: Any) -> dict[str, float]:
    """The finite numbers from 0 on among what an engine told, by their names."""
    if not isinstance(told, Mapping):
        return {}
    found: dict[str, float] = {}
    for name, value in told.items():
        number = _decimal(value, _MOST_ENGINE_NUMBER)
        if isinstance(name, str) and number is not None and len(found) < _MOST_ENGINE_NUMBERS:
            found[name] = float(number)
    return found


def _machine(subject: str, told: Sequence[Event], attempts: Mapping[str, Attempt]) -> Machine:
    by_kind = _by_kind(told)
    requested = _first(by_kind, Kind.MACHINE_REQUESTED)
    launched = _first(by_kind, Kind.MACHINE_LAUNCHED)
    released = _first(by_kind, Kind.MACHINE_RELEASED)
    gone = _first(by_kind, Kind.MACHINE_GONE)
    asked, meter = _data(requested), _data(launched)
    return Machine(
        id=subject,
        pool=text_of(asked, "pool"),
        provider=text_of(asked, "provider"),
        instance_type=text_of(asked, "instance_type"),
        bought_for=text_of(asked, "attempt"),
        as_if=asked.get("as_if") is True,
        first_seen_at=min(event.at for event in told),
        requested_at=_at(requested),
        launched_at=_at(launched),
        joined_at=_at(_first(by_kind, Kind.MACHINE_JOINED)),
        ready_at=_at(_first(by_kind, Kind.MACHINE_READY)),
        released_at=_at(released),
        release_reason=text_of(_data(released), "reason"),
        gone_at=_at(gone),
        gone_cause=text_of(_data(gone), "cause"),
        billing=text_of(meter, "billing"),
        minimum_seconds=_decimal(meter.get("minimum_seconds"), _MOST_METER_SECONDS),
        increment_seconds=_decimal(meter.get("increment_seconds"), _MOST_METER_SECONDS),
        spot=meter.get("spot") is True,
        prices=_prices(by_kind.get(Kind.MACHINE_PRICE, [])),
        occupancies=_occupancies(subject, by_kind, attempts),
    )


def _prices(told: Sequence[Event]) -> tuple[Price, ...]:
    steps: dict[datetime, Price] = {}
    for event in told:
        data = _data(event)
        amount = _decimal(data.get("usd_per_hour"), _MOST_USD_PER_HOUR)
        if data.get("currency", CURRENCY) != CURRENCY:
            amount = None
        source, as_of = text_of(data, "source"), text_of(data, "as_of")
        steps[event.at] = Price(event.at, amount, source, as_of)
    return tuple(steps.values())


def _occupancies(
    machine: str, by_kind: Mapping[Kind, list[Event]], attempts: Mapping[str, Attempt]
) -> tuple[Occupancy, ...]:
    """One occupancy an attempt, disjoint, in order of time."""
    starts: dict[str, datetime] = {}
    for event in by_kind.get(Kind.MACHINE_OCCUPIED, []):
        attempt = text_of(_data(event), "attempt")
        if attempt is not None:
            starts.setdefault(attempt, event.at)
    ends: dict[str, datetime] = {}
    for event in by_kind.get(Kind.MACHINE_VACATED, []):
        attempt = text_of(_data(event), "attempt")
        if attempt is not None:
            ends.setdefault(attempt, event.at)
            starts.setdefault(attempt, event.at)
    closing = [
        at
        for kind in (Kind.MACHINE_RELEASED, Kind.MACHINE_GONE)
        if (at := _at(_first(by_kind, kind))) is not None
    ]
    ordered = sorted((start, attempt) for attempt, start in starts.items())
    found = []
    for index, (start, attempt) in enumerate(ordered):
        limits = [at for at in closing if at >= start]
        if index + 1 < len(ordered):
            limits.append(ordered[index + 1][0])
        vacated = ends.get(attempt)
        known = attempts.get(attempt)
        if vacated is not None:
            limits.append(max(start, vacated))
        elif known is not None and known.ended_at is not None:
            limits.append(max(start, known.ended_at))
        end = min(limits, default=None)
        found.append(Occupancy(machine, attempt, start, end, vacated is not None))
    return tuple(found)


def identity_of(attempt: str) -> tuple[str, int]:
    """Run and number from an attempt's id, where its `attempt.queued` is lost."""
    run, dot, number = attempt.rpartition(".")
    if dot and run and number.isascii() and number.isdigit() and len(number) < 10:
        return run, int(number)
    return attempt, 1


def _attempt(subject: str, told: Sequence[Event]) -> Attempt:
    by_kind = _by_kind(told)
    queued = _first(by_kind, Kind.ATTEMPT_QUEUED)
    admitted = _first(by_kind, Kind.ATTEMPT_ADMITTED)
    ended = _first(by_kind, Kind.ATTEMPT_ENDED)
    asked, got, end = _data(queued), _data(admitted), _data(ended)
    use = end.get("use") if isinstance(end.get("use"), Mapping) else {}
    assert isinstance(use, Mapping)
    run, number = identity_of(subject)
    waiting = by_kind.get(Kind.ATTEMPT_WAITING)
    cpu_seconds = _decimal(use.get("cpu_seconds"), _MOST_CPU_SECONDS)
    counted = _decimal(use.get("counted_seconds"), _MOST_CPU_SECONDS)
    return Attempt(
        id=subject,
        run=text_of(asked, "run") or run,
        number=_integer(asked.get("attempt")) or number,
        job=text_of(asked, "job"),
        pipeline=text_of(asked, "pipeline"),
        pipeline_run=text_of(asked, "pipeline_run"),
        team=text_of(asked, "team"),
        engine=text_of(asked, "engine"),
        pool=text_of(asked, "pool"),
        instance_type=text_of(got, "instance_type"),
        machines=_admitted_to(by_kind.get(Kind.ATTEMPT_ADMITTED, [])),
        first_seen_at=min(event.at for event in told),
        queued_at=_at(queued),
        waiting_reason=text_of(_data(waiting[-1]), "reason") if waiting else None,
        admitted_at=_at(admitted),
        started_at=_at(_first(by_kind, Kind.ATTEMPT_STARTED)),
        ended_at=_at(ended),
        outcome=_outcome(end.get("outcome")) if ended else None,
        cause=text_of(end, "cause"),
        exit_code=_integer(end.get("exit_code")),
        cpu_seconds=None if cpu_seconds is None else float(cpu_seconds),
        peak_memory_bytes=_integer(use.get("peak_memory_bytes")),
        read_bytes=_integer(use.get("read_bytes")),
        written_bytes=_integer(use.get("written_bytes")),
        asked=asked,
        artifacts=_integer(end.get("artifacts")) or 0,
        counted_seconds=None if counted is None else float(counted),
        spark=_numbers(use.get("spark")),
        dask=_numbers(use.get("dask")),
    )


def _admitted_to(told: Iterable[Event]) -> tuple[str, ...]:
    """All machines that it was given, at its admission and later."""
    lists = [_data(event).get("machines") for event in told]
    named = [names for names in lists if isinstance(names, list | tuple)]
    return tuple(sorted({name for names in named for name in names if isinstance(name, str)}))


def _outcome(value: Any) -> Outcome:
    """An end that does not say what it was is never a success."""
    try:
        return Outcome(value)
    except ValueError:
        return Outcome.ERROR
