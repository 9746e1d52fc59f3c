"""What a plan is: which machine, what it will cost, and why this one. Data only.

A plan is kept with the attempts that follow it, so it turns into JSON and back without loss.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

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
class Host:
    """What this host can give to the jobs of the pool `local`. Whoever calls detects it."""

    cpus: int
    memory: Memory
    gpus: int = 0


@dataclass(frozen=True, slots=True)
class History:
    """The machine seconds that a job's last runs took, as a range without the odd ones out.

    `low_seconds` and `high_seconds` are the 10th and 90th percentile. The seconds of one run are
    those of all of its machines together, from bought to given back.
    """

    runs: int
    low_seconds: Decimal
    high_seconds: Decimal

    def __post_init__(self) -> None:
        if self.runs < 1 or not 0 <= self.low_seconds <= self.high_seconds:
            raise ValueError(
                f"{self.runs} runs of {self.low_seconds} to {self.high_seconds} s are no history"
            )

    @classmethod
    def of(cls, machine_seconds: Iterable[Decimal | float]) -> History | None:
        """From the machine seconds of each past run; None where there is none."""
        ordered = sorted(Decimal(str(seconds)) for seconds in machine_seconds)
        if not ordered:
            return None
        return cls(len(ordered), _percentile(ordered, 10), _percentile(ordered, 90))


def _percentile(ordered: list[Decimal], percent: int) -> Decimal:
    """By the nearest rank, so that it is a value that really occurred."""
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(rank, 1) - 1]


@dataclass(frozen=True, slots=True)
class Rejection:
    """A machine that was not chosen, and why, in words.

    `instance_type` is a name, or, in the last one of a plan, "570 others".
    """

    instance_type: str
    reason: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one run will cost if its first attempt succeeds, all machines together.

    `basis`: "history" (the range of this job's last `runs`), "timeout" (from the least that a
    machine costs to all of its timeout), or "price" (only the price per hour is known: no range).
    `low` and `high` are None where there is no range, or no price.
    """

    basis: str
    low: Money | None
    high: Money | None
    runs: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """Which machine one run of one job will get, and what it will cost; nothing is bought without.

    `cpus` and `memory` are what the job can use of each machine. On a cluster that is the instance
    type's nameplate less what the system takes; on the pool `local` it may be less because this
    host is smaller (then `warnings` says so). `price_per_hour` is that of
    one machine; `minimum` is the least time that each is paid for.
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
    #: Why this machine, in words: "the cheapest with 2 vCPUs and 4 GiB".
    reason: str = ""
    #: Other instance types that will do as well, cheapest first: capacity runs out.
    alternatives: tuple[str, ...] = ()
    #: Whether spot capacity may, or must, be bought: "never", "prefer", "only".
    spot: str = "never"


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """The plan as JSON values: money and CPU as decimal strings, durations in seconds."""
    machine, estimate = plan.instance_type, plan.estimate
    return {
        "job_name": plan.job_name,
        "job": plan.job.model_dump(mode="json", exclude_defaults=True),
        "pool": plan.pool,
        "provider": plan.provider,
        "instance_type": {
            "name": machine.name,
            "architecture": machine.architecture,
            "vcpus": machine.vcpus,
            "memory_bytes": machine.memory.bytes,
            "gpus": machine.gpus,
            "usd_per_hour": _decimal_text(machine.usd_per_hour),
            "source": machine.source,
            "as_of": machine.as_of.isoformat() if machine.as_of else None,
        },
        "count": plan.count,
        "cpus": f"{plan.cpus:f}",
        "memory_bytes": plan.memory.bytes,
        "gpus": plan.gpus,
        "price_per_hour": _money_to_json(plan.price_per_hour),
        "minimum_seconds": plan.minimum.total_seconds(),
        "timeout_seconds": plan.timeout.total_seconds(),
        "deadline_seconds": plan.deadline.total_seconds(),
        "estimate": {
            "basis": estimate.basis,
            "low": _money_to_json(estimate.low),
            "high": _money_to_json(estimate.high),
            "runs": estimate.runs,
        },
        "rejected": [asdict(rejection) for rejection in plan.rejected],
        "warnings": list(plan.warnings),
        "as_if": plan.as_if,
        "reason": plan.reason,
        "alternatives": list(plan.alternatives),
        "spot": plan.spot,
    }


def plan_from_json(raw: dict[str, Any]) -> Plan:
    """Reads what `plan_to_json` wrote.

    Raises KeyError, TypeError or ValueError (pydantic's among them) where it is no plan.
    """
    machine, estimate = raw["instance_type"], raw["estimate"]
    return Plan(
        job_name=raw["job_name"],
        job=Job.model_validate(raw["job"]),
        pool=raw["pool"],
        provider=raw["provider"],
        instance_type=InstanceType(
            name=machine["name"],
            architecture=machine["architecture"],
            vcpus=machine["vcpus"],
            memory=Memory(machine["memory_bytes"]),
            gpus=machine["gpus"],
            usd_per_hour=_decimal(machine["usd_per_hour"]),
            source=machine["source"],
            as_of=date.fromisoformat(machine["as_of"]) if machine["as_of"] else None,
        ),
        count=raw["count"],
        cpus=Decimal(raw["cpus"]),
        memory=Memory(raw["memory_bytes"]),
        gpus=raw["gpus"],
        price_per_hour=_money_from_json(raw["price_per_hour"]),
        minimum=timedelta(seconds=raw["minimum_seconds"]),
        timeout=timedelta(seconds=raw["timeout_seconds"]),
        deadline=timedelta(seconds=raw["deadline_seconds"]),
        estimate=Estimate(
            basis=estimate["basis"],
            low=_money_from_json(estimate["low"]),
            high=_money_from_json(estimate["high"]),
            runs=estimate["runs"],
        ),
        rejected=tuple(Rejection(**rejection) for rejection in raw["rejected"]),
        warnings=tuple(raw["warnings"]),
        as_if=raw["as_if"],
        reason=raw["reason"],
        # Attempts of before 0.2 have plans without these.
        alternatives=tuple(raw.get("alternatives", ())),
        spot=raw.get("spot", "never"),
    )


def _decimal_text(number: Decimal | None) -> str | None:
    return None if number is None else f"{number:f}"


def _decimal(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def _money_to_json(money: Money | None) -> dict[str, str] | None:
    return None if money is None else {"amount": money.decimal_text(), "currency": money.currency}


def _money_from_json(raw: dict[str, str] | None) -> Money | None:
    return None if raw is None else Money(Decimal(raw["amount"]), raw["currency"])
