"""How the benches measure and what they report.

What is compared runs in turns, pair by pair, in one run on one machine, so that whatever slows
the machine down slows both; the ratio is taken within each pair. Reported are the least, the
median and the most; a limit is held against the median.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """The least, the median and the most of what was measured, and of how many."""

    least: float
    median: float
    most: float
    times: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Raises IndexError where there are none."""
        ordered = sorted(values)
        return cls(ordered[0], statistics.median(ordered), ordered[-1], len(ordered))


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number: `unit` is "x" for a ratio, else like "ms", "s" or "events/s".

    `at_most` and `at_least` are limits that the project set itself; None where there is none.
    """

    label: str
    spread: Spread
    unit: str = "x"
    at_most: float | None = None
    at_least: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the median is within the limits; None where there are none."""
        if self.at_most is None and self.at_least is None:
            return None
        above = self.at_least is None or self.spread.median >= self.at_least
        return above and (self.at_most is None or self.spread.median <= self.at_most)


@dataclass(frozen=True, slots=True)
class Result:
    """What one bench found. `notes` say in words what was measured, on what."""

    name: str
    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()


def measure(work: Callable[[], object]) -> float:
    """The seconds that `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@dataclass(frozen=True, slots=True)
class Pairs:
    """Seconds of two things, measured in turns."""

    candidate: tuple[float, ...]
    baseline: tuple[float, ...]

    def ratio(self) -> Spread:
        """How many times the baseline's time the candidate took, pair by pair."""
        return Spread.of(a / b for a, b in zip(self.candidate, self.baseline, strict=True))

    def difference_ms(self) -> Spread:
        """How many milliseconds longer the candidate took, pair by pair."""
        return Spread.of(1000 * (a - b) for a, b in zip(self.candidate, self.baseline, strict=True))


def measure_pairs(
    candidate: Callable[[], object], baseline: Callable[[], object], pairs: int
) -> Pairs:
    """Runs both in turns, `pairs` times, after one round that is not counted.

    Which one goes first changes from pair to pair, so that neither always finds a warm machine.
    """
    candidate()
    baseline()
    measured: tuple[list[float], list[float]] = ([], [])
    works = (candidate, baseline)
    for number in range(pairs):
        for index in (0, 1) if number % 2 == 0 else (1, 0):
            measured[index].append(measure(works[index]))
    return Pairs(tuple(measured[0]), tuple(measured[1]))
