"""Histories for tests: made by hand with `machine_life`, or invented by hypothesis.

The invented ones hold what goes wrong for real: lost and repeated events, two sources that
disagree, clocks that step, occupancies that overlap, machines that nobody asked for, attempts that
nobody knows, prices that change, are missing, or are nonsense.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from piecework.ledger.events import Event, Kind, Outcome

START = datetime(2026, 11, 1, 22, 0, tzinfo=UTC)
MACHINES = ("m0", "m1", "m2")
ATTEMPTS = ("etl.clean.aa.1", "etl.clean.aa.2", "etl.load.bb.1", "ml.clean.cc.1", "lonely.dd.1")
UNKNOWN = ("nobody.knows.1", "")
BILLINGS = ("aws-ec2-linux", "gcp-compute-engine", "azure-vm", "per-second", "who-knows", None)


def at(seconds: float) -> datetime:
    """Seconds after the start of all histories: 22:00, two hours before the day ends."""
    return START + timedelta(seconds=seconds)


def tell(
    subject: str, kind: str, seconds: float, /, source: str = "supervisor", **data: Any
) -> Event:
    """One event, learned when it happened."""
    return Event(source, subject, Kind(kind), 0, at(seconds), at(seconds), data)


def attempt_life(
    attempt: str,
    queued: float,
    started: float | None = None,
    ended: float | None = None,
    outcome: str = "success",
    **asked: Any,
) -> list[Event]:
    """An attempt of the id PIPELINE.JOB.RUN.NUMBER."""
    pipeline, job, *_ = attempt.split(".")
    run, _, number = attempt.rpartition(".")
    told: dict[str, Any] = {
        "run": run,
        "attempt": int(number),
        "job": job,
        "pipeline": pipeline,
        **asked,
    }
    events = [tell(attempt, "attempt.queued", queued, **told)]
    if started is not None:
        events.append(tell(attempt, "attempt.started", started))
    if ended is not None:
        events.append(tell(attempt, "attempt.ended", ended, outcome=outcome, cause="it ended"))
    return events


def machine_life(
    machine: str,
    launched: float,
    gone: float | None = None,
    *,
    bought_for: str | None = None,
    price: str | None = "3.6",
    had: dict[str, tuple[float, float | None]] | None = None,
    released: float | None = None,
    minimum: int = 60,
    **meter: Any,
) -> list[Event]:
    """A machine at 0.001 dollars a second; `had`: attempt -> occupied, vacated."""
    requested: dict[str, Any] = {"pool": "local", "instance_type": "m5.large", "as_if": True}
    events = [
        tell(machine, "machine.requested", launched, attempt=bought_for, **requested),
        tell(machine, "machine.launched", launched, minimum_seconds=minimum, **meter),
        tell(machine, "machine.price", launched, usd_per_hour=price, currency="USD"),
    ]
    for sequence, (attempt, (occupied, vacated)) in enumerate((had or {}).items()):
        told = [tell(machine, "machine.occupied", occupied, attempt=attempt)]
        if vacated is not None:
            told.append(tell(machine, "machine.vacated", vacated, attempt=attempt))
        events += [replace(event, sequence=sequence) for event in told]
    if released is not None:
        events.append(tell(machine, "machine.released", released, reason="done"))
    if gone is not None:
        events.append(tell(machine, "machine.gone", gone, cause="returned"))
    return events


_seconds = st.one_of(
    st.integers(0, 4 * 3600).map(float),
    st.integers(0, 4 * 3600 * 10**6).map(lambda microseconds: microseconds / 10**6),
    st.sampled_from([0.0, 60.0, 7200.0, 7200.000001, 3600.0, -5.0]),
)
_prices = st.one_of(
    st.sampled_from(["0.096", "3.6", "0", "0.0000000000001", "12.123456789123", None, "NaN", "-1"]),
    st.integers(1, 10**6).map(lambda cents: f"{cents / 100:.2f}"),
    st.sampled_from(["dear", 0.5, True, [], "1e400"]),
)
_attempts = st.sampled_from(ATTEMPTS + UNKNOWN)
_meters = st.fixed_dictionaries(
    {},
    optional={
        "minimum_seconds": st.sampled_from([0, 60, 600, 3600, "60", None, "soon"]),
        "increment_seconds": st.sampled_from([0, 1, 60, 3600]),
        "billing": st.sampled_from(BILLINGS),
        "spot": st.booleans(),
    },
)
_requests = st.fixed_dictionaries(
    {"attempt": st.one_of(st.none(), _attempts)},
    optional={"pool": st.sampled_from(["local", "spot", None]), "as_if": st.booleans()},
)
_queued = st.fixed_dictionaries(
    {},
    optional={
        "pipeline": st.sampled_from(["etl", "ml", None]),
        "job": st.sampled_from(["clean", "load", "\0odd\ud800"]),
        "team": st.sampled_from(["red", "blue", 7]),
        "run": st.sampled_from(["etl.clean.aa", "ml.clean.cc"]),
    },
)


def _data(kind: Kind) -> st.SearchStrategy[dict[str, Any]]:
    if kind in (Kind.MACHINE_OCCUPIED, Kind.MACHINE_VACATED):
        return st.fixed_dictionaries({"attempt": _attempts})
    known: dict[Kind, st.SearchStrategy[dict[str, Any]]] = {
        Kind.MACHINE_REQUESTED: _requests,
        Kind.MACHINE_LAUNCHED: _meters,
        Kind.MACHINE_PRICE: st.fixed_dictionaries(
            {"usd_per_hour": _prices}, optional={"currency": st.sampled_from(["USD", "EUR"])}
        ),
        Kind.MACHINE_GONE: st.fixed_dictionaries(
            {"cause": st.sampled_from(["returned", "interrupted", "lost"])}
        ),
        Kind.ATTEMPT_QUEUED: _queued,
        Kind.ATTEMPT_ENDED: st.fixed_dictionaries(
            {"outcome": st.sampled_from([*(outcome.value for outcome in Outcome), "odd"])}
        ),
        Kind.ATTEMPT_ADMITTED: st.fixed_dictionaries(
            {"machines": st.lists(st.sampled_from(MACHINES), max_size=3)}
        ),
    }
    return known.get(kind, st.just({}))


@st.composite
def _chaos(draw: st.DrawFn) -> Event:
    """Anything about anybody at any time."""
    kind = draw(st.sampled_from(list(Kind)))
    subjects = MACHINES if kind.value.startswith("machine.") else ATTEMPTS
    happened = draw(_seconds)
    learned = draw(st.one_of(st.just(happened), _seconds))
    return Event(
        source=draw(st.sampled_from(["supervisor", "sweep"])),
        subject=draw(st.sampled_from(subjects)),
        kind=kind,
        sequence=0,
        at=at(happened),
        learned_at=at(learned),
        data=draw(_data(kind)),
    )


@st.composite
def _life(draw: st.DrawFn) -> list[Event]:
    """A machine that some attempts had, one after the other or not quite, and their own events."""
    machine = draw(st.sampled_from(MACHINES))
    clock = draw(_seconds)
    steps = st.sampled_from([0.0, 0.000001, 1.0, 30.5, 59.9, 61.0, 1800.0, 4000.0, -2.0])
    had: dict[str, tuple[float, float | None]] = {}
    events: list[Event] = []
    launched = clock
    attempts = draw(st.lists(st.sampled_from(ATTEMPTS), max_size=3, unique=True))
    for attempt in attempts:
        occupied = clock = clock + draw(steps)
        started = clock = clock + draw(steps)
        ended = clock = clock + draw(steps)
        vacated = clock = clock + draw(steps)
        had[attempt] = (occupied, draw(st.sampled_from([vacated, None])))
        events += attempt_life(attempt, launched, started, draw(st.sampled_from([ended, None])))
    released = clock = clock + draw(steps)
    gone = clock + draw(steps)
    return events + machine_life(
        machine,
        launched,
        draw(st.sampled_from([gone, None])),
        bought_for=draw(st.one_of(st.none(), st.sampled_from([*attempts, *UNKNOWN]))),
        price=draw(st.sampled_from(["0.096", "3.6", "0.333333333333", None])),
        had=had,
        released=draw(st.sampled_from([released, None])),
        minimum=draw(st.sampled_from([0, 60, 3600])),
        billing=draw(st.sampled_from(BILLINGS)),
        spot=draw(st.booleans()),
    )


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    """Events, each with an identity of its own."""
    lives = draw(st.lists(_life(), max_size=3))
    chaos = draw(st.lists(_chaos(), max_size=12))
    events = [event for life in lives for event in life]
    kept = draw(st.lists(st.booleans(), min_size=len(events), max_size=len(events)))
    told = [event for event, keep in zip(events, kept, strict=True) if keep or draw(st.booleans())]
    return [replace(event, sequence=number) for number, event in enumerate([*told, *chaos])]


#: A `now`: within the histories, before, or after them.
times = _seconds.map(at)
