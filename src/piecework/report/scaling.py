"""How long the same work would take on another number of cores, as a range that it must lie in.

Enters what one attempt did: how long it ran, on how many cores, and how busy they were; leaves the
shortest and the longest time on other cores of the same speed. Nothing is fitted: the ends of the
range are what no schedule beats, and what any schedule that leaves no core idle without need keeps.

Without more knowledge (T: time, k0: its cores, W: the CPU seconds) a program's use of cores over
time may have had any shape of area W and height k0 at most. On k cores, fewer than k0, the time is
then at least max(T, W / k), where the cores were used evenly, and at most T - W / k0 + W / k, where
all worked or none. On more cores it is at most T (nothing scales) and at least the same expression
(what used all cores would have used more).

Of Spark more is known: the time outside tasks, which no slot shortens; B, the slots' busy seconds;
C, the longest chain of tasks. On s slots the tasks take max(C, B / s) at least, and at most
C + (B - C) / s (R. L. Graham, Bounds on Multiprocessing Timing Anomalies, 1969). Sparklens reasons
in the same way. Tasks can't be divided, so fewer slots may even be a little quicker; that much is
left to the noise. Both ranges are joined: slots and cores may each be what is short.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tasks:
    """What Spark's slots did: seconds with any task, of all slots together, and of the chain."""

    seconds: float
    slots: float
    busy_seconds: float
    critical_seconds: float


@dataclass(frozen=True, slots=True)
class Work:
    """What an attempt did in `seconds` on the `cores` of all its machines; `busy_seconds` of these.

    `tasks` is None where the program was no Spark, or its event log is not known.
    """

    seconds: float
    cores: int
    busy_seconds: float
    tasks: Tasks | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """At least `low`, at most `high`: seconds."""

    low: float
    high: float

    @property
    def middle(self) -> float:
        return (self.low + self.high) / 2


def time_on(work: Work, cores: int) -> Span:
    """How long the work takes on so many cores. On more of them neither end becomes larger."""
    plain = _time_of_profile(work.seconds, work.cores, work.busy_seconds, cores)
    if work.tasks is None:
        return plain
    tasks = work.tasks
    outside = max(0.0, work.seconds - tasks.seconds)
    span = _time_of_tasks(tasks, tasks.slots * cores / work.cores)
    return Span(min(plain.low, outside + span.low), max(plain.high, outside + span.high))


def _time_of_profile(seconds: float, cores: int, busy: float, others: int) -> Span:
    busy = min(busy, seconds * cores)
    all_or_none = seconds - busy / cores + busy / others
    if others < cores:
        return Span(max(seconds, busy / others), all_or_none)
    return Span(all_or_none, seconds)


def _time_of_tasks(tasks: Tasks, slots: float) -> Span:
    """`late` is by how much Spark was slower than Graham's bound: it also has to plan tasks."""
    busy = min(tasks.busy_seconds, tasks.seconds * tasks.slots)
    chain = min(tasks.critical_seconds, tasks.seconds, busy)

    def most(slots: float) -> float:
        return chain + (busy - chain) / max(1.0, slots)

    # Half a slot runs no task, but half of a core's time runs one in twice the time.
    late = max(1.0, tasks.seconds / most(tasks.slots)) if busy > 1e-6 else 1.0
    bound, least = late * most(slots) * max(1.0, 1 / slots), max(chain, busy / slots)
    if slots < tasks.slots:
        return Span(max(tasks.seconds, least), max(tasks.seconds, bound))
    if slots > tasks.slots:
        return Span(least, min(tasks.seconds, bound))
    return Span(tasks.seconds, tasks.seconds)
