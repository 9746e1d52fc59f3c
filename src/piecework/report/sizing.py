"""Which size would have been cheaper for a job, by how much, and how sure that is.

Enters what attempts of the job did (read from the ledger by `report.observed`), the pool and its
prices; leaves an Advice. For each instance type that the pool may buy: the time that each of the
attempts would have taken on it, as a range (`report.scaling`), the time around it (boot, setup,
teardown), and the bill for both, with the least that a machine is paid for. The range of a type
goes from the cheapest of these bills to the dearest.

What is never advised: less memory than the highest peak times a margin, a type without a price, an
older generation, other GPUs, and a type on which the job might run into its timeout.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from statistics import median
from typing import Any

from piecework.plan.estimate import compute_cost
from piecework.plan.plan import Host, InstanceType
from piecework.plan.price import PriceBook
from piecework.plan.request import Request, find_exclusions, is_large_enough
from piecework.plan.reserve import Usable, is_enough, usable
from piecework.report.scaling import Span, Work, time_on
from piecework.spec.pool import Pool
from piecework.units import Memory, Money

#: With fewer attempts than these their spread says little, so that margins are wider; as they are
#: where the memory was only looked at now and then.
ENOUGH_ATTEMPTS = 3
#: A machine must have so many times the highest peak, so that it is 80 % full; with few attempts.
MEMORY_MARGIN, WIDE_MEMORY_MARGIN = Decimal("1.25"), Decimal("1.5")
#: By how much the same work takes more or less time when it is done again, and with few attempts.
NOISE, WIDE_NOISE = 0.05, 0.1
#: By how much a core of another family of the same generation, or a newer one, may be slower or
#: faster. How much slower an older one is is anybody's guess, so none is advised.
OTHER_SLOWER, OTHER_FASTER = 0.2, 0.4
#: By how much booting and setting up varies, and with few attempts.
FIXED_NOISE, WIDE_FIXED_NOISE = 0.25, 0.5
#: What saves less than this share is not worth a change.
LEAST_SAVING = Decimal("0.05")
#: Other types that are told besides.
MOST_OTHERS = 3


@dataclass(frozen=True, slots=True)
class Observed:
    """What one attempt did on its machines, all together, and what it needed of each.

    `fixed_seconds`: for how long each machine was paid for before the program ran and after it.
    `succeeded` is False where it ran out of memory: of that its need of memory alone is known.
    `sampled`: its memory was looked at now and then, so that its real peak may have been higher.
    """

    attempt: str
    instance_type: str
    count: int
    work: Work
    fixed_seconds: float
    peak_memory_bytes: int
    succeeded: bool = True
    sampled: bool = False


@dataclass(frozen=True, slots=True)
class Terms:
    """What limits the choice: the job's GPUs, timeout, and whether its machines are spot."""

    gpus: int = 0
    timeout_seconds: float | None = None
    spot: bool = False


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one run would take and cost on a type: `cost` in the middle, and the ends of the range.

    Seconds are those of the program. `cores` and `memory` are what the job can use of a machine.
    """

    instance_type: InstanceType
    cores: int
    memory: Memory
    seconds: float
    least_seconds: float
    most_seconds: float
    cost: Money
    least_cost: Money
    most_cost: Money

    def to_json(self) -> dict[str, Any]:
        return {
            "instance_type": self.instance_type.name,
            "usd_per_hour": f"{self.instance_type.usd_per_hour:f}",
            "cores": self.cores,
            "memory_bytes": self.memory.bytes,
            "seconds": round(self.seconds, 1),
            "least_seconds": round(self.least_seconds, 1),
            "most_seconds": round(self.most_seconds, 1),
            "cost": self.cost.decimal_text(),
            "least_cost": self.least_cost.decimal_text(),
            "most_cost": self.most_cost.decimal_text(),
        }


@dataclass(frozen=True, slots=True)
class Advice:
    """`reason` says in words why there is no advice, or why nothing is to be changed.

    `now` is None where there is no advice; `better` is None where nothing is to be changed. Of
    `saving` a run, `least_saving` may be negative: then the other type may also be dearer.
    """

    attempts: int
    reason: str | None = None
    now: Prediction | None = None
    better: Prediction | None = None
    saving: Money | None = None
    least_saving: Money | None = None
    most_saving: Money | None = None
    needed_memory: Memory | None = None
    peak_memory: Memory | None = None
    others: tuple[Prediction, ...] = ()

    @property
    def verdict(self) -> str:
        """One of "none" (no advice), "keep" and "change"."""
        if self.now is None:
            return "none"
        return "keep" if self.better is None else "change"

    def to_json(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "attempts": self.attempts,
            "now": None if self.now is None else self.now.to_json(),
            "better": None if self.better is None else self.better.to_json(),
            "saving": _text(self.saving),
            "least_saving": _text(self.least_saving),
            "most_saving": _text(self.most_saving),
            "peak_memory_bytes": None if self.peak_memory is None else self.peak_memory.bytes,
            "needed_memory_bytes": None if self.needed_memory is None else self.needed_memory.bytes,
            "others": [other.to_json() for other in self.others],
        }


def advise(
    observed: Sequence[Observed],
    pool: Pool,
    prices: PriceBook,
    terms: Terms = Terms(),
    host: Host | None = None,
) -> Advice:
    """Compares the type of the newest attempt with all others that the pool may buy.

    `observed` has the newest attempt first; `host` caps what the pool `local` can give.
    """
    done = [each for each in observed if each.succeeded]
    if not done:
        return Advice(0, "no run of it has succeeded whose use was measured")
    prices = prices.for_pool(pool)
    if terms.spot:
        prices = prices.for_spot(pool)
    now_type = prices.find(done[0].instance_type)
    if now_type is None or now_type.usd_per_hour is None:
        return Advice(len(done), f"{done[0].instance_type}, on which it ran, has no known price")
    margin = MEMORY_MARGIN if _is_well_known(done) else WIDE_MEMORY_MARGIN
    peak = max(each.peak_memory_bytes for each in observed)
    needed = Memory(math.ceil(peak * margin))
    model = _Model(done, pool, host)
    now = model.predict(now_type)
    found = [
        model.predict(machine)
        for machine in _candidates(now_type, prices, pool, terms, needed, host)
    ]
    fitting = [each for each in found if not _may_time_out(each, now, terms)]
    cheapest = sorted(fitting, key=lambda each: (each.cost.amount, each.most_cost.amount))
    better = next((each for each in cheapest if _is_better(each, now)), None)
    advice = Advice(len(done), now=now, needed_memory=needed, peak_memory=Memory(peak))
    if better is None:
        return replace(advice, reason=_why_keep(now, needed, cheapest))
    savings = model.savings(now_type, better.instance_type)
    others = [
        each for each in cheapest if each is not better and each.cost.amount < now.cost.amount
    ]
    return replace(
        advice,
        better=better,
        saving=now.cost - better.cost,
        least_saving=min([*savings, now.cost - better.cost], key=lambda each: each.amount),
        most_saving=max([*savings, now.cost - better.cost], key=lambda each: each.amount),
        others=tuple(others[:MOST_OTHERS]),
    )


def _is_well_known(done: Sequence[Observed]) -> bool:
    return len(done) >= ENOUGH_ATTEMPTS and not any(each.sampled for each in done)


def _candidates(
    now: InstanceType,
    prices: PriceBook,
    pool: Pool,
    terms: Terms,
    needed: Memory,
    host: Host | None,
) -> Iterable[InstanceType]:
    """All priced types of the pool, other than the present one, with memory enough."""
    request = Request(
        cpus=Decimal(0),
        memory=Memory(0),
        gpus=terms.gpus,
        architecture=now.architecture,
        burstable=now.burstable,
        type=None,
        types=pool.allowed_types("only" if terms.spot else "never"),
    )
    for machine in prices.cheapest_first:
        if machine.usd_per_hour is None:
            return
        if machine.name == now.name or not is_large_enough(request, machine):
            continue
        if _is_older(machine, now) or (now.gpus and not _has_same_gpus(machine, now)):
            continue
        left = _usable(machine, pool, host)
        if left.memory >= needed and is_enough(left) and not find_exclusions(request, machine):
            yield machine


def _usable(machine: InstanceType, pool: Pool, host: Host | None) -> Usable:
    """What the job can use of it: less what a cluster's system takes, or this host lacks."""
    if pool.on_cluster:
        return usable(machine, pool)
    if host is None:
        return Usable(Decimal(machine.vcpus), machine.memory)
    cpus, memory = min(machine.vcpus, host.cpus), min(machine.memory, host.memory)
    return Usable(Decimal(cpus), memory)


