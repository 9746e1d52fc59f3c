"""The list of jobs that peers are compared on, and what it cost one of them to run it.

In: bench/data/jobs.csv, and what a peer's run of it left: when each job was asked for, its pod, and
the testbed's own record of the machines that were bought meanwhile. Out: seconds paid, what must be
paid at least, how long machines were kept for nothing, and how long jobs waited. Pure.
"""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from bench.pod_watch import PodTimes
from testbed.record import Life

#: What every machine costs at least, as on AWS and GCP.
MINIMUM = timedelta(seconds=60)
_FILE = Path(__file__).parent / "data" / "jobs.csv"
#: A quick list has every fourth job, comes five times as fast, and has no long ones.
_QUICK_EACH, _QUICK_FASTER, _QUICK_LONGEST = 4, 5, 30


@dataclass(frozen=True, slots=True)
class Job:
    """Asked for at `arrival` seconds after the first, and runs for `seconds`."""

    number: int
    arrival: float
    seconds: int


def read_jobs(quick: bool) -> list[Job]:
    """The list of 40, or a quick one of 10."""
    with _FILE.open() as lines:
        rows = [
            (float(row["arrival_seconds"]), int(row["seconds"])) for row in csv.DictReader(lines)
        ]
    if quick:
        rows = [
            (arrival / _QUICK_FASTER, min(seconds, _QUICK_LONGEST))
            for arrival, seconds in rows[::_QUICK_EACH]
        ]
    return [Job(number, *row) for number, row in enumerate(rows)]


@dataclass(frozen=True, slots=True)
class PeerRun:
    """What one peer did with a list. `asked` and `pods` are by a job's number."""

    jobs: tuple[Job, ...]
    asked: Mapping[int, datetime]
    pods: Mapping[int, PodTimes]
    machines: tuple[Life, ...]
    failures: int

    def paid_seconds(self, *, boot: bool = True) -> float:
        """What the machines cost, each at least the minimum; without `boot`, from when they
        joined on.
        """
        return sum(_paid(life, boot=boot) for life in self.machines)

    def least_seconds(self, *, minimum: bool) -> float:
        """What a machine for each job would cost that is there at once and gone at once."""
        lowest = MINIMUM.total_seconds() if minimum else 0
        return sum(max(lowest, job.seconds) for job in self.jobs)

    def give_back_seconds(self) -> list[float]:
        """By machine: from its last job's end, or the end of its minimum where that is later."""
        ends: dict[str, datetime] = {}
        for pod in self.pods.values():
            if pod.node and pod.ended:
                ends[pod.node] = max(pod.ended, ends.get(pod.node, pod.ended))
        found = []
        for life in self.machines:
            if life.bought and life.returned:
                useful = max(ends.get(life.machine, life.bought), life.bought + MINIMUM)
                found.append(max(0.0, (life.returned - useful).total_seconds()))
        return found

    def creation_seconds(self) -> list[float]:
        """By job: from when it was asked for until its pod was there."""
        return [
            (pod.created - self.asked[number]).total_seconds() for number, pod in self.pods.items()
        ]

    def waits(self) -> list[tuple[bool, float]]:
        """By job: whether its machine was bought after it was asked for, and the seconds from then
        to its first process, less that machine's boot.
        """
        lives = {life.machine: life for life in self.machines}
        found = []
        for number, pod in sorted(self.pods.items()):
            if pod.started is None:
                continue
            asked = self.asked[number]
            waited = (pod.started - asked).total_seconds()
            life = lives.get(pod.node or "")
            bought = bool(life and life.bought and life.bought >= asked)
            if bought and life and life.bought and life.joined:
                waited -= (min(life.joined, pod.started) - life.bought).total_seconds()
            found.append((bought, waited))
        return found

    def added_seconds(self, beside: PeerRun) -> float:
        """What jobs wait longer here than there, in the median; each is held against those whose
        machines were bought as well, or were there as well.
        """
        usual = {
            bought: median([waited for each, waited in beside.waits() if each is bought])
            for bought in (True, False)
        }
        return median(
            [
                waited - usual[bought]
                for bought, waited in self.waits()
                if not math.isnan(usual[bought])
            ]
        )


def percentile(values: Sequence[float], share: float) -> float:
    """The least of the values that so large a share of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def median(values: Sequence[float]) -> float:
    """Their median; not a number where there are none."""
    return statistics.median(values) if values else math.nan


def _paid(life: Life, *, boot: bool) -> float:
    if life.bought is None or life.returned is None:
        return math.nan
    start = life.bought if boot or life.joined is None else life.joined
    return max(MINIMUM.total_seconds(), (life.returned - start).total_seconds())
