"""The queue for machines of one host, and whom it gives what, with a set clock and no processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piecework.ledger.events import Event, Kind
from piecework.machines.host import Capacity
from piecework.machines.local import Grant, Machines, Wish

GIBI = 2**30
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
HOST = Capacity(cores=(0, 1, 2, 3), memory_bytes=16 * GIBI)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    with Machines(tmp_path, "test", lambda _: True) as opened:
        yield opened


def wish(attempt: str, *, cores: int = 2, memory: int = 4, priority: int = 0, **more: int) -> Wish:
    """What an attempt wants; the digits in its name are its age, in seconds after noon."""
    age = int("".join(filter(str.isdigit, attempt)) or 0)
    return Wish(
        attempt=attempt,
        folder=f"/runs/{attempt}",
        priority=priority,
        since=NOON + timedelta(seconds=age),
        number=1,
        count=more.get("count", 1),
        cores=cores,
        memory_bytes=memory * GIBI,
        minimum_seconds=60.0,
        keep_seconds=0.0,
        purchase={"pool": "local", "instance_type": f"c{cores}", "as_if": True},
        price={"usd_per_hour": "1"},
        most_machines=more.get("most"),
    )


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def take(machines: Machines, what: Wish, seconds: float = 0) -> Grant:
    found = machines.take(what, HOST, after(seconds))
    assert isinstance(found, Grant), found
    return found


def events(machines: Machines, kind: Kind) -> list[Event]:
    return [event for _, event in machines.outbox() if event.kind is kind]


def test_a_machine_has_cores_that_no_other_machine_has(machines: Machines) -> None:
    first, second = take(machines, wish("a1")), take(machines, wish("a2"))
    assert len(first.cores) == len(second.cores) == 2
    assert not set(first.cores) & set(second.cores)
    reason = machines.take(wish("a3"), HOST, NOON)
    assert isinstance(reason, str)
    assert "2 machines of this host are busy: 4 of 4 cores" in reason


def test_memory_is_not_given_twice(machines: Machines) -> None:
    take(machines, wish("a1", cores=1, memory=12))
    reason = machines.take(wish("a2", cores=1, memory=6), HOST, NOON)
    assert isinstance(reason, str)
    assert "12.0 GiB of 16.0 GiB" in reason
    take(machines, wish("a3", cores=1, memory=4))


def test_taking_again_returns_what_was_taken(machines: Machines) -> None:
    assert take(machines, wish("a1")).machines == take(machines, wish("a1")).machines
    assert len(machines.machines()) == 1


def test_nobody_overtakes_the_first_in_the_queue_however_small(machines: Machines) -> None:
    take(machines, wish("a1", cores=3))
    large, small = wish("a2", cores=2), wish("a3", cores=1)
    for waiting in (large, small):
        machines.enqueue(waiting)
    assert isinstance(machines.take(small, HOST, NOON), str)  # although a core is free
    machines.vacate("a1", after(1), 0.0)
    assert isinstance(machines.take(small, HOST, after(1)), str)
    take(machines, large, 1)
    take(machines, small, 1)


def test_priority_comes_before_age(machines: Machines) -> None:
    for waiting in (wish("a1"), wish("a2"), wish("a3", priority=1), wish("a4", priority=-1)):
        machines.enqueue(waiting)
    assert machines.waiting() == ["a3", "a1", "a2", "a4"]


def test_the_dead_do_not_hold_up_the_queue(tmp_path: Path) -> None:
    with Machines(tmp_path, "test", lambda folder: not folder.endswith("a1")) as machines:
        machines.enqueue(wish("a1"))
        machines.enqueue(wish("a2"))
        take(machines, wish("a2"))
        assert machines.waiting() == []


def test_an_idle_machine_is_handed_over_within_its_minimum(machines: Machines) -> None:
    first = take(machines, wish("a1"))
    machines.vacate("a1", after(10), 0.0)
    second = take(machines, wish("a2"), 30)
    assert second.machines == first.machines
    assert second.handed_over
    occupied = events(machines, Kind.MACHINE_OCCUPIED)
    assert [(e.sequence, e.data["attempt"]) for e in occupied] == [(0, "a1"), (1, "a2")]


def test_an_idle_machine_is_given_back_when_its_minimum_is_used_up(machines: Machines) -> None:
    take(machines, wish("a1"))
    machines.vacate("a1", after(10), 0.0)
    assert machines.release_expired(after(59)) == 0
    assert machines.release_expired(after(100)) == 1
    gone = events(machines, Kind.MACHINE_GONE)[0]
    assert (gone.at, gone.learned_at) == (after(60), after(100))


def test_a_pool_may_keep_idle_machines_for_longer(machines: Machines) -> None:
    take(machines, wish("a1"))
    machines.vacate("a1", after(70), 30.0)
    assert machines.release_expired(after(99)) == 0
    assert machines.release_expired(after(100)) == 1


def test_a_machine_that_worked_beyond_its_minimum_is_given_back_at_once(machines: Machines) -> None:
    take(machines, wish("a1"))
    machines.vacate("a1", after(61), 0.0)
    assert machines.machines() == []
    assert events(machines, Kind.MACHINE_GONE)[0].at == after(61)


def test_an_idle_machine_never_stands_in_the_way(machines: Machines) -> None:
    take(machines, wish("a1", cores=4))
    machines.vacate("a1", after(10), 0.0)
    take(machines, wish("a2", cores=1), 20)
    released = events(machines, Kind.MACHINE_RELEASED)
    assert [event.at for event in released] == [after(20)]
    assert len(machines.machines()) == 1


def test_an_idle_machine_that_is_not_in_the_way_stays(machines: Machines) -> None:
    take(machines, wish("a1", cores=1))
    machines.vacate("a1", after(10), 0.0)
    take(machines, wish("a2", cores=2), 20)
    assert events(machines, Kind.MACHINE_RELEASED) == []


def test_a_lost_machine_is_not_handed_over(machines: Machines) -> None:
    take(machines, wish("a1"))
    machines.vacate("a1", after(10), 0.0, lost="this computer was restarted")
    assert machines.machines() == []
    assert events(machines, Kind.MACHINE_GONE)[0].data == {"cause": "lost"}


def test_a_gang_gets_all_of_its_machines_or_none(machines: Machines) -> None:
    take(machines, wish("a1", cores=1))
    gang = wish("a2", cores=2, memory=2, count=2)
    assert isinstance(machines.take(gang, HOST, NOON), str)
    assert len(machines.machines()) == 1
    machines.vacate("a1", after(1), 0.0)
    got = take(machines, gang, 1)
    assert len(got.machines) == 2
    assert len(got.cores) == 4
    assert got.memory_bytes == 4 * GIBI


def test_a_pool_has_no_more_machines_than_it_may(machines: Machines) -> None:
    take(machines, wish("a1", cores=1, most=1))
    reason = machines.take(wish("a2", cores=1, most=1), HOST, NOON)
    assert isinstance(reason, str)
    assert "may have 1 machine" in reason


def test_the_outbox_forgets_only_what_it_is_told_to(machines: Machines) -> None:
    take(machines, wish("a1"))
    rows = machines.outbox(limit=2)
    machines.forget([number for number, _ in rows])
    assert next(event.kind for _, event in machines.outbox()) is Kind.MACHINE_PRICE


def test_what_one_connection_does_the_others_see(tmp_path: Path) -> None:
    with Machines(tmp_path, "a", lambda _: True) as one, opened(tmp_path) as other:
        version = other.version()
        take(one, wish("a1"))
        assert other.version() != version
        assert isinstance(other.take(wish("a2", cores=3), HOST, NOON), str)


@contextmanager
def opened(home: Path) -> Iterator[Machines]:
    with Machines(home, "b", lambda _: True) as machines:
        yield machines


STEPS = st.lists(
    st.tuples(
        st.integers(0, 5),  # which attempt
        st.sampled_from(["take", "vacate", "expire", "lose"]),
        st.integers(1, 4),  # cores
        st.integers(1, 16),  # GiB
        st.integers(-2, 2),  # priority
        st.integers(0, 40),  # seconds that pass
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_machines_never_overlap_and_every_one_has_one_life(
    steps: list[tuple[int, str, int, int, int, int]],
) -> None:
    with TemporaryDirectory() as folder, Machines(Path(folder), "t", lambda _: True) as machines:
        seconds, asked = 0, dict[str, Wish]()
        for which, verb, cores, memory, priority, passed in steps:
            seconds += passed
            name, now = f"a{which}", after(seconds)
            if verb == "take":
                fresh = wish(name, cores=cores, memory=memory, priority=priority)
                asked[name] = replace(asked.get(name, fresh))
                if isinstance(machines.take(asked[name], HOST, now), str):
                    machines.enqueue(asked[name])
            elif verb == "expire":
                machines.release_expired(now)
            else:
                machines.vacate(name, now, 0.0, "lost" if verb == "lose" else "")
                asked.pop(name, None)
            _check_host(machines)
        _check_lives([event for _, event in machines.outbox(limit=10_000)])


def _check_host(machines: Machines) -> None:
    cores = [core for machine in machines.machines() for core in machine.cores]
    assert len(cores) == len(set(cores))
    assert sum(m.memory_bytes for m in machines.machines()) <= HOST.memory_bytes
    assert not {m.attempt for m in machines.machines()} & set(machines.waiting())


def _check_lives(history: list[Event]) -> None:
    assert len({event.identity for event in history}) == len(history)
    holder: dict[str, str | None] = {}
    for event in history:
        if event.kind is Kind.MACHINE_LAUNCHED:
            assert event.subject not in holder
            holder[event.subject] = None
        elif event.kind is Kind.MACHINE_OCCUPIED:
            assert holder[event.subject] is None
            holder[event.subject] = event.data["attempt"]
        elif event.kind is Kind.MACHINE_VACATED:
            assert holder[event.subject] == event.data["attempt"]
            holder[event.subject] = None
        elif event.kind is Kind.MACHINE_GONE:
            assert holder.pop(event.subject) is None