class _Model:
    """Predicts from attempts what a run takes on a type."""

    def __init__(self, done: Sequence[Observed], pool: Pool, host: Host | None) -> None:
        self.done = done
        self.pool = pool
        self.host = host
        known = _is_well_known(done)
        self.noise = NOISE if known else WIDE_NOISE
        self.fixed_noise = FIXED_NOISE if known else WIDE_FIXED_NOISE
        self.count = done[0].count

    def predict(self, machine: InstanceType) -> Prediction:
        left = _usable(machine, self.pool, self.host)
        times = [self._time(each, machine) for each in self.done]
        widened = [self._widen(each, machine, time) for each, time in self._pairs(times)]
        fixed = [each.fixed_seconds for each in self.done]
        seconds = median(time.middle for time in times)
        least, most = min(each.low for each in widened), max(each.high for each in widened)
        return Prediction(
            instance_type=machine,
            cores=_cores(left),
            memory=left.memory,
            seconds=seconds,
            least_seconds=least,
            most_seconds=most,
            cost=self._cost(machine, seconds + median(fixed)),
            least_cost=self._cost(machine, least + min(fixed) * (1 - self.fixed_noise)),
            most_cost=self._cost(machine, most + max(fixed) * (1 + self.fixed_noise)),
        )

    def savings(self, now: InstanceType, other: InstanceType) -> list[Money]:
        """What each attempt would have saved: the least and the most that its range allows.

        The same attempt on both, so that what made all of them longer or shorter cancels out.
        """
        found = []
        for each in self.done:
            here = self._cost(now, self._time(each, now).middle + each.fixed_seconds)
            there = self._widen(each, other, self._time(each, other))
            low, high = 1 - self.fixed_noise, 1 + self.fixed_noise
            found.append(here - self._cost(other, there.low + each.fixed_seconds * low))
            found.append(here - self._cost(other, there.high + each.fixed_seconds * high))
        return found

    def _pairs(self, times: Sequence[Span]) -> Iterable[tuple[Observed, Span]]:
        return zip(self.done, times, strict=True)

    def _time(self, each: Observed, machine: InstanceType) -> Span:
        cores = _cores(_usable(machine, self.pool, self.host)) * self.count
        if machine.name == each.instance_type:
            cores = each.work.cores  # whatever it was given of it
        return time_on(each.work, cores)

    def _widen(self, each: Observed, machine: InstanceType, time: Span) -> Span:
        other = _family(each.instance_type) != _family(machine.name)
        faster = self.noise + (OTHER_FASTER if other else 0.0)
        slower = self.noise + (OTHER_SLOWER if other else 0.0)
        return Span(time.low * (1 - faster), time.high * (1 + slower))

    def _cost(self, machine: InstanceType, seconds: float) -> Money:
        """The bill of all machines, each paid for whole seconds and for its minimum."""
        assert machine.usd_per_hour is not None
        paid = Decimal(math.ceil(seconds)) * self.count
        return compute_cost(paid, Money(machine.usd_per_hour), self.count)


