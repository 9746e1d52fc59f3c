"""The choice of a machine: the cheapest one of the pool that fits, and why no other.

What enters is a job, its pool, the price book, and what the caller knows of this host and of the
job's past; what leaves is a Plan. Pure: the same input gives the same plan.

The rule. A machine fits if it has the job's architecture, at least the vCPUs, memory and GPUs that
were asked for, and is one that the pool may buy. Machines with GPUs are only for jobs that ask for
one, burstable ones only for jobs that allow them. Of those that fit the cheapest is taken, the
first by name among equals; one without a price only where no priced one fits. `type:` pins one.

On a cluster the job gets the machine less what system and daemons take (`reserve`), and the plan
names other types that will do as well, because capacity runs out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from piecework.config import Settings
from piecework.errors import ConfigError, NoMachineError
from piecework.plan.estimate import MINIMUM, estimate_cost
from piecework.plan.executors import divide, has_executors
from piecework.plan.plan import History, Host, InstanceType, Plan
from piecework.plan.price import PriceBook
from piecework.plan.rejection import explain_rejections
from piecework.plan.request import (
    Request,
    describe_shortfall,
    find_exclusions,
    is_large_enough,
    read_request,
)
from piecework.plan.reserve import Usable, is_enough, usable
from piecework.spec.job import Job
from piecework.spec.pool import Pool
from piecework.units import Memory, Money, format_cpu

#: How much dearer than the chosen machine another one may be that is taken instead.
DEAREST_ALTERNATIVE = Decimal("1.5")
MOST_ALTERNATIVES = 8


def plan_job(
    job_name: str,
    job: Job,
    *,
    pool: Pool,
    prices: PriceBook,
    settings: Settings,
    host: Host | None = None,
    history: History | None = None,
    memory_at_least: Memory | None = None,
    learned: Mapping[str, Usable] | None = None,
) -> Plan:
    """Plans one run: the machine, its price, the estimate, and why no other machine.

    `host` caps what the pool `local` can give; without it the nameplate is what the job gets.
    `memory_at_least` is what a retry after out-of-memory asks for. `learned` is what machines of
    the cluster were seen to have for jobs, by instance type.
    Raises NoMachineError, which names the largest machine there is, ConfigError where the pool
    lacks something that the job needs, and InputError where Spark's executors do not fit.
    """
    prices = prices.for_pool(pool)
    if job.machine.spot != "never":
        prices = prices.for_spot(pool)
    _check_pool(job_name, job, pool)
    request = read_request(job.machine, pool, memory_at_least, _find_filled(pool, prices, learned))
    chosen = _choose(job_name, request, pool, prices)
    parts, warnings = _fit(chosen, job.machine.count, pool, host, learned)
    warnings += _warn_of_prices(chosen, request, job, pool)
    hourly = None if chosen.usd_per_hour is None else Money(chosen.usd_per_hour)
    plan = Plan(
        job_name=job_name,
        job=job,
        pool=pool.name,
        provider=pool.provider,
        instance_type=chosen,
        count=parts.count,
        cpus=parts.cpus,
        memory=parts.memory,
        gpus=parts.gpus,
        price_per_hour=hourly,
        minimum=MINIMUM,
        timeout=job.timeout or settings.timeout,
        deadline=job.deadline or settings.deadline,
        estimate=estimate_cost(hourly, parts.count, job.timeout, history),
        rejected=explain_rejections(request, chosen, prices.cheapest_first),
        warnings=tuple(warnings),
        as_if=pool.provider == "local",
        reason=_say_reason(chosen, request, job, memory_at_least),
        alternatives=_find_alternatives(chosen, request, pool, prices, learned or {}),
        spot=job.machine.spot,
    )
    if has_executors(plan):
        divide(plan)  # for what it says where they do not fit
    return plan


def _check_pool(job_name: str, job: Job, pool: Pool) -> None:
    if not pool.on_cluster:
        return
    if job.machine.spot == "only" and pool.provider == "asg" and not pool.groups_for("only"):
        raise NoMachineError(
            f"job {job_name!r} asks for spot capacity only, and pool {pool.name!r} has no group of "
            "it; set spot = true on a group of the pool, or spot: prefer in the job"
        )
    if job.spark is not None and job.spark.mode == "operator" and not pool.spark_operator:
        raise ConfigError(
            f"job {job_name!r} has spark.mode operator, and pool {pool.name!r} does not say that "
            f"Kubeflow's Spark operator looks after its namespace {pool.namespace}; where it does, "
            f"set spark_operator = true in [pools.{pool.name}] and apply `piecework pools render` "
            "again, else write mode: kubernetes, which needs no operator"
        )
    if job.engine != "container" and not (job.image or pool.image):
        raise ConfigError(
            f"job {job_name!r} needs an image with Python on pool {pool.name!r}, and neither names "
            f"one; set image in [pools.{pool.name}], or in the job"
        )


def _find_filled(
    pool: Pool, prices: PriceBook, learned: Mapping[str, Usable] | None
) -> frozenset[str]:
    """The types of which the system of a cluster leaves nothing."""
    if not pool.on_cluster:
        return frozenset()
    types = prices.types.values()
    return frozenset(each.name for each in types if not is_enough(usable(each, pool, learned)))


def _find_alternatives(
    chosen: InstanceType,
    request: Request,
    pool: Pool,
    prices: PriceBook,
    learned: Mapping[str, Usable],
) -> tuple[str, ...]:
    """Types that take the same pod and cost little more, cheapest first.

    Of a type that has not been there yet nothing was learned; it is compared as if of none was.
    """
    if not pool.on_cluster or request.type is not None or chosen.usd_per_hour is None:
        return ()
    found: list[str] = []
    for machine in prices.cheapest_first:
        if machine.usd_per_hour is None or len(found) == MOST_ALTERNATIVES:
            break
        if machine.usd_per_hour > chosen.usd_per_hour * DEAREST_ALTERNATIVE:
            break
        if machine.name == chosen.name or find_exclusions(request, machine):
            continue
        known = learned if machine.name in learned else {}
        left, needed = usable(machine, pool, known), usable(chosen, pool, known)
        same = left.cpus >= needed.cpus and left.memory >= needed.memory
        if same and machine.gpus >= chosen.gpus and is_large_enough(request, machine):
            found.append(machine.name)
    return tuple(found)


def _choose(job_name: str, request: Request, pool: Pool, prices: PriceBook) -> InstanceType:
    if request.type is not None:
        return _find_pinned(job_name, request, request.type, pool, prices)
    for machine in prices.cheapest_first:
        if is_large_enough(request, machine) and not find_exclusions(request, machine):
            return machine
    allowed = [m for m in prices.cheapest_first if not find_exclusions(request, m)]
    where = f"no {request.architecture} machine of pool {pool.name!r} has that"
    asked = f"job {job_name!r} asks for {request}"
    raise NoMachineError(
        f"{asked}; {where}{_name_largest(allowed)}; ask for less, or for more machines (count)"
    )


def _say_reason(
    chosen: InstanceType, request: Request, job: Job, memory_at_least: Memory | None
) -> str:
    if request.type is not None:
        return "which the job pins"
    rank = "smallest" if chosen.usd_per_hour is None else "cheapest"
    asked = job.machine.memory
    if memory_at_least is not None and (asked is None or asked < memory_at_least):
        return f"the {rank} with {request}, after more memory was needed"
    default = asked is None and job.machine.cpu is None and not request.gpus
    return f"the {rank} with {request}{', the default' if default else ''}"


def _find_pinned(
    job_name: str, request: Request, name: str, pool: Pool, prices: PriceBook
) -> InstanceType:
    machine = prices.find(name)
    pins = f"job {job_name!r} pins machine type {name!r}"
    if machine is None:
        raise NoMachineError(f"{pins}, which is not in the price list; {prices.suggest(name)}")
    exclusions = find_exclusions(request, machine)
    if exclusions:
        other = machine.architecture != request.architecture
        hint = f"; set arch: {machine.architecture}" if other else "; pin one of them, or none"
        raise NoMachineError(f"{pins}, which {' and '.join(exclusions)} (pool {pool.name!r}){hint}")
    if not is_large_enough(request, machine):
        shortfall = describe_shortfall(request, machine)
        raise NoMachineError(
            f"{pins}, which has {shortfall}, and needs {request}; pin a larger type, or none"
        )
    return machine


def _name_largest(machines: Sequence[InstanceType]) -> str:
    """The largest there is: by GPUs, then vCPUs, and by memory where that is another one."""
    if not machines:
        return ", nor any of that kind"
    by_cpu = max(machines, key=lambda machine: (machine.gpus, machine.vcpus, machine.memory))
    by_memory = max(machines, key=lambda machine: (machine.memory, machine.vcpus, machine.gpus))
    named = [_describe(by_cpu)]
    if by_memory.memory > by_cpu.memory:
        named.append(_describe(by_memory))
    return ", the largest " + ("is " if len(named) == 1 else "are ") + " and ".join(named)


def _describe(machine: InstanceType) -> str:
    gpus = f", {machine.gpus} GPU{'' if machine.gpus == 1 else 's'}" if machine.gpus else ""
    return f"{machine.name} ({machine.vcpus} vCPUs, {machine.memory.rounded()}{gpus})"


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the job can use of each machine, and how many there are."""

    count: int
    cpus: Decimal
    memory: Memory
    gpus: int


