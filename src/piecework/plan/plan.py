"""What a plan is: which machine, what it will cost, and why this one. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal

from piecework.spec.job import Job
from piecework.units import Memory, Money


@dataclass(frozen=True, slots=True)
class InstanceType:
    """One row of a price book. `usd_per_hour` is None where no price is known: unpriced."""

    name: str
    architecture: str
    vcpus: int
    memory: Memory
    gpus: int
    usd_per_hour: Decimal | None
    source: str
    as_of: date | None

    @property
    def burstable(self) -> bool:
        """AWS's t families run at full speed only for a while."""
        return self.name.startswith("t") and self.name[1:2].isdigit()


@dataclass(frozen=True, slots=True)
class Rejection:
    """A machine that was not chosen, and why, in words."""

    instance_type: str
    reason: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the run will cost. `low` and `high` are equal where there is no range.

    `basis`: "history" (the range of this job's last runs), "timeout" (at most, were it to use all
    of its timeout), or "price" (only the price per hour is known).
    """

    basis: str
    low: Money | None
    high: Money | None
    runs: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """Which machine one run of one job will get, and what it will cost; nothing is bought without.

    `cpus` and `memory` are what the job can use of each machine, which on the pool `local` may be
    less than the instance type's nameplate (then `warnings` says so).
    """

    job_name: str
    job: Job
    pool: str
    provider: str
    instance_type: InstanceType
    count: int
    cpus: Decimal
    memory: Memory
    gpus: int
    price_per_hour: Money | None
    minimum: timedelta
    timeout: timedelta
    deadline: timedelta
    estimate: Estimate
    rejected: tuple[Rejection, ...] = ()
    warnings: tuple[str, ...] = ()
    #: True where the bill is as if a cloud machine had been bought (pool `local`).
    as_if: bool = False