def _cores(left: Usable) -> int:
    """A job that has 3.9 of 4 cores has threads on all of them."""
    return max(1, round(left.cpus))


def _family(instance_type: str) -> str:
    return instance_type.partition(".")[0]


def _is_older(machine: InstanceType, now: InstanceType) -> bool:
    """By the number in the family's name, as AWS gives them: m5a is of generation 5."""
    families = _family(machine.name), _family(now.name)
    if families[0] == families[1]:
        return False
    numbers = [re.search(r"\d+", family) for family in families]
    other, own = (int(number[0]) if number else 0 for number in numbers)
    return other < own or not other


def _has_same_gpus(machine: InstanceType, now: InstanceType) -> bool:
    """What another kind of GPU, or another number of them, would do to the time is not known."""
    return machine.gpus == now.gpus and _family(machine.name) == _family(now.name)


def _may_time_out(each: Prediction, now: Prediction, terms: Terms) -> bool:
    """Not where it is as quick as the present type: then its timeout is none of our business."""
    limit = terms.timeout_seconds
    return limit is not None and each.most_seconds >= max(limit, now.most_seconds)


def _is_better(other: Prediction, now: Prediction) -> bool:
    return other.cost.amount <= now.cost.amount * (1 - LEAST_SAVING)


def _why_keep(now: Prediction, needed: Memory, cheapest: Sequence[Prediction]) -> str:
    if now.memory < needed:
        return (
            f"its memory was nearly full ({needed.rounded()} would leave room, and it had "
            f"{now.memory.rounded()}), and no type with more is cheaper"
        )
    if not cheapest:
        return f"the pool has no other type with {needed.rounded()} of memory that a job can use"
    best = cheapest[0].instance_type.name
    return f"no other type would be cheaper by {LEAST_SAVING:.0%} or more; the next one is {best}"


def _text(money: Money | None) -> str | None:
    return None if money is None else money.decimal_text()