def _fit(
    machine: InstanceType,
    count: int,
    pool: Pool,
    host: Host | None,
    learned: Mapping[str, Usable] | None,
) -> tuple[_Parts, list[str]]:
    """What the job gets: the nameplate, less what a cluster's system takes or this host lacks."""
    if pool.on_cluster:
        left = usable(machine, pool, learned)
        return _Parts(count, left.cpus, left.memory, machine.gpus), []
    parts = _Parts(count, Decimal(machine.vcpus), machine.memory, machine.gpus)
    if host is None:
        return parts, []
    cores = max(1, min(host.cpus, int(pool.cpus) if pool.cpus is not None else host.cpus))
    memory = min(host.memory, pool.memory or host.memory)
    # Every machine has whole cores of its own, so a gang has as many machines as cores at most.
    machines = min(count, cores)
    parts = _Parts(
        machines,
        Decimal(min(machine.vcpus, cores // machines)),
        min(machine.memory, Memory(memory.bytes // machines)),
        min(machine.gpus, host.gpus // machines),
    )
    return parts, _warn_of_caps(machine, count, parts)


def _warn_of_caps(machine: InstanceType, count: int, parts: _Parts) -> list[str]:
    caps = []
    if parts.cpus < machine.vcpus:
        caps.append(f"{format_cpu(parts.cpus)} of {machine.vcpus} vCPUs")
    if parts.memory < machine.memory:
        caps.append(f"{parts.memory.rounded()} of {machine.memory.rounded()}")
    if parts.gpus < machine.gpus:
        caps.append(f"{parts.gpus} of {machine.gpus} GPUs")
    warnings = []
    if parts.count < count:
        warnings.append(
            f"this host has cores for {parts.count} of the {count} machines; only these are billed"
        )
    if caps:
        each = "each machine" if parts.count > 1 else "the job"
        warnings.append(
            f"this host is smaller than {machine.name}: {each} gets {', '.join(caps)}, "
            "and is priced as the whole"
        )
    return warnings


def _warn_of_prices(chosen: InstanceType, request: Request, job: Job, pool: Pool) -> list[str]:
    warnings = []
    if chosen.usd_per_hour is None:
        why = "it is pinned" if request.type else "no machine that fits has a price"
        warnings.append(
            f"{chosen.name} is unpriced in pool {pool.name!r} and taken because {why}; "
            "its cost will be unknown, not zero"
        )
    if job.machine.spot != "never" and chosen.name not in (pool.spot_prices or {}):
        why = "there are no spot prices"
        if pool.spot_prices:
            why = f"pool {pool.name!r} states no spot price of {chosen.name}"
        warnings.append(f"spot: {job.machine.spot}: {why}; it is priced on demand")
    return warnings
